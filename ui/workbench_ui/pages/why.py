"""Why a fork never merges: the text and the pictures of `docs/fork.md`."""

from __future__ import annotations

import gradio as gr

from workbench import Workbench
from workbench.words import Words
from workbench_ui.chrome import head
from workbench_ui.views.markup import esc, quiet
from workbench_ui.views.prose import read_text
from workbench_ui.widgets.view import view

__all__ = ["build"]


def build(page: gr.Blocks, bench: Workbench, t: Words) -> None:
    """Read once: the text is part of the package and does not change while a server runs."""
    view(head(esc(t("nav.why")), back=(t.link("rebase"), esc(t("nav.rebase")))))
    if t.lang != "en":
        view(quiet(t("why.english")))
    for kind, piece in read_text("fork"):
        if kind == "picture":
            view(piece)
        else:
            gr.Markdown(piece, elem_classes="wb-prose", sanitize_html=True)
