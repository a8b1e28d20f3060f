"""What pages are put together from: places for markup made by a view, drop-downs, and how their events are wired."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.blocks import Block

from workbench.words import Words

__all__ = ["BUSY", "QUIET", "Shown", "choice", "to_job", "view"]

Shown = dict[Block, Any]
"""What an event draws: component -> its new value or properties. A component that is left out stays as it is."""

# Events of a page are plumbing: none of them is listed as an API. They answer within seconds, so they go straight to the
# server, past Gradio's queue and its event stream; the page's script shows their errors.
QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
BUSY: dict[str, Any] = {"queue": False, "show_progress": "minimal", "api_visibility": "private"}


def view(html: str = "", **options: Any) -> gr.HTML:
    """`html` must come from a view, where everything a person named is escaped. No script, no default style."""
    return gr.HTML(html, **({"js_on_load": None, "apply_default_css": False, "padding": False} | options))


def choice(choices: list[tuple[str, str]] | None = None, **options: Any) -> gr.Dropdown:
    """People pick, they cannot type. The handlers check what was picked.

    Gradio would check it too, but against choices it keeps per session: a page that is older than the server, which
    is every open page after a restart, would have all its answers refused.
    """
    part = gr.Dropdown(choices or [], filterable=False, **options)
    part.allow_custom_value = True
    return part


def to_job(submitted: Any, job: gr.Textbox, t: Words) -> None:
    """Once the event `submitted` has put a job's id into `job`, go to the job's page."""
    submitted.success(None, job, None, js=f"(id) => {{ location.href = '{t.link('jobs')}?job=' + encodeURIComponent(id); }}")
