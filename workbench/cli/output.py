"""How the command line prints: aligned tables, JSON, sizes and times, and one progress line."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import click

from workbench import paths
from workbench.errors import WorkbenchError
from workbench.records import as_json
from workbench.words import words

__all__ = [
    "Ticker",
    "ago",
    "bytes_text",
    "count",
    "duration",
    "fields",
    "harmless",
    "json_answer",
    "note",
    "print_error",
    "print_json",
    "redraw",
    "say",
    "short",
    "table",
    "wants_json",
]


# A stranger's words may hold codes that move the cursor, hide text or set the window's title; of our own only colours remain.
_CODES = re.compile(r"(\x1b\[(?:[0124]|[349][0-7])m)|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def harmless(text: str) -> str:
    """`text` with every control character but newlines, tabs and plain colours shown as �."""
    return _CODES.sub(lambda found: found[1] or "\ufffd", text)


def say(text: str = "", *, end: str = "\n") -> None:
    """A line for standard output: what the command was asked for."""
    click.echo(harmless(text) + end, nl=False, color=False if paths.no_color() else None)


def note(text: str = "", *, end: str = "\n") -> None:
    """A line for standard error: what happens meanwhile, so that a pipe stays clean."""
    click.echo(harmless(text) + end, err=True, nl=False, color=False if paths.no_color() else None)


def redraw(text: str) -> None:
    """Put `text` in place of the terminal's last line on standard error."""
    click.echo("\r\x1b[2K" + harmless(text), err=True, nl=False)


class Ticker:
    """Shows what is being done, on standard error: redrawn in place on a terminal, else once per kind of step."""

    def __init__(self) -> None:
        self.live, self.kind = sys.stderr.isatty(), ""

    def __call__(self, text: str) -> None:
        kind = text.partition(":")[0]
        if self.live:
            if kind != self.kind and self.kind:
                note()
            redraw(text)
        elif kind != self.kind:
            note(text)
        self.kind = kind

    def close(self) -> None:
        """End the line that was being redrawn."""
        if self.live and self.kind:
            note()
        self.kind = ""


def print_json(value: Any) -> None:
    """Records, or dictionaries and lists of them, as indented JSON."""
    text = json.dumps(as_json(value), ensure_ascii=False, indent=2, allow_nan=False)
    say(_CODES.sub(lambda found: f"\\u{ord(found[0]):04x}", text))  # JSON has its own way to write what `say` would replace


def wants_json() -> bool:
    """Whether the running command was given `--json`."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get("json"))


def json_answer(value: Any, *, status: int = 0) -> None:
    """With `--json`, print `value` and end the command with `status`; without, do nothing: what follows says the same in words."""
    if wants_json():
        print_json(value)
        raise click.exceptions.Exit(status)


def print_error(error: WorkbenchError) -> None:
    """`Error: what happened`, then what to do next on a line of its own."""
    note(click.style("Error:", fg="red", bold=True) + f" {error.message}")
    if error.hint:
        note(error.hint.strip())


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str = "", right: Sequence[str] = ()) -> None:
    """Aligned columns; those named in `right` are flush right. Without rows, `empty` says how to get the first one."""
    body = [["" if cell is None else str(cell).replace("\n", " ") for cell in row] for row in rows]
    if not body:
        say(empty)
        return
    cells = [[name.upper() for name in head], *body]
    widths = [max(_width(row[i]) for row in cells) for i in range(len(head))]
    flush = [name in right for name in head]
    for row in cells:
        say("  ".join(_pad(cell, width, end) for cell, width, end in zip(row, widths, flush, strict=True)).rstrip())


def fields(pairs: Iterable[tuple[str, Any]]) -> None:
    """`name   value` lines; values that are None or empty are left out."""
    shown = [(name, str(value)) for name, value in pairs if value is not None and value != "" and value != ()]
    width = max((_width(name) for name, _ in shown), default=0)
    for name, value in shown:
        say(f"{_pad(name, width, False)}  {value}")


def short(text: str, width: int) -> str:
    """`text` on one line, cut with an ellipsis to `width` columns."""
    line = " ".join(text.split())
    while _width(line) > width:
        line = line[: max(0, min(len(line) - 2, width - 1))].rstrip() + "…"
    return line


def count(value: float | int | None) -> str:
    """1234567 -> `1,234,567`; None -> an empty text."""
    return "" if value is None else f"{value:,.0f}"


def bytes_text(value: float | None) -> str:
    """`2.1 GB`, as the pages say it; None is an empty text."""
    return "" if value is None else words("en").bytes(value)


def duration(seconds: float | None) -> str:
    """`45 s`, `2 min 05 s`, `3 h 20 min`; None is an empty text."""
    return "" if seconds is None else words("en").elapsed(seconds)


def ago(when: datetime | None) -> str:
    """`3 min ago`, or the date once that says more; None is an empty text."""
    return "" if when is None else words("en").ago(when)


def _width(text: str) -> int:
    """Columns on a terminal: East Asian wide characters take two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _pad(text: str, width: int, flush_right: bool) -> str:
    blanks = " " * (width - _width(text))
    return blanks + text if flush_right else text + blanks
