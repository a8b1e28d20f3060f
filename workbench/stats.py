"""Statistics over test rows: the one place that computes an interval or a p-value.

All arms see the same rows, so everything is paired: one resample of the units (rows, or groups of rows) serves every arm, every
metric and every difference. Scores come as costs (less is better), so a difference, the cost of its first arm minus that of its
second, is positive where the second is better.

scipy computes what it can. What it cannot is written here once, and held against scipy where both can (tests/test_stats.py):

    share_interval   scipy's binomtest takes whole counts; the rows of a group count as a fraction of a row each
    resampled_sums   scipy's bootstrap gathers all columns anew for every draw and every statistic; the counts of a draw serve them all
    bounds           the same with draws that exist already, and for draws without any spread, where scipy gives NaN
    discoveries      `rebase matrix`, a listing, asks for them, and scipy.stats takes a second to import

numpy and scipy load on first use, so that listings stay quick. Nothing here imports torch.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Units = NDArray[np.int64]

__all__ = [
    "FEW",
    "LEVEL",
    "RESAMPLES",
    "SEED",
    "SMALL",
    "Difference",
    "Estimate",
    "Interval",
    "Metric",
    "bounds",
    "compare",
    "discoveries",
    "exact_sum",
    "flip_interval",
    "is_few",
    "mcnemar",
    "p_below",
    "resampled_sums",
    "rows_to_clear",
    "share_interval",
    "units_of",
    "weights",
]

LEVEL = 0.95
RESAMPLES = 5000
SEED = 20240
FEW = 20  # with fewer units off the common value, resampling a 0/1 score says too little: use exact bounds
SMALL = 100  # with fewer units, correct the bootstrap for bias and skew (BCa)
_POWER = (1.96 + 0.84) ** 2  # 80 % power at a one-sided 2.5 %
_MOST_ROWS = 10_000_000
_STEPS = 2**40  # of a tail between 0 and a half


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval. `low` and `high` are None when one row is all there is."""

    value: float
    low: float | None
    high: float | None
    method: str  # "bootstrap" | "bootstrap-bca" | "exact" | "none"

    @property
    def least(self) -> float:
        """The lower end; minus infinity where nothing is known."""
        return -math.inf if self.low is None else self.low

    @property
    def most(self) -> float:
        """The upper end; infinity where nothing is known."""
        return math.inf if self.high is None else self.high

    @property
    def above_zero(self) -> bool:
        return self.least > 0

    @property
    def below_zero(self) -> bool:
        return self.most < 0


# ---------------------------------------------------------------- shares and flips, exactly


def share_interval(k: float, n: float, *, units: float | None = None, level: float = LEVEL) -> tuple[float, float]:
    """Exact two-sided interval of a share of k in n (Clopper & Pearson 1934, doi 10.1093/biomet/26.4.404).

    Rows that come in groups count as so many `units`, as if the rows of a group were copies (a design effect; Korn & Graubard 1998).
    """
    from scipy.special import betaincinv

    shrink, tail = 1.0 if units is None else units / n, (1 - level) / 2
    k, n = k * shrink, n * shrink
    low = float(betaincinv(k, n - k + 1, tail)) if k > 0 else 0.0
    high = float(betaincinv(k + 1, n - k, 1 - tail)) if k < n else 1.0
    return low, high


def flip_interval(up: float, down: float, n: float, *, units: float | None = None, level: float = LEVEL) -> Interval:
    """Interval of (up - down) / n from one exact interval per direction: [low(up) - high(down), high(up) - low(down)].

    Zero flips in n rows still allow a loss of 3.69 / n. The coverage is at least 95 % for every n and rate that was enumerated
    (tests/test_stats.py).
    """
    up_low, up_high = share_interval(up, n, units=units, level=level)
    down_low, down_high = share_interval(down, n, units=units, level=level)
    return Interval((up - down) / n, up_low - down_high, up_high - down_low, "exact")


def exact_sum(
    parts: Iterable[tuple[float, tuple[int, int]]], value: float, n: int, *, units: int | None = None, level: float = LEVEL
) -> Interval:
    """Interval of a sum of `factor` times (up - down) / n, each part by exact bounds at its share of the error (Bonferroni).

    Conservative: made for the case where nearly no row changed, where each part is nearly certain and their sum tells more than a
    resample would.
    """
    parts = list(parts)
    each = 1 - (1 - level) / len(parts)
    ends = [(factor, flip_interval(up, down, n, units=units, level=each)) for factor, (up, down) in parts]
    low, high = sum(factor * end.least for factor, end in ends), sum(factor * end.most for factor, end in ends)
    return Interval(value, min(low, value), max(high, value), "exact")


def mcnemar(up: int, down: int) -> float:
    """Exact two-sided McNemar p: how likely flips as lopsided as these are when both directions are equally likely."""
    from scipy.stats import binomtest

    return float(binomtest(up, up + down).pvalue) if up + down else 1.0


def discoveries(p_values: Sequence[float], q: float = 0.05) -> list[bool]:
    """Which hypotheses to reject so that at most a share `q` of the rejections is false on average
    (Benjamini & Hochberg 1995, doi 10.1111/j.2517-6161.1995.tb02031.x), in the order given."""
    ranked = sorted(p_values)
    last = max((p for rank, p in enumerate(ranked, start=1) if p <= q * rank / len(ranked)), default=-1.0)
    return [p <= last for p in p_values]


# ---------------------------------------------------------------- arms, paired


@dataclass(frozen=True)
class Metric:
    """One metric of k arms over n rows. An arm's level is the sum of its costs over the sum of its sizes."""

    costs: Floats  # [n, k]
    sizes: Floats | None = None  # [n, k], such as the tokens that a cost is spread over; None for a 0/1 cost of each row


Difference = Mapping[tuple[int, int], float]  # {(first arm, second arm): factor}: the factored sum of cost(first) - cost(second)


@dataclass(frozen=True)
class Estimate:
    """A difference in one metric: its interval, and what further questions about it need."""

    interval: Interval
    n: int  # rows
    units: int  # what is resampled: rows, or groups of rows
    draws: Floats | None = None  # [resamples]; None where exact bounds took over, or one unit is all there is
    flips: tuple[int, int] | None = None  # (rows better, rows worse), for a 0/1 cost and a difference of two arms


def units_of(n: int, groups: Sequence[str | None] | None) -> Units:
    """The unit of each row, numbered from 0: its group, or itself."""
    import numpy as np

    if groups is None:
        return np.arange(n)
    number: dict[object, int] = {}
    return np.array([number.setdefault(("row", i) if g is None else g, len(number)) for i, g in enumerate(groups)])


def weights(difference: Difference, arms: int) -> Floats:
    """The difference as weights on the arms' levels: [arms]."""
    import numpy as np

    factors = np.zeros(arms)
    for (first, second), factor in difference.items():
        factors[first] += factor
        factors[second] -= factor
    return factors


def compare(
    metrics: Mapping[str, Metric],
    differences: Mapping[str, Difference],
    unit: Units,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> dict[str, dict[str, Estimate]]:
    """Every difference in every metric: metric -> difference -> estimate. `unit` as `units_of` gives it, [n].

    Where nearly all units agree in a 0/1 score, a resample sees no variation and would claim a certainty that is not there (zero
    flips: zero width), so exact bounds take over.
    """
    import numpy as np

    columns = [column for m in metrics.values() for column in (m.costs, np.ones_like(m.costs) if m.sizes is None else m.sizes)]
    width = columns[0].shape[1]
    sums = _by_unit(np.hstack(columns), unit)
    drawn = resampled_sums(sums, resamples=resamples, seed=seed) if len(sums) > 1 else None
    estimates = {}
    for number, (name, metric) in enumerate(metrics.items()):
        block = slice(2 * width * number, 2 * width * (number + 1))
        arms = _Arms(metric, sums[:, block], None if drawn is None else _levels(drawn[:, block]), level)
        estimates[name] = {key: arms.estimate(difference) for key, difference in differences.items()}
    return estimates


class _Arms:
    """The arms in one metric: sums by unit, and levels over all of it, by resample, and without each unit."""

    def __init__(self, metric: Metric, sums: Floats, drawn: Floats | None, level: float) -> None:
        self.metric, self.sums, self.drawn, self.level = metric, sums, drawn, level
        total = sums.sum(axis=0)
        self.all = _levels(total)
        self.without = _levels(total - sums) if 1 < len(sums) < SMALL else None

    def estimate(self, difference: Difference) -> Estimate:
        factors, n, units = weights(difference, len(self.all)), len(self.metric.costs), len(self.sums)
        value = float(self.all @ factors)
        flips = {pair: self._flips(*pair) for pair in difference} if self.metric.sizes is None else {}
        own = next(iter(flips.values())) if len(flips) == 1 else None
        if flips and self._few(difference):
            parts = [(factor, flips[pair]) for pair, factor in difference.items()]
            return Estimate(exact_sum(parts, value, n, units=units, level=self.level), n, units, None, own)
        if self.drawn is None:
            return Estimate(Interval(value, None, None, "none"), n, units, None, own)
        draws = self.drawn @ factors
        low, high = bounds(draws, bca=None if self.without is None else (value, self.without @ factors), level=self.level)
        return Estimate(Interval(value, low, high, "bootstrap" if self.without is None else "bootstrap-bca"), n, units, draws, own)

    def _flips(self, first: int, second: int) -> tuple[int, int]:
        step = self.metric.costs[:, first] - self.metric.costs[:, second]
        return int((step > 0).sum()), int((step < 0).sum())

    def _few(self, difference: Difference) -> bool:
        """Also where only its small parts vary: a resample of the whole would be too sure of the large ones."""
        largest = max(difference.values())
        large = {pair: factor for pair, factor in difference.items() if factor == largest}
        each = _levels(self.sums)
        return any(is_few(each @ weights(parts, len(self.all))) for parts in (difference, large))


def is_few(values: Floats) -> bool:
    """Whether fewer than `FEW` units are off the common value: [units]."""
    import numpy as np

    _, counts = np.unique(values.round(9), return_counts=True)  # a third by two ways is one value
    return bool(len(values) - counts.max() < FEW)


def _levels(sums: Floats) -> Floats:
    """Costs over sizes: [..., 2 k] -> [..., k]."""
    half = sums.shape[-1] // 2
    return sums[..., :half] / sums[..., half:]


def _by_unit(columns: Floats, unit: Units) -> Floats:
    """Sums over the rows of each unit: [n, columns] -> [units, columns]."""
    import numpy as np

    sums = np.zeros((int(unit.max()) + 1, columns.shape[1]))
    np.add.at(sums, unit, columns)
    return sums


# ---------------------------------------------------------------- the bootstrap


def resampled_sums(columns: Floats, *, resamples: int = RESAMPLES, seed: int = SEED) -> Floats:
    """Column sums over `resamples` draws of the units with replacement: [units, columns] -> [resamples, columns].

    Every column is summed over the same draw, so any number of arms laid side by side stays paired.
    """
    import numpy as np

    units = len(columns)
    rng = np.random.Generator(np.random.Philox(seed))
    block = max(1, 4_000_000 // units)  # bounds the memory of the draw at 32 MB
    sums = []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(0, units, size=(size, units)) + np.arange(size)[:, None] * units
        counts = np.bincount(drawn.ravel(), minlength=size * units).reshape(size, units)
        sums.append(counts @ columns)
    return np.concatenate(sums)


def bounds(draws: Floats, *, bca: tuple[float, Floats] | None = None, level: float = LEVEL) -> tuple[float, float]:
    """The interval of a statistic from its resampled values: their quantiles. With `bca`, its value over all units and its values
    without each of them, the quantiles are corrected for bias and skew (Efron 1987, doi 10.1080/01621459.1987.10478410)."""
    import numpy as np
    from scipy.special import ndtr, ndtri

    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if bca is not None:
        value, jackknife = bca
        off = jackknife.mean() - jackknife
        spread = float((off**2).sum()) ** 1.5
        skew = float((off**3).sum()) / (6 * spread) if spread > 0 else 0.0
        below = float((draws < value).mean() + (draws == value).mean() / 2)
        shift = ndtri(np.clip(below, 1 / len(draws), 1 - 1 / len(draws)))
        tails = ndtr(shift + (shift + ndtri(tails)) / (1 - skew * (shift + ndtri(tails))))
    low, high = np.quantile(draws, tails)
    return float(low), float(high)


# ---------------------------------------------------------------- one end of an interval


def p_below(estimate: Estimate, limit: float) -> float:
    """One-sided p of "the difference is `limit` or more": small means below. The inversion of the interval that is printed."""
    if estimate.draws is not None:
        return float(1 + (estimate.draws >= limit).sum()) / (1 + len(estimate.draws))
    if estimate.flips is None:
        return 1.0  # one unit: no interval, no evidence
    up, down = estimate.flips

    def clear(step: int) -> bool:  # is the upper end of the interval with this tail below the limit?
        return flip_interval(up, down, estimate.n, units=estimate.units, level=1 - step / _STEPS).most < limit

    steps = range(1, _STEPS)
    smallest = bisect_left(steps, True, key=clear)
    return steps[smallest] / (2 * _STEPS) if smallest < len(steps) else 1.0


def rows_to_clear(estimate: Estimate, limit: float, *, below: bool = False, level: float = LEVEL) -> int | None:
    """How many rows would put the interval's lower end above `limit` (or its upper end `below` it), if the true difference is the one
    seen (80 % power). Without a flip it is the smallest n that rules the limit out: 183 for two points.

    None where the difference is not on that side of its limit, where one unit is all there is, and above ten million.
    """
    side = -1 if below else 1
    distance = side * (estimate.interval.value - limit)
    if distance <= 0:
        return None
    if estimate.draws is not None:
        return math.ceil(estimate.n * _POWER * (float(estimate.draws.std()) / distance) ** 2)
    if estimate.flips is None:
        return None
    up, down = (count / estimate.n for count in estimate.flips)
    units = estimate.units / estimate.n

    def clear(n: int) -> bool:
        grown = flip_interval(up * n, down * n, n, units=units * n, level=level)
        return side * ((grown.most if below else grown.least) - limit) > 0

    sizes = range(1, _MOST_ROWS)
    smallest = bisect_left(sizes, True, key=clear)
    return sizes[smallest] if smallest < len(sizes) else None
