"""Four arms over the same test rows: their scores, and the differences between them with intervals (result.Contrasts).

`recovered` is stage 4: how much of what a fresh training on B would give does the old adapter give? (recovered lift, arXiv 2608.20918)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from workbench import stats
from workbench.errors import UsageError
from workbench.evidence import SUCCESS, Evidence, check_paired, metrics_of, scores_of
from workbench.rebase.result import Contrasts, Retrained, Settings
from workbench.records import ItemScore
from workbench.stats import Difference, Estimate, Interval, bounds, resampled_sums

__all__ = ["ARMS", "SMALLEST_LIFT", "Table", "differences", "recovered", "tabulate"]

ARMS = ("home", "home_adapter", "new", "new_adapter")
_PAIRS = {"gain": (0, 1), "transfer": (2, 3), "served": (1, 3), "alone": (1, 2)}  # loss of the first arm minus loss of the second
SMALLEST_LIFT = 0.02  # a ratio over less than two points, or 0.02 nats, says nothing


def differences(delta: float) -> dict[str, Difference]:
    """Every contrast by its pairs of arms, in the order of ARMS.

    kept = transfer - (1 - delta) gain is written as served + (loss of the new base - loss of the old one) + delta gain: where nearly
    no row changed, each of these is nearly certain and transfer and gain are not.
    """
    kept = {_PAIRS["served"]: 1.0, (2, 0): 1.0, _PAIRS["gain"]: delta}
    return {**{name: {pair: 1.0} for name, pair in _PAIRS.items()}, "kept": kept}


@dataclass(frozen=True)
class Table:
    """Everything the rule needs, by metric."""

    n: int  # rows
    units: int  # what is resampled: rows, or groups of rows
    grouped: bool
    arms: dict[str, dict[str, float]]  # arm -> metric -> score
    estimates: dict[str, dict[str, Estimate]]  # metric -> contrast

    @property
    def contrasts(self) -> dict[str, Contrasts]:
        return {metric: Contrasts(**{name: e.interval for name, e in of.items()}) for metric, of in self.estimates.items()}


def tabulate(home: Evidence, new: Evidence, *, same_tokenizer: bool, settings: Settings) -> Table:
    """Compare the four arms. Groups are those of `home`.

    Raises `UsageError` when the arms do not hold the same rows in the same order, or a loss is not a number.
    """
    arms = [home.base, home.adapter, new.base, new.adapter]
    check_paired(arms, home.groups)
    for name, arm in zip(ARMS, arms, strict=True):
        _check_finite(name, arm)
    cost = "nll_per_token" if same_tokenizer else "bits_per_byte"
    metrics = {name: metric for name, metric in metrics_of(arms).items() if name in (*SUCCESS, cost)}
    if cost not in metrics:
        raise UsageError(
            "The tokenizers differ and the stored scores do not say how long the answers are, so losses cannot be compared.",
            hint="Evaluate the adapter anew: workbench adapter evaluate ADAPTER",
        )
    unit = stats.units_of(len(home.base), home.groups)
    estimates = stats.compare(
        metrics, differences(settings.delta), unit, level=settings.level, resamples=settings.resamples, seed=settings.seed
    )
    grouped = home.groups is not None and any(g is not None for g in home.groups)
    return Table(len(home.base), int(unit.max()) + 1, grouped, dict(zip(ARMS, map(scores_of, arms), strict=True)), estimates)


def _check_finite(name: str, arm: list[ItemScore]) -> None:
    bad = next((s for s in arm if not math.isfinite(s.nll)), None)
    if bad is not None:
        who = "new" if name.startswith("new") else "old"
        raise UsageError(
            f"The {who} base{' with the adapter' if name.endswith('adapter') else ''} gives {bad.nll} as the loss of row {bad.id}.",
            hint="Its weights or the adapter's hold NaN or infinite numbers, or its dtype overflows: workbench doctor --deep",
        )


def recovered(copied: Evidence, retrained: Evidence, metric: str, *, seconds: float, settings: Settings) -> Retrained:
    """R = (s(B+a) - s(B)) / (s(B+a*) - s(B)) with its 95 % interval from one resample of rows shared by all three arms.

    `copied` holds B and B+a, `retrained` B and B+a*, over the same rows. R is None where the denominator's lower bound is
    not above `SMALLEST_LIFT`. Losses stand for scores, with their signs turned, so that R reads the same in every metric.
    """
    import numpy as np

    of = metrics_of([copied.base, copied.adapter, retrained.adapter])[metric]
    sizes = np.ones(len(of.costs)) if of.sizes is None else of.sizes[:, 0]
    sums = resampled_sums(np.column_stack([of.costs, sizes]), resamples=settings.resamples, seed=settings.seed)
    (bare, copy, fresh), drawn = of.costs.sum(axis=0) / sizes.sum(), sums[:, :3] / sums[:, 3:]
    lift, gain, left = drawn[:, 0] - drawn[:, 2], drawn[:, 0] - drawn[:, 1], drawn[:, 1] - drawn[:, 2]
    ratio = low = high = None
    if bounds(lift, level=settings.level)[0] > SMALLEST_LIFT:
        ratio = float((bare - copy) / (bare - fresh))
        low, high = bounds(gain / lift, level=settings.level)
    headroom = Interval(float(copy - fresh), *bounds(left, level=settings.level), "bootstrap")
    score = float(1 - fresh if metric in SUCCESS else fresh)
    return Retrained(score, metric, ratio, low, high, headroom, round(seconds, 1))
