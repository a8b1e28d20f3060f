"""From a file of whatever kind to numbered raw rows. What is not a table of rows is refused in one sentence."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.data.csv_file import read_csv
from workbench.data.json_file import read_json
from workbench.data.source import Source, shown
from workbench.errors import DataError

__all__ = ["read_source"]

MAX_BYTES = 2 * 1024**3
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


def read_source(path: Path) -> Source:
    """Read the file. Rows that are not rows become findings; a file that is no table raises `DataError`."""
    data = _read_bytes(path)
    kind = _kind(path, data)
    if kind == "parquet":
        return _read_parquet(path)
    text, encoding = _decode(path, data, guess=kind in {"csv", "txt"})
    if not text.strip():
        raise DataError(f"{shown(path.name)} is empty.", hint="Give a file with at least one row.")
    source = _READERS[kind](shown(path.name), text)
    source.how += f", {encoding}"
    if encoding not in {"UTF-8", "UTF-16", "UTF-32"}:
        source.notes.append(f"the file is not UTF-8 and was read as {encoding}; check names with accents")
    return source.finish()


def _read_bytes(path: Path) -> bytes:
    try:
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            raise DataError(f"{shown(path)} is a folder.", hint="Name one file: workbench data add FOLDER/rows.jsonl")
        if not stat.S_ISREG(info.st_mode):
            raise DataError(f"{shown(path)} is not a regular file.", hint="Save the rows to a file first.")
        if info.st_size > MAX_BYTES:
            raise DataError(
                f"{shown(path.name)} is {info.st_size / 1024**3:.1f} GiB; at most 2 GiB is read.", hint="Split it, or take a sample."
            )
        data = path.read_bytes()
        if not data:
            raise DataError(f"{shown(path.name)} is empty.", hint="Give a file with at least one row.")
        return data
    except FileNotFoundError:
        raise DataError(f"There is no file {shown(path)}.", hint="Check the path, or see what is there: workbench data list") from None
    except (OSError, ValueError) as error:
        raise DataError(
            f"{shown(path)} cannot be read: {getattr(error, 'strerror', None) or error}.", hint="Check the path and its permissions."
        ) from None


def _kind(path: Path, data: bytes) -> str:
    if data.startswith(b"PAR1"):
        return "parquet"
    if data.startswith(b"PK\x03\x04"):
        excel = b"xl/" in data[:4096] or path.suffix.lower() in {".xlsx", ".xlsm"}
        what, hint = ("an Excel workbook", "Save the sheet as CSV (UTF-8).") if excel else ("a ZIP archive", "Unpack it and name one file.")
        raise DataError(f"{shown(path.name)} is {what}.", hint=hint)
    for magic, what, hint in _MAGIC:
        if data.startswith(magic):
            raise DataError(f"{shown(path.name)} is {what}.", hint=hint)
    kind = _KINDS.get(path.suffix.lower())
    if kind == "parquet":
        raise DataError(
            f"{shown(path.name)} is not a Parquet file, whatever its name says.", hint="Export it again, or rename it to what it is."
        )
    start = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if kind in {"json", "jsonl"} or (kind is None and start in (b"{", b"[")):
        return "json"  # JSON or JSONL: the content decides
    if kind is None:
        raise DataError(f"{shown(path.name)} is of no known kind.", hint="Give JSONL, JSON, CSV, TSV, Parquet or TXT, with that ending.")
    return kind


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
                raise DataError(f"{shown(path.name)} starts like {name} but is not.", hint="Save it as UTF-8.") from None
    if (zero := data.find(0)) >= 0:
        raise DataError(f"{shown(path.name)} holds zero bytes (the first at byte {zero}): it is not text.", hint="Save it as UTF-8 text.")
    try:
        return data.decode("utf-8-sig"), "UTF-8"
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        if guess and (text := _western(data)) is not None:
            return text, "Windows-1252"
        raise DataError(
            f"{shown(path.name)} is not UTF-8: line {line} holds the byte 0x{data[error.start]:02X}.", hint="Save it as UTF-8."
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
                    f"{shown(path.name)} unpacks to {claimed / 1024**3:.0f} GiB; at most 4 GiB is read.", hint="Split it, or take a sample."
                )
            table = file.read()
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{shown(path.name)} is damaged and cannot be read as Parquet ({str(error).splitlines()[0][:160]}).", hint="Export it again."
        ) from None
    if not table.num_rows:
        raise DataError(f"{shown(path.name)} holds no rows.", hint="Give a file with at least one row.")
    source = Source("parquet", "Parquet", columns=list(table.column_names))
    source.rows = [(i, _without_none(row)) for i, row in enumerate(table.to_pylist(), start=1)]
    return source.finish()


def _without_none(value: Any) -> Any:
    """Parquet gives every struct every field; a null there is a key that was not written."""
    if isinstance(value, dict):
        return {str(k): _without_none(v) for k, v in value.items() if v is not None}
    return [_without_none(v) for v in value] if isinstance(value, list) else value


_READERS: dict[str, Callable[[str, str], Source]] = {"json": read_json, "csv": read_csv, "txt": _read_text}
