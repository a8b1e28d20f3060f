"""A drop-down whose choices arrive with an event."""

from __future__ import annotations

from typing import Any

import gradio as gr

__all__ = ["choice"]


def choice(choices: list[tuple[str, str]] | None = None, **options: Any) -> gr.Dropdown:
    """People pick, they cannot type. The handlers check what was picked.

    Gradio would check it too, but against choices it keeps per session: a page that is older than the server, which
    is every open page after a restart, would have all its answers refused.
    """
    part = gr.Dropdown(choices or [], filterable=False, **options)
    part.allow_custom_value = True
    return part
