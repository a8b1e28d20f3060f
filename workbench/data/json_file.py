"""JSON and JSONL: which of the two it is, and which of its rows are broken."""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from workbench.data.columns import CONVERSATIONS
from workbench.data.table import RawRow, RawTable, RowError
from workbench.data.text_file import Text
from workbench.errors import DataError

__all__ = ["loads", "read_json"]


def read_json(name: str, text: Text) -> RawTable:
    """A list of rows, an object that holds one, or an object in each line. Raises `DataError` for JSON that is none of these."""
    filled = (line for line in text.lines() if line.strip())
    first, more = next(filled), next(filled, None) is not None
    if first.lstrip()[:1] == "[":
        if more and first.rstrip().endswith("]"):
            hint = 'Write one object a line, such as {"prompt": "…", "completion": "…"}'
            raise DataError(f"{name} holds a list in each line, not an object.", hint=hint)
        return RawTable("JSON", lambda: _elements(name, text))
    try:
        lines = _wrapped(loads(first)) is None or more
    except (ValueError, RecursionError):
        lines = _several_objects(text)
    if lines:
        return RawTable("JSONL", lambda: _json_lines(text))
    with _whole(name):
        data = loads(text.whole())
    if (inner := _wrapped(data)) is None:
        keys = ", ".join(repr(key[:40]) for key in list(data)[:8])
        hint = 'Write a list: [{"prompt": "…", "completion": "…"}]'
        raise DataError(f"{name} is one JSON object with the keys {keys}, not a list of rows.", hint=hint)
    return RawTable("JSON", lambda: enumerate(map(_as_row, inner[1]), start=1), [f"the rows were found under '{inner[0]}'"])


def _several_objects(text: Text) -> bool:
    """True when most lines start a new object: JSONL with some broken lines, not one object over many lines."""
    starts = Counter(line.startswith("{") for line in text.lines() if line.strip())
    return starts[True] > starts[False]


def _json_lines(text: Text) -> Iterator[RawRow]:
    for number, line in enumerate(text.lines(), start=1):  # not splitlines: U+2028 is allowed inside JSON text
        if line.strip():
            try:
                yield number, _as_row(loads(line))
            except (ValueError, RecursionError) as error:
                yield number, RowError("broken", _json_message(error))


def _elements(name: str, text: Text) -> Iterator[RawRow]:
    """The rows of a list, one after the other, so that no more than one of them is in memory."""
    with _whole(name):
        yield from enumerate(map(_as_row, _values(text)), start=1)


def _values(text: Text) -> Iterator[Any]:
    """The values of a list, read through a window that grows until it holds the next one."""
    with text.open("\n") as file:
        held, at, end = file.read(_WINDOW), 0, ","
        while "[" not in held:
            held += file.read(_WINDOW)
        at = held.find("[") + 1
        if held[_space(held, at) :][:1] == "]":
            at, end = _space(held, at) + 1, "]"
        while end == ",":
            try:
                value, after = _DECODER.raw_decode(held, _space(held, at))
                after = _space(held, after)
                end = {",": ",", "]": "]"}[held[after : after + 1]]
            except (json.JSONDecodeError, KeyError):  # no value, or a number that goes on
                held, at = held[at:], 0
                if not (more := file.read(max(_WINDOW, len(held)))):
                    break
                held += more
                continue
            yield value
            at = after + 1
        if end != "]" or held[at:].strip() or any(line.strip() for line in file):
            loads(text.whole())  # says what is wrong, and where


def _space(text: str, at: int) -> int:
    """Where the white space from `at` on ends."""
    space = _SPACE.match(text, at)
    return space.end() if space else at


@contextlib.contextmanager
def _whole(name: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{name} is not valid JSON: it {_json_message(error)}", hint="Mend it there, or write one object a line (JSONL)."
        ) from None


def _wrapped(data: Any) -> tuple[str, list[Any]] | None:
    """`{"data": [rows]}`: the one key whose value is a list of objects that is not itself a row's conversation."""
    if not isinstance(data, dict):
        return None
    lists = [(k, v) for k, v in data.items() if isinstance(v, list) and v and all(isinstance(x, dict) for x in v)]
    lists = [(k, v) for k, v in lists if k not in {*CONVERSATIONS, "tools", "prompt", "completion"}]
    return lists[0] if len(lists) == 1 else None


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise ValueError(f"has the key {twice[:40]!r} twice")
    return out


def _no_constant(word: str) -> Any:
    raise ValueError(f"holds {word}, which is not JSON")


def _json_message(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        place = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        return f"is not JSON: {error.msg} at {place}."
    return "is nested too deeply." if isinstance(error, RecursionError) else f"{str(error)[:200]}."


def _as_row(value: Any) -> dict[str, Any] | RowError:
    if isinstance(value, dict):
        return value
    kind = {list: "a list", str: "text", type(None): "null", bool: "true or false"}.get(type(value), "a number")
    return RowError("broken", f"is {kind}, not an object with named fields.")


_DECODER = json.JSONDecoder(object_pairs_hook=_no_twins, parse_constant=_no_constant)
_WINDOW = 1 << 20  # characters
_SPACE = re.compile(r"[ \t\r\n]*")


def loads(text: str) -> Any:
    """Strict JSON: no key twice, no NaN. Raises `ValueError`, `RecursionError`."""
    return _DECODER.decode(text)
