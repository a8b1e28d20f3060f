"""Rebase check: what happens to our adapters when the base changes? `?base=x@2` says where to, `&adapter=name@3` opens one cell.

Everything is read from the stored checks at each look. Checking is a job: the page may be closed meanwhile.
"""

from __future__ import annotations

import gradio as gr

from workbench import Workbench
from workbench.ancestry import bases_in_order
from workbench.errors import NotFound
from workbench.rebase.release import Cell
from workbench.records import Base, Dataset, Job
from workbench.words import Words
from workbench_ui.chrome import head
from workbench_ui.guard import guarded, spoken
from workbench_ui.views import rebase as views
from workbench_ui.views.lineage import lineage
from workbench_ui.views.markup import card, esc, trouble
from workbench_ui.widgets.view import QUIET, Shown, view

__all__ = ["build"]

_EVERY = 2.0  # seconds between two looks while a check runs
_LISTED = 200  # jobs looked at for running checks
_KINDS = {"rebase", "evaluate"}

_PICK = """element.addEventListener('change', (e) => { const base = e.target.value;
  history.replaceState(null, '', location.pathname + '?base=' + encodeURIComponent(base)); trigger('picked', {base}); });"""
# A second click within two seconds is no second wish. What was clicked is drawn anew, so focus goes to what took its place.
_ACT = """let last = 0, row = null;
element.addEventListener('click', (e) => { const b = e.target.closest('button[data-do]');
  if (!b || Date.now() - last < 2000) return;
  last = Date.now(); row = b.closest('[data-row]')?.dataset.row ?? null;
  const dataset = b.parentElement.querySelector('select')?.value || '';
  b.setAttribute('aria-busy', 'true'); setTimeout(() => b.removeAttribute('aria-busy'), 15000);
  trigger('act', {what: b.dataset.do, adapter: b.dataset.adapter, base: b.dataset.base, dataset}); });
watch('value', () => { if (row === null) return; const was = row; row = null;
  setTimeout(() => { const now = [...element.querySelectorAll('[data-row]')].find((r) => r.dataset.row === was);
    (now?.querySelector('a, button, select') || document.getElementById('wb-top'))?.focus(); }, 80); });"""


def build(page: gr.Blocks, bench: Workbench, t: Words) -> None:
    """The overview of one base, or one cell in full; the address decides which one shows."""
    _Page(bench, t).wire(page)


class _Page:
    """The components and what their events do. All events end in `_drawn`, which fills everything that may change."""

    def __init__(self, bench: Workbench, t: Words) -> None:
        self.bench, self.t = bench, t
        self.top = view()
        self.picker, self.answer = view(js_on_load=_PICK), view(js_on_load=_ACT)
        with gr.Accordion(t("rebase.versions"), open=False, visible=False, elem_classes="wb-fold") as self.fold:
            self.versions = view()
        self.picture = view()
        # Held by the browser, not by the session: a restarted server must still know them.
        self.base, self.seen = gr.Textbox(visible=False), gr.Textbox(visible=False)
        self.timer = gr.Timer(_EVERY, active=False)

    def wire(self, page: gr.Blocks) -> None:
        on, base = guarded(self.t), self.base
        moving = [self.answer, self.fold, self.versions, self.picture, base, self.seen, self.timer]
        page.load(on(self.open), None, [self.top, self.picker, *moving], **QUIET)
        self.picker.picked(on(self.pick), None, moving, **QUIET)
        self.answer.act(on(self.act), base, moving, **QUIET)
        self.timer.tick(on(self.look), [base, self.seen], moving, **QUIET)

    def open(self, request: gr.Request) -> Shown:
        t, wanted, adapter = self.t, str(request.query_params.get("base") or ""), _adapter(request)
        bases, problem = spoken(t, lambda: _newest_first(self.bench.bases.list()))
        chosen = wanted or self._default(bases or [])
        if adapter:
            back = (t.link("rebase", base=chosen), esc(t("rebase.all", base=chosen)))
            named = {self.top: head(t.html("rebase.cell_title", adapter=adapter, base=chosen), back=back)}
        else:
            why = f'<a href="{esc(t.link("why"))}">{esc(t("rebase.why_link"))}</a>'
            title = head(esc(t("nav.rebase")), f"{esc(t('rebase.lead'))} {why}")
            named = {self.top: title, self.picker: views.picker(bases or [], chosen, t)}
        return {**named, **({self.answer: trouble(problem), self.base: chosen} if problem else self._drawn(chosen, adapter))}

    def pick(self, event: gr.EventData) -> Shown:
        return self._drawn(str(event.base), "")

    def look(self, base: str, seen: str, request: gr.Request) -> Shown:
        jobs = self._jobs()
        return gr.skip() if _stamp(jobs) == seen else self._drawn(base, _adapter(request), jobs)

    def act(self, base: str, event: gr.EventData, request: gr.Request) -> Shown:
        """Start what a button asks for; what runs already is not started again."""
        wanted = str(event.adapter)
        asked = [self.bench.adapters.get(wanted)] if wanted else self.bench.rebase.candidates(base)
        cells = [cell for cell in self.bench.rebase.matrix(asked, [base]) if cell.job is None and (wanted or cell.state.waits)]
        if event.what == "evaluate" and cells:
            self.bench.evaluate(wanted, dataset=str(event.dataset) or None)
        elif event.what == "check" and cells:
            self.bench.rebase.check([cell.adapter.ref for cell in cells], onto=base)
        return self._drawn(base, _adapter(request))

    # ---------------------------------------------------------------- drawing

    def _drawn(self, base: str, adapter: str, jobs: list[Job] | None = None) -> Shown:
        jobs = self._jobs() if jobs is None else jobs
        nothing = {self.fold: gr.Accordion(visible=False), self.versions: "", self.picture: "", self.base: base}
        shown, problem = spoken(self.t, lambda: self._cell(base, adapter) if adapter else self._overview(base))
        if shown is None:
            return {**nothing, self.answer: trouble(problem), self.seen: "", self.timer: gr.Timer(active=False)}
        return {**nothing, **shown, self.seen: _stamp(jobs), self.timer: gr.Timer(active=bool(jobs))}

    def _overview(self, base: str) -> Shown:
        t, bases = self.t, self.bench.bases.list()
        if not bases:
            return {self.answer: views.no_bases(t)}
        adapters = self.bench.adapters.list()
        picture = card(t("lineage.title"), lineage(bases, adapters, t, chosen=base)) if adapters else ""
        self.bench.bases.get(base)  # says which ones there are
        if len(bases) == 1 and adapters and all(str(adapter.base) == base for adapter in adapters):
            return {self.answer: views.one_base(bases[0], t), self.picture: picture}
        refs = [str(b.ref) for b in bases_in_order(bases)]
        ordered = sorted(adapters, key=lambda a: (a.name, -a.version))
        everything = self.bench.rebase.matrix(ordered, refs)
        newest = {adapter.ref for adapter in self.bench.rebase.candidates(base)}
        cells = [cell for cell in everything if cell.base == base and cell.adapter.ref in newest]
        at_home = len({adapter.name for adapter in adapters}) - len(cells)
        waiting = [cell.adapter.ref for cell in cells if cell.state.waits]
        seconds = self.bench.rebase.estimate(waiting, base) if len(waiting) > 1 else None
        return {
            self.answer: views.answer(cells, base, t, at_home=at_home, seconds=seconds, datasets=self._datasets(cells)),
            self.fold: gr.Accordion(visible=bool(ordered)),
            self.versions: views.matrix(everything, t, chosen=base) if ordered else "",
            self.picture: picture,
        }

    def _cell(self, base: str, ref: str) -> Shown:
        check = self.bench.rebase.find(ref, base)
        try:
            adapter = self.bench.adapters.get(ref)
        except NotFound:
            if check is None:
                raise
            return {self.answer: views.gone(check, self.t)}
        if check is None:
            self.bench.bases.get(base)  # says which ones there are
        (cell,) = self.bench.rebase.matrix([adapter], [base])
        return {self.answer: views.detail(cell, self.t, datasets=self._datasets([cell]))}

    # ---------------------------------------------------------------- reading

    def _jobs(self) -> list[Job]:
        return [job for job in self.bench.jobs.list(limit=_LISTED) if job.kind in _KINDS and not job.state.final]

    def _datasets(self, cells: list[Cell]) -> list[Dataset]:
        if not any(cell.state.name == "untested" for cell in cells):
            return []
        return [dataset for dataset in self.bench.datasets.list() if dataset.test_rows]

    def _default(self, bases: list[Base]) -> str:
        """The newest base that some adapter was not made for; else the newest."""
        homes = {str(adapter.base) for adapter in spoken(self.t, self.bench.adapters.list)[0] or []}
        moved = [base for base in bases if homes - {str(base.ref)}]
        return str((moved or bases)[0].ref) if bases else ""


def _adapter(request: gr.Request) -> str:
    """The one that the address names."""
    return str(request.query_params.get("adapter") or "")


def _newest_first(bases: list[Base]) -> list[Base]:
    return sorted(reversed(bases_in_order(bases)), key=lambda base: base.added_at.timestamp() if base.added_at else 0.0, reverse=True)


def _stamp(jobs: list[Job]) -> str:
    """Changes whenever there is something new to draw."""
    return " ".join(f"{job.id} {job.state.value} {job.progress.t if job.progress else 0}" for job in jobs)
