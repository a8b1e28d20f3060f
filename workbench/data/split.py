"""The frozen test part: chosen by content, so that the same rows land on the same side wherever they stand in the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from workbench.data.rows import Row, subject_of
from workbench.data.similar import Likeness, normalise
from workbench.errors import UsageError

__all__ = ["Split", "split_rows", "wanted_test_rows"]


@dataclass(frozen=True)
class Split:
    """`sides[i]` is "train" or "test"; `note` says in words what had to be given up, if anything."""

    sides: list[str]
    note: str = ""

    @property
    def test_rows(self) -> int:
        return self.sides.count("test")


def wanted_test_rows(rows: int, *, share: float = 0.1, test_rows: int | None = None) -> int:
    """How many test rows to aim for: `test_rows` if given, else `share` of the rows, at least 20 where there are 100.

    Raises `UsageError` when that leaves no row to train on.
    """
    if test_rows is None:
        if not 0 <= share < 1:
            raise UsageError(
                f"A test part of {share} of the rows cannot be.", hint="Give a share from 0 up to, not including, 1, such as 0.1."
            )
        wanted = round(share * rows)
        if share > 0 and rows >= 2:
            wanted = max(wanted, 20 if rows >= 100 else 1)
    else:
        wanted = test_rows
    if wanted < 0 or (rows and wanted >= rows):
        raise UsageError(f"{wanted} test rows of {rows} leave nothing to train on.", hint="Ask for fewer test rows.")
    return wanted


def _likeness(rows: Sequence[Row]) -> Likeness:
    likeness = Likeness()
    for row in rows:
        likeness.add(normalise(subject_of(row)))
    return likeness


def split_rows(rows: Sequence[Row], *, share: float = 0.1, test_rows: int | None = None, likeness: Likeness | None = None) -> Split:
    """Choose the test part: whole groups of alike rows, in the order of a hash of their content, until there are enough.

    Adding rows to a file moves few of the old ones to another side. Raises `UsageError` for an impossible wish.
    """
    wanted = wanted_test_rows(len(rows), share=share, test_rows=test_rows)
    if likeness is None:
        likeness = _likeness(rows)
    sides = _choose(likeness.keys, likeness.near, wanted)
    if sides.count("test") >= max(1, 0.8 * wanted) or wanted == 0:
        return Split(sides)
    exact = _choose(likeness.keys, likeness.same, wanted)
    if exact.count("test") <= sides.count("test"):
        return Split(sides, f"only {sides.count('test')} of {wanted} test rows could be kept apart: most rows repeat each other")
    return Split(exact, "the rows are so alike that near-duplicates had to be let onto both sides; equal questions were kept apart")


def _choose(keys: Sequence[int], groups: Sequence[int], wanted: int) -> list[str]:
    sizes = Counter(groups)
    first: dict[int, int] = {}
    for key, group in zip(keys, groups, strict=True):
        first[group] = min(key, first.get(group, key))
    left = wanted
    chosen = set()
    # A group larger than half of what is wanted stays in training: a test part of one repeated question measures nothing.
    for group in sorted(sizes, key=lambda g: (first[g], g)):
        if sizes[group] <= left and (sizes[group] == 1 or 2 * sizes[group] <= wanted):
            chosen.add(group)
            left -= sizes[group]
        if not left:
            break
    return ["test" if group in chosen else "train" for group in groups]
