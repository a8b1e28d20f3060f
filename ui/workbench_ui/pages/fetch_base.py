"""The part of the Train page that gets another base: chosen from the catalogue, fetched by a job."""

from __future__ import annotations

import gradio as gr

from workbench import Workbench
from workbench.words import Words
from workbench_ui.guard import guarded
from workbench_ui.views import train as views
from workbench_ui.widgets.view import BUSY, QUIET, choice, to_job, view

__all__ = ["FetchBase"]


class FetchBase:
    """The controls and what their events do. Pressing the button leads to the page of the job that fetches."""

    def __init__(self, bench: Workbench, t: Words) -> None:
        self.bench, self.t = bench, t
        self.entry = choice(label=t("base.known"))
        self.about = view()
        self.button = gr.Button(t("base.fetch"), scale=0)
        self.started = gr.Textbox(visible=False)

    def wire(self, page: gr.Blocks) -> None:
        on = guarded(self.t)
        page.load(on(self.open), None, self.entry, **QUIET).then(on(self.describe), self.entry, self.about, **QUIET)
        self.entry.input(on(self.describe), self.entry, self.about, **QUIET)
        to_job(self.button.click(on(self.fetch), self.entry, self.started, **BUSY), self.started, self.t)

    def open(self) -> gr.Dropdown:
        """What is not here yet: tried entries first, small before large."""
        absent = [entry for entry in self.bench.bases.catalogue() if not self.bench.bases.has(entry.ref)]
        absent.sort(key=lambda entry: (not entry.verified, entry.parameters))
        choices = [(views.catalogue_choice(entry, self.t), str(entry.ref)) for entry in absent]
        return gr.Dropdown(choices=choices, value=choices[0][1] if choices else None)

    def describe(self, ref: str | None) -> str:
        return views.catalogue_card(self.bench.bases.catalogue().get(ref), self.t) if ref else ""

    def fetch(self, ref: str | None) -> str:
        return self.bench.fetch(ref or "").id
