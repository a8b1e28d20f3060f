"""Which cheap signal foretells whether a copied adapter keeps working? Every signal of stages 1 and 2, the losers too.

A cell is one adapter on one base that is not its own. Cells that share a pair of bases share their fate, so intervals come from
drawing pairs of bases, not cells; and a signal's say on a cell is only counted when no cell with that base was used to learn
which way the signal points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import rankdata

from benchmarks.lab.cells import Cell
from workbench.rebase.result import Weights
from workbench.rebase.verdicts import BROKEN

__all__ = ["Entry", "SIGNALS", "contest", "counted", "kept"]

RESAMPLES = 2000
SEED = 20240
Signal = Callable[[Cell], float | None]


@dataclass(frozen=True)
class Entry:
    """How one signal did."""

    name: str
    stage: int
    cells: int  # in which it was there
    rho: float  # Spearman, with kept success
    low: float
    high: float
    within: float | None  # the same over the releases of the one run only
    served: float  # Spearman with the served change
    auc: float | None  # of "broken", each cell ordered among those of its held-out base


def counted(cells: Sequence[Cell]) -> list[Cell]:
    """The cells the contest is about: away from home, with an adapter that beyond doubt makes more answers right at home."""
    return [cell for cell in cells if not cell.home and _gains(cell)]


def _gains(cell: Cell) -> bool:
    assert cell.check.verdict is not None
    low = cell.check.verdict.contrasts["right"].gain.low
    return low is not None and low > cell.check.verdict.settings.epsilon


def kept(cell: Cell) -> float:
    """Kept success: right answers on B over right answers at home, both with the adapter, at most 1."""
    return min(1.0, cell.score("new_adapter") / cell.score("home_adapter"))


def contest(cells: Sequence[Cell]) -> list[Entry]:
    """Every signal, the strongest first. `cells` as `counted` gives them."""
    found = [entry for name, (stage, signal) in SIGNALS.items() if (entry := _entry(name, stage, signal, cells)) is not None]
    return sorted(found, key=lambda entry: -abs(entry.rho))


def _entry(name: str, stage: int, signal: Signal, cells: Sequence[Cell]) -> Entry | None:
    values = [signal(cell) for cell in cells]
    there = [(cell, value) for cell, value in zip(cells, values, strict=True) if value is not None and math.isfinite(value)]
    if len(there) < 5:
        return None
    chosen = [cell for cell, _ in there]
    x, y = np.array([value for _, value in there]), np.array([kept(cell) for cell in chosen])
    u = np.array([cell.score("new_adapter") - cell.score("home_adapter") for cell in chosen])
    low, high = _interval(x, y, [cell.pair for cell in chosen])
    one_run = np.array(["s1" not in cell.pair for cell in chosen])
    within = spearman(x[one_run], y[one_run]) if one_run.sum() >= 5 and not one_run.all() else None
    auc = left_out_auc(x, y, chosen)
    return Entry(name, stage, len(chosen), spearman(x, y), low, high, within, spearman(x, u), auc)


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation, ties at their mean rank; 0 where one side does not vary."""
    a, b = rankdata(x), rankdata(y)
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / size if size > 0 else 0.0


def _interval(x: np.ndarray, y: np.ndarray, pairs: Sequence[tuple[str, str]]) -> tuple[float, float]:
    """95 % interval of the rank correlation, drawing pairs of bases with replacement."""
    names = sorted(set(pairs))
    members = [np.array([i for i, pair in enumerate(pairs) if pair == name]) for name in names]
    rng = np.random.Generator(np.random.Philox(SEED))
    draws = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([members[i] for i in rng.integers(0, len(names), len(names))])
        draws.append(spearman(x[rows], y[rows]))
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def left_out_auc(x: np.ndarray, y: np.ndarray, cells: Sequence[Cell]) -> float | None:
    """Area under the curve for "broken", leaving one base out at a time.

    The direction (is more better or worse?) is learned from the cells without that base; the pairs of a broken and a sound
    cell among those with it are then counted, over all bases together. None where no base has both kinds.
    """
    broken = np.array([cell.check.word in BROKEN for cell in cells])
    right = total = 0.0
    for base in sorted({base for cell in cells for base in cell.pair}):
        out = np.array([base in cell.pair for cell in cells])
        sign = -1.0 if spearman(x[~out], y[~out]) >= 0 else 1.0  # "broken" should score high
        bad, good = sign * x[out & broken], sign * x[out & ~broken]
        difference = bad[:, None] - good[None, :]
        right += float((difference > 0).sum() + 0.5 * (difference == 0).sum())
        total += difference.size
    return right / total if total else None


# ---------------------------------------------------------------- the signals


def _weights(read: Callable[[Weights], float | None]) -> Signal:
    return lambda cell: None if cell.check.weights is None else read(cell.check.weights)


# Fields of `Weights`, those of the lineage test with its name before, in words.
_STAGE_1 = {
    "drift": "drift",
    "ratio": "drift / update",
    "input": "drift at the adapter's input",
    "output": "drift at the adapter's output",
    "alignment": "drift along the update",
    "embeddings": "drift of the embeddings",
    "norms": "drift of the norms",
    "lineage.residual_cosine": "lineage: residual cosine",
    "lineage.residual_identity": "lineage: residual identity",
    "lineage.identity": "lineage: neurons in place",
    "lineage.agreement": "lineage: neurons agree",
}


def _value(weights: Weights, signal: str) -> float | None:
    """A signal's value; None where stage 1 could not measure it."""
    holder: Any = weights
    for part in signal.split("."):
        holder = None if holder is None else getattr(holder, part)
    return None if holder is None or not math.isfinite(holder) else float(holder)


def _group(group: str, name: str) -> Signal:
    """Root mean square over the modules of a group."""

    def read(found: Weights) -> float | None:
        values = [getattr(m, name) for m in found.modules if m.group == group]
        known = [v for v in values if v is not None]
        return math.sqrt(sum(v * v for v in known) / len(known)) if known else None

    return _weights(read)


def _worst(found: Weights) -> float | None:
    return max((m.input for m in found.modules if m.input is not None), default=None)


def _probes(read: Callable[[Any], float | None]) -> Signal:
    return lambda cell: None if cell.check.probes is None else read(cell.check.probes)


def _last_layer(probes: Any) -> float:
    return float(probes.cka[max(probes.cka, key=int)])


def _off_dose(probes: Any) -> float | None:
    """How far the best dose is from the whole adapter."""
    return None if probes.best_dose is None else abs(probes.best_dose - 1.0)


def _dose_gain(probes: Any) -> float | None:
    """Nats per token the whole adapter saves on a few labelled rows."""
    return probes.dose["0"] - probes.dose["1"] if {"0", "1"} <= probes.dose.keys() else None


def _off_ratio(probes: Any) -> float | None:
    """How far the strength of the adapter's push is from its strength at home, up or down."""
    return None if not probes.effect_ratio else abs(math.log(probes.effect_ratio))


SIGNALS: dict[str, tuple[int, Signal]] = {
    **{title: (1, _weights(partial(_value, signal=signal))) for signal, title in _STAGE_1.items()},
    "drift, attention": (1, _group("attention", "drift")),
    "drift, mlp": (1, _group("mlp", "drift")),
    "drift at the adapter's input, worst": (1, _weights(_worst)),
    "CKA, mean over layers": (2, _probes(lambda p: p.cka_mean)),
    "CKA, last layer": (2, _probes(_last_layer)),
    "next-token agreement": (2, _probes(lambda p: p.top1_agreement)),
    "next-token divergence": (2, _probes(lambda p: p.jsd)),
    "effect correlation": (2, _probes(lambda p: p.effect_correlation)),
    "effect slope": (2, _probes(lambda p: p.effect_slope)),
    "effect strength": (2, _probes(lambda p: p.effect_ratio)),
    "effect strength, distance from 1": (2, _probes(_off_ratio)),
    "dose: nats saved (8 labelled rows)": (2, _probes(_dose_gain)),
    "dose: best, distance from 1 (labelled)": (2, _probes(_off_dose)),
}
