"""The part of the Train page that gets another base: chosen from the catalogue, fetched by a job."""

from __future__ import annotations

import gradio as gr

from workbench import Workbench
from workbench.words import Words
from workbench_ui.guard import guarded
from workbench_ui.views import train as views
from workbench_ui.widgets.view import BUSY, QUIET, choice, to_job, view

__all__ = ["fetch_base"]


def fetch_base(page: gr.Blocks, bench: Workbench, t: Words) -> None:
    """The controls and what their events do. Pressing the button leads to the page of the job that fetches."""
    on = guarded(t)
    entry = choice(label=t("base.known"))
    about = view()
    button = gr.Button(t("base.fetch"), scale=0)
    started = gr.Textbox(visible=False)

    def absent() -> gr.Dropdown:
        """What is not here yet: tried entries first, small before large."""
        found = [entry for entry in bench.bases.catalogue() if not bench.bases.has(entry.ref)]
        found.sort(key=lambda entry: (not entry.verified, entry.parameters))
        choices = [(views.catalogue_choice(entry, t), str(entry.ref)) for entry in found]
        return gr.Dropdown(choices=choices, value=choices[0][1] if choices else None)

    def describe(ref: str | None) -> str:
        return views.catalogue_card(bench.bases.catalogue().get(ref), t) if ref else ""

    def fetch(ref: str | None) -> str:
        return bench.fetch(ref or "").id

    page.load(on(absent), None, entry, **QUIET).then(on(describe), entry, about, **QUIET)
    entry.input(on(describe), entry, about, **QUIET)
    to_job(button.click(on(fetch), entry, started, **BUSY), started, t)
