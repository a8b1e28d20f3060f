"""metrics.jsonl: what a running attempt says about itself, one JSON object a line, appended, read by everybody."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.records import Dataset, Progress

__all__ = ["append", "last", "read", "with_testing"]

_KEYS = {f.name for f in dataclasses.fields(Progress)}
_TAIL = 2 * 1024  # bytes read from the end at first


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
    return [line for text in whole.splitlines() if (line := _parse(text)) is not None], after + len(whole)


def with_testing(report: Callable[[Progress], None], dataset: Dataset) -> Callable[[Progress], None]:
    """`report`, its seconds left in training also holding what comes after: both arms on the test part, at a guess.

    A token that is only read costs half of one that is learned from, and there are two arms.
    """

    def told(line: Progress) -> None:
        if line.phase == "training" and line.seconds_left is not None and line.epoch and line.tokens and line.tokens_per_second:
            row = line.tokens / (line.epoch * dataset.train_rows)
            line = dataclasses.replace(line, seconds_left=line.seconds_left + dataset.test_rows * row / line.tokens_per_second)
        report(line)

    return told


def last(path: Path) -> Progress | None:
    """The newest whole line, read from the end with no more than that takes."""
    size = path.stat().st_size if path.is_file() else 0
    length = _TAIL
    while True:
        lines, _ = read(path, max(0, size - length))  # the first may begin in its middle: no JSON object, it is skipped
        if lines or length >= size:
            return lines[-1] if lines else None
        length *= 8


def _parse(line: bytes) -> Progress | None:
    try:
        values: Any = json.loads(line)
        return Progress(**{key: value for key, value in values.items() if key in _KEYS})
    except (ValueError, AttributeError, TypeError):
        return None


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
