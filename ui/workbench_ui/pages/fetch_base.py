"""The part of the Train page that gets another base: chosen from the catalogue, fetched by a job."""

from __future__ import annotations

import gradio as gr

from workbench import Workbench
from workbench.words import Words
from workbench_ui.guard import guarded
from workbench_ui.views import train as views
from workbench_ui.widgets.choice import choice
from workbench_ui.widgets.view import BUSY, QUIET, view

__all__ = ["fetch_base"]


def fetch_base(page: gr.Blocks, bench: Workbench, t: Words) -> None:
    """Builds the controls. Pressing the button leads to the page of the job that fetches."""
    do, on = _Handlers(bench, t), guarded(t)
    entry = choice(label=t("base.known"))
    about = view()
    fetch = gr.Button(t("base.fetch"), scale=0)
    started = gr.Textbox(visible=False)

    page.load(on(do.open), None, entry, **QUIET).then(on(do.describe), entry, about, **QUIET)
    entry.input(on(do.describe), entry, about, **QUIET)
    fetch.click(on(do.fetch), entry, started, **BUSY).success(
        None, started, None, js=f"(id) => {{ location.href = '{t.link('jobs')}?job=' + encodeURIComponent(id); }}"
    )


class _Handlers:
    def __init__(self, bench: Workbench, t: Words) -> None:
        self.bench, self.t = bench, t

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
