"""Published scores of copied adapters (published.yaml), and ours beside them: the recovered lift, and the verdict of the rule.

    python -m benchmarks.published                   or: make tables, which writes docs/published.md
    python -m benchmarks.published --cells FILE      cells of your own, in the same form

Published cells are means: row scores are gone, so the arms count as independent, which widens the intervals, since scores of the same
questions usually rise and fall together.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field
from scipy.stats import binomtest

from workbench.cli.output import say, table
from workbench.rebase.contrasts import SMALLEST_LIFT, differences
from workbench.rebase.result import Contrasts, Settings
from workbench.rebase.rule import Decision, decide
from workbench.stats import Interval, weights

FILE = Path(__file__).with_name("published.yaml")

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


class Cells(BaseModel):
    model_config = ConfigDict(extra="forbid")

    cells: list[Cell] = Field(min_length=1)


@dataclass(frozen=True)
class Compared:
    """A published cell and ours beside it."""

    cell: Cell
    recovered: float | None  # None: no reference, or too small a lift to divide by
    verdict: Decision | None  # None: the source lacks an arm, or the number of questions

    @property
    def agrees(self) -> bool | None:
        """Whether every published number and expected word is met; None where there is nothing to compare with."""
        met = []
        if self.cell.recovered is not None and self.recovered is not None:
            met.append(abs(self.cell.recovered - self.recovered) <= 0.006)  # printed to two or three digits from rounded scores
        if self.cell.expected is not None:
            verdict = self.verdict
            met.append(verdict is not None and (verdict.word, verdict.absorbed) == (self.cell.expected, self.cell.absorbed))
        return all(met) if met else None


def read_cells(file: Path = FILE) -> list[Cell]:
    """The cells beside this module, or those of a file of the same form. Raises pydantic's `ValidationError` naming what is wrong."""
    return Cells.model_validate(yaml.safe_load(file.read_text(encoding="utf-8"))).cells


def recovered_lift(new_adapter: float, new: float, reference: float) -> float | None:
    """R = (s(B+a) - s(B)) / (s(B+a*) - s(B)): the share of what retraining buys that the copy gives (UpgradeBench, PorTAL).

    None where retraining itself buys no more than `SMALLEST_LIFT`: dividing by next to nothing says nothing.
    """
    return None if reference - new <= SMALLEST_LIFT else (new_adapter - new) / (reference - new)


def compare(cells: Sequence[Cell]) -> list[Compared]:
    """Ours beside each cell."""
    return [
        Compared(cell, None if cell.reference is None else recovered_lift(cell.new_adapter, cell.new, cell.reference), _verdict(cell))
        for cell in cells
    ]


def _verdict(cell: Cell) -> Decision | None:
    if cell.home is None or cell.home_adapter is None or cell.n is None:
        return None
    return judge([cell.home, cell.home_adapter, cell.new, cell.new_adapter], cell.n)


def judge(shares: Sequence[float], n: int, settings: Settings | None = None) -> Decision:
    """The rule on four shares of right answers to the same `n` questions, in the order of `contrasts.ARMS`."""
    settings = settings or Settings()
    intervals = {name: independent(-weights(parts, 4), shares, n) for name, parts in differences(settings.delta).items()}
    return decide({"right": Contrasts(**intervals)}, settings)


def independent(factors: Sequence[float], shares: Sequence[float], n: int) -> Interval:
    """Interval of a weighted sum of independent shares, each over `n` draws: squares of the distances to each share's Wilson bounds,
    added up (MOVER; Zou & Donner 2008, doi 10.1002/sim.3095; for a difference of two this is Newcombe's 1998 method 10)."""
    value, below, above = 0.0, 0.0, 0.0
    for factor, share in zip(factors, shares, strict=True):
        wilson = binomtest(round(share * n), n).proportion_ci(method="wilson")
        ends = factor * wilson.low, factor * wilson.high
        value += factor * share
        below += (factor * share - min(ends)) ** 2
        above += (max(ends) - factor * share) ** 2
    return Interval(value, value - math.sqrt(below), value + math.sqrt(above), "independent")


# ---------------------------------------------------------------- the table

_HEAD = ("copy", "n", "old", "new", "retrained", "R ours", "R theirs", "verdict", "expected")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=Path, default=FILE, metavar="FILE")
    compared = compare(read_cells(parser.parse_args().cells))
    papers = {each.cell.paper: f", arXiv {each.cell.arxiv}" if each.cell.arxiv else "" for each in compared}
    for paper, where in papers.items():
        say(f"{paper}{where}")
        table(_HEAD, [_row(each) for each in compared if each.cell.paper == paper], right=_HEAD[1:7])
        say()
    say("Shares in per cent; old and new: bare base -> with the adapter. R, recovered lift: the share of the gain of retraining.")
    say("Published cells are means: the arms count as independent, which widens the intervals. No verdict where an arm or n is missing.")
    for each in compared:
        if each.agrees is False:
            say(f"Not as published or expected: {each.cell.name}.")


def _row(compared: Compared) -> tuple[str, ...]:
    cell, verdict = compared.cell, compared.verdict
    return (
        cell.name,
        f"{cell.n:,}" if cell.n else "",
        _arrow(cell.home, cell.home_adapter),
        _arrow(cell.new, cell.new_adapter),
        "" if cell.reference is None else f"{100 * cell.reference:.1f}",
        "" if compared.recovered is None else f"{compared.recovered:+.3f}",
        "" if cell.recovered is None else f"{cell.recovered:+.3f}",
        "" if verdict is None else _word(verdict.word, verdict.absorbed),
        "" if cell.expected is None else _word(cell.expected, cell.absorbed),
    )


def _arrow(bare: float | None, adapter: float | None) -> str:
    return "" if adapter is None else f"{'?' if bare is None else f'{100 * bare:.1f}'} -> {100 * adapter:.1f}"


def _word(word: str, absorbed: bool) -> str:
    return f"{word} (absorbed)" if absorbed else word


if __name__ == "__main__":
    main()
