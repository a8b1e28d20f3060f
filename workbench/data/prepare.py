"""From a file to checked rows and a written dataset. Runs in a child process with limits: what is read is foreign."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.data.checks import KINDS, Finding, Report, check
from workbench.data.formats import read_rows
from workbench.data.rows import Row, RowFile, assign_ids, content_of, dumps, uses_tools
from workbench.data.source import shown
from workbench.data.split import split_rows
from workbench.errors import DataError, UsageError

__all__ = ["Prepared", "Reading", "check_files", "prepare", "write_rows", "write_set"]

_LISTED = 20  # problems an error message lists; `workbench data check` lists more


@dataclass(frozen=True)
class Reading:
    """How to read the files: everything the user can say about them."""

    form: str | None = None
    mapping: Mapping[str, str] | None = None
    raw: bool = False
    system: str | None = None
    drop: Sequence[str] = ()


@dataclass
class Prepared:
    """Rows, each with its `split` where a file or a test file decided it, where they came from, and what the check found."""

    rows: RowFile
    lines: array[int] = field(default_factory=lambda: array("L"))
    files: list[str] | None = None  # named only when there are two
    report: Report = field(default_factory=Report)
    source: dict[str, str] = field(default_factory=dict)  # names and hashes of the files

    @property
    def split_known(self) -> bool:
        return len(self.rows) > 0 and "split" in self.rows[0]

    def select(self, kept: Sequence[int]) -> None:
        self.rows, self.lines = self.rows.select(kept), array("L", (self.lines[i] for i in kept))
        self.files = [self.files[i] for i in kept] if self.files else None


def prepare(file: Path, reading: Reading, rows: RowFile, *, test_file: Path | None = None, test_rows: int | None = None) -> Prepared:
    """Read into `rows`, convert and check; leave out what `reading.drop` names. Raises `DataError` and `UsageError`.

    With a test file, `test_rows` takes only so many of its rows; the others are used for nothing.
    """
    if unknown := [kind for kind in reading.drop if kind not in KINDS]:
        raise UsageError(f"'{unknown[0]}' is no kind of bad row.", hint=f"There are: {', '.join(KINDS)}.")
    found, early, dropped = Prepared(rows), Report(), dict[str, int]()
    _read(file, reading, found, early, dropped, role="train" if test_file else None)
    if test_file is not None:
        _read(test_file, reading, found, early, dropped, role="test")
        _take_test_rows(found, early, test_rows)
    while True:
        out: dict[int, str] = {i: "tool_use" for i, row in enumerate(found.rows) if uses_tools(row)} if "tool_use" in reading.drop else {}

        def watch(finding: Finding, out: dict[int, str] = out) -> None:
            if finding.kind in reading.drop and finding.index is not None:
                out[finding.index] = finding.kind

        report = check(found.rows, lines=found.lines, files=found.files, watch=watch)
        if not out:
            break
        for kind in out.values():
            dropped[kind] = dropped.get(kind, 0) + 1
        found.select([i for i in range(len(found.rows)) if i not in out])
    report.problems = sorted([*early.problems, *report.problems], key=lambda f: (f.file == found.source.get("test_file"), f.row or 0))
    report.warnings = [*early.warnings, *report.warnings]
    report.found += early.found
    report.dropped = dropped
    report.notes = [*dict.fromkeys(early.notes)]
    found.report = report
    return found


def _read(file: Path, reading: Reading, found: Prepared, early: Report, dropped: dict[str, int], *, role: str | None) -> None:
    """Add the rows of one file to `found`, and what its reader had to say to `early`."""
    of = dataclasses.asdict(reading)
    of.pop("drop")
    part = read_rows(file, **of, role=role, into=found.rows)
    name, key = shown(file.name), "test_" if role == "test" else ""
    found.source |= {f"{key}file": name, f"{key}sha256": part.sha256}
    if role is not None:
        found.files = [*(found.files or []), *[name] * len(part.lines)]
    forms = {found.rows[i]["form"] for i in (0, len(found.lines)) if part.lines and i < len(found.rows)}
    if len(forms) > 1:
        raise UsageError(
            f"The file holds {found.rows[0]['form']} rows, the test file {found.rows[-1]['form']} rows.", hint="Give both in one form."
        )
    found.lines.extend(part.lines)
    for kind, n in part.report.found.items():
        if kind in reading.drop and KINDS[kind][0]:
            dropped[kind] = dropped.get(kind, 0) + n
        else:
            early.found[kind] += n
    for listed, findings in ((early.problems, part.report.problems), (early.warnings, part.report.warnings)):
        listed += [dataclasses.replace(f, file=name if role else "") for f in findings if f.kind in early.found]
    early.notes += part.notes


def _take_test_rows(found: Prepared, early: Report, most: int | None) -> None:
    """Keep at most so many rows of the test file, chosen by their content."""
    tests = [i for i, row in enumerate(found.rows) if row["split"] == "test"]
    if most is not None and most < len(tests):
        order = sorted(tests, key=lambda i: (hashlib.sha256(dumps(content_of(found.rows[i])).encode("utf-8", "surrogatepass")).digest(), i))
        out = set(order[most:])
        found.select([i for i in range(len(found.rows)) if i not in out])
        early.notes.append(f"{len(out):,} rows of the test file were left out: {most:,} were asked for")


@contextlib.contextmanager
def _spool(folder: Path) -> Iterator[RowFile]:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            yield RowFile(file)
    except OSError as error:
        raise DataError(f"The rows cannot be written to the disk: {error.strerror}.", hint="Free some space: workbench prune") from None


def check_files(file: Path, reading: Reading, folder: Path, *, test_file: Path | None, keep: Path | None) -> Report:
    """Check as `write_set` would. With `keep`, write there `[line, file, row]` of every row without a problem, one a line."""
    with _spool(folder) as rows:
        found = prepare(file, reading, rows, test_file=test_file)
        if keep is not None:
            bad = {f.index for f in found.report.problems}  # a chat template may refuse these
            names = found.files or [""] * len(found.rows)
            with keep.open("w", encoding="utf-8", errors="surrogatepass") as out:
                for i, (line, name, row) in enumerate(zip(found.lines, names, found.rows, strict=True)):
                    if i not in bad:
                        out.write(dumps([line, name, row]) + "\n")
        found.report.likeness = None
        return found.report


def write_set(
    file: Path, reading: Reading, folder: Path, *, test_file: Path | None, share: float | None, test_rows: int | None, to: Path
) -> tuple[Report, dict[str, str], dict[str, Any]]:
    """Read, check and split the files and write the rows to `to`: (what the check found, names and hashes, `write_rows`).

    Raises `DataError` (listing the rows at fault) and `UsageError`; then nothing was written.
    """
    with _spool(folder) as rows:
        found = prepare(file, reading, rows, test_file=test_file, test_rows=test_rows)
        _refuse(file, found)
        facts = write_rows(_with_sides(found, share, test_rows), to)
        found.report.likeness = None
        return found.report, found.source, facts


def _with_sides(found: Prepared, share: float | None, test_rows: int | None) -> Iterable[Row]:
    """Every row with its `split`: as the files say, else by `split_rows`. Notes in the report what was given up."""
    if found.split_known:
        if "test_file" in found.source:
            if share is not None:
                raise UsageError("The test file is the test part, so no share can be asked for.", hint="Leave out --test-share.")
        elif test_rows is not None or share is not None:
            raise UsageError(
                "The file says which rows are its test part, so no number or share of test rows can be asked for.",
                hint="To freeze a part of your own, add: --column split=none",
            )
        return found.rows
    split = split_rows(found.rows, share=0.1 if share is None else share, test_rows=test_rows, likeness=found.report.likeness)
    if split.note:
        found.report.notes.append(split.note)
    return ({**row, "split": side} for row, side in zip(found.rows, split.sides, strict=True))


def write_rows(rows: Iterable[Row], to: Path) -> dict[str, Any]:
    """Write canonical rows, which carry `split`, as a data.jsonl; ids are given here. Returns hash, counts and form."""
    digest, sides, form = hashlib.sha256(), {"train": 0, "test": 0}, "messages"
    with to.open("wb") as out:
        for row in assign_ids(rows):
            line = (dumps(row) + "\n").encode()
            digest.update(line)
            out.write(line)
            sides[row["split"]] += 1
            form = row["form"]
    return {
        "format": 1,
        "sha256": digest.hexdigest(),
        "rows": sum(sides.values()),
        "train_rows": sides["train"],
        "test_rows": sides["test"],
        "form": form,
    }


def _refuse(file: Path, found: Prepared) -> None:
    """Raise one `DataError` if any problem is left, naming the rows and the options that leave them out."""
    report, name = found.report, shown(file.name)
    if n := report.blocking:
        kinds = [kind for kind in report.counts if KINDS[kind][0]]
        listed = [str(f) for f in report.problems[:_LISTED]]
        if n > len(listed):
            listed.append(f"and {n - len(listed):,} more; to see them: workbench data check {name}")
        hint = f"Mend the file, or leave those rows out: {' '.join(f'--drop {kind}' for kind in kinds)}"
        if "split" in kinds:
            hint += "\nOr freeze a test part of your own, whatever the file says: --column split=none"
        raise DataError(f"{name} was not added: {n:,} problem{'s' if n > 1 else ''}.", listed, hint=hint)
    if not len(found.rows):
        raise DataError(f"{name} was not added: no row is left.", hint="Drop fewer kinds of rows.")
    if found.split_known and not any(row["split"] == "train" for row in found.rows):
        raise DataError(f"{name} was not added: no row is left to train on.", hint="Drop fewer kinds of rows.")
