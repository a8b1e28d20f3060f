"""Jobs: the list, and with `?job=` one job live.

Everything is read from the job store at each look, so the page may be closed, reopened elsewhere, or outlive the server.
"""

from __future__ import annotations

import gradio as gr

from workbench import Workbench
from workbench.records import Job
from workbench.words import Words
from workbench_ui.chrome import head
from workbench_ui.guard import guarded, spoken
from workbench_ui.views import jobs as views
from workbench_ui.views.markup import code_block, esc, trouble
from workbench_ui.widgets.confirm import ask, confirm
from workbench_ui.widgets.view import QUIET, Shown, view

__all__ = ["build"]

_LISTED = 100  # jobs
_LOG_TAIL = 400  # lines
_FIRST_STEPS, _LATER = 1.0, 2.5  # seconds between two looks


def build(page: gr.Blocks, bench: Workbench, t: Words) -> None:
    """The list and the detail share a page; the address decides which one shows."""
    _Page(bench, t).wire(page)


class _Page:
    """The components and what their events do. `open` fills everything, `look` what may change while somebody watches."""

    def __init__(self, bench: Workbench, t: Words) -> None:
        self.bench, self.t = bench, t
        self.top = view()
        with gr.Row(visible=False, elem_classes="wb-actions wb-corner") as self.actions:
            self.stop = gr.Button(t("jobs.stop"), variant="stop", visible=False, scale=0, min_width=150)
            self.go_on = gr.Button(t("jobs.resume"), visible=False, scale=0, min_width=150)
        self.listed, self.live, self.samples = view(), view(), view()
        self.dialog = confirm(t, "jobs.ask_stop")
        with gr.Accordion(t("jobs.settings"), open=False, visible=False, elem_classes="wb-fold") as self.settings_fold:
            self.settings = view()
        with gr.Accordion(t("jobs.log"), open=False, visible=False, elem_classes="wb-fold") as self.log_fold:
            self.log = view()
            self.reload_log = gr.Button(t("jobs.log_again"), size="sm", scale=0)
        self.timer, self.seen = gr.Timer(_FIRST_STEPS, active=False), gr.State("")

    def wire(self, page: gr.Blocks) -> None:
        on, seen = guarded(self.t), self.seen
        moving = [self.listed, self.live, self.samples, self.actions, self.stop, self.go_on, self.timer, seen]
        page.load(on(self.open), None, [self.top, self.settings_fold, self.log_fold, self.settings, *moving], **QUIET)
        self.timer.tick(on(self.look), seen, moving, **QUIET)
        self.stop.click(ask, None, self.dialog, **QUIET)
        self.dialog.confirmed(on(self.cancel), None, seen, **QUIET).success(on(self.look), seen, moving, **QUIET)
        self.go_on.click(on(self.resume), None, seen, **QUIET).success(on(self.look), seen, moving, **QUIET)
        gr.on([self.log_fold.expand, self.reload_log.click], on(self.read_log), None, self.log, **QUIET)

    def open(self, request: gr.Request) -> Shown:
        """Fill the page; what goes wrong stands on it, since an empty page says nothing."""
        shown, problem = spoken(self.t, lambda: self._open(request))
        if shown is not None:
            return shown
        return {self.top: self._head(self.t("jobs.unknown")), self.live: trouble(problem)}

    def _open(self, request: gr.Request) -> Shown:
        if not (wanted := _wanted(request)):
            return {self.top: head(esc(self.t("jobs.title")), esc(self.t("jobs.lead"))), **self._drawn_list()}
        job = self.bench.jobs.get(wanted)
        return {
            self.top: self._head(views.job_title(job, self.t), views.job_what(job, self.t)),
            self.settings_fold: gr.Accordion(visible=True),
            self.log_fold: gr.Accordion(visible=True),
            self.settings: views.frozen_settings(job, self.t),
            **self._drawn(job),
        }

    def _head(self, title: str, lead: str = "") -> str:
        return head(esc(title), esc(lead), back=(self.t.link("jobs"), esc(self.t("jobs.all"))))

    def look(self, seen: str, request: gr.Request) -> Shown:
        if not (wanted := _wanted(request)):
            return self._drawn_list()
        job = self.bench.jobs.get(wanted)
        return gr.skip() if _stamp(job) == seen else self._drawn(job)

    def _drawn_list(self) -> Shown:
        jobs = self.bench.jobs.list(limit=_LISTED)
        return {self.listed: views.job_list(jobs, self.t), self.timer: _timer(jobs)}

    def _drawn(self, job: Job) -> Shown:
        run = views.series(self.bench.jobs.metrics(job.id))
        can_stop = not job.state.final and not job.cancel_requested
        return {
            self.live: views.job_live(job, run, self.t),
            self.samples: views.job_samples(run, self.t),
            self.actions: gr.Row(visible=can_stop or job.state.resumable),
            self.stop: gr.Button(visible=can_stop),
            self.go_on: gr.Button(visible=job.state.resumable),
            self.timer: _timer([job]),
            self.seen: _stamp(job),
        }

    def cancel(self, request: gr.Request) -> str:
        self.bench.jobs.cancel(_wanted(request))
        return ""

    def resume(self, request: gr.Request) -> str:
        self.bench.jobs.resume(_wanted(request))
        return ""

    def read_log(self, request: gr.Request) -> str:
        lines = self.bench.jobs.logs(_wanted(request)).splitlines()
        return code_block("\n".join(lines[-_LOG_TAIL:]) or self.t("jobs.log_empty"), self.t("copy"), self.t("jobs.log"))


def _wanted(request: gr.Request) -> str:
    """The job the address names. The browser sends its page's query with every event, so a restarted server knows it too."""
    return str(request.query_params.get("job") or "")


def _stamp(job: Job) -> str:
    """Changes whenever there is something new to draw."""
    newest = job.progress.t if job.progress else 0
    return f"{job.state.value} {job.cancel_requested} {len(job.attempts)} {newest}"


def _timer(jobs: list[Job]) -> gr.Timer:
    """Quick while a job is young, slower later, off when nothing runs."""
    busy = [job for job in jobs if not job.state.final]
    young = any(job.progress is None or (job.progress.step or 0) < 50 for job in busy)
    return gr.Timer(_FIRST_STEPS if young else _LATER, active=bool(busy))
