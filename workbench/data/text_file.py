"""Text: in which encoding it is, and plain text as rows."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, groupby

from workbench.data.table import RawRow, RawTable
from workbench.errors import DataError

__all__ = ["Text", "decoded", "read_text"]

_PIECE = 1 << 20  # bytes decoded at once
_MARKS = ((b"\xff\xfe\x00\x00", "utf-32", "UTF-32"), (b"\xff\xfe", "utf-16", "UTF-16"), (b"\xfe\xff", "utf-16", "UTF-16"))


@dataclass(frozen=True)
class Text:
    """The bytes of a text file and their encoding, which was checked; decoded a piece at a time."""

    data: bytes
    codec: str
    encoding: str = "UTF-8"  # what people call it

    def open(self, newline: str | None) -> io.TextIOWrapper:
        return io.TextIOWrapper(io.BytesIO(self.data), encoding=self.codec, newline=newline)

    def lines(self) -> Iterator[str]:
        with self.open("\n") as file:
            for line in file:
                yield line[:-1] if line.endswith("\n") else line

    def whole(self) -> str:
        return self.data.decode(self.codec)


def decoded(name: str, data: bytes, *, guess: bool) -> Text:
    """The text under an encoding that decodes all of `data`; with `guess` what Excel writes in the West will do as well.

    Raises `DataError` for what is no text, or in another encoding.
    """
    for mark, codec, encoding in _MARKS:
        if data.startswith(mark):
            if _undecodable(data, codec) is not None:
                raise DataError(f"{name} starts like {encoding} but is not.", hint="Save it as UTF-8.")
            return Text(data, codec, encoding)
    if (zero := data.find(0)) >= 0:
        raise DataError(f"{name} holds zero bytes (the first at byte {zero}): it is not text.", hint="Save it as UTF-8 text.")
    if (bad := _undecodable(data, "utf-8")) is None:
        return Text(data, "utf-8-sig")
    if guess and _is_western(data):
        return Text(data, "cp1252", "Windows-1252")
    line = data.count(b"\n", 0, bad) + 1
    raise DataError(f"{name} is not UTF-8: line {line} holds the byte 0x{data[bad]:02X}.", hint="Save it as UTF-8.")


def _undecodable(data: bytes, codec: str) -> int | None:
    """The place of the first byte that is not of this encoding."""
    decoder = codecs.getincrementaldecoder(codec)()
    for at in range(0, len(data), _PIECE):
        try:
            decoder.decode(data[at : at + _PIECE], at + _PIECE >= len(data))
        except UnicodeDecodeError as error:
            return at + error.start + min(_PIECE, len(data) - at) - len(error.object)  # the decoder kept the start of a character
    return None


def _is_western(data: bytes) -> bool:
    """Is it Windows-1252 (what Excel writes in the West)? Then what is not ASCII looks like letters of such a text."""
    foreign = likely = 0
    try:
        for line in Text(data, "cp1252").lines():
            others = [c for c in line if c > "\x7f"]
            foreign += len(others)
            likely += sum(c.isalpha() or c in "‘’“”–—…€£°§«» " for c in others)
    except UnicodeDecodeError:
        return False
    return foreign < 0.1 * len(data) and likely > 0.9 * foreign


def read_text(name: str, text: Text) -> RawTable:
    """Blocks between blank lines when there are such, else one row a line."""
    with text.open(None) as file:
        blocks = sum(filled for filled, _ in groupby(bool(line.strip()) for line in file)) > 1
    how = "plain text, a row for each " + ("block between blank lines" if blocks else "line")
    return RawTable(how, lambda: _rows(text, blocks))


def _rows(text: Text, blocks: bool) -> Iterator[RawRow]:
    block: list[str] = []
    with text.open(None) as file:
        for number, line in enumerate(chain(file, ["\n"]), start=1):
            if line.strip():
                block.append(line.rstrip("\n"))
            if block and (not blocks or not line.strip()):
                yield number - (len(block) if blocks else 0), {"text": "\n".join(block)}
                block = []
