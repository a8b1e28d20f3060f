"""From a file of whatever kind to numbered raw rows. What is not a table of rows is refused in one sentence."""

from __future__ import annotations

import codecs
import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path

from workbench.data.csv_file import read_csv
from workbench.data.json_file import read_json
from workbench.data.parquet_file import read_parquet
from workbench.data.source import Raw, Source, shown
from workbench.errors import DataError
from workbench.foreign import GIB, read_regular

__all__ = ["MAX_BYTES", "Text", "read_source"]

MAX_BYTES = 2 * GIB
_PIECE = 1 << 20  # bytes decoded at once
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


@dataclass(frozen=True)
class Text:
    """The bytes of a text file and their encoding, which was checked; decoded a piece at a time."""

    data: bytes
    codec: str

    def open(self, newline: str | None) -> io.TextIOWrapper:
        return io.TextIOWrapper(io.BytesIO(self.data), encoding=self.codec, newline=newline)

    def lines(self) -> Iterator[str]:
        with self.open("\n") as file:
            for line in file:
                yield line[:-1] if line.endswith("\n") else line

    def whole(self) -> str:
        return self.data.decode(self.codec)


def read_source(path: Path, tallied: frozenset[str] = frozenset()) -> tuple[Source, str]:
    """The rows of a file and the sha256 of the bytes they are read from; `tallied` columns are counted (`Source.tallies`).

    A row that is no row becomes a `RowError` in its place; a file that is no table raises `DataError`.
    """
    data, name = _read_bytes(path), shown(path.name)
    kind = _kind(path, data)
    if kind == "parquet":
        source = read_parquet(name, data)
    else:
        codec, encoding = _encoding(path, data, guess=kind in {"csv", "txt"})
        text = Text(data, codec)
        if not any(line.strip() for line in text.lines()):
            raise DataError(f"{name} is empty.", hint="Give a file with at least one row.")
        source = _READERS[kind](name, text)
        source.how += f", {encoding}"
        if not encoding.startswith("UTF"):
            source.notes.append(f"the file is not UTF-8 and was read as {encoding}; check names with accents")
    return source.look(name, tallied), hashlib.sha256(data).hexdigest()


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
        raise DataError(f"{name} is empty.", hint="Give a file with at least one row.")
    return data


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


def _encoding(path: Path, data: bytes, *, guess: bool) -> tuple[str, str]:
    """(codec, what it is called): one that decodes all of `data`."""
    name = shown(path.name)
    marks = ((b"\xff\xfe\x00\x00", "utf-32", "UTF-32"), (b"\xff\xfe", "utf-16", "UTF-16"), (b"\xfe\xff", "utf-16", "UTF-16"))
    for bom, codec, called in marks:
        if data.startswith(bom):
            if _undecodable(data, codec) is not None:
                raise DataError(f"{name} starts like {called} but is not.", hint="Save it as UTF-8.")
            return codec, called
    if (zero := data.find(0)) >= 0:
        raise DataError(f"{name} holds zero bytes (the first at byte {zero}): it is not text.", hint="Save it as UTF-8 text.")
    if (bad := _undecodable(data, "utf-8")) is None:
        return "utf-8-sig", "UTF-8"
    if guess and _is_western(data):
        return "cp1252", "Windows-1252"
    line = data.count(b"\n", 0, bad) + 1
    raise DataError(f"{name} is not UTF-8: line {line} holds the byte 0x{data[bad]:02X}.", hint="Save it as UTF-8.")


def _pieces(data: bytes, codec: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(codec)()
    for at in range(0, len(data), _PIECE):
        try:
            yield decoder.decode(data[at : at + _PIECE], at + _PIECE >= len(data))
        except UnicodeDecodeError as error:
            error.start += at + min(_PIECE, len(data) - at) - len(error.object)  # the decoder kept the start of a character
            raise


def _undecodable(data: bytes, codec: str) -> int | None:
    """The place of the first byte that is not of this encoding."""
    try:
        for _ in _pieces(data, codec):
            pass
    except UnicodeDecodeError as error:
        return error.start
    return None


def _is_western(data: bytes) -> bool:
    """Is it Windows-1252 (what Excel writes in the West)? Then what is not ASCII looks like letters of such a text."""
    foreign = likely = 0
    try:
        for piece in _pieces(data, "cp1252"):
            others = [c for c in piece if c > "\x7f"]
            foreign += len(others)
            likely += sum(c.isalpha() or c in "‘’“”–—…€£°§«» " for c in others)
    except UnicodeDecodeError:
        return False
    return foreign < 0.1 * len(data) and likely > 0.9 * foreign


def _read_text(name: str, text: Text) -> Source:
    """Blocks between blank lines when there are such, else one row a line."""
    with text.open(None) as file:
        blocks = sum(filled for filled, _ in groupby(bool(line.strip()) for line in file)) > 1
    how = "plain text, a row for each " + ("block between blank lines" if blocks else "line")
    return Source("txt", how, lambda: _text_rows(text, blocks))


def _text_rows(text: Text, blocks: bool) -> Iterator[Raw]:
    block: list[str] = []
    with text.open(None) as file:
        for number, line in enumerate(chain(file, ["\n"]), start=1):
            if line.strip():
                block.append(line.rstrip("\n"))
            if block and (not blocks or not line.strip()):
                yield number - (len(block) if blocks else 0), {"text": "\n".join(block)}
                block = []


_READERS: dict[str, Callable[[str, Text], Source]] = {"json": read_json, "csv": read_csv, "txt": _read_text}
