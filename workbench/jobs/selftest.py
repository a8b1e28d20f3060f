"""A cheap task that counts, and misbehaves on request: for the tests, and to see whether a machine runs jobs at all.

spec: {"steps": 5, "seconds": 0.05 (per step), "history": FILE, "helper": "child" | "daemon", "at": 3, "then": "fail" |
"crash" | "exit" | "hang" | "stubborn"}. All but steps may be left out. Every step appends one line to the history: `attempt pid step`.
It goes on from the last step that an earlier attempt finished.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from workbench.errors import TrainingError
from workbench.jobs.folder import read_json, write_json
from workbench.jobs.tasks import TaskContext
from workbench.records import Progress

__all__ = ["run"]

_HELPER = "import sys, time\nwhile True:\n    open(sys.argv[1], 'a').write(sys.argv[2]); time.sleep(0.05)"


def run(context: TaskContext) -> dict[str, Any]:
    """Count to `steps`. Returns {"steps": n, "attempt": n, "resumed_from": step}."""
    spec = context.spec
    history = Path(spec.get("history") or context.folder / "history")
    alone = os.open(history.with_name(history.name + ".alone"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _note(history, context, "TWICE")
        raise TrainingError("Two attempts of this job run at the same time.") from None
    if spec.get("helper"):
        _start_helper(history, context, daemon=spec["helper"] == "daemon")
    start = _resume_from(context)
    for step in range(start + 1, int(spec["steps"]) + 1):
        time.sleep(float(spec.get("seconds", 0.01)))
        _note(history, context, str(step))
        write_json(context.folder / "step.json", {"step": step})
        context.report(Progress(t=time.time(), phase="training", step=step, total_steps=int(spec["steps"])))
        if step == spec.get("at"):
            _misbehave(str(spec["then"]))
        if context.stopping():
            raise TrainingError("Stopped and saved.")
    return {"steps": int(spec["steps"]), "attempt": context.attempt, "resumed_from": start}


def _resume_from(context: TaskContext) -> int:
    found = (read_json(folder / "step.json") for folder in context.earlier)
    return max((int(record["step"]) for record in found if record), default=0)


def _note(history: Path, context: TaskContext, what: str) -> None:
    handle = os.open(history, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(handle, f"{context.attempt} {os.getpid()} {what}\n".encode())
    os.close(handle)


def _start_helper(history: Path, context: TaskContext, *, daemon: bool) -> None:
    """A process that never ends by itself; a daemon leaves the process group, too."""
    line = f"{context.attempt} {os.getpid()} helper\n"
    subprocess.Popen([sys.executable, "-c", _HELPER, str(history), line], start_new_session=daemon)


def _misbehave(how: str) -> None:
    if how == "fail":
        raise TrainingError("It was told to fail.")
    if how == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        os._exit(7)
    if how == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while how in {"hang", "stubborn"}:
        time.sleep(1)
    raise ValueError(f"unknown: {how}")
