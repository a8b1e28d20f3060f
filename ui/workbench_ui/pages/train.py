"""Train: what to learn from, which model, how thoroughly; beside it at every moment what that will take."""

from __future__ import annotations

import hashlib
import json
import secrets
from functools import lru_cache
from typing import Any

import gradio as gr

from workbench import Workbench
from workbench.planning import Plan
from workbench.recipe import PRESETS
from workbench.words import Words
from workbench_ui.chrome import head
from workbench_ui.guard import guarded, spoken
from workbench_ui.pages.add_data import AddData
from workbench_ui.pages.fetch_base import fetch_base
from workbench_ui.views import train as views
from workbench_ui.views.markup import esc, panel, quiet, trouble
from workbench_ui.views.recipe_form import changed, command_line, nearest_preset, preset_values
from workbench_ui.views.tokens import Span, row_preview
from workbench_ui.widgets.recipe_form import recipe_controls, show_values
from workbench_ui.widgets.view import BUSY, QUIET, Shown, choice, to_job, view

__all__ = ["build"]

_DEFAULT = "standard"
_PREVIEWED = 8  # rows


def build(page: gr.Blocks, bench: Workbench, t: Words) -> None:
    """The form on the left, what it means on the right. The address can fill it: ?dataset=, ?base=, ?preset=, ?job=."""
    view(head(esc(t("train.title")), esc(t("train.lead"))))
    _Page(page, bench, t).wire(page)


class _Page:
    """The components and what their events do. Most events get the whole form: {component: value}."""

    def __init__(self, page: gr.Blocks, bench: Workbench, t: Words) -> None:
        self.bench, self.t = bench, t
        with gr.Row(elem_classes="wb-columns"):
            with gr.Column(scale=5, min_width=320):
                self._data(), self._base(page), self._depth()
            with gr.Column(scale=3, min_width=300, elem_classes="wb-side"), gr.Column(elem_classes="wb-card wb-summary"):
                view(f"<h2>{esc(t('train.summary'))}</h2>")
                self.summary = view(quiet(t("train.wait")))
                self.start = gr.Button(t("train.start"), variant="primary", size="lg", interactive=False)
                view(quiet(t("train.close")))
        # `key` makes the same form, submitted twice, one job; `preset_before` is the one whose values the controls show.
        self.key, self.preset_before = gr.State(""), gr.State(_DEFAULT)
        self.row, self.looking = gr.State(0), gr.State(False)
        self.started = gr.Textbox(visible=False)
        # Each new value asks the server again. One question of a kind is open at a time, so no late answer is drawn over a newer one.
        self.asked, self.turned = gr.Textbox(visible=False), gr.Textbox(visible=False)
        # Reading a tokenizer takes seconds. The hashes of rows and base make it safe to keep what came out.
        self._spans = lru_cache(maxsize=8)(lambda dataset, base, hashes: bench.preview(dataset, base, n=_PREVIEWED))

    def _data(self) -> None:
        t = self.t
        with gr.Column(elem_classes="wb-card"):
            view(_step(1, t("train.step_data")))
            self.dataset = choice(label=t("train.dataset"))
            self.about_data = view()
            with gr.Accordion(t("data.add_title"), open=False, elem_classes="wb-fold") as self.add_fold:
                self.add_data = AddData(self.bench, t)
            with gr.Accordion(t("preview.title"), open=False, elem_classes="wb-fold") as self.preview_fold:
                self.preview = view(quiet(t("preview.wait")))
                with gr.Row():
                    self.before = gr.Button(t("preview.before"), size="sm", scale=0, min_width=120)
                    self.after = gr.Button(t("preview.after"), size="sm", scale=0, min_width=120)

    def _base(self, page: gr.Blocks) -> None:
        t = self.t
        with gr.Column(elem_classes="wb-card"):
            view(_step(2, t("train.step_base")))
            self.base = choice(label=t("train.base"))
            self.about_base = view()
            with gr.Accordion(t("base.get"), open=False, elem_classes="wb-fold") as self.fetch_fold:
                fetch_base(page, self.bench, t)

    def _depth(self) -> None:
        t = self.t
        with gr.Column(elem_classes="wb-card"):
            view(_step(3, t("train.step_depth")))
            choices = views.preset_choices({}, t)
            self.preset = gr.Radio(choices, value=_DEFAULT, label=t("train.preset"), interactive=True, elem_classes="wb-presets")
            self.name = gr.Textbox(label=t("train.name"), info=t("train.name_info"), max_lines=1)
            with gr.Accordion(t("train.advanced"), open=False, elem_classes="wb-fold") as self.advanced:
                self.controls = recipe_controls(t, _DEFAULT)
                self.reset = gr.Button(t("train.reset"), size="sm", scale=0)
            with gr.Accordion(t("train.as_code"), open=False, elem_classes="wb-fold"):
                self.code = view()

    def wire(self, page: gr.Blocks) -> None:
        on, controls = guarded(self.t), list(self.controls.values())
        chosen, about = [self.dataset, self.base], [self.about_data, self.about_base, self.fetch_fold]
        parts = [*chosen, self.name, *controls]
        form, planned = {self.preset, *parts}, [self.summary, self.start, self.preset, self.advanced, self.code]

        filled = page.load(on(self.open), None, [self.preset, self.preset_before, self.key, *parts], **QUIET)
        filled.then(on(self.describe), chosen, about, **QUIET)
        gr.on([self.dataset.input, self.base.input], on(self.describe), chosen, about, **QUIET)
        moved = self.preset.input(on(self.to_preset), {self.preset_before, *form}, [*controls, self.preset_before], **QUIET)
        reset = self.reset.click(on(self.to_standing), self.preset, controls, **QUIET)
        to_job(self.start.click(on(self.submit), {self.key, *form}, self.started, **BUSY), self.started, self.t)
        added = self.add_data.added.change(on(self.take_added), self.add_data.added, [self.dataset, self.add_fold], **QUIET)
        added.then(on(self.describe), chosen, about, **QUIET)
        # A text box reports typing as input, but not what is pasted or filled in; its change covers all of it.
        touched = [part.change if isinstance(part, gr.Textbox) else part.input for part in parts]
        anew = {"fn": None, "inputs": None, "js": "() => String(performance.now())", **QUIET}
        gr.on(touched, outputs=self.asked, **anew)
        for changed_form in (filled, moved, reset, added):
            changed_form.then(outputs=self.asked, **anew)
        self.asked.change(on(self.plan), form, planned, trigger_mode="always_last", **BUSY)

        opened = self.preview_fold.expand(lambda: True, None, self.looking, **QUIET)
        self.preview_fold.collapse(lambda: False, None, self.looking, **QUIET)
        first = gr.on([self.dataset.change, self.base.change], lambda: 0, None, self.row, **QUIET)
        before = self.before.click(lambda n: n - 1, self.row, self.row, **QUIET)
        after = self.after.click(lambda n: n + 1, self.row, self.row, **QUIET)
        for leafed in (opened, first, before, after):
            leafed.then(outputs=self.turned, **anew)
        self.turned.change(on(self.look), [*chosen, self.row, self.looking], self.preview, trigger_mode="always_last", **BUSY)

    # ---------------------------------------------------------------- filling the form

    def open(self, request: gr.Request) -> Shown:
        given, preset = self._prefill(dict(request.query_params))
        standing = preset_values(preset)
        return {
            self.dataset: self._datasets(given.get("dataset")),
            self.base: self._bases(given.get("base")),
            self.preset: gr.Radio(value=preset),
            self.preset_before: preset,
            self.name: given.get("name") or "",
            self.key: secrets.token_hex(8),
            **show_values(self.controls, standing | {key: value for key, value in given.items() if key in standing}),
        }

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

    def _datasets(self, wanted: str | None) -> gr.Dropdown:
        known = sorted(self.bench.datasets.list(), key=lambda d: (d.bundled, d.name))  # people's own first
        return _choices([(views.dataset_choice(d, self.t), d.name) for d in known], wanted)

    def _bases(self, wanted: str | None) -> gr.Dropdown:
        return _choices([(views.base_choice(b), str(b.ref)) for b in self.bench.bases.list()], wanted)

    def take_added(self, name: str) -> Shown:
        return {self.dataset: self._datasets(name), self.add_fold: gr.Accordion(open=False)}

    def describe(self, dataset: str | None, base: str | None) -> Shown:
        bench, t = self.bench, self.t
        data = panel("idle", esc(t("data.none")))
        if dataset:
            data = views.dataset_card(bench.datasets.get(dataset), bench.datasets.report(dataset), t)
        if not base:
            none = panel("idle", f"<strong>{esc(t('base.none'))}</strong> {esc(t('base.none_how'))}")
            return {self.about_data: data, self.about_base: none, self.fetch_fold: gr.Accordion(open=True)}
        return {self.about_data: data, self.about_base: views.base_card(bench.bases.get(base), t)}

    def to_preset(self, form: Shown) -> Shown:
        """Another preset keeps what was changed by hand, and touches only the controls that it changes."""
        before, after = preset_values(form[self.preset_before]), preset_values(form[self.preset])
        moved = {name for name in after if before[name] != after[name]}
        values = after | self._changes(form, form[self.preset_before])
        return {**show_values(self.controls, {name: values[name] for name in moved}), self.preset_before: form[self.preset]}

    def to_standing(self, preset: str) -> Shown:
        return show_values(self.controls, preset_values(preset))

    # ---------------------------------------------------------------- planning and starting

    def _changes(self, form: Shown, preset: str) -> dict[str, Any]:
        return changed({name: form[control] for name, control in self.controls.items()}, preset)

    def _given(self, form: Shown) -> dict[str, Any]:
        """The recipe's keys that the form decides; the preset decides the others."""
        plain = {"base": form[self.base], "dataset": form[self.dataset], "name": (form[self.name] or "").strip() or None}
        return {key: value for key, value in plain.items() if value is not None} | self._changes(form, form[self.preset])

    def plan(self, form: Shown) -> Shown:
        """The summary, whether start is open, the presets with their cost, how many settings were changed, the code."""
        preset, given = form[self.preset], self._given(form)
        count = len(self._changes(form, preset))
        title = self.t.n("train.advanced_changed", count) if count else self.t("train.advanced")
        shut = {self.start: gr.Button(interactive=False), self.advanced: gr.Accordion(label=title), self.code: ""}
        if not form[self.dataset] or not form[self.base]:
            return {**shut, self.summary: quiet(self.t("train.choose"))}
        plans = {each: spoken(self.t, lambda each=each: self._plan(given, each)) for each in PRESETS}  # type: ignore[misc]
        shut[self.preset] = gr.Radio(choices=views.preset_choices({each: plan for each, (plan, _) in plans.items()}, self.t))
        plan, problem = plans[preset]
        if plan is None:
            return {**shut, self.summary: trouble(problem)}
        return {
            **shut,
            self.summary: views.summary_card(plan, self.t),
            self.start: gr.Button(interactive=not plan.problems),
            self.code: views.as_code(plan.recipe.to_yaml(), command_line(given, preset), self.t),
        }

    def _plan(self, given: dict[str, Any], preset: str) -> Plan:
        return self.bench.plan(self.bench.resolve(given, preset=preset))

    def submit(self, form: Shown) -> str:
        """Submit the job. The same form submitted twice gives one job; another look at the page may start another."""
        key, preset, given = form[self.key], form[self.preset], self._given(form)
        same = hashlib.sha256(json.dumps([key, preset, given], sort_keys=True).encode()).hexdigest()[:32]
        return self.bench.train(self.bench.resolve(given, preset=preset), key=f"ui-{same}" if key else None).id

    # ---------------------------------------------------------------- the examples as the model sees them

    def look(self, dataset: str | None, base: str | None, row: int, looking: bool) -> Any:
        return self._row(dataset, base, row) if looking else gr.skip()

    def _row(self, dataset: str | None, base: str | None, row: int) -> str:
        if not dataset or not base:
            return quiet(self.t("preview.choose"))
        hashes = (self.bench.datasets.get(dataset).sha256, self.bench.bases.get(base).lock_sha256)
        rows: list[list[Span]] = self._spans(dataset, base, hashes)
        return row_preview(rows, row, self.t)


def _step(n: int, title: str) -> str:
    return f'<h2 class="wb-step"><span aria-hidden="true">{n}</span>{esc(title)}</h2>'


def _choices(choices: list[tuple[str, str]], wanted: str | None) -> gr.Dropdown:
    names = [name for _, name in choices]
    return gr.Dropdown(choices=choices, value=wanted if wanted in names else next(iter(names), None))
