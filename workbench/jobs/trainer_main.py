"""The child of a shim: runs one task in a process group of its own. `python -m workbench.jobs.trainer_main FOLDER SHIM_PID`

It must never outlive its shim: the kernel kills it when the shim dies (Linux), and it watches the pipe the shim
holds open (everywhere). It begins only after the shim has recorded it and said so through that pipe.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from workbench.errors import WorkbenchError
from workbench.foreign import ORPHAN, die_with_parent
from workbench.jobs import progress, tasks
from workbench.jobs.folder import METRICS, ORDER, OUTCOME, read_json, write_json
from workbench.records import Progress

__all__ = ["main"]

FAILED, STOPPED = 1, 3  # exit codes


def main(arguments: list[str]) -> int:
    """Run the task of the order in FOLDER and write its outcome."""
    folder, shim = Path(arguments[0]), int(arguments[1])
    die_with_parent(shim)
    _wait_for_go()
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    order = read_json(folder / ORDER)
    if order is None:
        sys.stderr.write(f"There is no order in {folder}.\n")
        return FAILED
    outcome = _run(_context(folder, order, stopping), order, stopping)
    sys.stdout.flush()
    write_json(folder / OUTCOME, outcome)
    return 0 if outcome["ok"] else STOPPED if outcome["stopped"] else FAILED


def _wait_for_go() -> None:
    """Read one byte from the shim, then keep watching the pipe: its end means that the shim is dead."""
    pipe = os.dup(0)  # not inherited by what the task starts
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if not os.read(pipe, 1):
        os._exit(ORPHAN)
    threading.Thread(target=_watch, args=(pipe,), daemon=True).start()


def _watch(pipe: int) -> None:
    if not os.read(pipe, 1):
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(ORPHAN)


def _context(folder: Path, order: dict[str, Any], stopping: threading.Event) -> tasks.TaskContext:
    job_id, n = order["job_id"], order["n"]
    before = [folder.with_name(f"attempt-{k}") for k in range(n - 1, 0, -1)]
    return tasks.TaskContext(
        job_id=job_id,
        attempt=n,
        folder=folder,
        earlier=[path for path in before if path.is_dir()],
        token=order["token"],
        report=lambda line: _report(folder / METRICS, line),
        stopping=stopping.is_set,
    )


def _report(path: Path, line: Progress) -> None:
    with contextlib.suppress(OSError):  # a full disk costs the line, not the training
        progress.append(path, line)


def _run(context: tasks.TaskContext, order: dict[str, Any], stopping: threading.Event) -> dict[str, Any]:
    try:
        spec = tasks.read(order["kind"], order["spec"])
        context.report(Progress(t=time.time(), phase="preparing"))  # the shim waits for a first word
        result = spec.run(context)
        json.dumps(result, allow_nan=False)  # what cannot be kept is better known now
        context.report(Progress(t=time.time(), phase="done"))
        return {"ok": True, "stopped": False, "result": result}
    except WorkbenchError as error:
        traceback.print_exc()
        said = str(error)
    except BaseException as error:  # noqa: B036 - SystemExit too: a task does not end the process, it returns
        traceback.print_exc()
        said = f"{type(error).__name__}: {error} (unexpected; the traceback is in the log: workbench jobs logs {context.job_id})"
    return {"ok": False, "stopped": stopping.is_set(), "error": said}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
