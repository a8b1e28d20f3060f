"""JSON and JSONL: which of the two it is, and which of its rows are broken."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from workbench.data.checks import Finding
from workbench.data.source import Source
from workbench.errors import DataError

__all__ = ["read_json"]


def read_json(name: str, text: str) -> Source:
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
            keys = ", ".join(repr(key[:40]) for key in list(data)[:8])
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
        raise ValueError(f"has the key {twice[:40]!r} twice")
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
