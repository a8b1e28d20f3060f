"""Why a fork never merges: the text and the pictures of `docs/fork.md`."""

from __future__ import annotations

import gradio as gr

from workbench import Workbench
from workbench.words import Words
from workbench_ui.chrome import head
from workbench_ui.views.markup import esc, panel, quiet
from workbench_ui.views.prose import read_text
from workbench_ui.widgets.view import view

__all__ = ["build"]

_TEXT = "fork"


def build(page: gr.Blocks, bench: Workbench, t: Words) -> None:
    """Read once: the text is part of the package and does not change while a server runs."""
    text = read_text(_TEXT, t.lang)
    back = (t.link("rebase"), esc(t("nav.rebase")))
    view(head(esc(text.title if text and text.lang == t.lang and text.title else t("nav.why")), back=back))
    if text is None:
        view(panel("idle", esc(t("why.missing")), icon="ask"))
        return
    if text.lang != t.lang:
        view(quiet(t("why.english")))
    for kind, piece in text.pieces:
        if kind == "picture":
            view(piece)
        else:
            gr.Markdown(piece, elem_classes="wb-prose", sanitize_html=True)
