"""One row of a dataset in canonical form: what it holds, what its question and answer are, what its id is.

One of three shapes:

    {"id", "split", "form": "messages", "messages": [{"role", "content", "tool_calls"?}, ...], "tools"?: [...]}
    {"id", "split", "form": "prompt_completion", "prompt": str, "completion": str}     raw: no chat template
    {"id", "split", "form": "text", "text": str}

A message with `"train": false` is context only: it is shown to the model and not learned. The file data.jsonl holds one of them a line.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

__all__ = [
    "Row",
    "RowFile",
    "answer_of",
    "assign_ids",
    "content_of",
    "dumps",
    "place_of",
    "question_of",
    "read_jsonl",
    "row_id",
    "subject_of",
    "texts_of",
    "uses_tools",
]

Row = dict[str, Any]
_CONTENT = ("form", "messages", "tools", "prompt", "completion", "text")


def dumps(value: Any) -> str:
    """Canonical JSON: sorted keys, no spaces, text as it is. The same value always gives the same bytes."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def content_of(row: Row) -> Row:
    """The row without its id, split and place: what makes two rows the same row."""
    return {key: row[key] for key in _CONTENT if key in row}


def place_of(row: Row, i: int) -> tuple[int, str]:
    """Where row `i` of a list came from, its `line` and `file` while files are read; else it counts from 1, in no file of a name."""
    return row.get("line", i + 1), row.get("file", "")


def row_id(row: Row) -> str:
    """The first 12 hexadecimal digits of the sha256 of the row's content: stable when rows are added, moved or removed."""
    return hashlib.sha256(dumps(content_of(row)).encode()).hexdigest()[:12]


def assign_ids(rows: Iterable[Row]) -> Iterator[Row]:
    """Give every row its id; the second copy of a row gets `-2`, the third `-3`."""
    seen: dict[str, int] = {}
    for row in rows:
        key = row_id(row)
        seen[key] = seen.get(key, 0) + 1
        yield {**row, "id": key if seen[key] == 1 else f"{key}-{seen[key]}"}


def answer_of(row: Row) -> str:
    """What the model is to say: the last assistant message, the completion, or the whole text.

    A turn that only calls tools is its calls, as canonical JSON.
    """
    if row["form"] == "text":
        return str(row["text"])
    if row["form"] == "prompt_completion":
        return str(row["completion"])
    for message in reversed(row["messages"]):
        if message["role"] == "assistant":
            calls = message.get("tool_calls")
            content = str(message["content"])
            return content if content or not calls else dumps([call["function"] for call in calls])
    return ""


def question_of(row: Row) -> str:
    """What the model is asked: everything before the answer but the system message; empty for `text` rows."""
    if row["form"] == "text":
        return ""
    if row["form"] == "prompt_completion":
        return str(row["prompt"])
    messages = row["messages"]
    last = max((i for i, m in enumerate(messages) if m["role"] == "assistant"), default=len(messages))
    before = [m for m in messages[:last] if m["role"] != "system"]
    return "\n".join(m["content"] or dumps(m.get("tool_calls", [])) for m in before)


def subject_of(row: Row) -> str:
    """What two rows have in common when they are about the same thing: the question, else the text or answer."""
    return question_of(row) or answer_of(row)


def texts_of(row: Row) -> Iterator[str]:
    """Every piece of text a person wrote in this row."""
    if row["form"] == "text":
        yield row["text"]
    elif row["form"] == "prompt_completion":
        yield row["prompt"]
        yield row["completion"]
    else:
        for message in row["messages"]:
            yield message["content"]


def uses_tools(row: Row) -> bool:
    """True when the row offers or calls tools, which the base's chat template must know how to show."""
    return bool(row.get("tools")) or any(m["role"] == "tool" or m.get("tool_calls") for m in row.get("messages", ()))


def read_jsonl(path: Path) -> list[Row]:
    """The rows of a data.jsonl that this module wrote."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


class RowFile(Sequence[Row]):
    """Rows in a temporary file instead of memory: 8 bytes a row are kept."""

    def __init__(self, file: IO[bytes], at: array[int] | None = None) -> None:
        self._file, self._at, self._end = file, at if at is not None else array("Q"), 0

    def append(self, row: Row) -> None:
        """Raises `ValueError` for a number that is not finite, `RecursionError` for what is nested too deeply."""
        line = dumps(row).encode("utf-8", "surrogatepass") + b"\n"
        if self._file.tell() != self._end:
            self._file.seek(self._end)
        self._at.append(self._end)
        self._end += self._file.write(line)

    def select(self, kept: Iterable[int]) -> RowFile:
        """The rows at these positions, in the same file."""
        return RowFile(self._file, array("Q", (self._at[i] for i in kept)))

    def __len__(self) -> int:
        return len(self._at)

    def __getitem__(self, i: Any) -> Any:
        self._file.seek(self._at[i])
        return json.loads(self._file.readline().decode("utf-8", "surrogatepass"))
