"""What an adapter is worth, as values to be said in any language: which score to speak of, scores, gains with their intervals.

Every face takes them from here: pages, cards, listings, the command line, and the telling of a rebase check.
"""

from __future__ import annotations

from workbench.blocks import Bar, Bars
from workbench.evidence import SUCCESS, Summary
from workbench.stats import Interval
from workbench.words import Number, Value, counted, phrase

__all__ = ["METRICS", "bars", "difference", "direction", "gain", "gain_rows", "headline", "metric_of", "score", "unit"]

METRICS = ("right", "exact_match", "nll_per_token", "bits_per_byte")
_DIRECTIONS = {1: "better", -1: "worse", 0: "unclear"}


def unit(metric: str) -> str:
    """The key of its unit."""
    return "score.points" if metric in SUCCESS else "score.nats" if metric == "nll_per_token" else "score.bits"


def score(metric: str, value: float | None) -> Value:
    """`92.5%`, `0.431 nats a token`."""
    return Number(value, "share") if metric in SUCCESS else phrase(unit(metric), value=Number(value, "nats"))


def gain(metric: str, summary: Summary) -> Value:
    """`+79 points`, for lists."""
    return _change(metric, summary.gain[metric].value)


def _change(metric: str, value: float) -> Value:
    return phrase(unit(metric), value=Number(value, "points" if metric in SUCCESS else "change"))


def difference(metric: str, interval: Interval) -> Value:
    """`+26 points (95% interval +21 to +31)`; one row gives no interval."""
    how, value = "points" if metric in SUCCESS else "change", _change(metric, interval.value)
    if interval.low is None or interval.high is None:
        return phrase("score.no_interval", value=value)
    return phrase("score.interval", value=value, low=Number(interval.low, how), high=Number(interval.high, how))


def metric_of(summary: Summary) -> str:
    """The score to speak of: the dataset's own scorer, else exact match where it says something, else the error per token."""
    if summary.scorer is not None and "right" in summary.gain:
        return "right"
    if summary.scorer == "exact" or direction(summary, "exact_match") > 0:
        return "exact_match"
    return "nll_per_token"


def direction(summary: Summary, metric: str) -> int:
    """1 for a gain that is beyond doubt, -1 for a loss, else 0: also for one that is too small to speak of."""
    gain = summary.gain[metric]
    if abs(gain.value) < (0.0005 if metric in SUCCESS else 0.005):
        return 0
    return 1 if gain.above_zero else -1 if gain.below_zero else 0


def headline(summary: Summary) -> Value:
    """`Right answers rose from 1% to 80% on 200 test questions.`"""
    metric = metric_of(summary)
    before, after = (score(metric, getattr(arm, metric)) for arm in (summary.base, summary.adapter))
    said = f"score.{metric}.{_DIRECTIONS[direction(summary, metric)]}"
    return phrase(said, before=before, after=after, questions=counted("score.questions", summary.n))


def bars(summary: Summary) -> Bars:
    """The base and the base with the adapter in the score to speak of; on the second, how far chance could move the gain."""
    metric = metric_of(summary)
    gained, before, after = summary.gain[metric], getattr(summary.base, metric), getattr(summary.adapter, metric)
    full, sign = (1.0, 1) if metric in SUCCESS else (1.05 * max(before, after, 1e-9), -1)  # a gain in error is a shorter bar
    low = high = None
    if gained.low is not None and gained.high is not None:
        low, high = sorted(min(1.0, max(0.0, (before + sign * end) / full)) for end in (gained.low, gained.high))
    rows = (
        Bar(phrase("score.base"), False, before / full, None, None, score(metric, before), None),
        Bar(phrase("score.adapter"), True, after / full, low, high, score(metric, after), None),
    )
    return Bars(phrase(f"score.{metric}.title"), rows)


def gain_rows(summary: Summary) -> list[tuple[Value, Value, Value, Value]]:
    """A row for each metric: what is measured, the base's score, the adapter's, and the gain with its interval."""
    return [
        (
            phrase(f"rebase.metric.{metric}"),
            score(metric, getattr(summary.base, metric)),
            score(metric, getattr(summary.adapter, metric)),
            difference(metric, summary.gain[metric]),
        )
        for metric in METRICS
        if metric in summary.gain
    ]
