"""The first page."""

from __future__ import annotations

import gradio as gr

from workbench import Workbench
from workbench.words import Words
from workbench_ui.guard import spoken
from workbench_ui.views.home import home
from workbench_ui.views.markup import trouble
from workbench_ui.widgets.view import QUIET, Shown, view

__all__ = ["build"]

_EVERY = 5.0  # seconds between two looks while something runs
_LISTED = 20  # jobs looked at


def build(page: gr.Blocks, bench: Workbench, t: Words) -> None:
    """Home: what this is, what runs, what was made."""
    shown = view()
    timer = gr.Timer(_EVERY, active=False)

    def draw() -> Shown:
        found, problem = spoken(t, lambda: (bench.jobs.list(limit=_LISTED), bench.adapters.list()))
        jobs, adapters = found or ([], [])
        return {shown: home(jobs, adapters, t) + trouble(problem), timer: gr.Timer(active=any(not job.state.final for job in jobs))}

    page.load(draw, None, [shown, timer], **QUIET)
    timer.tick(draw, None, [shown, timer], **QUIET)
