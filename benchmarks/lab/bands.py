"""Fit the bands of stage 1 to the lab's cells, and try them on bases that were left out. `workbench.rebase.calibration` reads them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lab.cells import Cell
from benchmarks.lab.contest import Entry, spearman
from benchmarks.lab.contest import kept as kept_success
from workbench.rebase.calibration import SCHEMA, SIGNALS, Band, Limit, value
from workbench.rebase.result import BROKEN
from workbench.stats import share_interval

__all__ = ["GOOD", "Trial", "calibrate", "fit", "try_out", "write"]

GOOD = ("works", "not needed")
SHARE = 0.9  # of the cells beyond a limit must have the verdict the colour stands for
FEWEST = 5  # cells beyond a limit


@dataclass(frozen=True)
class Trial:
    """The bands fitted without one base, tried on the cells with it; over all bases together."""

    green: int
    green_right: int
    red: int
    red_right: int
    amber: int


def calibrate(cells: Sequence[Cell], entries: Sequence[Entry]) -> list[Band]:
    """The bands of the stage-1 signal that did best in the contest; and of plain drift, which sketches can tell too."""
    by_title = {title: signal for signal, title in SIGNALS.items()}
    best = [by_title[entry.name] for entry in entries if entry.name in by_title][:1]
    return [one for signal in dict.fromkeys([*best, "drift"]) if (one := fit(signal, cells)) is not None]


def fit(signal: str, cells: Sequence[Cell]) -> Band | None:
    """The widest green and red that hold nine in ten. None when no cell has the signal, or one value is all there is."""
    there = [(cell, x) for cell in cells if cell.check.weights is not None and (x := value(cell.check.weights, signal)) is not None]
    xs = np.array([x for _, x in there])
    if not there or xs.min() == xs.max():
        return None
    chosen = [cell for cell, _ in there]
    lower = spearman(xs, np.array([kept_success(cell) for cell in chosen])) <= 0
    sign = 1.0 if lower else -1.0
    good = np.array([cell.check.word in GOOD for cell in chosen])
    bad = np.array([cell.check.word in BROKEN for cell in chosen])
    return Band(signal, lower, _limit(sign * xs, good, chosen, sign), _limit(-sign * xs, bad, chosen, -sign))


def _limit(xs: np.ndarray, right: np.ndarray, cells: Sequence[Cell], sign: float) -> Limit | None:
    """The largest t so that of the cells with x <= t at least `SHARE` are right, the last of them too."""
    for t in sorted(set(xs[right].tolist()), reverse=True):
        inside = xs <= t
        n, k = int(inside.sum()), int(right[inside].sum())
        if n >= FEWEST and k >= SHARE * n:
            pairs = len({cell.pair for cell, yes in zip(cells, inside, strict=True) if yes})
            return Limit(sign * t, n, k, pairs, share_interval(k, n, units=pairs)[0])
    return None


def try_out(signal: str, cells: Sequence[Cell]) -> Trial:
    """Fit without a base, colour the cells with it, for each base. A cell has two bases, so it is tried twice."""
    counts: Counter[str] = Counter()
    for base in sorted({base for cell in cells for base in cell.pair}):
        band = fit(signal, [cell for cell in cells if base not in cell.pair])
        for cell in cells:
            x = value(cell.check.weights, signal) if cell.check.weights is not None and base in cell.pair else None
            if x is None or band is None:
                continue
            colour = band.colour(x)
            counts[colour] += 1
            counts[f"{colour} right"] += cell.check.word in (GOOD if colour == "green" else BROKEN if colour == "red" else ())
    return Trial(counts["green"], counts["green right"], counts["red"], counts["red right"], counts["amber"])


def write(file: Path, bands: Sequence[Band], cells: Sequence[Cell], facts: dict[str, Any]) -> None:
    """calibration.json: `cells` are all of the lab, those at home too (the class "identical")."""
    changes: dict[str, Counter[str]] = {}
    for cell in cells:
        if cell.check.weights is not None and cell.check.word != "no gain at home":
            of = changes.setdefault(cell.check.weights.change, Counter())
            of.update(cells=1, works=cell.check.word in GOOD, broken=cell.check.word in BROKEN)
    data = {
        "schema": SCHEMA,
        "made_by": "make lab",
        "lab": facts,
        "share": SHARE,
        "changes": {name: dict(sorted(counts.items())) for name, counts in sorted(changes.items())},
        "bands": [asdict(band) for band in bands],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
