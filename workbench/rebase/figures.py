"""The numbers of a check as values to be said: scores, differences with their intervals, and why the rule gave the word it gave.

Everything here is in no language: `Words.say` makes a sentence of it, `Words.markup` safe markup.
"""

from __future__ import annotations

from collections.abc import Sequence

from workbench.evidence import RATES, Interval, clopper_pearson
from workbench.rebase.contrasts import ARMS
from workbench.rebase.findings import explained
from workbench.rebase.result import Finding, Verdict
from workbench.rebase.rule import epsilon
from workbench.words import Number, Several, Value, counted, phrase

__all__ = ["because", "difference", "questions", "score", "share_interval"]


def score(metric: str, value: float | None) -> Value:
    """`92.5%`, `0.431 nats a token`."""
    return Number(value, "share") if metric in RATES else phrase(_unit(metric), value=Number(value, "nats"))


def difference(metric: str, interval: Interval) -> Value:
    """`+26 points (95% interval +21 to +31)`; without the interval where one row gives none."""
    how = "points" if metric in RATES else "change"
    value = phrase(_unit(metric), value=Number(interval.value, how))
    if interval.low is None or interval.high is None:
        return value
    return phrase("score.interval", value=value, low=Number(interval.low, how), high=Number(interval.high, how))


def _unit(metric: str) -> str:
    return "score.points" if metric in RATES else "score.nats" if metric == "nll_per_token" else "score.bits"


def share_interval(share: float, verdict: Verdict) -> tuple[float, float]:
    """The interval of one arm's share of right answers by itself. Rows of a group count as copies, as everywhere."""
    units = verdict.groups or verdict.n
    return clopper_pearson(share * units, units, verdict.settings.level)


def questions(verdict: Verdict) -> Value:
    """`200 test questions`, and in how many groups where rows come in groups."""
    told = counted("score.questions", verdict.n)
    return told if verdict.groups is None else phrase("rebase.in_groups", questions=told, n=Number(verdict.groups))


def because(verdict: Verdict, breaks: Sequence[Finding] = ()) -> Value:
    """The line of the rule that matched, with raw scores and intervals. Checks made before the line was kept have only its English."""
    if not verdict.line:
        return verdict.because
    metric, contrasts = verdict.metric, verdict.contrasts.get(verdict.metric)
    scores = {arm: score(metric, verdict.arms[arm][metric]) for arm in ARMS if arm in verdict.arms}
    values: dict[str, Value] = {
        "questions": questions(verdict),
        "limit": phrase(_unit(metric), value=Number(epsilon(metric, verdict.settings), "limit" if metric in RATES else "plain")),
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
    if contrasts is not None and contrasts.gain.method == "independent":
        parts.append(phrase("rebase.because.independent"))
    return Several(tuple(parts), "list.sentence")


def _kept(verdict: Verdict) -> str:
    """Whether the new base knew part of the gain already: shown, ruled out, or open."""
    if verdict.absorbed:
        return "absorbed"
    kept = verdict.contrasts[verdict.metric].kept
    return "kept" if kept.above_zero else "kept_unsure"
