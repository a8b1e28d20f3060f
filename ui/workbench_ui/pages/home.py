"""The first page."""

from __future__ import annotations

import gradio as gr

from workbench import Workbench
from workbench_ui.chrome import nav
from workbench_ui.guard import guarded
from workbench_ui.views.home import home
from workbench_ui.widgets.view import QUIET, view
from workbench_ui.words import Words

__all__ = ["build"]

_EVERY = 5.0  # seconds between two looks while something runs


def build(bench: Workbench, t: Words) -> gr.Blocks:
    """Home: what this is, what runs, what was made."""
    with gr.Blocks(analytics_enabled=False) as page:
        nav(t, "")
        shown = view()
        timer = gr.Timer(_EVERY, active=False)

        @guarded(t)
        def draw() -> tuple[str, gr.Timer]:
            jobs = bench.jobs.list(limit=20)
            return home(jobs, bench.adapters.list(), t), gr.Timer(active=any(not job.state.final for job in jobs))

        page.load(draw, None, [shown, timer], **QUIET)
        timer.tick(draw, None, [shown, timer], **QUIET)
    return page
