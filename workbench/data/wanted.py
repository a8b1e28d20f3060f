"""Which rows a file itself says to learn: by the part they belong to, by weights, and by marks of what is good or bad."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from workbench.data.table import RawTable, RowError, as_number
from workbench.errors import UsageError

__all__ = ["WATCHED", "LeftOut", "Wanted", "as_flag", "doubt", "part_of", "split_column", "wanted"]

_SPLITS = ("split", "data_split", "dataset_split", "set", "subset", "partition", "part")
_PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development", "eval", "evaluation"), "validation"),
    **dict.fromkeys(("test", "testing", "heldout", "holdout"), "test"),
}
_WEIGHTS = ("loss_weight", "sample_weight", "weight", "train")  # the last two are weights only where they look like it
_MARKS = ("label", "kto_tag")  # true or false, as TRL's and LLaMA-Factory's files for KTO
_SCORES = ("score", "rating", "reward")
WATCHED = frozenset((*_SPLITS, *_WEIGHTS, *_MARKS, *_SCORES))  # columns whose values have to be counted


class LeftOut(Exception):  # noqa: N818 - no error: the file says so
    """The file says that this row is not to be learned; the message says how."""


@dataclass
class Wanted:
    """What decides about a row. Called with one it returns its side, "train", "test" or None (not said).

    Raises `LeftOut`, and `RowError` for a part or weight that is none.
    """

    split: str | None = None  # the column of the part
    sides: Mapping[str, str] = field(default_factory=dict)  # part -> side; a part that is not named is left out
    weights: list[str] = field(default_factory=list)
    mark: str | None = None
    least: float | None = None  # of the mark; None: it has to be true
    notes: list[str] = field(default_factory=list)

    @property
    def columns(self) -> set[str | None]:
        return {self.split, self.mark, *self.weights}

    def __call__(self, row: Mapping[str, Any]) -> str | None:
        for column in self.weights:
            if (flag := as_flag(row.get(column, True))) is None:
                raise RowError("weight", f"has the {column} {str(row[column])[:20]!r}; a row is learned (1) or not (0), nothing between.")
            if not flag:
                raise LeftOut(f"'{column}' is {row[column]}")
        if self.mark is not None and (self.least is not None or row.get(self.mark) not in (None, "")):
            number = as_number(row.get(self.mark))
            if number is None or (number < self.least if self.least is not None else number <= 0):
                raise LeftOut(f"'{self.mark}' is " + (f"not at least {self.least:g}" if self.least is not None else "not true"))
        return self._side(row)

    def _side(self, row: Mapping[str, Any]) -> str | None:
        if self.split is None:
            return None
        part = part_of(value := row.get(self.split))
        if part is None:
            said = f"says {str(value)[:40]!r}" if value not in (None, "") else "says nothing"
            raise RowError("split", f"'{self.split}' {said}, which is neither train, validation nor test.")
        if part not in self.sides:
            raise LeftOut(f"it is a {'training' if part == 'train' else part} row, by '{self.split}'")
        return self.sides[part]


def part_of(value: Any) -> str | None:
    """ "train", "validation" or "test", however it is written; None for anything else."""
    return _PARTS.get(re.sub(r"[\s_-]", "", value.lower())) if isinstance(value, str) else None


def as_flag(value: Any) -> bool | None:
    """True for 1, true, or nothing said; False for 0 and false; None for what is neither."""
    return True if value in (None, "") else {0.0: False, 1.0: True}.get(as_number(value))  # type: ignore[arg-type]


def wanted(table: RawTable, mapping: Mapping[str, str], role: str | None) -> Wanted:
    """What decides about the rows of this file, which is "train" or "test" of two files, or (None) the only one."""
    decide = Wanted(weights=[name for name in _named(table, mapping, _WEIGHTS) if _is_weight(table, name)])
    if (keep := mapping.get("keep", "all")) != "all":
        column, least = re.fullmatch(r"(.*?)(?:\s*>=\s*([-+.\d]+))?", keep, re.DOTALL).groups()  # type: ignore[union-attr]
        if column not in table.columns or as_number(least or 0) is None:
            raise UsageError(
                f"'{keep}' cannot say which rows to keep.", hint="Name a column of true and false, or a limit: --column 'keep=score>=4'"
            )
        decide.mark, decide.least = column, as_number(least)
    column = split_column(table, mapping)
    sides = _sides(_parts(table, column), role) if column else {}
    if column and sides:
        decide.split, decide.sides = column, sides
        decide.notes.append("the file says which rows are train and test, and that was kept")
        if "validation" in sides:
            decide.notes.append("its validation rows are the test part: it has no test rows")
    elif column:
        decide.notes.append("the file marks every row as a training row, so a test part was frozen from them")
    return decide


def doubt(table: RawTable, mapping: Mapping[str, str], role: str | None) -> tuple[str, dict[str, str]] | None:
    """What only the user can decide: a question, and the mapping that answers it with yes."""
    column = split_column(table, mapping)
    parts = _parts(table, column) if column else Counter()
    if column and role != "test" and "train" not in parts and parts.keys() & {"test", "validation"}:
        rows = sum(n for part, n in parts.items() if part)
        question = f"'{column}' marks {rows:,} rows as test rows and none as training rows. Freeze a new test part from all of them?"
        return question, {"split": "none"}
    if "keep" in mapping:
        return None
    for name in _named(table, mapping, _MARKS):
        counts: Counter[bool | None] = Counter()
        for value, n in table.tallies[name].counts.items():
            counts[as_flag(value)] += n
        if counts[False] and not counts[None]:
            question = f"'{name}' marks {counts[False]:,} of {counts.total():,} answers as bad. Learn the others only?"
            return question, {"keep": name}
    for name in _named(table, mapping, _SCORES):
        tally = table.tallies[name]
        if tally.numbers + tally.counts[None] == tally.rows and tally.low < tally.high:
            least = (tally.low + tally.high) / 2
            question = f"'{name}' rates the rows from {tally.low:g} to {tally.high:g}. Learn those of at least {least:g} only?"
            return question, {"keep": f"{name}>={least:g}"}
    return None


def _named(table: RawTable, mapping: Mapping[str, str], names: tuple[str, ...]) -> list[str]:
    """The columns of these names, in whatever case, that are used for nothing else."""
    used = set(mapping.values())
    return [column for name in names for column in table.tallies if column.lower() == name and column not in used]


def _is_weight(table: RawTable, column: str) -> bool:
    tally = table.tallies[column]
    sure = column.lower() in _WEIGHTS[:2]
    return sure or (tally.numbers + tally.counts[None] == tally.rows and tally.numbers > 0 and 0 <= tally.low and tally.high <= 1)


def split_column(table: RawTable, mapping: Mapping[str, str]) -> str | None:
    """The column that says which part a row belongs to, as told or by its name and values."""
    told = mapping.get("split")
    if told is not None:
        return None if told == "none" else told
    others = {role: column for role, column in mapping.items() if role != "keep"}
    for name in _named(table, others, _SPLITS):
        parts = _parts(table, name)
        if any(part for part in parts) or (name.lower().endswith("split") and set(table.tallies[name].counts) != {None}):
            return name
    return None


def _parts(table: RawTable, column: str) -> Counter[str | None]:
    parts: Counter[str | None] = Counter()
    for value, n in table.tallies[column].counts.items() if column in table.tallies else ():
        parts[part_of(value)] += n
    return parts


def _sides(parts: Counter[str | None], role: str | None) -> dict[str, str]:
    """part -> side, for the parts that are used."""
    if role == "test":  # a file that was given as the test part
        return {next((part for part in ("test", "validation", "train") if part in parts), "test"): "test"}
    if role == "train":
        return {"train": "train"}
    if parts.keys() == {"train"}:
        return {}
    return {"train": "train", **({"test": "test"} if "test" in parts or "validation" not in parts else {"validation": "test"})}
