"""metrics.jsonl: what a running attempt says about itself, one JSON object a line, appended, read by everybody."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.records import Dataset, Progress

__all__ = ["Course", "append", "last", "read", "with_testing"]

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
    whole = _from(path, after)
    return [p for line in whole.splitlines() if (p := _parse(line)) is not None], after + len(whole)


def _from(path: Path, after: int) -> bytes:
    """The whole lines from byte `after` on."""
    try:
        with path.open("rb") as file:
            file.seek(after)
            data = file.read()
    except FileNotFoundError:
        return b""
    return data[: data.rfind(b"\n") + 1]


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


class Course:
    """A metrics.jsonl as it grows, thinned to at most about twice `most` lines: for a chart, looked at again and again.

    Each look reads what is new. Evaluations, answers and the newest line are always there; of the others, every
    1st, 2nd, 4th, ... so that a look at 100,000 steps costs what a look at `most` does.
    """

    def __init__(self, path: Path, most: int) -> None:
        self._path, self._most, self._lock = path, most, threading.Lock()
        self._offset, self._count, self._stride = 0, 0, 1
        self._kept: list[tuple[int, Progress]] = []  # (number among the plain lines, or 0 for one that stays)
        self._plain = 0  # of those kept
        self._newest: Progress | None = None

    def lines(self) -> list[Progress]:
        """In the order in which they were written."""
        with self._lock:
            data = _from(self._path, self._offset)
            self._offset += len(data)
            line = b""
            for line in data.splitlines():
                self._take(line)
            self._newest = _parse(line) or self._newest
            kept = [progress for _, progress in self._kept]
            return kept if self._newest is None or kept[-1:] == [self._newest] else [*kept, self._newest]

    def _take(self, line: bytes) -> None:
        stays = b'"eval_loss"' in line or b'"samples"' in line
        number, self._count = self._count, self._count + (not stays)
        if not stays and number % self._stride:
            return
        if (found := _parse(line)) is not None:
            self._kept.append((0 if stays else number, found))
            self._plain += not stays
        if self._plain > 2 * self._most:
            self._stride *= 2
            self._kept = [(number, progress) for number, progress in self._kept if number % self._stride == 0]
            self._plain //= 2


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
