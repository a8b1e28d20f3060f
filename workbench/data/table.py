"""Raw rows as a file holds them, before anything is known about their format."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from workbench.errors import DataError

__all__ = ["RawRow", "RawTable", "RowError", "Tally", "as_number", "letter"]

MAX_ROWS = 2_000_000
_SAMPLE = 2000  # rows that are enough to tell a format by
_DIFFERENT = 200  # values of one column that are counted apart


class RowError(ValueError):
    """This row cannot become a canonical one. `kind` is one of `checks.KINDS`."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


RawRow = tuple[int, dict[str, Any] | RowError]  # where a row stands: the line of a JSONL, CSV or text file, else counted from 1


@dataclass
class Tally:
    """What one column holds, over all rows."""

    counts: Counter[Any] = field(default_factory=Counter)  # its first `_DIFFERENT` values, None where there is none
    rows: int = 0
    numbers: int = 0
    low: float = math.inf
    high: float = -math.inf

    def add(self, value: Any) -> None:
        value = value if isinstance(value, str | bool | int | float | None) else type(value).__name__
        if value != value or isinstance(value, str) and not value.strip():
            value = None  # how tables write that nothing is there
        self.rows += 1
        if value is None or value in self.counts or len(self.counts) < _DIFFERENT:
            self.counts[value] += 1
        if (number := as_number(value)) is not None:
            self.numbers += 1
            self.low, self.high = min(self.low, number), max(self.high, number)


@dataclass
class RawTable:
    """A file as rows that can be read again from the start; `look` reads it once to say what it holds."""

    how: str  # "CSV, separated by ';', UTF-8": how it was read, in words
    rows: Callable[[], Iterator[RawRow]]
    notes: list[str] = field(default_factory=list)
    lettered: bool = False  # a spreadsheet's: its columns go by letters as well
    named: bool = True  # False when it has no header line: its columns are A, B, C, …
    columns: list[str] = field(default_factory=list)
    nothing: str = "holds no row that can be read."
    sample: list[dict[str, Any]] = field(default_factory=list)  # the first rows, and the first with each column
    tallies: dict[str, Tally] = field(default_factory=dict)  # of the columns asked for

    def look(self, name: str, tallied: frozenset[str]) -> RawTable:
        """Read all rows: fill `columns` (every key, as they come), `sample`, and `tallies` of columns called as in `tallied`."""
        columns, good = dict.fromkeys(self.columns), 0
        bad: list[str] = []
        for count, (number, row) in enumerate(self.rows()):
            if count >= MAX_ROWS:
                raise DataError(f"{name} holds more than {MAX_ROWS:,} rows.", hint="Split it, or take a sample.")
            if isinstance(row, RowError):
                bad = bad if len(bad) > 4 else [*bad, f"row {number}: {row}"]
                continue
            new = row.keys() - columns.keys()
            if new or good < _SAMPLE:
                columns |= dict.fromkeys(row)
                self.sample.append(row)
            for key in new:
                if len(key) > 200 or not key.isprintable():
                    raise DataError(f"A column is called {key[:40]!r}, which cannot be a name.", hint="Rename it to a short word.")
            if len(columns) > 1000:
                raise DataError(f"{name} has more than 1,000 columns.", hint="Give every row the same few fields.")
            for key in row:
                if key.lower() in tallied:
                    self.tallies.setdefault(key, Tally()).add(row[key])
            good += 1
        if not good:
            raise DataError(f"{name} {self.nothing}", bad, hint="Write one JSON object a line, a list of objects, or a table with rows.")
        for tally in self.tallies.values():  # what a row does not have
            if missing := good - tally.rows:
                tally.counts[None] += missing
                tally.rows = good
        self.columns = list(columns)
        return self


def as_number(value: Any) -> float | None:
    """A number, also one written as text, or "true", "false", "yes", "no"; else None. Never NaN or infinite."""
    if isinstance(value, str):
        value = {"true": 1, "yes": 1, "false": 0, "no": 0}.get(value.strip().lower(), value)
    try:
        number = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def letter(i: int) -> str:
    """The spreadsheet letter of column i, counted from 0: A … Z, AA …"""
    return (letter(i // 26 - 1) if i >= 26 else "") + chr(ord("A") + i % 26)
