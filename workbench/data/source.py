"""Raw rows as a file holds them, before anything is known about their format."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.data.checks import Finding
from workbench.errors import DataError

__all__ = ["Source", "letter", "shown"]


@dataclass
class Source:
    """Raw rows with where they stand: the line of a JSONL, CSV or text file, else the row counted from 1."""

    kind: str  # "jsonl" | "json" | "csv" | "parquet" | "txt"
    how: str  # "CSV, separated by ';', UTF-8": how it was read, in words
    rows: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    broken: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    named: bool = True  # False when a CSV has no header line: its columns are A, B, C, …
    columns: list[str] = field(default_factory=list)

    def finish(self) -> Source:
        """Fill `columns` with every key, in order of first appearance."""
        self.columns = list(dict.fromkeys([*self.columns, *(key for _, row in self.rows for key in row)]))
        if bad := next((name for name in self.columns if len(name) > 200 or not name.isprintable()), None):
            raise DataError(f"A column is called {bad[:40]!r}, which cannot be a name.", hint="Rename it to a short word.")
        return self


def shown(path: Path | str) -> str:
    """A path as text that can be printed and stored, whatever bytes its name is made of."""
    return "".join(c if c.isprintable() else "\ufffd" for c in str(path))


def letter(i: int) -> str:
    """The spreadsheet letter of column i, counted from 0: A … Z, AA …"""
    return (letter(i // 26 - 1) if i >= 26 else "") + chr(ord("A") + i % 26)
