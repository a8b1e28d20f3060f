"""Published scores of copied adapters, and what the rule of this repository says about them. The cells are in published.yaml.

Published cells are means: without row scores the arms count as independent, which widens the intervals (verdict.judge_cells).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workbench.errors import DataError, NotFound
from workbench.rebase.result import Settings, Verdict
from workbench.rebase.verdict import judge_cells

__all__ = ["Cell", "Compared", "compare", "read_cells", "recovered_lift"]

FILE = Path(__file__).with_name("published.yaml")
_SMALL = 0.02  # a lift of two points or less is no denominator

Share = Annotated[float, Field(ge=0, le=1)]
Word = Literal["works", "not needed", "no gain at home", "too close to tell", "weaker", "lost", "does harm"]


class Cell(BaseModel):
    """One published copy, as shares between 0 and 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    paper: str = Field(min_length=1)
    arxiv: str | None = Field(default=None, pattern=r"^\d{4}\.\d{4,5}$")
    table: str = ""  # where in it
    n: int | None = Field(default=None, ge=1)  # test questions
    home: Share | None = None
    home_adapter: Share | None = None
    new: Share
    new_adapter: Share
    reference: Share | None = None  # trained anew on the new base
    recovered: float | None = None  # as the source prints it
    expected: Word | None = None  # what the rule is to say
    absorbed: bool = False
    says: str = ""  # the source's own reading


class _Cells(BaseModel):
    model_config = ConfigDict(extra="forbid")

    cells: list[Cell] = Field(min_length=1)


@dataclass(frozen=True)
class Compared:
    """A published cell and ours beside it."""

    cell: Cell
    recovered: float | None  # None: no reference, or too small a lift to divide by
    verdict: Verdict | None  # None: the source lacks an arm, or the number of questions
    as_written: Verdict | None  # by the rule as first written

    @property
    def agrees(self) -> bool | None:
        """Whether every published number and expected word is met; None where there is nothing to compare with."""
        met = []
        if self.cell.recovered is not None and self.recovered is not None:
            met.append(abs(self.cell.recovered - self.recovered) <= 0.006)  # printed to two or three digits from rounded scores
        if self.cell.expected is not None:
            found = self.verdict
            met.append(found is not None and (found.word, found.absorbed) == (self.cell.expected, self.cell.absorbed))
        return all(met) if met else None


def read_cells(path: Path | None = None) -> list[Cell]:
    """The cells shipped with the workbench, or those of a file of the same form.

    Raises `NotFound` without a file, `DataError` listing everything that is wrong with it.
    """
    file = path or FILE
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFound(f"There is no file {file}.", hint=_FORM) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file.name} cannot be read: {error}.", hint=_FORM) from None
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise DataError(f"{file.name} is not YAML: {' '.join(str(error).split())}.", hint=_FORM) from None
    try:
        return _Cells.model_validate(data).cells
    except ValidationError as error:
        raise DataError(f"{file.name} does not hold published cells.", [_problem(e, data) for e in error.errors()], hint=_FORM) from None


_FORM = (
    "The form: 'cells:' and below it a list with name, paper, new and new_adapter (shares from 0 to 1); "
    "and, where known, home, home_adapter, reference, n, recovered, expected."
)


def _problem(error: object, data: object) -> str:
    """`cell 2 (M3 to M5), new_adapter: Input should be less than or equal to 1, found 70.3`."""
    assert isinstance(error, dict)
    where = [part for part in error["loc"] if part != "cells"]
    found = "" if error["type"] in ("missing", "extra_forbidden") or not where else f", found {error['input']!r}"
    if where and isinstance(where[0], int):
        entry = data["cells"][where[0]] if isinstance(data, dict) else None
        name = f" ({entry['name']})" if isinstance(entry, dict) and "name" in entry else ""
        where = [f"cell {where[0] + 1}{name}", *where[1:]]
    return f"{', '.join(map(str, where)) or 'the file'}: {error['msg']}{found[:60]}"


def recovered_lift(new_adapter: float, new: float, reference: float, *, smallest: float = _SMALL) -> float | None:
    """R = (s(B+a) - s(B)) / (s(B+a*) - s(B)): the share of what retraining buys that the copy gives (UpgradeBench, PorTAL).

    None where retraining itself buys no more than `smallest`: dividing by next to nothing says nothing.
    """
    return None if reference - new <= smallest else (new_adapter - new) / (reference - new)


def compare(cells: Sequence[Cell], settings: Settings | None = None) -> list[Compared]:
    """Ours beside each cell, by the rule in use and by the rule as first written."""
    chosen = settings or Settings()
    return [
        Compared(
            cell,
            None if cell.reference is None else recovered_lift(cell.new_adapter, cell.new, cell.reference),
            _verdict(cell, chosen, "guarded"),
            _verdict(cell, chosen, "first"),
        )
        for cell in cells
    ]


def _verdict(cell: Cell, settings: Settings, rule: str) -> Verdict | None:
    if cell.home is None or cell.home_adapter is None or cell.n is None:
        return None
    arms = {"home": cell.home, "home_adapter": cell.home_adapter, "new": cell.new, "new_adapter": cell.new_adapter}
    return judge_cells(**arms, n=cell.n, settings=settings, rule=rule)
