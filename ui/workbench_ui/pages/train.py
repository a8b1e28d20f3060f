"""Train: examples, base, depth; what it will cost on this machine; start. The run itself is a job in its own process."""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import gradio as gr

from workbench import Workbench
from workbench.api import Plan
from workbench.recipe import PRESETS
from workbench.words import Words
from workbench_ui.chrome import head, nav
from workbench_ui.guard import guarded, spoken
from workbench_ui.newest import Newest
from workbench_ui.pages.add_data import add_data
from workbench_ui.pages.fetch_base import fetch_base
from workbench_ui.views import train as views
from workbench_ui.views.markup import esc, panel
from workbench_ui.views.recipe_form import FIELDS, changed, command_line, nearest_preset, preset_values
from workbench_ui.views.tokens import Span, row_preview
from workbench_ui.widgets.choice import choice
from workbench_ui.widgets.recipe_form import recipe_controls, show_values
from workbench_ui.widgets.view import BUSY, QUIET, view

__all__ = ["build"]

_DEFAULT = "standard"
_PREVIEWED = 8  # rows


@dataclass
class _Form:
    """The page's components that events read or write."""

    dataset: gr.Dropdown
    about_data: gr.HTML
    added: gr.Textbox  # hidden; the name of a dataset just added
    add_fold: gr.Accordion
    preview: gr.HTML
    preview_fold: gr.Accordion
    before: gr.Button
    after: gr.Button
    base: gr.Dropdown
    about_base: gr.HTML
    fetch_fold: gr.Accordion
    preset: gr.Radio
    name: gr.Textbox
    advanced: gr.Accordion
    controls: list[Any]  # one a field of the recipe, in the order of FIELDS
    reset: gr.Button
    code: gr.HTML

    @property
    def values(self) -> list[Any]:
        return [self.dataset, self.base, self.preset, self.name, *self.controls]


def build(bench: Workbench, t: Words) -> gr.Blocks:
    """The form on the left, what it means on the right. The address can fill it: ?dataset=, ?base=, ?preset=, ?job=."""
    with gr.Blocks(analytics_enabled=False) as page:
        nav(t, "train")
        view(head(esc(t("train.title")), esc(t("train.lead"))))
        with gr.Row(elem_classes="wb-columns"):
            with gr.Column(scale=5, min_width=320):
                form = _form(page, bench, t)
            with gr.Column(scale=3, min_width=300, elem_classes="wb-side"):
                with gr.Column(elem_classes="wb-card wb-summary"):
                    view(f"<h2>{esc(t('train.summary'))}</h2>")
                    summary = view(f'<p class="wb-quiet">{esc(t("train.wait"))}</p>')
                    start = gr.Button(t("train.start"), variant="primary", size="lg", interactive=False)
                    view(f'<p class="wb-quiet">{esc(t("train.close"))}</p>')
        _wire(page, form, summary, start, _Handlers(bench, t))
    return page


def _form(page: gr.Blocks, bench: Workbench, t: Words) -> _Form:
    with gr.Column(elem_classes="wb-card"):
        view(_step(1, t("train.step_data")))
        dataset = choice(label=t("train.dataset"))
        about_data = view()
        with gr.Accordion(t("data.add_title"), open=False, elem_classes="wb-fold") as add_fold:
            added = add_data(bench, t)
        with gr.Accordion(t("preview.title"), open=False, elem_classes="wb-fold") as preview_fold:
            preview = view(f'<p class="wb-quiet">{esc(t("preview.wait"))}</p>')
            with gr.Row():
                before = gr.Button(t("preview.before"), size="sm", scale=0, min_width=120)
                after = gr.Button(t("preview.after"), size="sm", scale=0, min_width=120)
    with gr.Column(elem_classes="wb-card"):
        view(_step(2, t("train.step_base")))
        base = choice(label=t("train.base"))
        about_base = view()
        with gr.Accordion(t("base.get"), open=False, elem_classes="wb-fold") as fetch_fold:
            fetch_base(page, bench, t)
    with gr.Column(elem_classes="wb-card"):
        view(_step(3, t("train.step_depth")))
        choices = views.preset_choices({}, t)
        preset = gr.Radio(choices, value=_DEFAULT, label=t("train.preset"), interactive=True, elem_classes="wb-presets")
        name = gr.Textbox(label=t("train.name"), info=t("train.name_info"), max_lines=1)
        with gr.Accordion(t("train.advanced"), open=False, elem_classes="wb-fold") as advanced:
            controls = recipe_controls(t, _DEFAULT)
            reset = gr.Button(t("train.reset"), size="sm", scale=0)
        with gr.Accordion(t("train.as_code"), open=False, elem_classes="wb-fold"):
            code = view()
    data = (dataset, about_data, added, add_fold, preview, preview_fold, before, after)
    return _Form(*data, base, about_base, fetch_fold, preset, name, advanced, controls, reset, code)


def _wire(page: gr.Blocks, form: _Form, summary: gr.HTML, start: gr.Button, do: _Handlers) -> None:
    on, t = guarded(do.t), do.t
    key, shown_preset = gr.State(""), gr.State(_DEFAULT)
    row, looking = gr.State(0), gr.State(False)
    started = gr.Textbox(visible=False)
    planned = [summary, start, form.preset, form.advanced, form.code]
    chosen, about = [form.dataset, form.base], [form.about_data, form.about_base, form.fetch_fold]

    filled = page.load(on(do.open), None, [*form.values, shown_preset, key], **QUIET)
    filled.then(on(do.describe), chosen, about, **QUIET)
    filled.then(on(do.plan), form.values, planned, **BUSY)
    gr.on([form.dataset.input, form.base.input], on(do.describe), chosen, about, **QUIET)
    # A text box reports typing as input, but not what is pasted or filled in; its change covers all of it.
    parts = (form.dataset, form.base, form.name, *form.controls)
    touched = [part.change if isinstance(part, gr.Textbox) else part.input for part in parts]
    gr.on(touched, on(do.plan), form.values, planned, trigger_mode="always_last", **BUSY)
    form.preset.input(on(do.to_preset), [shown_preset, form.preset, *form.controls], [*form.controls, shown_preset], **QUIET).then(
        on(do.plan), form.values, planned, **BUSY
    )
    form.reset.click(on(do.reset), form.preset, form.controls, **QUIET).then(on(do.plan), form.values, planned, **BUSY)
    start.click(on(do.start), [key, *form.values], started, **BUSY).success(
        None, started, None, js=f"(id) => {{ location.href = '{t.link('jobs')}?job=' + encodeURIComponent(id); }}"
    )
    form.added.change(on(do.added), form.added, [form.dataset, form.add_fold], **QUIET).then(on(do.describe), chosen, about, **QUIET).then(
        on(do.plan), form.values, planned, **BUSY
    )

    shown = [*chosen, row, looking]
    form.preview_fold.expand(lambda: True, None, looking, **QUIET).then(on(do.look), shown, form.preview, **BUSY)
    form.preview_fold.collapse(lambda: False, None, looking, **QUIET)
    gr.on([form.dataset.change, form.base.change], lambda: 0, None, row, **QUIET).then(on(do.look), shown, form.preview, **BUSY)
    form.before.click(lambda n: n - 1, row, row, **QUIET).then(on(do.look), shown, form.preview, **BUSY)
    form.after.click(lambda n: n + 1, row, row, **QUIET).then(on(do.look), shown, form.preview, **BUSY)


class _Handlers:
    """What the page's events do; each gets the form's values in the order of `_Form.values`."""

    def __init__(self, bench: Workbench, t: Words) -> None:
        self.bench, self.t = bench, t
        self._plans, self._looks = Newest(), Newest()
        # Reading a tokenizer takes seconds. The hashes of rows and base make it safe to keep what came out.
        self._spans = lru_cache(maxsize=8)(lambda dataset, base, hashes: bench.preview(dataset, base, n=_PREVIEWED))

    def open(self, request: gr.Request) -> list[Any]:
        given, preset = self._prefill(dict(request.query_params))
        standing = preset_values(preset)
        values = standing | {key: value for key, value in given.items() if key in standing}
        dataset, base = self._datasets(given.get("dataset")), self._bases(given.get("base"))
        return [dataset, base, gr.update(value=preset), given.get("name") or "", *show_values(values), preset, secrets.token_hex(8)]

    def _prefill(self, query: dict[str, str]) -> tuple[dict[str, Any], str]:
        """What the address asks for: single values, or everything a job was run with."""
        preset = query.get("preset", _DEFAULT)
        given: dict[str, Any] = {key: query[key] for key in ("dataset", "base", "name") if key in query}
        if "job" in query:
            job, _ = spoken(self.t, lambda: self.bench.jobs.get(query["job"]))
            recipe = job.spec.get("recipe") if job else None
            if recipe:
                return {**recipe, **given}, nearest_preset(recipe)  # retraining: the same, on another base
        return given, preset if preset in PRESETS else _DEFAULT

    def _datasets(self, wanted: str | None) -> dict[str, Any]:
        known = sorted(self.bench.datasets.list(), key=lambda d: (d.bundled, d.name))  # people's own first
        return _choices([(views.dataset_choice(d, self.t), d.name) for d in known], wanted)

    def _bases(self, wanted: str | None) -> dict[str, Any]:
        return _choices([(views.base_choice(b), str(b.ref)) for b in self.bench.bases.list()], wanted)

    def added(self, name: str) -> tuple[dict[str, Any], gr.Accordion]:
        return self._datasets(name), gr.Accordion(open=False)

    def describe(self, dataset: str | None, base: str | None) -> tuple[str, str, Any]:
        bench, t = self.bench, self.t
        data = views.dataset_card(bench.datasets.get(dataset), bench.datasets.report(dataset), t) if dataset else views.no_data(t)
        if not base:
            return data, views.no_base(t), gr.Accordion(open=True)
        return data, views.base_card(bench.bases.get(base), t), gr.skip()

    def to_preset(self, old: str, new: str, *raw: Any) -> list[Any]:
        """Another preset keeps what was changed by hand, and touches only the controls that it changes."""
        before, after, kept = preset_values(old), preset_values(new), changed(raw, old)
        updates = show_values(after | kept)
        return [*(gr.skip() if before[f.name] == after[f.name] else u for f, u in zip(FIELDS, updates, strict=True)), new]

    def reset(self, preset: str) -> list[Any]:
        return show_values(preset_values(preset))

    def plan(self, request: gr.Request, dataset: str | None, base: str | None, preset: str, name: str, *raw: Any) -> list[Any]:
        """The summary, whether start is open, the presets with their cost, how many settings were changed, the code."""
        ticket = self._plans.ticket(request.session_hash)
        drawn = self._planned(dataset, base, preset, name, changed(raw, preset))
        return drawn if self._plans.is_newest(ticket) else [gr.skip()] * len(drawn)

    def _planned(self, dataset: str | None, base: str | None, preset: str, name: str, changes: dict[str, Any]) -> list[Any]:
        title = self.t.n("train.advanced_changed", len(changes)) if changes else self.t("train.advanced")
        if not dataset or not base:
            waiting = f'<p class="wb-quiet">{esc(self.t("train.choose"))}</p>'
            return [waiting, gr.Button(interactive=False), gr.skip(), gr.Accordion(label=title), ""]
        given = _given(dataset, base, name, changes)
        plans = {each: spoken(self.t, lambda each=each: self._plan(given, each)) for each in PRESETS}  # type: ignore[misc]
        chosen, problem = plans[preset]
        choices = gr.Radio(choices=views.preset_choices({each: found for each, (found, _) in plans.items()}, self.t))
        if chosen is None:
            return [panel("bad", problem, icon="warn"), gr.Button(interactive=False), choices, gr.Accordion(label=title), ""]
        code = views.as_code(chosen.recipe.to_yaml(), command_line(given, preset), self.t)
        return [views.summary_card(chosen, self.t), gr.Button(interactive=not chosen.problems), choices, gr.Accordion(label=title), code]

    def _plan(self, given: dict[str, Any], preset: str) -> Plan:
        return self.bench.plan(self.bench.resolve(given, preset=preset))

    def start(self, key: str, dataset: str | None, base: str | None, preset: str, name: str, *raw: Any) -> str:
        """Submit the job. The same form submitted twice gives one job; another look at the page may start another."""
        given = _given(dataset, base, name, changed(raw, preset))
        same = hashlib.sha256(json.dumps([key, preset, given], sort_keys=True).encode()).hexdigest()[:32]
        return self.bench.train(self.bench.resolve(given, preset=preset), key=f"ui-{same}" if key else None).id

    def look(self, request: gr.Request, dataset: str | None, base: str | None, row: int, looking: bool) -> Any:
        if not looking:
            return gr.skip()
        ticket = self._looks.ticket(request.session_hash)
        drawn = self._row(dataset, base, row)
        return drawn if self._looks.is_newest(ticket) else gr.skip()

    def _row(self, dataset: str | None, base: str | None, row: int) -> str:
        if not dataset or not base:
            return f'<p class="wb-quiet">{esc(self.t("preview.choose"))}</p>'
        hashes = (self.bench.datasets.get(dataset).sha256, self.bench.bases.get(base).lock_sha256)
        rows: list[list[Span]] = self._spans(dataset, base, hashes)
        return row_preview(rows, row, self.t)


def _step(n: int, title: str) -> str:
    return f'<h2 class="wb-step"><span aria-hidden="true">{n}</span>{esc(title)}</h2>'


def _given(dataset: str | None, base: str | None, name: str | None, changes: dict[str, Any]) -> dict[str, Any]:
    given = {"base": base, "dataset": dataset, "name": (name or "").strip() or None}
    return {key: value for key, value in given.items() if value is not None} | changes


def _choices(choices: list[tuple[str, str]], wanted: str | None) -> dict[str, Any]:
    names = [name for _, name in choices]
    update: dict[str, Any] = gr.update(choices=choices, value=wanted if wanted in names else next(iter(names), None))
    return update
