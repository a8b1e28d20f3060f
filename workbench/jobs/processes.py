"""Who is alive, proven: locks the kernel frees, pids told apart by start time, and children found by a mark.

A pid alone proves nothing (pids are reused) and a process group alone catches too little (a child may leave it).
So every process of an attempt carries `WORKBENCH_ATTEMPT=<token>` in its environment, inherited by whatever it
starts, and a recorded group is trusted only while a process in it is proven to be ours. Linux and macOS.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

__all__ = ["MARK", "boot_id", "is_alive", "is_locked", "kill", "kill_all", "leftovers", "locked", "start_time", "try_lock"]

MARK = "WORKBENCH_ATTEMPT"
_LINUX = sys.platform == "linux"


def boot_id() -> str:
    """Changes with every start of the machine; two processes with the same one share a kernel."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"boot-{psutil.boot_time():.0f}"


def start_time(pid: int) -> str | None:
    """When `pid` was started, as the kernel counts it (unmoved by clock changes); None when dead or a zombie."""
    if not _LINUX:
        try:
            process = psutil.Process(pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
        except psutil.Error:
            return None
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces and brackets
    return None if fields[0] in "ZX" else fields[19]


def is_alive(pid: int | None, started: str | None) -> bool:
    """True when `pid` is running and is the process that was started then, not a later one with the same number."""
    return pid is not None and started is not None and start_time(pid) == started


def try_lock(path: Path, *, seconds: float = 0.0) -> int | None:
    """Lock the file for as long as this process lives or until the returned handle is closed; None when it is held for `seconds`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)  # not inherited by children (PEP 446)
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(handle)
                return None
        time.sleep(0.05)


def is_locked(path: Path) -> bool:
    """Does another process hold the lock? Asking never makes a second asker believe so."""
    try:
        handle = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold the lock during the block; the block gets False when somebody else holds it."""
    handle = try_lock(path)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            os.close(handle)


def leftovers(mark: str, pgid: int | None = None, leader_started: str | None = None) -> list[tuple[int, str]]:
    """Living processes (pid, start time) that carry the mark, and the other members of their group.

    The group counts only if its leader is the recorded process or a marked process is in it.
    """
    living = [(pid, started) for pid in psutil.pids() if (started := start_time(pid)) is not None]
    marked = [process for process in living if _mark_of(process[0]) == mark]
    if pgid is None:
        return marked
    group = [process for process in living if _group(process[0]) == pgid]
    ours = is_alive(pgid, leader_started) or bool(set(group) & set(marked))
    return sorted({*marked, *group} if ours else marked)


def kill_all(mark: str, pgid: int | None, leader_started: str | None, *, seconds: float = 10.0) -> bool:
    """SIGKILL everything `leftovers` finds, again and again (a process may fork meanwhile). True once nothing is left."""
    deadline = time.monotonic() + seconds
    while True:
        left = leftovers(mark, pgid, leader_started)
        if not left:
            return True
        for pid, started in left:
            kill(pid, started)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)


def kill(pid: int, started: str) -> None:
    """SIGKILL the process that had `pid` and was started then; never one that got the number later."""
    try:
        if not hasattr(os, "pidfd_open"):
            if start_time(pid) == started:
                os.kill(pid, signal.SIGKILL)
            return
        handle = os.pidfd_open(pid)  # from here on the handle names one process, whatever becomes of the number
        try:
            if start_time(pid) == started:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)
    except (ProcessLookupError, PermissionError):
        return


def _mark_of(pid: int) -> str | None:
    try:
        return psutil.Process(pid).environ().get(MARK)
    except (OSError, psutil.Error):
        return None


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:
        return None
