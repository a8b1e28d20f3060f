"""JSON and JSONL: which of the two it is, and which of its rows are broken."""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from workbench.data.source import Raw, RowError, Source
from workbench.errors import DataError

if TYPE_CHECKING:
    from workbench.data.readers import Text

__all__ = ["loads", "read_json"]


def read_json(name: str, text: Text) -> Source:
    filled = (line for line in text.lines() if line.strip())
    first, more = next(filled), next(filled, None) is not None
    whole = listed = first.lstrip()[:1] == "["
    if whole and more and first.rstrip().endswith("]"):
        raise DataError(
            f"{name} holds a list in each line, not an object.", hint='Write one object a line, such as {"prompt": "…", "completion": "…"}'
        )
    if not whole:
        try:
            whole = _wrapped(loads(first)) is not None and not more
        except (ValueError, RecursionError):
            whole = not _several_objects(text)
    return _json_array(name, text, listed) if whole else Source("jsonl", "JSONL", lambda: _json_lines(text))


def _several_objects(text: Text) -> bool:
    """True when most lines start a new object: JSONL with some broken lines, not one object over many lines."""
    starts = Counter(line.startswith("{") for line in text.lines() if line.strip())
    return starts[True] > starts[False]


def _json_lines(text: Text) -> Iterator[Raw]:
    for number, line in enumerate(text.lines(), start=1):  # not splitlines: U+2028 is allowed inside JSON text
        if line.strip():
            try:
                yield number, _object(loads(line))
            except (ValueError, RecursionError) as error:
                yield number, RowError("broken", _json_message(error))


def _json_array(name: str, text: Text, listed: bool) -> Source:
    if listed:
        return Source("json", "JSON", lambda: _elements(name, text))
    with _whole(name):
        data = loads(text.whole())
    inner = _wrapped(data)
    if inner is None:
        keys = ", ".join(repr(key[:40]) for key in list(data)[:8])
        raise DataError(
            f"{name} is one JSON object with the keys {keys}, not a list of rows.",
            hint='Write a list: [{"prompt": "…", "completion": "…"}]',
        )
    return Source("json", "JSON", lambda: _numbered(inner[1]), [f"the rows were found under '{inner[0]}'"])


def _numbered(values: Iterable[Any]) -> Iterator[Raw]:
    for number, value in enumerate(values, start=1):
        try:
            yield number, _object(value)
        except ValueError as error:
            yield number, RowError("broken", _json_message(error))


def _elements(name: str, text: Text) -> Iterator[Raw]:
    """The rows of a list, one after the other, so that no more than one of them is in memory."""
    with _whole(name):
        yield from _numbered(_values(text))


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
    found = _SPACE.match(text, at)
    return found.end() if found else at


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
    lists = [(k, v) for k, v in lists if k not in {"messages", "conversations", "conversation", "tools", "prompt", "completion"}]
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


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        kind = {list: "a list", str: "text", type(None): "null", bool: "true or false"}.get(type(value), "a number")
        raise ValueError(f"is {kind}, not an object with named fields")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_no_twins, parse_constant=_no_constant)
_WINDOW = 1 << 20  # characters
_SPACE = re.compile(r"[ \t\r\n]*")


def loads(text: str) -> Any:
    """Strict JSON: no key twice, no NaN. Raises `ValueError`, `RecursionError`."""
    return _DECODER.decode(text)
