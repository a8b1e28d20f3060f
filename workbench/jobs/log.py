"""A job's output on disk: two files of limited size, newest lines kept, access tokens blotted out."""

from __future__ import annotations

import os
import re
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

__all__ = ["CappedLog", "Tail", "pump", "say"]

_SECRET = re.compile(rb"\bhf_[A-Za-z0-9]{20,}")
_LONGEST_LINE = 8192  # a longer piece without a line end is written as it is


class CappedLog:
    """Append to `path`; when it is full it becomes `path.1` and a new one begins. So at most twice `limit` bytes."""

    def __init__(self, path: Path, limit: int) -> None:
        self._path, self._limit = path, limit
        self._file = path.open("ab", buffering=0)

    def write(self, data: bytes) -> None:
        if self._file.tell() + len(data) > self._limit and self._file.tell():
            self._file.close()
            self._path.replace(old(self._path))
            self._file = self._path.open("ab", buffering=0)
        self._file.write(_SECRET.sub(b"hf_***", data))


def old(path: Path) -> Path:
    """Where the older half of a log is."""
    return path.with_name(path.name + ".1")


def pump(stream: IO[bytes], log: CappedLog) -> None:
    """Copy until the end of the stream, whole lines at a time. A full disk loses output but never blocks the writer."""
    held, ended = b"", False
    while not ended:
        chunk = stream.read1(16384)  # type: ignore[attr-defined]
        held, ended = held + chunk, not chunk
        cut = max(held.rfind(b"\n"), held.rfind(b"\r")) + 1
        if ended or (cut == 0 and len(held) > _LONGEST_LINE):
            cut = len(held)
        with suppress(OSError, ValueError):
            log.write(held[:cut])
        held = held[cut:]


class Tail:
    """What is added to a log from now on, across its turns."""

    def __init__(self, path: Path) -> None:
        self._path, self._inode, self._offset = path, 0, 0

    def more(self) -> str:
        """What was written since the last call; at first, everything that is kept."""
        parts: list[tuple[int, bytes, int]] = []
        for file in (old(self._path), self._path):
            try:
                with file.open("rb") as stream:
                    inode = os.fstat(stream.fileno()).st_ino
                    if self._inode and inode == self._inode:
                        stream.seek(self._offset)
                        parts = []  # what came before it was read already
                    parts.append((inode, stream.read(), stream.tell()))
            except FileNotFoundError:
                continue
        if parts:
            self._inode, _, self._offset = parts[-1]
        return b"".join(data for _, data, _ in parts).decode("utf-8", "replace")


def say(text: str) -> None:
    """A line, with the time, in the log of the dispatcher or supervisor whose process this is."""
    sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
    sys.stderr.flush()
