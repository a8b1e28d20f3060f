"""Four arms over the same test rows: their scores, and the differences between them with intervals (result.Contrasts).

One resample of the units serves all arms, all metrics and all differences, so everything stays paired. 0/1 scores with fewer
than 20 units off the common value get exact bounds instead: a bootstrap of zero flips would claim a certainty that is not there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.errors import UsageError
from workbench.evidence import FEW, SMALL, Evidence, Interval, bca_tails, by_unit, exact_gain, resampled_sums, units_of
from workbench.rebase.result import Contrasts, Settings
from workbench.records import ItemScore

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["ARMS", "PAIRS", "Table", "careful_kept", "is_few", "measure", "scores_of", "weights"]

ARMS = ("home", "home_adapter", "new", "new_adapter")
PAIRS = {"gain": (0, 1), "transfer": (2, 3), "served": (1, 3), "alone": (1, 2)}  # loss of the first arm minus loss of the second


def weights(delta: float) -> dict[str, tuple[float, float, float, float]]:
    """Each difference as weights on the four losses, in the order of ARMS; kept = transfer - (1 - delta) gain."""
    pairs = {name: [0.0, 0.0, 0.0, 0.0] for name in PAIRS}
    for name, (first, second) in PAIRS.items():
        pairs[name][first], pairs[name][second] = 1.0, -1.0
    pairs["kept"] = [now - (1 - delta) * before for before, now in zip(pairs["gain"], pairs["transfer"], strict=True)]
    return {name: (f[0], f[1], f[2], f[3]) for name, f in pairs.items()}


@dataclass(frozen=True)
class Table:
    """Everything the rule needs, by metric."""

    n: int  # rows
    units: int  # what is resampled: rows, or groups of rows
    grouped: bool
    arms: dict[str, dict[str, float]]  # arm -> metric -> score
    contrasts: dict[str, Contrasts]
    flips: dict[str, dict[str, tuple[int, int]]]  # 0/1 metrics: difference -> (rows better, rows worse)
    draws: dict[str, dict[str, Floats]]  # difference -> [resamples]; no entry where exact bounds took over


def measure(home: Evidence, new: Evidence, *, same_tokenizer: bool, settings: Settings) -> Table:
    """Compare the four arms. Groups are those of `home`.

    Raises `UsageError` when the arms do not hold the same rows in the same order, or a loss is not a number.
    """
    import numpy as np

    arms = _arms(home, new)
    n = len(arms[0])
    unit = units_of(n, home.groups)
    units = int(unit.max()) + 1
    rates = {name: np.array([[getattr(s, field) for s in arm] for arm in arms], dtype=np.float64).T for name, field in _rates(arms)}
    losses = {name: 1 - rate for name, rate in rates.items()}
    sizes = {name: np.ones((n, 4)) for name in rates}
    cost, scale, size = ("nll_per_token", 1.0, "tokens") if same_tokenizer else ("bits_per_byte", 1 / math.log(2), "bytes")
    losses[cost] = np.array([[s.nll * scale for s in arm] for arm in arms]).T
    sizes[cost] = np.array([[float(getattr(s, size)) for s in arm] for arm in arms]).T
    if not (sizes[cost].sum(axis=0) > 0).all():
        raise UsageError(
            "The tokenizers differ and the stored scores do not say how long the answers are, so losses cannot be compared.",
            hint="Evaluate the adapter anew: workbench adapter evaluate ADAPTER",
        )
    stacked = by_unit(np.column_stack([column for name in losses for column in (losses[name], sizes[name])]), unit)
    drawn = resampled_sums(stacked, resamples=settings.resamples, seed=settings.seed) if units > 1 else None
    contrasts, flips, draws = {}, {}, {}
    for k, name in enumerate(losses):
        block = slice(8 * k, 8 * k + 8)
        intervals, draws[name] = _boot(stacked[:, block], None if drawn is None else drawn[:, block], settings)
        if name in rates:
            flips[name] = _flips(rates[name])
            _exact_where_few(intervals, draws[name], flips[name], stacked[:, block], n, settings)
        contrasts[name] = Contrasts(**intervals)
    grouped = home.groups is not None and any(g is not None for g in home.groups)
    return Table(n, units, grouped, dict(zip(ARMS, map(scores_of, arms), strict=True)), contrasts, flips, draws)


def scores_of(arm: Sequence[ItemScore]) -> dict[str, float]:
    """One arm over all rows: shares of right answers, nats per token, bits per byte (where lengths are known)."""
    nll, size = math.fsum(s.nll for s in arm), sum(s.bytes for s in arm)
    scores = {"exact_match": sum(s.exact for s in arm) / len(arm), "nll_per_token": nll / sum(s.tokens for s in arm)}
    if all(s.right is not None for s in arm):
        scores["right"] = sum(bool(s.right) for s in arm) / len(arm)
    if size:
        scores["bits_per_byte"] = nll / math.log(2) / size
    return scores


def _arms(home: Evidence, new: Evidence) -> list[list[ItemScore]]:
    arms = [home.base, home.adapter, new.base, new.adapter]
    if not home.base:
        raise UsageError("There are no test rows to compare.", hint="Give the dataset a test part: workbench data add … --test-share 0.1")
    ids = [s.id for s in home.base]
    if any([s.id for s in arm] != ids for arm in arms) or (home.groups is not None and len(home.groups) != len(ids)):
        raise UsageError(
            "The four arms do not hold the same test rows in the same order.",
            hint="Score the new base on the adapter's own frozen test set; it is in its folder evidence/.",
        )
    for name, arm in zip(ARMS, arms, strict=True):
        bad = next((s for s in arm if not math.isfinite(s.nll)), None)
        if bad is not None:
            who = "new" if name.startswith("new") else "old"
            raise UsageError(
                f"The {who} base{' with the adapter' if name.endswith('adapter') else ''} gives {bad.nll} as the loss of row {bad.id}.",
                hint="Its weights or the adapter's hold NaN or infinite numbers, or its dtype overflows: workbench doctor --deep",
            )
    return arms


def _rates(arms: Sequence[Sequence[ItemScore]]) -> list[tuple[str, str]]:
    scored = all(s.right is not None for arm in arms for s in arm)
    return [("right", "right"), ("exact_match", "exact")] if scored else [("exact_match", "exact")]


def _boot(units: Floats, drawn: Floats | None, settings: Settings) -> tuple[dict[str, Interval], dict[str, Floats]]:
    """Intervals of all differences from [units, 8] (four losses, four sizes) and the resampled sums [resamples, 8]."""
    import numpy as np

    w = weights(settings.delta)
    total = units.sum(axis=0)
    levels = total[:4] / total[4:]
    if drawn is None:
        return {name: Interval(float(levels @ weight), None, None, "none") for name, weight in w.items()}, {}
    resampled = drawn[:, :4] / drawn[:, 4:]
    without = (total - units)[:, :4] / (total - units)[:, 4:] if len(units) < SMALL else None
    intervals, draws = {}, {}
    for name, weight in w.items():
        value, draws[name] = float(levels @ weight), resampled @ np.array(weight)
        tails, method = ((1 - settings.level) / 2, (1 + settings.level) / 2), "bootstrap"
        if without is not None:
            tails, method = bca_tails(draws[name], value, without @ np.array(weight), tails), "bootstrap-bca"
        low, high = np.quantile(draws[name], tails)
        intervals[name] = Interval(value, float(low), float(high), method)
    return intervals, draws


def _flips(rate: Floats) -> dict[str, tuple[int, int]]:
    """(rows better, rows worse) of the second arm of each pair, from [rows, 4] of 0/1."""
    pairs = {**PAIRS, "bases": (2, 0)}  # loss of the bare new base minus loss of the bare old one
    steps = {name: rate[:, second] - rate[:, first] for name, (first, second) in pairs.items()}
    return {name: (int((step > 0).sum()), int((step < 0).sum())) for name, step in steps.items()}


def _exact_where_few(
    intervals: dict[str, Interval], draws: dict[str, Floats], flips: dict[str, tuple[int, int]], sums: Floats, n: int, settings: Settings
) -> None:
    """Put exact bounds, in place, where a resample would see too little variation."""
    mean = sums[:, :4] / sums[:, 4:]
    for name, (first, second) in PAIRS.items():
        if is_few(mean[:, first] - mean[:, second]):
            intervals[name] = exact_gain(*flips[name], n, units=len(sums), level=settings.level)
            draws.pop(name, None)
    change = mean @ [-1.0, 1.0, 1.0, -1.0]  # transfer - gain, row by row: where nothing varies in it, a resample of kept is too sure
    if is_few(change) or is_few(mean @ list(weights(settings.delta)["kept"])):
        draws.pop("kept", None)
        intervals["kept"] = careful_kept(flips, n, len(sums), settings, intervals["kept"].value)


def is_few(difference: Floats) -> bool:
    """Whether fewer than FEW units are off the common value."""
    import numpy as np

    _, counts = np.unique(difference, return_counts=True)
    return bool(len(difference) - counts.max() < FEW)


def careful_kept(flips: dict[str, tuple[int, int]], n: int, units: int, settings: Settings, value: float) -> Interval:
    """Bounds of kept = served + (loss(B) - loss(A)) + delta gain, each part by exact bounds at a third of the error (Bonferroni).

    Conservative: made for the case where nearly no row changed, where each part is nearly certain and their sum tells more than
    the bounds of transfer and gain would.
    """
    level = 1 - (1 - settings.level) / 3
    low = high = 0.0
    for name, factor in (("served", 1.0), ("bases", 1.0), ("gain", settings.delta)):
        part = exact_gain(*flips[name], n, units=units, level=level)
        low, high = low + factor * (part.low or 0.0), high + factor * (part.high or 0.0)
    return Interval(value, min(low, value), max(high, value), "exact")
