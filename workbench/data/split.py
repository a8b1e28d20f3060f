"""The frozen test part: chosen by content, so that the same rows land on the same side wherever they stand in the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from workbench.data.rows import Row, subject_of
from workbench.data.similar import Likeness, normalise
from workbench.errors import UsageError

__all__ = ["Split", "split_rows"]


class Split(NamedTuple):
    """`sides[i]` is "train" or "test"; `note` says in words what had to be given up, if anything."""

    sides: list[str]
    note: str = ""


def split_rows(rows: Sequence[Row], *, share: float = 0.1, test_rows: int | None = None, likeness: Likeness | None = None) -> Split:
    """Choose the test part: whole groups of alike rows, in the order of a hash of their content, until there are enough.

    That is `test_rows`, else `share` of the rows, at least 20 where there are 100. Adding rows to a file moves few of the old ones
    to another side. Raises `UsageError` for an impossible wish.
    """
    wanted = _wanted(len(rows), share) if test_rows is None else test_rows
    if wanted < 0 or (rows and wanted >= len(rows)):
        raise UsageError(f"{wanted} test rows of {len(rows)} leave nothing to train on.", hint="Ask for fewer test rows.")
    if likeness is None:
        likeness = Likeness(normalise(subject_of(row)) for row in rows)
    near = _choose(likeness.keys, likeness.near, wanted)
    if near.count("test") >= max(1, 0.8 * wanted) or wanted == 0:
        return Split(near)
    same = _choose(likeness.keys, likeness.same, wanted)
    if same.count("test") <= near.count("test"):
        return Split(near, f"only {near.count('test')} of {wanted} test rows could be kept apart: most rows repeat each other")
    return Split(same, "the rows are so alike that near-duplicates had to be let onto both sides; equal questions were kept apart")


def _wanted(rows: int, share: float) -> int:
    if not 0 <= share < 1:
        raise UsageError(f"A test part of {share} of the rows cannot be.", hint="Give a share from 0 up to, not including, 1, such as 0.1.")
    least = (20 if rows >= 100 else 1) if share > 0 and rows >= 2 else 0
    return max(round(share * rows), least)


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
