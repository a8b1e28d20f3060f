"""Files that survive a crash, and their hashes: how the workbench writes what must be there whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from workbench.errors import Conflict, UsageError, WorkbenchError

__all__ = ["atomic_write", "beside", "flush", "room", "sha256_of"]


def atomic_write(path: Path, data: bytes | str, *, mode: int = 0o644) -> None:
    """Write `data` (text as UTF-8) to `path` durably: a reader, or a crash at any moment, sees the old file or the whole new one."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data.encode("utf-8") if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    flush(path.parent)


@contextmanager
def beside(out: Path) -> Iterator[Path]:
    """A path next to `out` for a file or folder to be, to rename when it is whole; whatever is left there at the end is removed.

    Raises `Conflict` when `out` exists, `UsageError` when there is no folder for it.
    """
    if out.exists() or out.is_symlink():
        raise Conflict(f"{out} exists already.", hint="Name a path that does not.")
    if not out.parent.is_dir():
        raise UsageError(f"There is no folder {out.parent}.", hint="Make it first.")
    room = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield room / "part"
    finally:
        shutil.rmtree(room, ignore_errors=True)


def flush(path: Path) -> None:
    """Force the bytes of a file, or the names in a folder, to disk. Windows flushes only what is open for writing: nothing there."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def room(root: Path, kind: str = "draft", *, days: float = 1) -> Iterator[Path]:
    """An empty folder to build in, in `root`/.staging and so on the disk of what it becomes; what is still there at the end is removed.

    Sweeps what killed processes left `days` ago. Raises `WorkbenchError` when the disk is full.
    """
    area = root / ".staging"
    area.mkdir(parents=True, exist_ok=True)
    for old in area.iterdir():
        with suppress(OSError):
            if time.time() - old.stat().st_mtime > days * 86_400:
                shutil.rmtree(old)
    folder = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=area))
    folder.chmod(0o755)  # mkdtemp hides it from other users; what is published may be read
    try:
        yield folder
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise WorkbenchError(f"The disk of {root} is full.", hint="Free some space and try again.") from None
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
