"""From files to checked rows and a written dataset. Runs in a child process with limits: what is read is foreign."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import tempfile
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.data.checks import BLOCKING, KINDS, Finding, Report, check, sound_rows
from workbench.data.convert import Context
from workbench.data.formats import FORMATS, recognise_table
from workbench.data.readers import read_table
from workbench.data.rows import Row, RowFile, assign_ids, content_of, dumps, texts_of
from workbench.data.split import split_rows
from workbench.data.table import RawRow, RowError
from workbench.data.wanted import WATCHED, LeftOut, Wanted, wanted
from workbench.errors import DataError, UsageError
from workbench.foreign import shown

__all__ = ["Prepared", "Reading", "add_file", "check_files", "prepare", "write_rows", "write_set"]

_SHOWN = 20  # problems an error message lists; `workbench data check` lists more
_MEDIA = ("image", "video", "audio")


@dataclass(frozen=True)
class Reading:
    """How to read the files: everything the user can say about them."""

    form: str | None = None
    mapping: Mapping[str, str] | None = None
    raw: bool = False  # prompt and completion stay as they are, and no chat template is used
    system: str | None = None  # in front of every row that has no system message of its own
    drop: Sequence[str] = ()  # kinds of bad rows that are left out


@dataclass
class Prepared:
    """Rows, each with its `line`, its `file` when there are two, and its `split` where one of them decided it; and what was found."""

    rows: Any  # a `RowFile`, or a list
    report: Report = field(default_factory=Report)
    source: dict[str, str] = field(default_factory=dict)  # names and hashes of the files

    @property
    def split_known(self) -> bool:
        return len(self.rows) > 0 and "split" in self.rows[0]

    def leave_out(self, out: Container[int]) -> None:
        self.rows = self.rows.select(i for i in range(len(self.rows)) if i not in out)


# ---------------------------------------------------------------- from a file to canonical rows


def add_file(file: Path, reading: Reading, prepared: Prepared, *, role: str | None = None) -> None:
    """Read and convert a file and add its rows, and what was noticed on the way, to `prepared`.

    `role` is "train" or "test" where that is what the whole file is given for. Raises `DataError` when it is no table or its format
    has to be asked for, `UsageError` for a wish that does not fit it.
    """
    name, report, first = shown(file.name), prepared.report, len(prepared.rows)
    table, sha256 = read_table(file, WATCHED)
    recognised = recognise_table(table, reading.mapping, reading.form, role)
    if recognised.format is None:
        raise DataError(f"{name}: {recognised.question}", hint=f"If so, add: {recognised.flags}")
    if reading.system is not None:
        if not reading.system.strip():
            raise UsageError("The system message is empty.", hint="Leave out --system.")
        if reading.raw or recognised.format == "text":
            raise UsageError("A system message belongs to a conversation; these rows have none.", hint="Leave out --system.")
    context = Context(mapping=recognised.mapping, raw=reading.raw, system=reading.system)
    decide = wanted(table, recognised.mapping, role)
    _add_rows(table.rows(), recognised.format, context, decide, prepared, role=role, name=name if role else "")
    for kind, words, counter in (("left_out", "left out", context.left), ("lost", "of", context.lost)):
        for text, n in counter.most_common():
            report.add([Finding(kind, None, f"{n:,} row{'s' if n > 1 else ''} {words}: {text}.", name if role else "")], n)
    unused = ", ".join([column for column in recognised.unused if column not in decide.columns][:12])
    notes = [f"{table.how}; {recognised.how}" + (f"; left out: {unused}" if unused else ""), *table.notes, *decide.notes]
    notes += [f"{note} ({n} times)" if n > 1 else note for note, n in context.noticed.most_common()]
    report.notes = [*dict.fromkeys([*report.notes, *notes])]
    key = "test_" if role == "test" else ""
    prepared.source |= {f"{key}file": name, f"{key}sha256": sha256}
    if 0 < first < len(prepared.rows) and (forms := [prepared.rows[i]["form"] for i in (0, first)])[0] != forms[1]:
        raise UsageError(f"The file holds {forms[0]} rows, the test file {forms[1]} rows.", hint="Give both in one form.")


def _add_rows(
    raw_rows: Iterable[RawRow], format: str, context: Context, decide: Wanted, prepared: Prepared, *, role: str | None, name: str
) -> None:
    convert, named = FORMATS[format].convert, {"file": name} if name else {}
    for line, raw in raw_rows:
        try:
            if isinstance(raw, RowError):
                raise raw
            side = decide(raw) or role
            row = convert(raw, context)
            _notice_lost(row, raw, context)
            prepared.rows.append({**row, **named, "line": line} | ({} if side is None else {"split": side}))
        except LeftOut as reason:
            context.left[str(reason)] += 1
        except (RecursionError, ValueError) as error:
            other = "is nested too deeply." if isinstance(error, RecursionError) else "holds a number that is not finite."
            kind, message = (error.kind, str(error)) if isinstance(error, RowError) else ("broken", other)
            prepared.report.add([Finding(kind, line, message, name)])


def _notice_lost(row: Row, raw: Mapping[str, Any], context: Context) -> None:
    """Pictures, sounds and rejected answers of a row are not learned from."""
    if raw.get("rejected"):
        context.lost["its rejected answer was left out"] += 1
    for text in texts_of(row):
        if "<" in text:
            for tag in _MEDIA:
                if f"<{tag}>" in text:
                    context.lost[f"its text holds <{tag}>, but the {tag} itself is not learned from"] += 1
    for tag in _MEDIA:
        for column in (tag, f"{tag}s"):
            if raw.get(column) and column not in context.mapping.values():
                context.lost[f"what its column '{column}' holds was left out"] += 1


# ---------------------------------------------------------------- checked


def prepare(file: Path, reading: Reading, rows: RowFile, *, test_file: Path | None = None, test_rows: int | None = None) -> Prepared:
    """Read into `rows`, convert and check; leave out what `reading.drop` names. Raises `DataError` and `UsageError`.

    With a test file, `test_rows` takes only so many of its rows; the others are used for nothing.
    """
    if unknown := [kind for kind in reading.drop if kind not in KINDS]:
        raise UsageError(f"'{unknown[0]}' is no kind of bad row.", hint=f"There are: {', '.join(KINDS)}.")
    prepared = Prepared(rows, report=Report(drop=reading.drop))
    add_file(file, reading, prepared, role="train" if test_file else None)
    if test_file is not None:
        add_file(test_file, reading, prepared, role="test")
        prepared.report.last = shown(test_file.name)
        _take_test_rows(prepared, test_rows)
    unchecked = prepared.report
    while True:  # what is left out changes what the rows left repeat
        prepared.report = copy.deepcopy(unchecked)
        check(prepared.rows, prepared.report)
        if not (out := prepared.report.out):
            return prepared
        unchecked.dropped.update(out.values())
        prepared.leave_out(out)


def _take_test_rows(prepared: Prepared, most: int | None) -> None:
    """Keep at most so many rows of the test file, chosen by their content."""
    tests = [i for i, row in enumerate(prepared.rows) if row["split"] == "test"]
    if most is not None and most < len(tests):
        content = {i: dumps(content_of(prepared.rows[i])).encode("utf-8", "surrogatepass") for i in tests}
        out = set(sorted(tests, key=lambda i: (hashlib.sha256(content[i]).digest(), i))[most:])
        prepared.leave_out(out)
        prepared.report.notes.append(f"{len(out):,} rows of the test file were left out: {most:,} were asked for")


@contextlib.contextmanager
def _spool(folder: Path) -> Iterator[RowFile]:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            yield RowFile(file)
    except OSError as error:
        raise DataError(f"The rows cannot be written to the disk: {error.strerror}.", hint="Free some space: workbench prune") from None


def check_files(file: Path, reading: Reading, folder: Path, *, test_file: Path | None, keep: Path | None) -> Report:
    """Check as `write_set` would. With `keep`, write there (line, file, row) of every row without a problem, one a line."""
    with _spool(folder) as rows:
        prepared = prepare(file, reading, rows, test_file=test_file)
        if keep is not None:
            with keep.open("w", encoding="utf-8", errors="surrogatepass") as out:
                for sound in sound_rows(prepared.rows, prepared.report):
                    out.write(dumps(sound) + "\n")
        prepared.report.likeness = None
        return prepared.report


# ---------------------------------------------------------------- split and written


def write_set(
    file: Path, reading: Reading, folder: Path, *, test_file: Path | None, share: float | None, test_rows: int | None, to: Path
) -> tuple[Report, dict[str, str], dict[str, Any]]:
    """Read, check and split the files and write the rows to `to`: (what the check found, names and hashes, `write_rows`).

    Raises `DataError` (listing the rows at fault) and `UsageError`; then nothing was written.
    """
    with _spool(folder) as rows:
        prepared = prepare(file, reading, rows, test_file=test_file, test_rows=test_rows)
        _refuse(file, prepared)
        facts = write_rows(_with_sides(prepared, share, test_rows), to)
        prepared.report.likeness = None
        return prepared.report, prepared.source, facts


def _with_sides(prepared: Prepared, share: float | None, test_rows: int | None) -> Iterable[Row]:
    """Every row with its `split`: as the files say, else by `split_rows`. Notes in the report what was given up."""
    rows: Sequence[Row] = prepared.rows
    if prepared.split_known:
        if "test_file" in prepared.source:
            if share is not None:
                raise UsageError("The test file is the test part, so no share can be asked for.", hint="Leave out --test-share.")
        elif test_rows is not None or share is not None:
            raise UsageError(
                "The file says which rows are its test part, so no number or share of test rows can be asked for.",
                hint="To freeze a part of your own, add: --column split=none",
            )
        return ({**content_of(row), "split": row["split"]} for row in rows)
    split = split_rows(rows, share=0.1 if share is None else share, test_rows=test_rows, likeness=prepared.report.likeness)
    if split.note:
        prepared.report.notes.append(split.note)
    return ({**content_of(row), "split": side} for row, side in zip(rows, split.sides, strict=True))


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


def _refuse(file: Path, prepared: Prepared) -> None:
    """Raise one `DataError` if any problem is left, naming the rows and the options that leave them out."""
    report, name = prepared.report, shown(file.name)
    if n := report.blocking:
        kinds = [kind for kind in report.counts if kind in BLOCKING]
        listed = [str(f) for f in report.problems[:_SHOWN]]
        if n > len(listed):
            listed.append(f"and {n - len(listed):,} more; to see them: workbench data check {name}")
        hint = f"Mend the file, or leave those rows out: {' '.join(f'--drop {kind}' for kind in kinds)}"
        if "split" in kinds:
            hint += "\nOr freeze a test part of your own, whatever the file says: --column split=none"
        raise DataError(f"{name} was not added: {n:,} problem{'s' if n > 1 else ''}.", listed, hint=hint)
    if not len(prepared.rows):
        raise DataError(f"{name} was not added: no row is left.", hint="Drop fewer kinds of rows.")
    if prepared.split_known and not any(row["split"] == "train" for row in prepared.rows):
        raise DataError(f"{name} was not added: no row is left to train on.", hint="Drop fewer kinds of rows.")
