"""The rule line by line: which word each end of each interval gives, at every limit from both sides, and the order of the lines."""

from __future__ import annotations

import math

import pytest

from workbench.errors import UsageError
from workbench.rebase.contrasts import Table, differences
from workbench.rebase.result import Contrasts, Settings
from workbench.rebase.rule import Decision, decide, points, rows_needed
from workbench.stats import Estimate, Interval, flip_interval, weights

S = Settings(epsilon=0.02, epsilon_nll=0.03, delta=0.1)
EPS, NATS = S.epsilon, S.epsilon_nll
Ends = tuple[float | None, float | None]
WORKS: dict[str, Ends] = {"gain": (0.5, 0.6), "transfer": (0.4, 0.5), "served": (-0.01, 0.01), "alone": (-0.5, -0.4), "kept": (-0.1, 0.1)}
LOST: dict[str, Ends] = {**WORKS, "transfer": (-0.01, 0.01), "served": (-0.6, -0.4)}


def over(limit: float) -> float:
    return math.nextafter(limit, math.inf)


def under(limit: float) -> float:
    return math.nextafter(limit, -math.inf)


def contrasts(ends: dict[str, Ends]) -> Contrasts:
    return Contrasts(**{name: Interval(((low or 0) + (high or 0)) / 2, low, high, "exact") for name, (low, high) in ends.items()})


def told(base: dict[str, Ends], *, breaks: bool = False, cost: dict[str, Ends] | None = None, **changed: Ends) -> Decision:
    """The decision on success alone, or with the loss beside it."""
    by_metric = {"exact_match": contrasts({**base, **changed})}
    return decide(by_metric if cost is None else {**by_metric, "nll_per_token": contrasts(cost)}, S, breaks=breaks)


WORD = {
    "gain": "no gain at home", "harm": "does harm", "alone": "not needed", "served": "works", "unharmed": "too close to tell",
    "lost": "lost", "weaker": "weaker", "worse": "weaker", "open": "too close to tell",
}  # fmt: skip


@pytest.mark.parametrize(
    ("base", "changed", "line"),
    [  # in pairs: an end on its limit, and just beyond it
        (WORKS, {"gain": (EPS, 0.6)}, "gain"),
        (WORKS, {"gain": (over(EPS), 0.6)}, "served"),
        (LOST, {"transfer": (-0.5, -EPS)}, "lost"),
        (LOST, {"transfer": (-0.5, under(-EPS))}, "harm"),
        (WORKS, {"alone": (-EPS, 0.1), "transfer": (-0.01, EPS)}, "served"),
        (WORKS, {"alone": (over(-EPS), 0.1), "transfer": (-0.01, EPS)}, "alone"),
        (WORKS, {"alone": (0.0, 0.1), "transfer": (-0.01, over(EPS))}, "served"),
        (WORKS, {"served": (-EPS, 0.01)}, "open"),
        (WORKS, {"served": (over(-EPS), 0.01)}, "served"),
        (WORKS, {"transfer": (-EPS, 0.5)}, "unharmed"),
        (WORKS, {"transfer": (over(-EPS), 0.5)}, "served"),
        (LOST, {"served": (-0.6, -EPS)}, "open"),
        (LOST, {"served": (-0.6, under(-EPS))}, "lost"),
        (LOST, {"transfer": (-0.01, 0.1 * 0.5)}, "worse"),  # a tenth of what it gains at home at least
        (LOST, {"transfer": (-0.01, under(0.1 * 0.5))}, "lost"),
        (LOST, {"gain": (0.1, 0.2), "transfer": (-0.01, EPS)}, "worse"),  # or the limit, where that is more
        (LOST, {"gain": (0.1, 0.2), "transfer": (-0.01, under(EPS))}, "lost"),
        (LOST, {"transfer": (0.0, 0.3)}, "worse"),
        (LOST, {"transfer": (over(0.0), 0.3)}, "weaker"),
    ],
)
def test_each_line_on_its_limit_and_just_beyond(base: dict[str, Ends], changed: dict[str, Ends], line: str) -> None:
    assert told(base, **changed) == Decision(WORD[line], "exact_match", line)


def test_absorbed_is_said_when_it_is_shown() -> None:
    assert not told(WORKS, kept=(-0.2, 0.0)).absorbed
    assert told(WORKS, kept=(-0.2, under(0.0))) == Decision("works", "exact_match", "served", absorbed=True)
    assert not told(LOST, kept=(-0.9, -0.5)).absorbed


def test_the_first_line_that_matches_wins() -> None:
    """Ends that meet every later line too: each earlier one is taken away in turn."""
    every: dict[str, Ends] = {"gain": (0.0, 0.1), "transfer": (-0.5, -0.1), "served": (0.0, 0.1), "alone": (0.0, 0.1), "kept": (-1.0, -0.5)}
    assert told(every, breaks=True).word == "no gain at home"
    gained: dict[str, Ends] = {**every, "gain": (0.5, 0.6)}
    assert told(gained, breaks=True) == Decision("cannot load", "exact_match", "break")
    assert told(gained).word == "does harm"
    assert told(gained, transfer=(0.0, 0.01)).word == "not needed"
    assert told(gained, transfer=(0.0, 0.1)).word == "works"


def test_success_decides_where_it_gains_and_loss_elsewhere() -> None:
    flat: dict[str, Ends] = {**WORKS, "gain": (0.0, 0.1)}
    assert told(WORKS, cost=WORKS).metric == "exact_match"
    assert told(flat, cost=WORKS) == Decision("works", "nll_per_token", "served")
    assert told(flat, cost={**WORKS, "gain": (NATS, 1.0)}) == Decision("no gain at home", "exact_match", "gain")
    assert told(flat, cost={**WORKS, "served": (over(-NATS), 0.0)}).word == "works", "the loss has its own limit"
    assert told(flat, cost={**WORKS, "served": (-NATS, 0.0)}).word == "too close to tell"
    by_scorer = {"exact_match": contrasts(WORKS), "right": contrasts(LOST)}
    assert decide(by_scorer, S) == Decision("lost", "right", "lost"), "the dataset's scorer before exact matches"
    by_byte = {"exact_match": contrasts(flat), "bits_per_byte": contrasts(WORKS)}
    assert decide(by_byte, S) == Decision("works", "bits_per_byte", "served")
    assert decide({"nll_per_token": contrasts(flat)}, S) == Decision("no gain at home", "nll_per_token", "gain")
    assert decide({}, S) == Decision("no gain at home", "", "gain")


def test_harm_counts_in_either_metric_and_must_be_ruled_out_in_the_loss_too() -> None:
    assert told(WORKS, cost={**WORKS, "transfer": (-0.5, under(-NATS))}) == Decision("does harm", "nll_per_token", "harm")
    assert told(WORKS, cost={**WORKS, "transfer": (-0.5, -NATS)}) == Decision("too close to tell", "exact_match", "unharmed")
    assert told(WORKS, cost={**WORKS, "transfer": (over(-NATS), 0.5)}).word == "works"
    harmed = {**WORKS, "transfer": (-0.5, -0.1)}
    assert told(harmed, cost=harmed).metric == "exact_match", "the metric that decides is named first"
    flat: dict[str, Ends] = {**WORKS, "gain": (0.0, 0.1)}
    assert told({**flat, "transfer": (-0.5, -0.1)}, cost=WORKS) == Decision("does harm", "exact_match", "harm")
    assert told({**flat, "transfer": (-0.5, 0.1)}, cost=WORKS).word == "works", "success is no guard where it never gained"


def test_unknown_ends_match_nothing() -> None:
    one_row: dict[str, Ends] = dict.fromkeys(WORKS, (None, None))
    assert told(one_row).word == "no gain at home"
    assert told({**one_row, "gain": (0.5, 0.6)}) == Decision("too close to tell", "exact_match", "open")
    assert told({**WORKS, "transfer": (None, None)}).line == "unharmed"
    assert told({**LOST, "transfer": (None, None)}).line == "worse"


def test_points_are_the_values_without_doubt() -> None:
    exact = points({"right": contrasts(LOST)})["right"]
    for name, (low, high) in LOST.items():
        interval = getattr(exact, name)
        assert low is not None and high is not None and interval.value == interval.low == interval.high == (low + high) / 2


@pytest.mark.parametrize(
    "wrong", [{"delta": 1.0}, {"delta": -0.1}, {"epsilon": 0.0}, {"epsilon": 1.0}, {"epsilon_nll": 0.0}, {"resamples": 999}, {"level": 0.5}]
)
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="make no sense"):
        Settings(**wrong)  # type: ignore[arg-type]
    assert Settings(delta=0.0, resamples=1000).level == 0.95


# ---------------------------------------------------------------- how many rows

N = 100


def table(cost: dict[str, tuple[int, int]] | None = None, **flips: tuple[int, int]) -> Table:
    """A table of exact bounds from flips (rows better, rows worse) in success, and in the loss where it is given."""

    def estimates(counts: dict[str, tuple[int, int]]) -> dict[str, Estimate]:
        return {name: Estimate(flip_interval(*of, N), N, N, None, of) for name, of in {"kept": (0, 0), **counts}.items()}

    by_metric = {"exact_match": estimates(flips)}
    return Table(N, N, False, {}, by_metric if cost is None else {**by_metric, "nll_per_token": estimates(cost)})


def smallest(up: int, down: int, limit: float, *, below: bool = False) -> int:
    def clears(n: int) -> bool:
        grown = flip_interval(up * n / N, down * n / N, n)
        return grown.most < limit if below else grown.least > limit

    return next(n for n in range(N + 1, 100_000) if clears(n))


def test_rows_needed_are_the_most_that_any_condition_of_the_word_needs() -> None:
    served, transfer = (0, 0), (60, 2)
    works = table(gain=(60, 0), transfer=transfer, served=served, alone=(0, 60))
    assert rows_needed(works, S) == max(smallest(*served, -EPS), smallest(*transfer, -EPS)) == 183
    doubtful = table(gain=(60, 0), transfer=(1, 2), served=served, alone=(0, 60))
    assert rows_needed(doubtful, S) == smallest(1, 2, -EPS) > 183
    guarded = table(cost={**FLAT, "transfer": (1, 2)}, gain=(60, 0), transfer=transfer, served=served, alone=(0, 60))
    assert rows_needed(guarded, S) == smallest(1, 2, -NATS) > 183
    not_needed = table(gain=(60, 0), transfer=(0, 1), served=(1, 0), alone=(1, 0))
    assert rows_needed(not_needed, S) == max(smallest(1, 0, -EPS), smallest(0, 1, EPS, below=True))
    lost = table(gain=(60, 0), transfer=(1, 0), served=(0, 59), alone=(0, 60))
    assert rows_needed(lost, S) == max(smallest(1, 0, 0.1 * 0.6, below=True), N + 1)
    hardly = table(gain=(60, 0), transfer=(0, 0), served=(0, 4), alone=(0, 4))
    assert rows_needed(hardly, S) == smallest(0, 4, -EPS, below=True) > N + 1
    weaker = table(gain=(60, 0), transfer=(10, 1), served=(0, 4), alone=(0, 60))
    assert rows_needed(weaker, S) == max(smallest(0, 4, -EPS, below=True), smallest(10, 1, 0.0))
    harm = table(gain=(60, 0), transfer=(0, 4), served=(0, 60), alone=(0, 56))
    assert rows_needed(harm, S) == smallest(0, 4, -EPS, below=True)


FLAT = {"gain": (0, 0), "transfer": (0, 0), "served": (0, 0), "alone": (0, 0)}


def test_no_number_of_rows_tells_on_a_limit_or_without_a_gain() -> None:
    assert rows_needed(table(gain=(60, 0), transfer=(58, 0), served=(0, 2), alone=(0, 60)), S) is None, "two points lost: the limit"
    assert rows_needed(table(**FLAT), S) is None
    settled = table(gain=(60, 0), transfer=(0, 60), served=(0, 90), alone=(0, 30))
    assert rows_needed(settled, S) == N + 1, "more than there are, when these would do but for another line"


def test_kept_is_transfer_less_the_share_of_the_gain_that_must_stay() -> None:
    for delta in (0.0, 0.1, 0.4):
        by_name = {name: weights(parts, 4) for name, parts in differences(delta).items()}
        assert by_name["gain"].tolist() == [1, -1, 0, 0] and by_name["transfer"].tolist() == [0, 0, 1, -1]
        assert by_name["served"].tolist() == [0, 1, 0, -1] and by_name["alone"].tolist() == [0, 1, -1, 0]
        assert by_name["kept"].tolist() == pytest.approx((by_name["transfer"] - (1 - delta) * by_name["gain"]).tolist())
