"""A cheap kind of job that counts, and misbehaves on request. It is found as the kinds of other distributions are, by its entry point.

Every step appends one line to the history: `attempt pid step`. It goes on from the last step that an earlier attempt finished.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

from workbench.errors import TrainingError
from workbench.jobs.folder import read_json, write_json
from workbench.jobs.tasks import Spec, TaskContext
from workbench.records import Progress

__all__ = ["Count"]

_HELPER = "import sys, time\nwhile True:\n    open(sys.argv[1], 'a').write(sys.argv[2]); time.sleep(0.05)"


class Count(Spec):
    """Count to `steps`; at the step `at`, do what `then` says."""

    kind = "count"

    name: str = "count"
    steps: int = 1
    seconds: float = 0.01  # per step
    history: Path | None = None
    helper: Literal["child", "daemon"] | None = None
    at: int | None = None
    then: Literal["fail", "crash", "exit", "hang", "stubborn", "nonsense"] | None = None

    @property
    def title(self) -> str:
        return self.name

    def run(self, ctx: TaskContext) -> dict[str, Any]:
        """Returns {"steps": n, "attempt": n, "resumed_from": step}."""
        history = self.history or ctx.folder / "history"
        alone = os.open(history.with_name(history.name + ".alone"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _note(history, ctx, "TWICE")
            raise TrainingError("Two attempts of this job run at the same time.") from None
        if self.helper:
            _start_helper(history, ctx, daemon=self.helper == "daemon")
        start = _resume_from(ctx)
        for step in range(start + 1, self.steps + 1):
            time.sleep(self.seconds)
            _note(history, ctx, str(step))
            write_json(ctx.folder / "step.json", {"step": step})
            ctx.report(Progress(t=time.time(), phase="training", step=step, total_steps=self.steps))
            if step == self.at:
                _misbehave(self.then)
            if ctx.stopping():
                raise TrainingError("Stopped and saved.")
        return {"steps": self.steps, "attempt": ctx.attempt, "resumed_from": start}


def _resume_from(ctx: TaskContext) -> int:
    records = (read_json(folder / "step.json") for folder in ctx.earlier)
    return max((int(record["step"]) for record in records if record), default=0)


def _note(history: Path, ctx: TaskContext, what: str) -> None:
    handle = os.open(history, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(handle, f"{ctx.attempt} {os.getpid()} {what}\n".encode())
    os.close(handle)


def _start_helper(history: Path, ctx: TaskContext, *, daemon: bool) -> None:
    """A process that never ends by itself; a daemon leaves the process group, too."""
    line = f"{ctx.attempt} {os.getpid()} helper\n"
    subprocess.Popen([sys.executable, "-c", _HELPER, str(history), line], start_new_session=daemon)


def _misbehave(how: str | None) -> None:
    if how == "fail":
        raise TrainingError("It was told to fail.")
    if how == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "nonsense":
        raise ValueError(f"unknown: {how}")
    if how == "exit":
        os._exit(7)
    if how == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(1)
