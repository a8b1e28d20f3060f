"""Scores in words and bars: what an adapter is worth, for somebody who never heard of nats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from workbench.blocks import Card, Cards
from workbench.drawing import drawn
from workbench.evidence import Summary
from workbench.words import Value, Words, phrase
from workbench.worth import bars, difference, direction, headline, metric_of
from workbench_ui.views.markup import esc

__all__ = ["TONES", "answers", "score_bars", "score_sentence", "verdict"]

TONES = {"better": "good", "worse": "bad", "unclear": "warn"}


def verdict(summary: Summary) -> str:
    """`better`, `worse` or `unclear`: the last when the interval of the gain holds zero, or it is too small to speak of."""
    return ("unclear", "better", "worse")[direction(summary, metric_of(summary))]


def score_sentence(scores: dict[str, Any], t: Words) -> str:
    """One plain-text sentence with both raw scores; empty without evidence."""
    return t.say(headline(Summary.from_dict(scores))) if scores else ""


def score_bars(scores: dict[str, Any], t: Words) -> str:
    """Two bars, base and base with adapter, and a thin line for where the gain's 95 % interval ends."""
    if not scores:
        return f'<p class="wb-quiet">{esc(t("score.none"))}</p>'
    summary = Summary.from_dict(scores)
    gain = t.markup(difference(metric_of(summary), summary.gain[metric_of(summary)]))
    how = t("score.how", questions=t.n("score.questions", summary.n))
    told = f'<p class="gain wb-{TONES[verdict(summary)]}"><strong>{gain}</strong></p><p class="wb-quiet">{esc(how)}</p>'
    return f'<div class="wb-bars">{drawn([bars(summary)], t)}{told}</div>'


def answers(rows: Sequence[dict[str, Any]], columns: Sequence[tuple[str, str]], t: Words) -> str:
    """Questions with the right answer and what was answered: `columns` are (key of the row, heading)."""
    cards = tuple(Card(str(row.get("prompt", "")), tuple(_answers(row, columns))) for row in rows)
    return drawn([Cards(None, cards)], t) if cards else ""


def _answers(row: dict[str, Any], columns: Sequence[tuple[str, str]]) -> Iterator[tuple[Value, Value, bool]]:
    expected = str(row.get("expected") or "").strip()
    for key, heading in columns:
        if row.get(key) is not None:
            answer = str(row[key]).strip()
            yield heading, answer or phrase("answers.nothing"), answer == expected != ""
    if expected:
        yield phrase("answers.expected"), expected, False
