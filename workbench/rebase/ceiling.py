"""Stage 4: how much of what a fresh training on B would give does the old adapter give? (recovered lift, arXiv 2608.20918)"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.evidence import Evidence, Interval, resampled_sums
from workbench.rebase.result import Retrained, Settings
from workbench.records import ItemScore

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["recovered"]

SMALLEST_LIFT = 0.02  # a ratio over less than two points, or 0.02 nats, says nothing


def recovered(copied: Evidence, retrained: Evidence, metric: str, *, seconds: float, settings: Settings) -> Retrained:
    """R = (s(B+a) - s(B)) / (s(B+a*) - s(B)) with its 95 % interval from one resample of rows shared by all three arms.

    `copied` holds B and B+a, `retrained` B and B+a*, over the same rows. R is None where the denominator's lower bound is
    not above `SMALLEST_LIFT`. The scores of a metric where less is better are negated, so that R reads the same.
    """
    import numpy as np

    columns = np.column_stack([_scores(arm, metric) for arm in (copied.base, copied.adapter, retrained.adapter)])
    size = _sizes(copied, metric)
    sums = resampled_sums(np.column_stack([columns, size]), resamples=settings.resamples, seed=settings.seed)
    draws, total = sums[:, :3] / sums[:, 3:], columns.sum(0) / size.sum()
    lift, left = draws[:, 2] - draws[:, 0], draws[:, 2] - draws[:, 1]
    tails = [(1 - settings.level) / 2, (1 + settings.level) / 2]
    ratio = low = high = None
    if np.quantile(lift, tails[0]) > SMALLEST_LIFT:
        ratio = float((total[1] - total[0]) / (total[2] - total[0]))
        low, high = (float(v) for v in np.quantile((draws[:, 1] - draws[:, 0]) / lift, tails))
    bounds = [float(v) for v in np.quantile(left, tails)]
    headroom = Interval(float(total[2] - total[1]), bounds[0], bounds[1], "bootstrap")
    score = float(total[2] if metric in ("right", "exact_match") else -total[2])
    return Retrained(score, metric, ratio, low, high, headroom, round(seconds, 1))


def _scores(arm: list[ItemScore], metric: str) -> NDArray[np.float64]:
    import numpy as np

    if metric == "right":
        return np.array([float(bool(s.right)) for s in arm])
    if metric == "exact_match":
        return np.array([float(s.exact) for s in arm])
    return np.array([-s.nll / (np.log(2) if metric == "bits_per_byte" else 1) for s in arm])


def _sizes(evidence: Evidence, metric: str) -> NDArray[np.float64]:
    import numpy as np

    if metric == "nll_per_token":
        return np.array([float(s.tokens) for s in evidence.base])
    if metric == "bits_per_byte":
        return np.array([float(s.bytes) for s in evidence.base])
    return np.ones(len(evidence.base))
