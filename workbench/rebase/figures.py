"""The numbers of a check as values to be said: intervals of single scores, on how many rows, and why the rule gave its word.

Everything here is in no language: `Words.say` makes a sentence of it, `Words.markup` safe markup.
"""

from __future__ import annotations

from collections.abc import Sequence

from workbench import stats
from workbench.evidence import SUCCESS
from workbench.rebase.contrasts import ARMS
from workbench.rebase.findings import explained
from workbench.rebase.result import Finding, Verdict
from workbench.rebase.rule import epsilon
from workbench.words import Engine, Number, Several, Value, counted, phrase
from workbench.worth import difference, score, unit

__all__ = ["because", "questions", "share_interval"]


def share_interval(share: float, verdict: Verdict) -> tuple[float, float]:
    """The interval of one arm's share of right answers by itself. Rows of a group count as copies, as everywhere."""
    return stats.share_interval(share * verdict.n, verdict.n, units=verdict.groups, level=verdict.settings.level)


def questions(verdict: Verdict) -> Value:
    """`200 test questions`, and in how many groups where rows come in groups."""
    told = counted("score.questions", verdict.n)
    return told if verdict.groups is None else phrase("rebase.in_groups", questions=told, n=Number(verdict.groups))


def because(verdict: Verdict, breaks: Sequence[Finding] = ()) -> Value:
    """The line of the rule that matched, with raw scores and intervals. Checks made before the line was kept have only its English."""
    if not verdict.line:
        return Engine(verdict.because)
    metric, contrasts = verdict.metric, verdict.contrasts.get(verdict.metric)
    scores = {arm: score(metric, verdict.arms[arm][metric]) for arm in ARMS if arm in verdict.arms}
    values: dict[str, Value] = {
        "questions": questions(verdict),
        "limit": phrase(unit(metric), value=Number(epsilon(metric, verdict.settings), "limit" if metric in SUCCESS else "plain")),
        "at_home": phrase("rebase.because.at_home", **scores) if scores else "",
        "there": phrase("rebase.because.there", **scores) if "new_adapter" in scores else "",
    }
    if contrasts is not None:
        values |= {name: difference(metric, getattr(contrasts, name)) for name in ("gain", "transfer", "served", "alone")}
    elif verdict.home_gain is not None:
        values["gain"] = difference(metric, verdict.home_gain)
    if verdict.line == "unharmed":
        judged = {name: c for name, c in verdict.contrasts.items() if name != "exact_match" or "right" not in verdict.contrasts}
        values["harms"] = Several(tuple(difference(name, c.transfer) for name, c in judged.items()), "list.semicolon")
    parts: list[Value] = [phrase(f"rebase.because.{verdict.line}", **values)] if scores else []
    if verdict.line == "served":
        parts.append(phrase(f"rebase.because.{_kept(verdict)}", **values))
    if breaks:
        parts.append(phrase("rebase.because.cannot_load", names=Several(tuple(finding.name for finding in breaks))))
        parts += map(explained, breaks)
    return Several(tuple(parts), "list.sentence")


def _kept(verdict: Verdict) -> str:
    """Whether the new base knew part of the gain already: shown, ruled out, or open."""
    if verdict.absorbed:
        return "absorbed"
    kept = verdict.contrasts[verdict.metric].kept
    return "kept" if kept.above_zero else "kept_unsure"
