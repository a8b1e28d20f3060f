"""Gives waiting jobs to shims and takes over from dead ones. One per home and machine: it holds `<home>/jobs/dispatcher….lock`.

It may be killed at any moment: shims go on without it, and the next dispatcher finds everything in the database
and the attempts' folders. `python -m workbench.jobs.dispatcher` is what `ensure_running` starts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import identity, paths
from workbench.db.reading import rows
from workbench.db.session import clock, deleted, engine, sqlite_file
from workbench.errors import Conflict, DatabaseError, Fenced
from workbench.jobs import endings, launch, log, processes
from workbench.jobs.endings import Ending
from workbench.jobs.folder import LOCK, ORDER, PROCESSES, SHIM_LOG, attempt_dir, read_json, write_json
from workbench.jobs.timing import Timing

if TYPE_CHECKING:
    from workbench.jobs.queue import Claim

__all__ = ["Dispatcher", "ensure_running", "is_running", "machine_slots", "main", "revive"]

Say = Callable[[str], None]


def _lock_file() -> Path:
    """Machines that share a home share a database server, and each has a dispatcher of its own."""
    of_machine = "" if sqlite_file(paths.database_url()) is not None else f"-{identity.node_id()}"
    return paths.jobs_dir() / f"dispatcher{of_machine}.lock"


def is_running() -> bool:
    """Does a dispatcher of this home run on this machine?"""
    return processes.is_locked(_lock_file())


def ensure_running(timing: Timing | None = None, *, slots: int | None = None) -> None:
    """Start a dispatcher in the background unless one runs. Call it after the job was committed.

    The lock is taken here and inherited by the dispatcher, so however many call this at once, one starts.
    """
    folder = paths.jobs_dir()
    while (handle := processes.try_lock(_lock_file())) is None:
        if is_running():
            return
    try:
        output = _lock_file().with_suffix(".log")
        if output.exists() and output.stat().st_size > 2_000_000:
            output.replace(log.old(output))
        given = json.dumps({"lock": handle, "slots": slots, "timing": dataclasses.asdict(timing or Timing())})
        started = launch.detached("workbench.jobs.dispatcher", given, output=output, cwd=folder, keep=[handle])
    finally:
        os.close(handle)
    threading.Thread(target=started.wait, daemon=True).start()  # collects it, should this process live longer


def revive(timing: Timing) -> None:
    """Start a dispatcher if the one that ran in the background was killed. One that left by itself, and a
    `workbench worker`, which has a person or a service manager to look after it, stay away.

    Shims call this, so the queue goes on as long as anything of ours is alive.
    """
    if _signature()[2:] == ["auto"] and not is_running():
        ensure_running(timing)


def machine_slots() -> list[str]:
    """One slot per GPU, by its UUID; one for a machine without (a training job uses every core)."""
    try:
        query = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
        gpus = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        gpus = []
    return gpus or ["cpu-0"]


class Dispatcher:
    """One look at a time: `step()` takes over from the dead and starts what can start."""

    def __init__(self, *, slots: int | None = None, timing: Timing | None = None, say: Say = lambda text: None) -> None:
        """`slots`: so many jobs at a time, instead of one for each GPU of this machine (one where it has none)."""
        self.timing, self.say = timing or Timing(), say
        self.host, self.boot_id = identity.node_id(), processes.boot_id()
        self.slots = [f"cpu-{i}" for i in range(slots)] if slots else machine_slots()
        self.shims: dict[str, subprocess.Popen[bytes]] = {}  # by token; only those this process started
        self.failed: set[str] = set()  # tokens whose shim was seen to end
        self._registered: object = None  # the opened database that knows our slots
        self._said: dict[str, None] = {}

    def step(self) -> bool:
        """True when there is anything to do now or later. Errors of the database pass through."""
        from workbench.jobs import queue  # imports SQLAlchemy

        if (opened := engine()) is not self._registered:
            queue.register_slots(self.host, self.slots)
            self._registered = opened
        for token, shim in list(self.shims.items()):
            if shim.poll() is not None:
                self.failed.add(token)
                del self.shims[token]
        busy = self._reap()
        waiting = bool(rows("SELECT 1 AS one FROM jobs WHERE state = 'queued' LIMIT 1"))
        while waiting and (claim := queue.claim(self.host, self.boot_id, lease=self.timing.lease)) is not None:
            busy = True
            self._start(claim)
        return busy or waiting

    def _start(self, claim: Claim) -> None:
        from workbench.jobs import queue

        folder = attempt_dir(claim.job_id, claim.n)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / ORDER, {**dataclasses.asdict(claim), "timing": dataclasses.asdict(self.timing)}, mode=0o600)
            shim = launch.detached("workbench.jobs.shim", str(folder), output=folder / SHIM_LOG, cwd=folder)
        except OSError as error:
            self.say(f"job {claim.job_id}: cannot start attempt {claim.n}: {error}")
            queue.finish(claim.token, Ending("crashed", error=f"It could not be started: {error}."))
            return
        self.shims[claim.token] = shim
        self.say(f"job {claim.job_id}: attempt {claim.n} started")

    def _reap(self) -> bool:
        """Look at every running attempt that could be dead and is ours to judge. True when any attempt runs here."""
        running = rows(f"SELECT a.*, {clock()} AS t FROM attempts a WHERE a.state = 'running'")
        mine = [row for row in running if self._is_ours(row)]
        for row in mine:
            seen = row["boot_id"] == self.boot_id and (row["shim_pid"] is not None or row["token"] in self.failed)
            if seen or self._is_over(row["t"], row["lease_until"]):
                try:
                    self._take_over_if_dead(row)
                except DatabaseError:
                    raise
                except Exception as error:  # whatever its folder holds must not stop the others
                    self._say_once(f"job {row['job_id']}: attempt {row['n']} cannot be judged: {type(error).__name__}: {error}")
        self.failed &= {row["token"] for row in mine}
        return bool(mine)

    def _is_ours(self, row: dict[str, Any]) -> bool:
        """Death can be proven here only for what ran on this machine; after a restart of it, or of its clone, by the lease alone."""
        return sqlite_file(paths.database_url()) is not None or row["host"] == self.host or row["boot_id"] == self.boot_id

    def _is_over(self, t: float, lease_until: float) -> bool:
        """The lease has run out, or ends later than any lease can: then the clock was put back."""
        return t > lease_until or lease_until - t > 10 * self.timing.lease

    def _take_over_if_dead(self, row: dict[str, Any]) -> None:
        """Prove death (lock free, supervisor gone), kill what is left, record how it ended: all while holding the lock,
        so that a supervisor that starts late finds it taken and then its token refused."""
        from workbench.jobs import queue

        folder, rebooted = attempt_dir(row["job_id"], row["n"]), row["boot_id"] != self.boot_id
        with processes.locked(folder / LOCK) as free:
            if not free or (not rebooted and processes.is_alive(row["shim_pid"], row["shim_started"])):
                return
            if not rebooted:
                record = read_json(folder / PROCESSES) or {}
                if not processes.kill_all(row["token"], record.get("child"), record.get("child_started")):
                    self.say(f"job {row['job_id']}: processes of attempt {row['n']} do not die; trying again")
                    return
            began, seen = row["shim_pid"] is not None, row["token"] in self.failed
            ending = endings.after_shim(folder, rebooted=rebooted, began=began, seen_to_fail=seen)
            with contextlib.suppress(Fenced):  # it was recorded between our look and now
                state = queue.finish(row["token"], ending)
                self.say(f"job {row['job_id']}: attempt {row['n']} {ending.how}, job {state.value}. {ending.error or ''}".rstrip())

    def run(self, *, leave_when_idle: bool, stopping: Callable[[], bool] = lambda: False, lock: int | None = None) -> None:
        """Hold the lock and work until told to stop, the home is gone, or (if so wanted) nothing was to do for a while.

        `lock` is a handle that holds the lock already. Raises `Conflict` when another dispatcher runs.
        """
        patience = 1.0  # seconds: somebody may just be asking whether the lock is free
        handle = processes.try_lock(_lock_file(), seconds=patience) if lock is None else lock
        if handle is None:
            raise Conflict("Another dispatcher runs for this home.", hint="Jobs are being taken care of; nothing to do.")
        while handle is not None:
            _sign(handle, "auto" if leave_when_idle else "worker")
            try:
                self._loop(handle, leave_when_idle, stopping)
            finally:
                os.ftruncate(handle, 0)  # it leaves; one that is killed stays signed
                os.close(handle)
            # Whoever submitted a job while we held the lock has left it to us: look once more without the lock.
            again = leave_when_idle and not stopping() and _lock_file().exists() and _anything_to_do()
            handle = processes.try_lock(_lock_file(), seconds=patience) if again else None

    def _loop(self, handle: int, leave_when_idle: bool, stopping: Callable[[], bool]) -> None:
        idle_since = time.monotonic()
        while not stopping() and _still_holds(handle):
            if self._quietly():
                idle_since = time.monotonic()
            elif leave_when_idle and time.monotonic() - idle_since > self.timing.idle:
                return
            time.sleep(self.timing.poll)

    def _quietly(self) -> bool:
        """One step that survives a database which is away for a while."""
        try:
            return self.step()
        except Exception as error:  # whatever the driver raises while the server restarts
            self._say_once(f"{type(error).__name__}: {error}")
            return not deleted()  # nobody can submit to a database that is no more

    def _say_once(self, text: str) -> None:
        """An outage of a day is one line."""
        if text not in self._said:
            self.say(text)
        self._said = dict.fromkeys([*list(self._said)[-20:], text])


def _sign(handle: int, kind: str) -> None:
    """Write into the lock file who holds it: pid, its start time, auto or worker."""
    os.set_inheritable(handle, False)
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()} {processes.start_time(os.getpid())} {kind}\n".encode(), 0)


def _signature() -> list[str]:
    try:
        return _lock_file().read_text().split()
    except OSError:
        return []


def _still_holds(handle: int) -> bool:
    """Is the home still there, and its lock file the one we hold?"""
    try:
        return os.path.samestat(_lock_file().stat(), os.fstat(handle))
    except OSError:
        return False


def _anything_to_do() -> bool:
    return bool(rows("SELECT 1 AS one FROM jobs WHERE state IN ('queued', 'running') LIMIT 1"))


def main(arguments: list[str]) -> int:
    """Run in this process until told to stop; the one argument is what `ensure_running` says, as JSON."""
    given = json.loads(arguments[0])
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: told.append(n))
    try:
        dispatcher = Dispatcher(slots=given["slots"], timing=Timing.of(given["timing"]), say=log.say)
        dispatcher.run(leave_when_idle=True, stopping=lambda: bool(told), lock=given["lock"])
    except Conflict as error:
        log.say(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
