"""What a check, or a score, is told in: plain values in no language. Each kind of block is drawn once per face: a macro of
html/blocks.html for the page and the report, a branch of cli/telling.py for the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from workbench.words import Value

__all__ = [
    "Bar", "Bars", "Block", "Card", "Cards", "Code", "Facts", "Fold", "Item", "Items", "Line", "Link", "Paragraph", "Section", "Strip",
    "Table",
]  # fmt: skip


@dataclass(frozen=True)
class Paragraph:
    text: Value
    quiet: bool = False
    kind: ClassVar[str] = "paragraph"


@dataclass(frozen=True)
class Link:
    """Text that leads to a page of the browser interface; elsewhere it is only the text."""

    text: str
    page: str
    query: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Facts:
    """Names with values."""

    rows: tuple[tuple[Value, Value | Link], ...]
    kind: ClassVar[str] = "facts"


@dataclass(frozen=True)
class Line:
    """Where an interval lies beside nought; shares of the longest one of its table, -1 to 1. Drawn only where there is a picture."""

    value: float
    low: float | None
    high: float | None
    tone: str  # "good": above nought, "bad": below it, "open"


@dataclass(frozen=True)
class Table:
    caption: Value
    head: tuple[Value, ...]
    rows: tuple[tuple[Value | Line, ...], ...]  # the first cell names the row
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Bar:
    name: Value
    adapted: bool
    share: float  # of the whole track
    low: float | None  # of its own interval, on the same scale
    high: float | None
    score: Value
    ends: Value | None  # the interval as it is said


@dataclass(frozen=True)
class Bars:
    caption: Value
    rows: tuple[Bar, ...]
    kind: ClassVar[str] = "bars"


@dataclass(frozen=True)
class Strip:
    """A row of shaded fields for each group of modules, a field for each layer: (share of the darkest, what it stands for)."""

    label: Value
    legend: Value
    layers: tuple[int, ...]
    rows: tuple[tuple[Value, tuple[tuple[float, Value] | None, ...]], ...]
    kind: ClassVar[str] = "strip"


@dataclass(frozen=True)
class Item:
    """Something that was found: how grave, what, in which words, and why it matters."""

    level: Value
    tone: str
    title: Value
    name: str  # as `workbench rebase findings` knows it; empty for one of an earlier version
    text: Value
    more: tuple[Value, ...] = ()


@dataclass(frozen=True)
class Items:
    more: Value  # the title of what is folded away
    rows: tuple[Item, ...]
    kind: ClassVar[str] = "items"


@dataclass(frozen=True)
class Card:
    """A question, what was answered, and what was expected: (name, text, whether it is right)."""

    question: Value
    answers: tuple[tuple[Value, Value, bool], ...]


@dataclass(frozen=True)
class Cards:
    caption: Value | None
    rows: tuple[Card, ...]
    kind: ClassVar[str] = "cards"


@dataclass(frozen=True)
class Code:
    """Lines of a file or a difference, as they are."""

    text: str
    label: Value
    kind: ClassVar[str] = "code"


@dataclass(frozen=True)
class Fold:
    """What most readers pass over: shown on demand."""

    title: Value
    blocks: tuple[Block, ...]
    kind: ClassVar[str] = "fold"


Block = Paragraph | Facts | Table | Bars | Strip | Items | Cards | Code | Fold


@dataclass(frozen=True)
class Section:
    """Blocks under one heading."""

    key: str
    title: Value
    blocks: tuple[Block, ...]
