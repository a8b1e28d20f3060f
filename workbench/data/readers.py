"""From a file of whatever kind to numbered raw rows. What is not a table of rows is refused in one sentence."""

from __future__ import annotations

import csv
import io
import json
import re
import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.data.checks import Finding
from workbench.errors import DataError

__all__ = ["Source", "read_source"]

MAX_BYTES = 2 * 1024**3
_MAX_CELL = 64 * 1024**2  # characters in one CSV cell
_MAGIC = [
    (b"\x1f\x8b", "compressed with gzip", "Unpack it first: gunzip FILE"),
    (b"BZh", "compressed with bzip2", "Unpack it first: bunzip2 FILE"),
    (b"\xfd7zXZ", "compressed with xz", "Unpack it first: unxz FILE"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "Unpack it first: unzstd FILE"),
    (b"%PDF", "a PDF", "Put its text into rows: a CSV with the columns question and answer, for example."),
    (b"SQLite format 3", "an SQLite database", "Export the table as CSV."),
    (b"ARROW1", "an Arrow file", "Save it as Parquet or JSONL."),
    (b"\x93NUMPY", "a NumPy array", "Save the rows as JSONL."),
    (b"\x89PNG", "a picture", "Give a file of rows: JSONL, JSON, CSV or Parquet."),
    (b"\xff\xd8\xff", "a picture", "Give a file of rows: JSONL, JSON, CSV or Parquet."),
    (b"\xd0\xcf\x11\xe0", "an old Office file", "Open it and save the sheet as CSV (UTF-8)."),
    (b"\x80\x02", "a Python pickle, which could run code and is never opened", "Save the rows as JSONL."),
    (b"\x80\x03", "a Python pickle, which could run code and is never opened", "Save the rows as JSONL."),
    (b"\x80\x04", "a Python pickle, which could run code and is never opened", "Save the rows as JSONL."),
    (b"\x80\x05", "a Python pickle, which could run code and is never opened", "Save the rows as JSONL."),
]
_KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".txt": "txt"}


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
        return self


def read_source(path: Path) -> Source:
    """Read the file. Rows that are not rows become findings; a file that is no table raises `DataError`."""
    data = _read_bytes(path)
    kind = _kind(path, data)
    if kind == "parquet":
        return _read_parquet(path)
    text, encoding = _decode(path, data, guess=kind in {"csv", "txt"})
    if not text.strip():
        raise DataError(f"{path.name} is empty.", hint="Give a file with at least one row.")
    source = _READERS[kind](path.name, text)
    source.how += f", {encoding}"
    if encoding not in {"UTF-8", "UTF-16", "UTF-32"}:
        source.notes.append(f"the file is not UTF-8 and was read as {encoding}; check names with accents")
    return source.finish()


def _read_bytes(path: Path) -> bytes:
    try:
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            raise DataError(f"{path} is a folder.", hint="Name one file: workbench data add FOLDER/rows.jsonl")
        if not stat.S_ISREG(info.st_mode):
            raise DataError(f"{path} is not a regular file.", hint="Save the rows to a file first.")
        if info.st_size > MAX_BYTES:
            raise DataError(f"{path.name} is {info.st_size / 1024**3:.1f} GiB; at most 2 GiB is read.", hint="Split it, or take a sample.")
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"There is no file {path}.", hint="Check the path, or see what is there: workbench data list") from None
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.", hint="Check the path and its permissions."
        ) from None


def _kind(path: Path, data: bytes) -> str:
    if data.startswith(b"PAR1"):
        return "parquet"
    if data.startswith(b"PK\x03\x04"):
        excel = b"xl/" in data[:4096] or path.suffix.lower() in {".xlsx", ".xlsm"}
        what, hint = ("an Excel workbook", "Save the sheet as CSV (UTF-8).") if excel else ("a ZIP archive", "Unpack it and name one file.")
        raise DataError(f"{path.name} is {what}.", hint=hint)
    for magic, what, hint in _MAGIC:
        if data.startswith(magic):
            raise DataError(f"{path.name} is {what}.", hint=hint)
    kind = _KINDS.get(path.suffix.lower())
    if kind == "parquet" and data:
        raise DataError(f"{path.name} is not a Parquet file, whatever its name says.", hint="Export it again, or rename it to what it is.")
    start = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if kind in {"json", "jsonl"} or (kind is None and start in (b"{", b"[")):
        return "json"  # JSON or JSONL: the content decides
    if kind is None and data:
        raise DataError(f"{path.name} is of no known kind.", hint="Give JSONL, JSON, CSV, TSV, Parquet or TXT, with that ending.")
    return kind or "json"


def _decode(path: Path, data: bytes, *, guess: bool) -> tuple[str, str]:
    for bom, codec, name in (
        (b"\xff\xfe\x00\x00", "utf-32", "UTF-32"),
        (b"\xff\xfe", "utf-16", "UTF-16"),
        (b"\xfe\xff", "utf-16", "UTF-16"),
    ):
        if data.startswith(bom):
            try:
                return data.decode(codec), name
            except UnicodeDecodeError:
                raise DataError(f"{path.name} starts like {name} but is not.", hint="Save it as UTF-8.") from None
    if (zero := data.find(0)) >= 0:
        raise DataError(f"{path.name} holds zero bytes (the first at byte {zero}): it is not text.", hint="Save it as UTF-8 text.")
    try:
        return data.decode("utf-8-sig"), "UTF-8"
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        if guess and (text := _western(data)) is not None:
            return text, "Windows-1252"
        raise DataError(
            f"{path.name} is not UTF-8: line {line} holds the byte 0x{data[error.start]:02X}.", hint="Save it as UTF-8."
        ) from None


def _western(data: bytes) -> str | None:
    """The text as Windows-1252 (what Excel writes in the West), if what is not ASCII looks like letters of such a text."""
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        return None
    foreign = [c for c in text if c > "\x7f"]
    likely = sum(c.isalpha() or c in "‘’“”–—…€£°§«» " for c in foreign)
    return text if len(foreign) < 0.1 * len(text) and likely > 0.9 * len(foreign) else None


# ------------------------------------------------------------------ JSON and JSONL


def _read_json(name: str, text: str) -> Source:
    start = text.lstrip()[:1]
    first = next(line for line in text.split("\n") if line.strip())
    whole = start == "["
    if whole and first.rstrip().endswith("]") and text.strip() != first.strip():
        raise DataError(
            f"{name} holds a list in each line, not an object.", hint='Write one object a line, such as {"prompt": "…", "completion": "…"}'
        )
    if not whole:
        try:
            whole = _wrapped(_loads(first)) is not None and text.strip() == first.strip()
        except (ValueError, RecursionError):
            whole = not _several_objects(text)
    return _json_array(name, text) if whole else _json_lines(name, text)


def _several_objects(text: str) -> bool:
    """True when most lines start a new object: JSONL with some broken lines, not one object over many lines."""
    lines = [line for line in text.split("\n") if line.strip()]
    return sum(line.startswith("{") for line in lines) > len(lines) / 2


def _json_lines(name: str, text: str) -> Source:
    source = Source("jsonl", "JSONL")
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: U+2028 is allowed inside JSON text
        if line.strip():
            try:
                _take(source, number, _loads(line))
            except (ValueError, RecursionError) as error:
                source.broken.append(Finding("broken", number, _json_message(error)))
    if not source.rows:
        raise DataError(f"{name} holds no row that can be read.", [str(f) for f in source.broken[:5]], hint="Write one JSON object a line.")
    return source


def _json_array(name: str, text: str) -> Source:
    try:
        data = _loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{name} is not valid JSON: it {_json_message(error)}", hint="Mend it there, or write one object a line (JSONL)."
        ) from None
    source = Source("json", "JSON")
    if isinstance(data, dict):
        inner = _wrapped(data)
        if inner is None:
            keys = ", ".join(map(repr, list(data)[:8]))
            raise DataError(
                f"{name} is one JSON object with the keys {keys}, not a list of rows.",
                hint='Write a list: [{"prompt": "…", "completion": "…"}]',
            )
        key, data = inner
        source.notes.append(f"the rows were found under '{key}'")
    for number, value in enumerate(data, start=1):
        try:
            _take(source, number, value)
        except ValueError as error:
            source.broken.append(Finding("broken", number, _json_message(error)))
    if not source.rows:
        raise DataError(f"{name} holds no row that can be read.", [str(f) for f in source.broken[:5]], hint="Give a list of objects.")
    return source


def _wrapped(data: Any) -> tuple[str, list[Any]] | None:
    """`{"data": [rows]}`: the one key whose value is a list of objects that is not itself a row's conversation."""
    if not isinstance(data, dict):
        return None
    lists = [(k, v) for k, v in data.items() if isinstance(v, list) and v and all(isinstance(x, dict) for x in v)]
    lists = [(k, v) for k, v in lists if k not in {"messages", "conversations", "conversation", "tools", "prompt", "completion"}]
    return lists[0] if len(lists) == 1 else None


def _loads(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_no_twins, parse_constant=_no_constant)


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise ValueError(f"has the key '{twice}' twice")
    return out


def _no_constant(word: str) -> Any:
    raise ValueError(f"holds {word}, which is not JSON")


def _json_message(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        place = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        return f"is not JSON: {error.msg} at {place}."
    return "is nested too deeply." if isinstance(error, RecursionError) else f"{str(error)[:200]}."


def _take(source: Source, number: int, value: Any) -> None:
    if not isinstance(value, dict):
        kind = {list: "a list", str: "text", type(None): "null", bool: "true or false"}.get(type(value), "a number")
        raise ValueError(f"is {kind}, not an object with named fields")
    source.rows.append((number, value))


# ------------------------------------------------------------------ CSV


def _read_csv(name: str, text: str) -> Source:
    csv.field_size_limit(_MAX_CELL)
    if "\n" not in text:
        text = text.replace("\r", "\n")  # old Mac line ends
    delimiter = _delimiter(text)
    records = _records(name, text, delimiter)
    if not records:
        raise DataError(f"{name} is empty.", hint="Give a file with at least one row.")
    shown = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars"}[delimiter]
    source = Source("csv", f"CSV separated by {shown}")
    header = [cell.strip() for cell in records[0][1]]
    if _is_header(header, [record for _, record in records[1:200]]):
        records = records[1:]
        doubles = [cell for cell, n in Counter(header).items() if n > 1 and cell]
        if doubles:
            raise DataError(f"{name} has two columns called '{doubles[0]}'.", hint="Rename one of them in the first line.")
        header = [cell or letter(i) for i, cell in enumerate(header)]
    else:
        source.named = False
        source.notes.append("the first line was taken for a row, not for column names")
        header = [letter(i) for i in range(max(len(record) for _, record in records))]
    source.columns = header
    for line, record in records:
        if len(record) != len(header):
            source.broken.append(Finding("broken", line, f"has {len(record)} cells where the table has {len(header)} columns."))
        else:
            source.rows.append((line, dict(zip(header, record, strict=True))))
    if not source.rows:
        raise DataError(f"{name} has column names but no rows.", [str(f) for f in source.broken[:5]], hint="Add rows below the first line.")
    return source


def letter(i: int) -> str:
    """The spreadsheet letter of column i, counted from 0: A … Z, AA …"""
    return (letter(i // 26 - 1) if i >= 26 else "") + chr(ord("A") + i % 26)


def _delimiter(text: str) -> str:
    """The separator under which the first 50 records agree best on a number of cells above one."""
    best = (0.0, 0, ",")
    sample = "\n".join(text[:200_000].split("\n")[:200])
    for delimiter in (",", "\t", ";", "|"):
        widths: Counter[int] = Counter()
        try:
            for n, record in enumerate(csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter)):
                widths[len(record)] += bool(record)
                if n >= 50:
                    break
        except csv.Error:
            continue
        width, count = max(widths.items(), key=lambda item: (item[1], item[0]), default=(1, 0))
        if width > 1:
            best = max(best, (round(count / max(1, widths.total()), 2), width, delimiter))
    return best[2]


def _records(name: str, text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """Every record with the line it starts on; a record may span lines inside quotes."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    out = []
    start = 1
    try:
        for record in reader:
            if any(cell.strip() for cell in record):
                out.append((start, record))
            start = reader.line_num + 1
    except csv.Error as error:
        why = "a quote that opens there is never closed" if "end of data" in str(error) else f"the quotes there do not match ({error})"
        raise DataError(f"{name} cannot be read from line {start} on: {why}.", hint='Inside quotes write a quote twice: ""') from None
    return out


_PLAIN_NAME = re.compile(r"[^\W\d][\w ./()#-]{0,39}")


def _is_header(first: list[str], others: list[list[str]]) -> bool:
    """Column names are short words, all different, that do not come back below."""
    named = [cell for cell in first if cell]
    if not named or any(not _PLAIN_NAME.fullmatch(cell) or len(cell.split()) > 4 for cell in named):
        return False
    below = [{record[i].strip() for record in others if i < len(record)} for i in range(len(first))]
    return not any(cell and cell in column for cell, column in zip(first, below, strict=True))


# ------------------------------------------------------------------ text and Parquet


def _read_text(name: str, text: str) -> Source:
    """Blocks between blank lines when there are such, else one row a line."""
    lines = text.replace("\r\n", "\n").split("\n")
    inner = "\n".join(lines).strip("\n").split("\n")
    blocks = any(not line.strip() for line in inner)
    source = Source("txt", "plain text, a row for each " + ("block between blank lines" if blocks else "line"))
    block: list[str] = []
    for number, line in enumerate([*lines, ""], start=1):
        if line.strip():
            block.append(line)
        if block and (not blocks or not line.strip()):
            source.rows.append((number - (len(block) if blocks else 0), {"text": "\n".join(block)}))
            block = []
    return source


def _read_parquet(path: Path) -> Source:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            claimed = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
            if claimed > 2 * MAX_BYTES:
                raise DataError(
                    f"{path.name} unpacks to {claimed / 1024**3:.0f} GiB; at most 4 GiB is read.", hint="Split it, or take a sample."
                )
            table = file.read()
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path.name} is damaged and cannot be read as Parquet ({str(error).splitlines()[0][:160]}).", hint="Export it again."
        ) from None
    if not table.num_rows:
        raise DataError(f"{path.name} holds no rows.", hint="Give a file with at least one row.")
    source = Source("parquet", "Parquet", columns=list(table.column_names))
    source.rows = [(i, _without_none(row)) for i, row in enumerate(table.to_pylist(), start=1)]
    return source.finish()


def _without_none(value: Any) -> Any:
    """Parquet gives every struct every field; a null there is a key that was not written."""
    if isinstance(value, dict):
        return {str(k): _without_none(v) for k, v in value.items() if v is not None}
    return [_without_none(v) for v in value] if isinstance(value, list) else value


_READERS: dict[str, Callable[[str, str], Source]] = {"json": _read_json, "csv": _read_csv, "txt": _read_text}
