"""Scores in words and bars: what an adapter is worth, for somebody who never heard of nats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workbench.evidence import Summary, direction
from workbench.stats import Interval
from workbench.words import Words
from workbench_ui.icons import ICONS
from workbench_ui.views.markup import esc

__all__ = ["answers", "gain_text", "measure", "score_bars", "score_sentence", "verdict"]


def measure(summary: Summary) -> str:
    """The score to speak of: the dataset's own scorer, else exact match where it says something, else the error per token."""
    if summary.scorer is not None and "right" in summary.gain:
        return "right"
    if summary.scorer == "exact" or direction(summary, "exact_match") > 0:
        return "exact_match"
    return "nll_per_token"


def verdict(summary: Summary) -> str:
    """`better`, `worse` or `unclear`: the last when the interval of the gain holds zero, or it is shown as +0.00."""
    return ("unclear", "better", "worse")[direction(summary, measure(summary))]


def score_sentence(scores: dict[str, Any], t: Words) -> str:
    """One plain-text sentence with both raw scores; empty without evidence."""
    if not scores:
        return ""
    summary = Summary.from_dict(scores)
    key = measure(summary)
    before, after = getattr(summary.base, key), getattr(summary.adapter, key)
    show = t.number if key == "nll_per_token" else t.percent
    n = t.n("score.questions", summary.n)
    return t(f"score.{key}.{verdict(summary)}", before=show(before), after=show(after), questions=n)


def gain_text(gain: Interval, key: str, t: Words) -> str:
    """`+37 points (95% interval +28 to +46)`."""
    nats = key == "nll_per_token"

    def signed(value: float) -> str:
        return f"{value:+.2f}" if nats else f"{100 * value:+.1f}".removesuffix(".0")

    value = t("score.nats" if nats else "score.points", value=signed(gain.value))
    if gain.low is None or gain.high is None:
        return value
    return t("score.interval", value=value, low=signed(gain.low), high=signed(gain.high))


def score_bars(scores: dict[str, Any], t: Words) -> str:
    """Two bars, base and base with adapter, and a thin line for where the gain's 95 % interval ends."""
    if not scores:
        return f'<p class="wb-quiet">{esc(t("score.none"))}</p>'
    summary = Summary.from_dict(scores)
    key = measure(summary)
    gain = summary.gain[key]
    before, after = getattr(summary.base, key), getattr(summary.adapter, key)
    rate = key != "nll_per_token"
    full = 1.0 if rate else max(before, after, 1e-9) * 1.05
    sign = 1 if rate else -1  # a gain in error is a shorter bar
    whisker = ""
    if gain.low is not None and gain.high is not None:
        ends = sorted(min(1.0, max(0.0, (before + sign * end) / full)) for end in (gain.low, gain.high))
        whisker = f'<i class="whisker" style="left:{100 * ends[0]:.1f}%;width:{100 * (ends[1] - ends[0]):.1f}%"></i>'
    show = t.percent if rate else t.number
    tone = {"better": "good", "worse": "bad", "unclear": "warn"}[verdict(summary)]
    bars = _bar(t("score.base"), show(before), before / full, "base") + _bar(
        t("score.adapter"), show(after), after / full, "adapter", whisker
    )
    how = t("score.how", questions=t.n("score.questions", summary.n))
    return (
        f'<div class="wb-bars"><h3>{esc(t(f"score.{key}.title"))}</h3>{bars}'
        f'<p class="gain wb-{tone}"><strong>{esc(gain_text(gain, key, t))}</strong></p><p class="wb-quiet">{esc(how)}</p></div>'
    )


def _bar(name: str, value: str, share: float, kind: str, extra: str = "") -> str:
    track = f'<span class="track"><b style="width:{100 * share:.1f}%"></b>{extra}</span>'
    return f'<div class="bar {kind}"><span class="name">{esc(name)}</span>{track}<span class="value">{esc(value)}</span></div>'


def answers(rows: Sequence[dict[str, Any]], columns: Sequence[tuple[str, str]], t: Words) -> str:
    """Questions with the right answer and what was answered: `columns` are (key of the row, heading).

    An answer equal to the expected one gets a tick, in words for screen readers.
    """
    cards = []
    for row in rows:
        expected = str(row.get("expected") or "").strip()
        given = "".join(_answer(heading, str(row[key]), expected, t) for key, heading in columns if row.get(key) is not None)
        wanted = _answer(t("answers.expected"), expected, "", t, kind="expected") if expected else ""
        question = f'<p class="question"><span>{esc(t("answers.question"))}</span>{esc(row.get("prompt", ""))}</p>'
        cards.append(f"<li>{question}<dl>{given}{wanted}</dl></li>")
    return f'<ul class="wb-answers">{"".join(cards)}</ul>' if cards else ""


def _answer(heading: str, text: str, expected: str, t: Words, kind: str = "") -> str:
    text = text.strip()
    right = bool(expected) and text == expected
    mark = f'<span class="tick">{ICONS["ok"]}<span class="wb-sr">{esc(t("answers.right"))}</span></span>' if right else ""
    shown = esc(text) if text else f'<em class="wb-quiet">{esc(t("answers.nothing"))}</em>'
    return f'<div class="{kind}{" right" if right else ""}"><dt>{esc(heading)}</dt><dd>{shown}{mark}</dd></div>'
