"""From a file to checked rows in memory. Nothing here touches the disk, so nothing can be half done."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.data.checks import KINDS, Finding, Report, RowLength, check
from workbench.data.formats import Parsed, read_rows
from workbench.data.rows import Row, content_of, dumps, uses_tools
from workbench.data.source import shown
from workbench.data.split import split_rows
from workbench.errors import DataError, UsageError

__all__ = ["Prepared", "Reading", "prepare", "refuse"]

_LISTED = 20  # problems an error message lists; `workbench data check` lists them all


@dataclass(frozen=True)
class Reading:
    """How to read the files: everything the user can say about them."""

    form: str | None = None
    mapping: Mapping[str, str] | None = None
    raw: bool = False
    system: str | None = None
    drop: Sequence[str] = ()


@dataclass(frozen=True)
class Prepared:
    """Rows, each with its `split` where a file or a test file decided it, and what the check found."""

    rows: list[Row]
    report: Report
    split_known: bool


def prepare(
    file: Path,
    reading: Reading,
    *,
    test_file: Path | None = None,
    test_rows: int | None = None,
    measure: Callable[[Sequence[Row]], Sequence[RowLength]] | None = None,
) -> Prepared:
    """Read, convert and check; leave out what `reading.drop` names. Raises `DataError` and `UsageError`.

    With a test file, `test_rows` takes only so many of its rows; the others are used for nothing.
    """
    if unknown := [kind for kind in reading.drop if kind not in KINDS]:
        raise UsageError(f"'{unknown[0]}' is no kind of bad row.", hint=f"There are: {', '.join(KINDS)}.")
    parts = [_read(file, reading)]
    if test_file is not None:
        parts.append(_read(test_file, reading))
        parts = _as_train_and_test(parts, test_rows)
    rows = [row for part in parts for row in part.rows]
    lines = [line for part in parts for line in part.lines]
    names = [shown(path.name) for path in (file, test_file) if path is not None]
    files = [name for name, part in zip(names, parts, strict=True) for _ in part.rows] if test_file else None
    broken = [
        Finding(f.kind, f.row, f.message, name if test_file else "") for name, part in zip(names, parts, strict=True) for f in part.problems
    ]
    dropped = {kind: n for kind in reading.drop if (n := sum(f.kind == kind for f in broken))}
    report = check(rows, lines=lines, files=files, measure=measure)
    while out := _to_drop(rows, report, reading.drop):
        for kind in out.values():
            dropped[kind] = dropped.get(kind, 0) + 1
        kept = [i for i in range(len(rows)) if i not in out]
        rows, lines = [rows[i] for i in kept], [lines[i] for i in kept]
        files = [files[i] for i in kept] if files else None
        report = check(rows, lines=lines, files=files, measure=measure)
    report.problems = [f for f in broken if f.kind not in reading.drop] + report.problems
    report.problems.sort(key=lambda f: (f.file == names[-1] and len(names) > 1, f.row or 0))
    report.dropped = dropped
    report.notes = [*dict.fromkeys(note for part in parts for note in part.notes)]
    return Prepared(rows, report, bool(rows) and "split" in rows[0])


def _to_drop(rows: Sequence[Row], report: Report, drop: Sequence[str]) -> dict[int, str]:
    """Position -> kind of every row that is to be left out."""
    out = {i: "tool_use" for i, row in enumerate(rows) if uses_tools(row)} if "tool_use" in drop else {}
    found = [f for f in [*report.warnings, *report.problems] if f.kind in drop]
    return {**out, **{f.index: f.kind for f in found if f.index is not None}}


def _read(file: Path, reading: Reading) -> Parsed:
    return read_rows(file, mapping=reading.mapping, form=reading.form, raw=reading.raw, system=reading.system)


def _as_train_and_test(parts: list[Parsed], test_rows: int | None) -> list[Parsed]:
    forms = [{row["form"] for row in part.rows} for part in parts]
    if forms[0] and forms[1] and forms[0] != forms[1]:
        raise UsageError(f"The file holds {forms[0].pop()} rows, the test file {forms[1].pop()} rows.", hint="Give both in one form.")
    train, test = parts
    for row in train.rows:
        row["split"] = "train"
    for row in test.rows:
        row["split"] = "test"
    if test_rows is not None and test_rows < len(test.rows):
        order = sorted(range(len(test.rows)), key=lambda i: (hashlib.sha256(dumps(content_of(test.rows[i])).encode()).digest(), i))
        kept = sorted(order[:test_rows])
        note = f"{len(test.rows) - test_rows:,} rows of the test file were left out: {test_rows:,} were asked for"
        test = Parsed([test.rows[i] for i in kept], [test.lines[i] for i in kept], test.problems, [*test.notes, note], test.recognised)
    return [train, test]


def assign_sides(prepared: Prepared, *, share: float, test_rows: int | None) -> list[Row]:
    """Every row with its `split`: as the files say, else by `split_rows`. Notes in the report what was given up."""
    if prepared.split_known:
        return prepared.rows
    split = split_rows(prepared.rows, share=share, test_rows=test_rows, groups=prepared.report.groups)
    if split.note:
        prepared.report.notes.append(split.note)
    return [{**row, "split": side} for row, side in zip(prepared.rows, split.sides, strict=True)]


def refuse(file: Path, prepared: Prepared) -> None:
    """Raise one `DataError` if any problem is left, naming the rows and the options that leave them out."""
    report = prepared.report
    if report.problems:
        kinds = [kind for kind in KINDS if any(f.kind == kind for f in report.problems)]
        listed = [str(f) for f in report.problems[:_LISTED]]
        if len(report.problems) > _LISTED:
            listed.append(f"and {len(report.problems) - _LISTED:,} more; all of them: workbench data check {shown(file)}")
        count = f"{len(report.problems):,} problem" + ("s" if len(report.problems) > 1 else "")
        drops = " ".join(f"--drop {kind}" for kind in kinds)
        raise DataError(f"{shown(file.name)} was not added: {count}.", listed, hint=f"Mend the file, or leave those rows out: {drops}")
    if not prepared.rows:
        raise DataError(f"{shown(file.name)} was not added: no row is left.", hint="Drop fewer kinds of rows.")
    if prepared.split_known and not any(row["split"] == "train" for row in prepared.rows):
        raise DataError(f"{shown(file.name)} was not added: no row is left to train on.", hint="Drop fewer kinds of rows.")
