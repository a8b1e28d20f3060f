"""Checks as markup: the sections of one for the page in the browser, and the report on one or many that opens offline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from workbench.drawing import template
from workbench.rebase.release import moving, safety
from workbench.rebase.telling import Telling, tell
from workbench.rebase.verdicts import badness
from workbench.words import Value, Words, counted, words

if TYPE_CHECKING:
    from markupsafe import Markup

    from workbench.rebase.result import Check

__all__ = ["document", "html", "sections", "verdict"]


def sections(telling: Telling, t: Words) -> Markup:
    """The sections of one check, for a page of the browser."""
    return template("sections.html", telling=telling, t=t, level=2, links=True)


def verdict(telling: Telling, t: Words, actions: str = "") -> Markup:
    """One check in one look; `actions` is safe markup of the page."""
    from markupsafe import Markup

    return template("verdict.html", telling=telling, t=t, actions=Markup(actions))


def html(checks: Sequence[Check], t: Words | None = None, *, stale: Sequence[Check] = ()) -> str:
    """One page for one check or many, worst first. Needs no network, no script and no file beside it; every name is escaped.
    Those in `stale` are said to be out of date."""
    t = t or words("en")
    tellings = [tell(check, stale=check in stale) for check in sorted(checks, key=lambda check: -badness(check.word))]
    bases = list(dict.fromkeys(check.base for check in checks))
    if len(tellings) == 1:
        return document(tellings, t, tellings[0].title)
    if len(bases) == 1:
        return document(tellings, t, moving([telling.state for telling in tellings], bases[0]), safety(checks, bases[0]))
    return document(tellings, t, counted("rebase.checks", len(tellings)))


def document(tellings: Sequence[Telling], t: Words, title: Value, sure: Value | None = None) -> str:
    """The tellings under one title; `sure` is what all of them say together."""
    return template("report.html", title=title, tellings=tellings, several=len(tellings) != 1, sure=sure, t=t, links=False, actions="")
