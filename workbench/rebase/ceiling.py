"""Stage 4: how much of what a fresh training on B would give does the old adapter give? (recovered lift, arXiv 2608.20918)"""

from __future__ import annotations

from workbench.evidence import SUCCESS, Evidence, metrics_of
from workbench.rebase.result import Retrained, Settings
from workbench.stats import Interval, bounds, resampled_sums

__all__ = ["SMALLEST_LIFT", "recovered"]

SMALLEST_LIFT = 0.02  # a ratio over less than two points, or 0.02 nats, says nothing


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
