"""The statistics: intervals that keep their promise, held against enumerated truth and against scipy where it computes the same."""

from __future__ import annotations

import itertools
import math
import random
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap, false_discovery_control, norm

from workbench.stats import (
    FEW,
    RESAMPLES,
    SEED,
    SMALL,
    Difference,
    Estimate,
    Interval,
    Metric,
    bounds,
    compare,
    discoveries,
    exact_sum,
    flip_interval,
    is_few,
    mcnemar,
    p_below,
    resampled_sums,
    rows_to_clear,
    share_interval,
    units_of,
    weights,
)

GAIN: dict[str, Difference] = {"gain": {(0, 1): 1.0}}


def estimate(metric: Metric, difference: Difference = GAIN["gain"], groups: list[str | None] | None = None, **more: object) -> Estimate:
    options: dict = more
    return compare({"m": metric}, {"d": difference}, units_of(len(metric.costs), groups), **options)["m"]["d"]


def flips(up: int, down: int, n: int) -> Metric:
    """Two arms over n rows: `up` rows wrong in the first only, `down` in the second only."""
    return Metric(np.array([[1.0, 0.0]] * up + [[0.0, 1.0]] * down + [[0.0, 0.0]] * (n - up - down)))


def exact(interval: Interval) -> tuple[object, object, str]:
    return pytest.approx(interval.low, abs=1e-12), pytest.approx(interval.high, abs=1e-12), interval.method


def gammas(n: int, arms: int = 2, seed: int = 0) -> Metric:
    rng = np.random.default_rng(seed)
    return Metric(rng.gamma(1.0, 1.0, (n, arms)) + np.arange(arms), rng.integers(1, 9, (n, arms)).astype(float))


# ---------------------------------------------------------------- shares and flips


def test_the_share_interval_is_scipys_for_every_whole_count() -> None:
    for n, level in itertools.product((1, 2, 7, 30), (0.8, 0.95, 0.99)):
        for k in range(n + 1):
            theirs = binomtest(k, n).proportion_ci(level)
            assert share_interval(k, n, level=level) == pytest.approx((theirs.low, theirs.high), abs=1e-9), (k, n, level)


def test_known_shares() -> None:
    assert share_interval(0, 10) == (0.0, pytest.approx(1 - 0.025**0.1))
    assert share_interval(10, 10) == (pytest.approx(0.025**0.1), 1.0)
    low, high = share_interval(8, 20)  # the textbook's example
    assert (round(low, 4), round(high, 4)) == (0.1912, 0.6395)


def test_copies_of_rows_add_no_certainty() -> None:
    assert share_interval(80, 200, units=20) == pytest.approx(share_interval(8, 20))
    assert share_interval(81, 200, units=20) == pytest.approx(share_interval(8.1, 20))
    assert share_interval(8, 20)[0] < share_interval(8.1, 20)[0] < share_interval(9, 20)[0]
    copied, single = flip_interval(30, 20, 100, units=10), flip_interval(3, 2, 10)
    assert (copied.low, copied.high) == pytest.approx((single.low, single.high)) and copied.value == single.value == 0.1


@pytest.mark.parametrize("n", [5, 25, 60])
def test_the_interval_of_flips_covers_at_least_95_percent(n: int) -> None:
    """All outcomes (up, down) enumerated, over a grid of true rates."""
    low, high = np.zeros((n + 1, n + 1)), np.zeros((n + 1, n + 1))
    for up in range(n + 1):
        for down in range(n + 1 - up):
            interval = flip_interval(up, down, n)
            low[up, down], high[up, down] = interval.low, interval.high
            assert -1 <= interval.low <= interval.value <= interval.high <= 1
    for p_up, p_down in itertools.product((0.001, 0.02, 0.1, 0.3, 0.5, 0.9), (0.0, 0.001, 0.03, 0.1, 0.3, 0.5)):
        if p_up + p_down > 1:
            continue
        neither, covered = max(0.0, 1 - p_up - p_down), 0.0
        for up in range(n + 1):
            for down in range(n + 1 - up):
                if low[up, down] <= p_up - p_down <= high[up, down]:
                    ways = math.comb(n, up) * math.comb(n - up, down)
                    covered += ways * p_up**up * p_down**down * neither ** (n - up - down)
        assert covered >= 0.95, (p_up, p_down, covered)


def test_the_interval_of_flips_takes_both_ends_of_each_direction() -> None:
    for level in (0.95, 0.5):
        up, down = share_interval(9, 50, level=level), share_interval(4, 50, level=level)
        interval = flip_interval(9, 4, 50, level=level)
        assert (interval.low, interval.high) == pytest.approx((up[0] - down[1], up[1] - down[0])) and interval.method == "exact"
    assert flip_interval(0, 0, 183).high == pytest.approx(0.01996, abs=1e-5), "183 rows without a flip rule out a loss of 2 points"
    assert flip_interval(1, 0, 1).high == 1 and flip_interval(0, 1, 1).low == -1, "no gain above one"


def test_a_sum_of_flips_shares_its_error_among_its_parts() -> None:
    parts = [(1.0, (3, 1)), (0.5, (0, 2))]
    each = [flip_interval(*counts, 40, level=0.975) for _, counts in parts]
    interval = exact_sum(parts, 0.025, 40)
    assert (interval.low, interval.high) == pytest.approx((each[0].low + 0.5 * each[1].low, each[0].high + 0.5 * each[1].high))
    assert interval.value == 0.025 and interval.method == "exact"
    single = exact_sum([(1.0, (3, 1))], 0.05, 40, level=0.9)
    assert single == flip_interval(3, 1, 40, level=0.9)
    assert exact_sum(parts, 0.9, 40).high == 0.9 and exact_sum(parts, -0.9, 40).low == -0.9, "the value lies inside, whatever rounding does"
    assert exact_sum(parts, 0.025, 40, units=20).high > interval.high


def test_mcnemar_is_the_sum_over_all_outcomes_as_lopsided() -> None:
    for up, down in itertools.product(range(9), range(9)):
        n, smaller = up + down, min(up, down)
        extreme = sum(math.comb(n, k) for k in range(n + 1) if min(k, n - k) <= smaller)
        assert mcnemar(up, down) == pytest.approx(extreme / 2**n), (up, down)


def test_discoveries_are_those_of_scipy() -> None:
    rng = random.Random(4)
    for m in (1, 2, 3, 8, 20):
        for _ in range(50):
            p_values, q = [rng.choice((rng.random() ** 4, 0.01, 0.02)) for _ in range(m)], rng.choice((0.011, 0.05, 0.2))
            assert discoveries(p_values, q) == (false_discovery_control(p_values) <= q).tolist(), (p_values, q)
    assert discoveries([0.01, 0.9, 0.02, 0.04]) == [True, False, True, False]
    assert discoveries([0.04, 0.03, 0.02, 0.045]) == [True] * 4, "stepping up: the largest decides for all below"
    assert discoveries([]) == [] and discoveries([0.05]) == [True] and discoveries([0.0, 1.0]) == [True, False]


# ---------------------------------------------------------------- arms


@pytest.mark.parametrize("n", [2, 30, SMALL - 1, SMALL, 150])
def test_intervals_are_those_of_scipys_bootstrap_from_the_same_draws(n: int) -> None:
    """scipy draws the same stream of rows from the same generator: below `SMALL` its BCa, above its percentiles."""
    metric = gammas(n)
    assert metric.sizes is not None

    def gain(base: np.ndarray, better: np.ndarray, base_size: np.ndarray, better_size: np.ndarray, axis: int) -> np.ndarray:
        return base.sum(axis) / base_size.sum(axis) - better.sum(axis) / better_size.sum(axis)

    theirs = bootstrap(
        (*metric.costs.T, *metric.sizes.T),
        gain,
        n_resamples=RESAMPLES,
        paired=True,
        vectorized=True,
        method="BCa" if n < SMALL else "percentile",
        rng=np.random.Generator(np.random.Philox(SEED)),
    )
    ours = estimate(metric).interval
    assert ours.method == ("bootstrap-bca" if n < SMALL else "bootstrap")
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=1e-9)
    assert ours.value == pytest.approx(float(gain(*metric.costs.T, *metric.sizes.T, axis=0)))


def test_the_level_and_the_seed_are_those_asked_for() -> None:
    metric = gammas(120)
    wide, narrow = (estimate(metric, level=level).interval for level in (0.95, 0.5))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high
    assert estimate(metric, seed=1).interval != estimate(metric, seed=2).interval == estimate(metric, seed=2).interval
    few = estimate(flips(3, 1, 90), level=0.8).interval
    assert (few.low, few.high, few.method) == exact(flip_interval(3, 1, 90, level=0.8))
    drawn = estimate(metric, resamples=1000).draws
    assert drawn is not None and len(drawn) == 1000


def test_draws_are_the_same_whether_made_at_once_or_in_blocks() -> None:
    columns = np.random.default_rng(1).random((3000, 3))
    sums = resampled_sums(columns, resamples=2000, seed=9)  # six million draws; a block is four
    drawn = np.random.Generator(np.random.Philox(9)).integers(0, 3000, size=(2000, 3000))
    for row in (0, 1332, 1333, 1999):
        np.testing.assert_allclose(sums[row], columns[drawn[row]].sum(axis=0))
    assert sums.shape == (2000, 3)


def test_one_resample_serves_all_arms_metrics_and_differences() -> None:
    rng = np.random.default_rng(0)
    rates = Metric((rng.random((300, 3)) < 0.4).astype(float))
    losses = Metric(rates.costs, np.ones((300, 3)))  # the same numbers, as losses over sizes
    by_name: dict[str, Difference] = {"a": {(0, 1): 1.0}, "b": {(1, 2): 1.0}, "sum": {(0, 1): 1.0, (1, 2): 0.5}}
    found = compare({"rates": rates, "losses": losses}, by_name, units_of(300, None))
    draws = {name: of.draws for name, of in found["rates"].items()}
    np.testing.assert_allclose(draws["sum"], draws["a"] + 0.5 * draws["b"], atol=1e-12)
    for name in by_name:
        np.testing.assert_allclose(draws[name], found["losses"][name].draws, atol=1e-12)
        assert found["losses"][name].flips is None, "only 0/1 scores flip"
    assert found["rates"]["a"].flips is not None and found["rates"]["sum"].flips is None


def test_weights_put_a_difference_on_its_arms() -> None:
    assert weights({(0, 1): 1.0}, 2).tolist() == [1, -1]
    assert weights({(1, 3): 1.0, (2, 0): 1.0, (0, 1): 0.25}, 4).tolist() == [-0.75, 0.75, 1, -1]


def test_no_variation_is_not_certainty() -> None:
    same = estimate(flips(0, 0, 183))
    assert same.interval.method == "exact" and same.draws is None and same.flips == (0, 0)
    assert same.interval.value == 0 and same.interval.low == pytest.approx(-same.interval.high) and 0.0195 < same.interval.high < 0.02
    every = estimate(flips(400, 0, 400))
    assert every.interval.value == 1 and 0.97 < every.interval.low < 1 == every.interval.high and every.flips == (400, 0)


def test_exact_bounds_take_over_below_twenty_rows_off_the_common_value() -> None:
    few, enough = estimate(flips(15, FEW - 16, 200)), estimate(flips(15, FEW - 15, 200))
    assert (few.interval.low, few.interval.high, few.interval.method) == exact(flip_interval(15, FEW - 16, 200)) and few.draws is None
    assert (enough.interval.method, enough.flips) == ("bootstrap", (15, 5)) and enough.draws is not None
    normal = 1.96 * math.sqrt((FEW / 200 - 0.05**2) / 200)
    assert (enough.interval.low, enough.interval.high) == pytest.approx((0.05 - normal, 0.05 + normal), abs=0.012)
    assert is_few(np.array([0.0] * 50 + [1.0] * 19)) and not is_few(np.array([0.0] * 50 + [1.0] * 20))
    assert is_few(np.array([1 / 3] * 25 + [1 - 2 / 3] * 25)), "a third by two ways is one value"


def test_a_sum_is_exact_also_where_only_its_small_part_varies() -> None:
    costs = np.zeros((200, 3))
    costs[:60, 0] = 1.0  # the small part has 60 flips, the large one none
    parts: Difference = {(1, 2): 1.0, (0, 1): 0.1}
    found = estimate(Metric(costs), parts)
    assert found.interval.method == "exact" and found.interval.value == pytest.approx(0.03)
    assert (found.interval.low, found.interval.high, "exact") == exact(exact_sum([(1.0, (0, 0)), (0.1, (60, 0))], 0.03, 200))
    costs[100:160, 1] = 1.0
    assert estimate(Metric(costs), parts).interval.method == "bootstrap"


def test_rows_of_one_group_are_one_unit() -> None:
    assert units_of(4, None).tolist() == [0, 1, 2, 3]
    assert units_of(6, ["b", None, "a", "b", None, "a"]).tolist() == [0, 1, 2, 0, 3, 2]
    rng = np.random.default_rng(2)
    by_group, groups = rng.normal(0.5, 1, 20), [f"g{i // 20}" for i in range(400)]
    metric = Metric(np.column_stack([np.full(400, 10.0), 10 - by_group.repeat(20)]), np.ones((400, 2)))
    alone, grouped = estimate(metric), estimate(metric, groups=groups)
    assert (alone.n, alone.units, grouped.n, grouped.units) == (400, 400, 400, 20)
    assert grouped.interval.method == "bootstrap-bca" and grouped.interval.value == pytest.approx(alone.interval.value)
    once = estimate(Metric(np.column_stack([np.full(20, 10.0), 10 - by_group]), np.ones((20, 2))))
    assert (grouped.interval.low, grouped.interval.high) == pytest.approx((once.interval.low, once.interval.high)), "copies are copies"
    same = estimate(flips(0, 0, 400), groups=groups)
    assert same.interval == flip_interval(0, 0, 400, units=20)


def test_one_unit_is_no_evidence() -> None:
    metric = gammas(3)
    lonely = estimate(metric, groups=["g"] * 3)
    assert lonely.interval.method == "none" and lonely.interval.low is None and lonely.interval.high is None
    assert lonely.draws is None and lonely.interval.value == pytest.approx(estimate(metric).interval.value)
    assert lonely.interval.least == -math.inf and lonely.interval.most == math.inf
    assert not lonely.interval.above_zero and not lonely.interval.below_zero
    assert p_below(lonely, 0.5) == 1.0 and rows_to_clear(lonely, lonely.interval.value - 1) is None


def test_the_sides_of_an_interval() -> None:
    above, across, below = Interval(1, 0.5, 2, "exact"), Interval(0, 0.0, 0.0, "exact"), Interval(-1, -2, -0.5, "exact")
    assert (above.above_zero, above.below_zero) == (True, False) and (below.above_zero, below.below_zero) == (False, True)
    assert (across.above_zero, across.below_zero) == (False, False) and (above.least, above.most) == (0.5, 2)


# ---------------------------------------------------------------- the bootstrap


def test_draws_without_spread_have_bounds_too() -> None:
    flat = np.full(1000, 0.25)
    assert bounds(flat) == bounds(flat, bca=(0.25, np.full(30, 0.25))) == (0.25, 0.25)


@pytest.mark.parametrize(("value", "below"), [(-5.0, 0.001), (2000.0, 0.999), (500.0, 0.5005), (250.5, 0.251)])
def test_bias_is_read_from_the_draws_below_the_value_and_never_without_end(value: float, below: float) -> None:
    """Without skew the quantiles move by twice the bias; an equal draw counts half."""
    draws = np.arange(1000.0)
    ends = np.quantile(draws, norm.cdf(2 * norm.ppf(below) + norm.ppf([0.05, 0.95])))
    assert bounds(draws, bca=(value, np.arange(30.0)), level=0.9) == pytest.approx(tuple(ends))


def test_intervals_cover_about_95_percent() -> None:
    rng = np.random.default_rng(5)
    hits = {20: 0, 120: 0}  # one below the limit for BCa, one above
    for n in hits:
        for _ in range(200):
            saved = rng.exponential(1.0, n)  # skewed, mean 1
            found = estimate(Metric(np.column_stack([5 + saved, np.full(n, 5.0)]), np.ones((n, 2))), resamples=400).interval
            hits[n] += found.low <= 1.0 <= found.high
    assert hits[20] / 200 > 0.85 and hits[120] / 200 > 0.9, hits  # 0.92 and 0.94 over 2,000 tries; rows this skewed are the hard case


# ---------------------------------------------------------------- one end


def test_p_below_inverts_the_exact_interval() -> None:
    found = estimate(flips(0, 15, 400))
    p = p_below(found, -0.02)
    assert flip_interval(0, 15, 400, level=1 - 2 * p).high == pytest.approx(-0.02, abs=1e-9)
    assert p_below(found, found.interval.high) == pytest.approx(0.025, abs=1e-9), "the printed end, and its 2.5 %"
    assert p_below(estimate(flips(0, 0, 400)), -0.02) == 1.0 and p_below(estimate(flips(0, 0, 400)), -2.0) == 1.0
    grouped = estimate(flips(0, 15, 400), groups=[f"g{i // 4}" for i in range(400)])
    assert p_below(grouped, -0.02) > p


def test_p_below_counts_the_draws_and_is_never_zero() -> None:
    found = Estimate(Interval(0, -1, 1, "bootstrap"), 9, 9, draws=np.array([-2.0, -1.0, 0.5, 1.0]))
    assert [p_below(found, limit) for limit in (-3, -1, -0.9, 1, 2)] == [1.0, 4 / 5, 3 / 5, 2 / 5, 1 / 5]


@pytest.mark.parametrize(
    ("up", "down", "n", "limit", "below"),
    [(0, 0, 100, -0.02, False), (12, 3, 100, 0.0, False), (1, 3, 100, -0.1, False), (0, 9, 60, -0.05, True)],
)
def test_rows_to_clear_is_the_smallest_number_that_does(up: int, down: int, n: int, limit: float, below: bool) -> None:
    needed = rows_to_clear(estimate(flips(up, down, n)), limit, below=below)

    def clears(rows: int) -> bool:
        grown = flip_interval(up * rows / n, down * rows / n, rows)
        return grown.high < limit if below else grown.low > limit

    assert needed is not None and clears(needed) and not any(clears(rows) for rows in range(1, needed))


def test_rows_to_clear_follow_the_variance_seen() -> None:
    """(1.96 + 0.84)^2 times the variance of one row over the square of the distance: 80 % power at a one-sided 2.5 %."""
    metric = Metric(np.column_stack([np.tile([0.0, 1.0, 1.0, 2.0], 100), np.ones(400)]), np.ones((400, 2)))
    found = estimate(metric)  # mean 0, variance 1/2
    assert rows_to_clear(found, -0.1) == pytest.approx(7.84 * 0.5 / 0.1**2, rel=0.1)
    assert rows_to_clear(found, 0.1, below=True) == pytest.approx(7.84 * 0.5 / 0.1**2, rel=0.1)
    assert rows_to_clear(found, 0.1) is None and rows_to_clear(found, -0.1, below=True) is None and rows_to_clear(found, 0.0) is None


def test_rows_to_clear_knows_183_and_where_no_number_helps() -> None:
    same = estimate(flips(0, 0, 100))
    assert rows_to_clear(same, -0.02) == 183 and rows_to_clear(same, -0.05) == 72
    assert rows_to_clear(same, 0.0) is None and rows_to_clear(same, -1e-9) is None, "on its limit, or ten million rows and more"
    assert rows_to_clear(same, -0.02, level=0.8) < 183
    assert rows_to_clear(estimate(flips(0, 0, 100), groups=[f"g{i // 2}" for i in range(100)]), -0.02) in (365, 366, 367)


@pytest.mark.slow
def test_import_stays_light() -> None:
    code = "import sys, workbench.stats; assert not {'numpy', 'scipy', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
