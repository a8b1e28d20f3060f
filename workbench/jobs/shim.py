"""The supervisor of one attempt, detached from everybody else: `python -m workbench.jobs.shim ATTEMPT_FOLDER`

It outlives the dispatcher, the browser and the shell. While it lives it holds attempt.lock; that the kernel frees the
lock at its death is how others know. In order: lock, report to the database (a token that was taken over stops
here), start the child, record it, let it begin, look after it, empty its process group, write exit.json, and only
then tell the database, for as long as that takes.

Where the database is a server, another machine may be told to take the job over once the lease is over. So whoever cannot
renew it in time stops its child before. With SQLite there is no other machine, and the child goes on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from workbench import paths
from workbench.db.session import sqlite_file
from workbench.errors import Fenced
from workbench.jobs import dispatcher, endings, launch, processes, queue
from workbench.jobs.endings import Ending
from workbench.jobs.folder import LOCK, LOG, METRICS, ORDER, OUTCOME, PROCESSES, read_json, write_json
from workbench.jobs.log import CappedLog, pump, say
from workbench.jobs.timing import Timing

__all__ = ["main"]

_TICK = 0.1  # seconds between looks at the child
_T = TypeVar("_T")


def main(arguments: list[str]) -> int:
    """Run the attempt in the folder named by the first argument. 0 unless there is nothing to run."""
    folder = Path(arguments[0]).absolute()
    order = read_json(folder / ORDER)
    if order is None:
        say(f"There is no order in {folder}.")
        return 2
    shim = _Shim(folder, order)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: shim.leave())
    try:
        shim.run()
    except Fenced as error:
        say(f"Not mine any more: {error}")
    return 0


class _Shim:
    def __init__(self, folder: Path, order: dict[str, Any]) -> None:
        self.folder, self.token, self.slots = folder, str(order["token"]), list(order["slots"])
        self.timing = Timing.of(order["timing"])
        self.asked: str | None = None  # why the child is to stop
        self.shared = sqlite_file(paths.database_url()) is None  # with other machines
        self.held_until = 0.0  # the lease certainly lasts so long, by our own clock
        self.fenced: Fenced | None = None
        self.silent = False  # the child never said a word
        self.leaving = False  # somebody wants the supervisor itself to end (the machine shuts down)
        self.kill_at: float | None = None
        self.said = ""  # the last complaint, so that an outage of a day is one line
        self.next_renewal = self.next_look = 0.0

    def stop(self, why: str) -> None:
        """Ask the child to stop; the main loop does it."""
        self.asked = self.asked or why

    def leave(self) -> None:
        self.leaving = True
        self.stop("The supervisor was told to stop.")

    def run(self) -> None:
        """The whole life of the attempt. Raises `Fenced` when it belongs to somebody else."""
        # a dispatcher that looks whether we are dead holds it for a moment
        if processes.try_lock(self.folder / LOCK, seconds=5.0) is None:
            raise Fenced("Another process holds attempt.lock.")
        started = processes.start_time(os.getpid()) or ""
        cancelled = self._insist(
            lambda: self._hold(lambda: queue.begin(self.token, pid=os.getpid(), started=started, lease=self.timing.lease))
        )
        if cancelled is None:
            return  # told to stop before the database answered: the dispatcher will see it
        ending = Ending("interrupted", error="Cancelled before it began.") if cancelled else self._supervise()
        try:
            endings.write(self.folder, ending)
        except OSError as error:
            say(f"exit.json cannot be written: {error}")
        self._insist(lambda: queue.finish(self.token, ending))
        if not self.leaving:
            self._try(lambda: dispatcher.revive(self.timing))

    def _supervise(self) -> Ending:
        try:
            child = self._spawn()
        except OSError as error:
            return Ending("crashed", error=f"The process could not be started: {error}.")
        started = processes.start_time(child.pid)
        pipe = cast(IO[bytes], child.stdin)
        copier = threading.Thread(target=pump, args=(child.stdout, CappedLog(self.folder / LOG, self.timing.log_bytes)), daemon=True)
        copier.start()
        try:
            self._record(child.pid, started)
            with contextlib.suppress(BrokenPipeError):  # it is dead already; the loop below will see that
                pipe.write(b"!")
                pipe.flush()
        except OSError as error:
            pipe.close()  # the child sees the end of the pipe and leaves
            child.wait()
            return Ending("crashed", error=f"The process could not be recorded: {error}.")
        gone, silent_at = threading.Event(), time.monotonic() + self.timing.start
        threading.Thread(target=self._keep, args=(gone,), daemon=True).start()
        try:
            while child.poll() is None:
                time.sleep(_TICK)
                if self.fenced:
                    raise self.fenced
                self._watch(silent_at)
                self._press(child)
        finally:
            self._empty_group(child, started)
            gone.set()
        copier.join(timeout=5.0)
        if self.silent and not (self.folder / OUTCOME).exists():
            return Ending("crashed", child.wait(), error=self.asked)
        return endings.after_child(self.folder, child.wait(), asked=self.asked)

    def _spawn(self) -> subprocess.Popen[bytes]:
        extra = {processes.MARK: self.token, "PYTHONUNBUFFERED": "1", **launch.waiting()}
        gpus = [name for name in self.slots if name.startswith("GPU-")]
        if gpus:
            extra["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        return subprocess.Popen(
            launch.command("workbench.jobs.trainer_main", str(self.folder), str(os.getpid())),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            env=launch.environment(**extra),
            process_group=0,
        )

    def _record(self, pid: int, started: str | None) -> None:
        """On disk before the child may begin: whoever finds us dead must be able to find it."""
        write_json(self.folder / PROCESSES, {"boot_id": processes.boot_id(), "child": pid, "child_started": started})
        self._try(lambda: queue.set_group(self.token, pid))

    def _keep(self, gone: threading.Event) -> None:
        """A thread of its own asks the database: one that hangs must not shut the eyes that are on the child."""
        while not gone.wait(_TICK):
            try:
                self._heartbeat()
            except Fenced as error:
                self.fenced = error
                return

    def _hold(self, call: Callable[[], _T]) -> _T:
        """A call that puts the lease's end `lease` seconds after the database's now, which is not before ours."""
        t = time.monotonic()
        result = call()
        self.held_until = t + self.timing.lease
        return result

    def _renew(self) -> bool:
        self._hold(lambda: queue.renew(self.token, lease=self.timing.lease))
        return True

    def _watch(self, silent_at: float) -> None:
        """Reasons to stop the child that nobody has to tell us."""
        t = time.monotonic()
        if self.shared and self.held_until - t < self.timing.lease / 3:
            self.stop("The database could not be reached before the lease was over; it goes on from its last checkpoint.")
            self.kill_at = self.kill_at and min(self.kill_at, self.held_until - self.timing.lease / 6)
        if t > silent_at and self.asked is None and not (self.folder / METRICS).exists():
            self.silent = True
            self.stop(f"Its process hung: not one word in {self.timing.start:g} s. Look at the disks of this machine.")

    def _heartbeat(self) -> None:
        t = time.monotonic()
        if t >= self.next_renewal:
            again = self.timing.lease / (3 if self._try(self._renew) else 15)
            self.next_renewal = time.monotonic() + again
            self._try(lambda: dispatcher.revive(self.timing))
        if t >= self.next_look and self.asked is None:
            self.next_look = t + self.timing.look
            if self._try(lambda: queue.cancel_wanted(self.token)):
                self.stop("Cancelled.")

    def _press(self, child: subprocess.Popen[bytes]) -> None:
        """SIGTERM once to the child alone (its helpers must live while it saves), SIGKILL to the group after the grace time."""
        t = time.monotonic()
        if self.kill_at is None and self.asked is not None:
            child.terminate()
            self.kill_at = t + self.timing.grace
        elif self.kill_at is None and (self.folder / OUTCOME).exists():
            self.kill_at = t + self.timing.grace  # it has nothing more to do than to leave
        elif self.kill_at is not None and t >= self.kill_at:
            child.kill()

    def _empty_group(self, child: subprocess.Popen[bytes], started: str | None) -> None:
        """Nothing the attempt started may outlive it. A process stuck in the kernel is waited for."""
        while not processes.kill_all(self.token, child.pid, started, seconds=self.timing.lease / 6):
            child.poll()

    def _try(self, call: Callable[[], _T]) -> _T | None:
        """One try; a database that is away must not end the training. Raises only `Fenced`."""
        try:
            return call()
        except Fenced:
            raise
        except Exception as error:  # whatever the driver raises while the server restarts
            if (text := f"{type(error).__name__}: {error}") != self.said:
                say(text)
            self.said = text
            return None

    def _insist(self, call: Callable[[], _T]) -> _T | None:
        """Try until it works, `timing.store` seconds have passed, or the machine shuts down (then once more)."""
        deadline, pause = time.monotonic() + self.timing.store, 0.1
        while True:
            leaving = self.leaving
            result = self._try(call)
            if result is not None or leaving or time.monotonic() > deadline:
                return result
            time.sleep(pause)
            pause = min(2.0, pause * 2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
