"""CSV as people really save it: any separator, quoted line breaks, with or without a line of names."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice

from workbench.data.columns import KNOWN
from workbench.data.table import RawRow, RawTable, RowError, letter
from workbench.data.text_file import Text
from workbench.errors import DataError

__all__ = ["read_csv"]

_MAX_CELL = 64 * 1024**2  # characters in one cell


def read_csv(name: str, text: Text) -> RawTable:
    csv.field_size_limit(_MAX_CELL)
    delimiter = _delimiter(text)
    records = [record for _, record in islice(_records(name, text, delimiter), 200)]
    if not records:
        raise DataError(f"{name} is empty.", hint="Give a file with at least one row.")
    shown = {"\t": " separated by tabs", ",": " separated by commas", ";": " separated by semicolons", "|": " separated by bars"}
    header = [cell.strip() for cell in records[0]]
    named = _is_header(header, records[1:])
    if named:
        doubles = [
            cell for cell, n in Counter(cell.lower() if cell.lower() in KNOWN else cell for cell in header).items() if n > 1 and cell
        ]
        if doubles:
            raise DataError(f"{name} has two columns called '{doubles[0]}'.", hint="Rename one of them in the first line.")
        header = [cell or letter(i) for i, cell in enumerate(header)]
    else:
        header = [letter(i) for i in range(max(map(len, records)))]
    return RawTable(
        f"CSV{shown.get(delimiter, ' of one column')}",
        lambda: _rows(name, text, delimiter, header, named),
        notes=[] if named else ["the first line was taken for a row, not for column names"],
        lettered=True,
        named=named,
        columns=header,
        nothing="has column names but no rows.",
    )


def _rows(name: str, text: Text, delimiter: str, header: list[str], named: bool) -> Iterator[RawRow]:
    for line, record in islice(_records(name, text, delimiter), int(named), None):
        if len(record) == len(header):
            yield line, dict(zip(header, record, strict=True))
        else:
            yield line, RowError("broken", f"has {len(record)} cells where the table has {len(header)} columns.")


def _delimiter(text: Text) -> str:
    """The separator under which the first 50 records agree best on a number of cells above one."""
    best = (0.0, 0, "\x1f")  # none: one column
    with text.open(newline="") as file:
        sample = "".join(islice(file, 200))[:200_000]
    for delimiter in (",", "\t", ";", "|"):
        widths: Counter[int] = Counter()
        header = 0
        try:
            for n, record in enumerate(csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter)):
                header = header or len(record)
                widths[len(record)] += bool(record)
                if n >= 50:
                    break
        except csv.Error:
            continue
        width, count = max(widths.items(), key=lambda item: (item[1], item[0]), default=(1, 0))
        if width > 1 and header > 1:
            best = max(best, (round(count / max(1, widths.total()), 2), width, delimiter))
    return best[2]


def _records(name: str, text: Text, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Every record with the line it starts on; a record may span lines inside quotes."""
    start = 1
    with text.open(newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            for record in reader:
                if any(cell.strip() for cell in record):
                    yield start, record
                start = reader.line_num + 1
        except csv.Error as error:
            why = "a quote that opens there is never closed" if "end of data" in str(error) else f"the quotes there do not match ({error})"
            raise DataError(f"{name} cannot be read from line {start} on: {why}.", hint='Inside quotes write a quote twice: ""') from None


_PLAIN_NAME = re.compile(r"[^\W\d][\w ./()#-]{0,39}")


def _is_header(first: list[str], others: list[list[str]]) -> bool:
    """Column names are short words: known ones, or such as do not come back below."""
    named = [cell for cell in first if cell]
    if not named or any(not _PLAIN_NAME.fullmatch(cell) or len(cell.split()) > 4 for cell in named):
        return False
    if any(cell.lower() in KNOWN for cell in named):
        return True
    below = [{record[i].strip() for record in others if i < len(record)} for i in range(len(first))]
    return not any(cell and cell in column for cell, column in zip(first, below, strict=True))
