"""What an adapter is worth, in sentences: which score is spoken of, and never a gain without its interval."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from workbench.evidence import Summary, summary
from workbench.records import ItemScore
from workbench.words import words
from workbench.worth import difference, gain_rows, headline, metric_of

EN = words("en")


def arm(right: Sequence[bool], nll: Sequence[float] | None = None) -> list[ItemScore]:
    return [ItemScore(f"r{i}", nll[i] if nll else 4.0, 4, 10, yes) for i, yes in enumerate(right)]


def told(one: Summary) -> str:
    """The headline, and the gain in the score that it speaks of."""
    return f"{EN.say(headline(one))} {EN.say(difference(metric_of(one), one.gain[metric_of(one)]))}"


def test_the_headline_says_what_happened_beyond_doubt() -> None:
    good = told(summary(arm([False] * 400), arm([True] * 350 + [False] * 50), "exact"))
    assert good.startswith("Exactly right answers rose from 0% to 87.5% on 400 test questions. +87.5 points (95% interval +8")
    assert "Too close to tell" in told(summary(arm([True, False] * 50), arm([True, False] * 50), "exact"))
    harm = told(summary(arm([True] * 80), arm([False] * 80), "exact"))
    assert "does harm" in harm and "\u2212100 points" in harm


def test_the_table_has_a_row_for_each_score_there_is() -> None:
    rows = [[EN.say(cell) for cell in row] for row in gain_rows(summary(arm([False] * 30), arm([True] * 30), "exact"))]
    assert [row[0].partition(" (")[0] for row in rows] == ["Answers that match exactly", "Error per token", "Bits per byte"]
    assert rows[0][1:3] == ["0%", "100%"] and rows[0][3].startswith("+100 points (95% interval +")


def test_text_without_right_answers_is_told_by_its_error() -> None:
    rng = random.Random(3)
    noisy = [rng.uniform(3, 5) for _ in range(50)]
    high = [8.0] * 50
    free = summary(arm([False] * 50, high), arm([False] * 50, noisy))
    assert metric_of(free) == "nll_per_token" and re.search(r"Its error on 50 test questions fell from 2.000 nats a token to", told(free))
    assert "rose" in told(summary(arm([False] * 50, noisy), arm([False] * 50, high)))
    nothing = summary(arm([False] * 50, high), arm([False] * 50, [8.0 - 1e-4] * 50))
    assert nothing.gain["nll_per_token"].above_zero and "Too close to tell" in told(nothing), "beyond doubt, and too small to speak of"
    assert "one row gives no interval" in told(summary(arm([False]), arm([False], [0.5])))
