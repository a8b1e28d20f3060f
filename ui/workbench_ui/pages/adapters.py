"""Adapters: the list, and with `?adapter=name@3` one of them."""

from __future__ import annotations

import re

import gradio as gr

from workbench import Workbench
from workbench.records import Adapter
from workbench.words import Words
from workbench_ui.chrome import head
from workbench_ui.guard import spoken
from workbench_ui.views import adapters as views
from workbench_ui.views.markup import esc, stack, trouble
from workbench_ui.widgets.view import QUIET, Shown, view

__all__ = ["build"]

_SAMPLES = 5
_FIND = 100  # characters
_NUMBER = re.compile(r"[0-9]{1,6}")


def build(page: gr.Blocks, bench: Workbench, t: Words) -> None:
    """Nothing here changes by itself: one look at the registry when the page opens."""
    top, body = view(), view()

    def open_page(request: gr.Request) -> Shown:
        query = {key: str(value) for key, value in dict(request.query_params).items()}
        wanted = query.get("adapter", "")
        if not wanted:
            shown, problem = spoken(t, lambda: _list(bench, query, t))
            return {top: head(esc(t("adapters.title")), esc(t("adapters.lead"))), body: shown or trouble(problem)}
        back = (t.link("adapters"), esc(t("adapters.all")))
        adapter, problem = spoken(t, lambda: bench.adapters.get(wanted))
        if adapter is None:
            return {top: head(esc(t("adapters.unknown")), back=back), body: trouble(problem)}
        return {top: head(esc(adapter.ref), esc(_learned(bench, adapter, t)), back=back), body: _detail(bench, adapter, t)}

    page.load(open_page, None, [top, body], **QUIET)


def _learned(bench: Workbench, adapter: Adapter, t: Words) -> str:
    dataset = None
    if adapter.dataset is not None:
        dataset, _ = spoken(t, lambda: bench.datasets.get(str(adapter.dataset)))  # it may have been removed since
    return views.learned(adapter, dataset, t)


def _list(bench: Workbench, query: dict[str, str], t: Words) -> str:
    """`?find=` narrows the list, `?page=` leafs through it."""
    page = query.get("page", "")
    number = int(page) if _NUMBER.fullmatch(page) else 1
    return views.adapter_page(bench.adapters.list(), t, find=query.get("find", "")[:_FIND], page=number)


def _detail(bench: Workbench, adapter: Adapter, t: Words) -> str:
    base, _ = spoken(t, lambda: bench.bases.get(adapter.base))  # it may have been removed since, as may the samples
    samples, problem = spoken(t, lambda: bench.samples(adapter.ref, n=_SAMPLES))
    versions, _ = spoken(t, lambda: bench.adapters.list(adapter.name))
    body = [
        views.adapter_actions(adapter, t),
        views.adapter_score(adapter, t),
        views.adapter_answers(samples or [], t),
        trouble(problem),
        views.adapter_facts(adapter, versions or [], t),
        views.adapter_use(adapter, base, t),
    ]
    return stack(body)
