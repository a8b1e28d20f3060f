"""Jobs: the list, and with `?job=` one job live.

Everything is read from the job store at each look, so the page may be closed, reopened elsewhere, or outlive the server.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from workbench import Workbench
from workbench.records import Job, JobState
from workbench.words import Words
from workbench_ui.chrome import head, nav
from workbench_ui.guard import guarded, spoken
from workbench_ui.views import jobs as views
from workbench_ui.views.markup import code_block, esc, panel
from workbench_ui.widgets.confirm import ask, confirm
from workbench_ui.widgets.view import QUIET, view

__all__ = ["build"]

_POINTS = 1000  # steps drawn, about
_LISTED = 100  # jobs
_LOG_TAIL = 400  # lines
_FIRST_STEPS, _LATER = 1.0, 2.5  # seconds between two looks
_RESUMABLE = {JobState.interrupted, JobState.failed, JobState.cancelled}


def build(bench: Workbench, t: Words) -> gr.Blocks:
    """The list and the detail share a page; the address decides which one shows."""
    do, on = _Handlers(bench, t), guarded(t)
    with gr.Blocks(analytics_enabled=False) as page:
        nav(t, "jobs")
        top = view()
        with gr.Row(visible=False, elem_classes="wb-actions wb-corner") as actions:
            stop = gr.Button(t("jobs.stop"), variant="stop", visible=False, scale=0, min_width=150)
            resume = gr.Button(t("jobs.resume"), visible=False, scale=0, min_width=150)
        listed, live, samples = view(), view(), view()
        dialog = confirm(t, "jobs.ask_stop")
        with gr.Accordion(t("jobs.settings"), open=False, visible=False, elem_classes="wb-fold") as settings_fold:
            settings = view()
        with gr.Accordion(t("jobs.log"), open=False, visible=False, elem_classes="wb-fold") as log_fold:
            log = view()
            reload_log = gr.Button(t("jobs.log_again"), size="sm", scale=0)
        timer, seen = gr.Timer(_FIRST_STEPS, active=False), gr.State("")

        frame = [top, settings_fold, log_fold, settings]
        moving = [listed, live, samples, actions, stop, resume, timer, seen]
        page.load(on(do.open), None, [*frame, *moving], **QUIET)
        timer.tick(on(do.look), seen, moving, **QUIET)
        stop.click(ask, None, dialog, **QUIET)
        dialog.confirmed(on(do.cancel), None, seen, **QUIET).success(on(do.look), seen, moving, **QUIET)
        resume.click(on(do.resume), None, seen, **QUIET).success(on(do.look), seen, moving, **QUIET)
        gr.on([log_fold.expand, reload_log.click], on(do.read_log), None, log, **QUIET)
    return page


class _Handlers:
    """What the page's events do. `open` fills everything, `look` what may change while somebody watches."""

    def __init__(self, bench: Workbench, t: Words) -> None:
        self.bench, self.t = bench, t

    def open(self, request: gr.Request) -> list[Any]:
        """Fill the page; what goes wrong stands on it, since an empty page says nothing."""
        shown, problem = spoken(self.t, lambda: self._open(request))
        if shown is not None:
            return shown
        title = head(esc(self.t("jobs.unknown")), back=(self.t.link("jobs"), esc(self.t("jobs.all"))))
        return [title, *_folds(False), "", "", panel("bad", problem, icon="warn"), "", *_buttons(None), _timer([]), ""]

    def _open(self, request: gr.Request) -> list[Any]:
        t, wanted = self.t, _wanted(request)
        if not wanted:
            return [head(esc(t("jobs.title")), esc(t("jobs.lead"))), *_folds(False), "", *self.look("", request)]
        job = self.bench.jobs.get(wanted)
        title = head(esc(views.job_title(job)), esc(views.job_what(job, t)), back=(t.link("jobs"), esc(t("jobs.all"))))
        return [title, *_folds(True), views.frozen_settings(job, t), *self._drawn(job)]

    def look(self, seen: str, request: gr.Request) -> list[Any]:
        wanted = _wanted(request)
        if not wanted:
            jobs = self.bench.jobs.list(limit=_LISTED)
            return [views.job_list(jobs, self.t), "", "", *_buttons(None), _timer(jobs), ""]
        job = self.bench.jobs.get(wanted)
        return [gr.skip()] * 8 if _stamp(job) == seen else self._drawn(job)

    def _drawn(self, job: Job) -> list[Any]:
        run = views.series(self.bench.jobs.metrics(job.id, most=_POINTS))
        live, samples = views.job_live(job, run, self.t), views.job_samples(run, self.t)
        return ["", live, samples, *_buttons(job), _timer([job]), _stamp(job)]

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


def _folds(shown: bool) -> list[gr.Accordion]:
    return [gr.Accordion(visible=shown), gr.Accordion(visible=shown)]


def _buttons(job: Job | None) -> list[Any]:
    can_stop = job is not None and not job.state.final and not job.cancel_requested
    can_resume = job is not None and job.state in _RESUMABLE
    return [gr.Row(visible=can_stop or can_resume), gr.Button(visible=can_stop), gr.Button(visible=can_resume)]
