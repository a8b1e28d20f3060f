"""One adapter on one new base in full: the engine's telling of it, with the page's own buttons."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode

from workbench.rebase import report
from workbench.rebase.release import Cell
from workbench.rebase.result import Check
from workbench.rebase.telling import tell
from workbench.records import Dataset
from workbench.words import Words
from workbench_ui.views.markup import button, stack
from workbench_ui.views.rebase import actions, row

__all__ = ["detail", "report_link"]


def detail(cell: Cell, t: Words, *, datasets: Sequence[Dataset] = ()) -> str:
    """All sections; without a check, what is missing and the button that gets it."""
    check = cell.check
    if check is None:
        return f'<ul class="wb-verdicts">{row(cell, t, datasets=datasets)}</ul>'
    telling = tell(check, stale=cell.stale, retrain_seconds=cell.retrain_seconds)
    downloads = button(t("rebase.report"), report_link(check, "html", t), icon="down", download=True)
    downloads += button("JSON", report_link(check, "json", t), icon="down", download=True)
    buttons = actions(cell, t, details=False) + downloads
    return stack([report.verdict(telling, t, buttons), report.sections(telling, t)])


def report_link(check: Check, kind: str, t: Words) -> str:
    """Where `files.py` serves the check; `kind` is html or json."""
    return f"/files/rebase/check.{kind}?" + urlencode({"adapter": check.adapter, "base": check.base, "lang": t.lang})
