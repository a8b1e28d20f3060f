"""How the dispatcher, the shims and the children are started: argument lists, never a shell, and a settled environment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from workbench import paths
from workbench.db.session import sqlite_file
from workbench.jobs.processes import MARK

__all__ = ["command", "detached", "environment", "waiting"]

_LOOK = 0.25  # seconds over which the machine's load is looked at
_BUSY = 35.0  # percent of all cores: on two cores, more than half of one


def command(module: str, *arguments: str) -> list[str]:
    """`python -P -m module …`: the working directory must not be able to shadow a module."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment(**extra: str) -> dict[str, str]:
    """This process's environment with the home and database made absolute, and without the mark of an attempt."""
    url = paths.database_url()
    file = sqlite_file(url)
    settled = url if file is None else f"sqlite:///{file.absolute()}"
    return paths.child_environment(**{"WORKBENCH_HOME": str(paths.home()), "WORKBENCH_DB": settled, MARK: "", **extra})


def waiting() -> dict[str, str]:
    """How the child's threads shall wait for each other, where nobody has chosen: asleep on a busy machine.

    Spinning threads train twice as fast on a quiet machine, and six times slower than sleeping ones beside another busy process,
    since each spins away the time that the other needs.
    """
    if paths.wait_policy() is not None or psutil.cpu_percent(interval=_LOOK) < _BUSY:
        return {}
    return {"OMP_WAIT_POLICY": "PASSIVE"}


def detached(module: str, *arguments: str, output: Path, cwd: Path, keep: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Start a process that outlives this one: a session of its own, no terminal, output appended to a file.

    It inherits the handles in `keep`, under the same numbers.
    """
    handle = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        return subprocess.Popen(
            command(module, *arguments),
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=handle,
            cwd=cwd,
            env=environment(),
            start_new_session=True,
            pass_fds=keep,
        )
    finally:
        os.close(handle)
