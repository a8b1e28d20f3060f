"""The colours of stage 1: green, amber or red by limits that the lineage lab measured, and by nothing else.

`make lab` writes calibration.json: the stage-1 signals that foretold the verdict best in its matrix of copies, and for each two
limits. On the good side of `green` at least nine cells in ten worked, on the bad side of `red` at least nine in ten were broken,
each with its count; in between is amber. No number from the literature is used: none is decision-grade, and the pilot saw
copies fail at a drift of 1.8 % and live at one of 11 %.

The limits come from small models. They colour; they never decide.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from workbench.errors import IntegrityError
from workbench.rebase.result import Weights

__all__ = ["FILE", "SIGNALS", "Band", "Limit", "band", "bands", "read", "value"]

FILE = Path(__file__).with_name("calibration.json")
SCHEMA = 1

# Fields of `Weights`, those of the lineage test with its name before: what can be calibrated, in words.
SIGNALS = {
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


@dataclass(frozen=True)
class Limit:
    """One limit, and the lab's cells on its far side."""

    at: float
    cells: int
    right: int  # of them worked (green) or were broken (red)
    pairs: int  # pairs of bases they come from: cells of one pair share their fate
    low: float  # lower end of the 95 % interval of the share, with pairs as the units


@dataclass(frozen=True)
class Band:
    """The limits of one signal. None where no nine cells in ten were ever on one side."""

    signal: str  # a key of SIGNALS
    lower_is_better: bool
    green: Limit | None
    red: Limit | None

    def colour(self, x: float) -> str:
        """ "green", "red", or "amber" where neither limit, or both, hold."""
        sign = 1 if self.lower_is_better else -1
        good = self.green is not None and sign * x <= sign * self.green.at
        bad = self.red is not None and sign * x >= sign * self.red.at
        return "green" if good and not bad else "red" if bad and not good else "amber"


def value(weights: Weights, signal: str) -> float | None:
    """A signal's value; None where stage 1 could not measure it."""
    holder: Any = weights
    for part in signal.split("."):
        holder = None if holder is None else getattr(holder, part)
    return None if holder is None or not math.isfinite(holder) else float(holder)


def band(weights: Weights, *, file: Path = FILE) -> str | None:
    """ "green", "amber" or "red" for one adapter on one base; None where the lab says nothing about it.

    That is: no lab was kept, the class of change never occurred in it (a re-quantised base, say), or the signals it calibrated
    could not be measured. Raises `IntegrityError` for a file that is no calibration.
    """
    calibration = read(file)
    if calibration is None or weights.change not in calibration["changes"]:
        return None
    for one in bands(file=file):
        x = value(weights, one.signal)
        if x is not None:
            return one.colour(x)
    return None


def bands(*, file: Path = FILE) -> tuple[Band, ...]:
    """The calibrated signals, the best first; empty without a lab."""
    calibration = read(file)
    return () if calibration is None else calibration["parsed"]


def read(file: Path = FILE) -> dict[str, Any] | None:
    """What the lab wrote: `changes` (class of change -> cells), `bands`, and facts about the lab. None when there is no file."""
    if not file.is_file():
        return None
    return _read(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _read(file: Path, _changed: int) -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA:
            raise ValueError(f"it has schema {data['schema']!r}; this version reads {SCHEMA}")
        data["parsed"] = tuple(_band(entry) for entry in data["bands"])
        if not isinstance(data["changes"], dict):
            raise TypeError("changes is no table")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{file.name} is not a calibration: {error}.", hint="Write it anew: make lab") from None
    return data


def _band(entry: dict[str, Any]) -> Band:
    if entry["signal"] not in SIGNALS:
        raise ValueError(f"there is no signal {entry['signal']!r}")
    limits = {side: None if entry[side] is None else Limit(**entry[side]) for side in ("green", "red")}
    return Band(signal=entry["signal"], lower_is_better=bool(entry["lower_is_better"]), **limits)
