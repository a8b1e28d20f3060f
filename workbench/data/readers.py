"""From a file of whatever kind to numbered raw rows. What is not a table of rows is refused in one sentence."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from workbench.data.csv_file import read_csv
from workbench.data.json_file import read_json
from workbench.data.parquet_file import read_parquet
from workbench.data.table import RawTable
from workbench.data.text_file import Text, decoded, read_text
from workbench.errors import DataError
from workbench.foreign import GIB, read_regular, shown

__all__ = ["ENDINGS", "MAX_BYTES", "read_table"]

MAX_BYTES = 2 * GIB
_CSV = "Save the sheet as CSV (UTF-8)."
_ROWS = "Give a file of rows: JSONL, JSON, CSV or Parquet."
_EMPTY = "Give a file with at least one row."
_PICKLES = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))
_NO_ROWS: list[tuple[bytes | tuple[bytes, ...], str, str]] = [  # how such a file begins, what it is, what to do
    (b"\x1f\x8b", "compressed with gzip", "Unpack it first: gunzip FILE"),
    (b"BZh", "compressed with bzip2", "Unpack it first: bunzip2 FILE"),
    (b"\xfd7zXZ", "compressed with xz", "Unpack it first: unxz FILE"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "Unpack it first: unzstd FILE"),
    (b"%PDF", "a PDF", "Put its text into rows: a CSV with the columns question and answer, for example."),
    (b"SQLite format 3", "an SQLite database", "Export the table as CSV."),
    (b"ARROW1", "an Arrow file", "Save it as Parquet or JSONL."),
    (b"\x93NUMPY", "a NumPy array", "Save the rows as JSONL."),
    ((b"\x89PNG", b"\xff\xd8\xff"), "a picture", _ROWS),
    (b"\xd0\xcf\x11\xe0", "an old Office file", "Open it and save the sheet as CSV (UTF-8)."),
    (_PICKLES, "a Python pickle, which could run code and is never opened", "Save the rows as JSONL."),
]
_KINDS = {".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".txt": "txt"}
ENDINGS = tuple(_KINDS)
_READERS: dict[str, Callable[[str, Text], RawTable]] = {"json": read_json, "csv": read_csv, "txt": read_text}


def read_table(path: Path, tallied: frozenset[str] = frozenset()) -> tuple[RawTable, str]:
    """The rows of a file and the sha256 of the bytes they are read from; `tallied` columns are counted (`RawTable.tallies`).

    A row that is no row becomes a `RowError` in its place; a file that is no table raises `DataError`.
    """
    data, name = _read_bytes(path), shown(path.name)
    kind = _kind(path, data)
    if kind == "parquet":
        table = read_parquet(name, data)
    else:
        text = decoded(name, data, guess=kind != "json")
        if not any(line.strip() for line in text.lines()):
            raise DataError(f"{name} is empty.", hint=_EMPTY)
        table = _READERS[kind](name, text)
        table.how += f", {text.encoding}"
        if not text.encoding.startswith("UTF"):
            table.notes.append(f"the file is not UTF-8 and was read as {text.encoding}; check names with accents")
    return table.look(name, tallied), hashlib.sha256(data).hexdigest()


def _read_bytes(path: Path) -> bytes:
    name = shown(path.name)
    try:
        if path.is_dir():
            raise DataError(f"{name} is a folder.", hint="Name one file: workbench data add FOLDER/rows.jsonl")
        data = read_regular(path, most=MAX_BYTES)
    except FileNotFoundError:
        raise DataError(f"There is no file {shown(path)}.", hint="Check the path, or see what is there: workbench data list") from None
    except DataError:
        raise
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise DataError(f"{name} cannot be read: {why}.", hint="Check the path and its permissions.") from None
    if not data:
        raise DataError(f"{name} is empty.", hint=_EMPTY)
    return data


def _kind(path: Path, data: bytes) -> str:
    """Which of `_READERS` (or "parquet"): the content decides before the name does."""
    name, ending = shown(path.name), path.suffix.lower()
    if data.startswith(b"PAR1"):
        return "parquet"
    if data.startswith(b"PK\x03\x04"):
        excel = b"xl/" in data[:4096] or ending in {".xlsx", ".xlsm"}
        what, hint = ("an Excel workbook", _CSV) if excel else ("a ZIP archive", "Unpack it and name one file.")
        raise DataError(f"{name} is {what}.", hint=hint)
    for start, what, hint in _NO_ROWS:
        if data.startswith(start):
            raise DataError(f"{name} is {what}.", hint=hint)
    kind = _KINDS.get(ending)
    if kind == "parquet":
        raise DataError(f"{name} is not a Parquet file, whatever its name says.", hint="Export it again, or rename it to what it is.")
    if kind is None and data[:64].lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
        return "json"
    if kind is None:
        raise DataError(f"{name} is of no known kind.", hint="Give JSONL, JSON, CSV, TSV, Parquet or TXT, with that ending.")
    return kind
