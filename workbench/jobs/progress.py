"""metrics.jsonl: what a running attempt says about itself, one JSON object a line, appended, read by everybody."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

from workbench.records import Progress

__all__ = ["append", "last", "read"]

_KEYS = {f.name for f in dataclasses.fields(Progress)}
_TAIL = 16 * 1024  # bytes read from the end at first


def append(path: Path, progress: Progress) -> None:
    """Append one line with one write. Absent values are left out; NaN and infinity become null (they are not JSON)."""
    values = {key: _finite(value) for key, value in dataclasses.asdict(progress).items() if value is not None}
    line = json.dumps(values) + "\n"
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


def read(path: Path, after: int = 0) -> tuple[list[Progress], int]:
    """The lines from byte `after` on, and where to go on reading. A torn last line waits for its end; a bad one is skipped."""
    try:
        with path.open("rb") as file:
            file.seek(after)
            data = file.read()
    except FileNotFoundError:
        return [], after
    whole = data[: data.rfind(b"\n") + 1]
    return [p for line in whole.splitlines() if (p := _parse(line)) is not None], after + len(whole)


def last(path: Path) -> Progress | None:
    """The newest whole line, reading (and parsing) from the end only what that takes."""
    try:
        with path.open("rb") as file:
            size, length = file.seek(0, os.SEEK_END), _TAIL
            while True:
                file.seek(max(0, size - length))
                tail = file.read(length)
                whole = tail[: tail.rfind(b"\n") + 1].splitlines()
                for line in reversed(whole):  # the first may begin in its middle: no JSON object
                    if (found := _parse(line)) is not None:
                        return found
                if length >= size:
                    return None
                length *= 8
    except FileNotFoundError:
        return None


def _parse(line: bytes) -> Progress | None:
    try:
        values: Any = json.loads(line)
        return Progress(**{key: value for key, value in values.items() if key in _KEYS})
    except (ValueError, AttributeError, TypeError):
        return None


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
