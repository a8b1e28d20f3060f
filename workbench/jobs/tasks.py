"""What a job can do: kind -> "module:function". A task runs in the job's own process and gets a `TaskContext`.

    def run(context: TaskContext) -> dict[str, Any]: ...

It returns its result (JSON). It raises a `WorkbenchError` to fail with that message. When `context.stopping()`
becomes true it saves what it needs and raises anything; a later attempt finds the folder in `context.earlier`.
A task may be run again after a crash at any moment, even after its last write: what it publishes must be
published once per `job_id`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import UsageError
from workbench.records import Progress

__all__ = ["TASKS", "Task", "TaskContext", "check_kind", "load"]

TASKS = {
    "train": "workbench.jobs.training:run",
    "evaluate": "workbench.jobs.training:evaluate",
    "merge": "workbench.jobs.training:merge",
    "rebase": "workbench.jobs.checking:run",
    "rebase-selftest": "workbench.jobs.rebase_selftest:run",
    "fetch": "workbench.jobs.fetching:run",
    "selftest": "workbench.jobs.selftest:run",
}


@dataclass(frozen=True)
class TaskContext:
    """Everything a task may know and use."""

    job_id: str
    attempt: int
    spec: dict[str, Any]  # frozen at submission
    folder: Path  # of this attempt; also the working directory
    earlier: list[Path]  # folders of earlier attempts, newest first
    token: str  # the fencing token: `db.fencing.check(connection, token)` before anything outside `folder` changes
    report: Callable[[Progress], None]
    stopping: Callable[[], bool]


Task = Callable[[TaskContext], dict[str, Any]]


def check_kind(kind: str) -> None:
    """Raise `UsageError` for an unknown kind."""
    if kind not in TASKS:
        raise UsageError(f"There is no kind of job '{kind}'.", hint=f"There are: {', '.join(sorted(TASKS))}.")


def load(kind: str) -> Task:
    """The function behind a kind. Raises `UsageError` for an unknown one."""
    from importlib import import_module

    check_kind(kind)
    module, _, name = TASKS[kind].partition(":")
    task: Task = getattr(import_module(module), name)
    return task
