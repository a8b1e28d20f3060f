"""The files of one attempt, `<home>/jobs/<id>/attempt-<n>/`, and how they are written so that a crash leaves whole ones.

order.json      what to run, with the fencing token (0600); by the dispatcher, before the shim starts
attempt.lock    held by the shim (flock) for as long as it lives: the kernel frees it at its death
processes.json  the shim's and the child's process ids with their start times; before the child may begin
metrics.jsonl   progress; by the child
log, log.1      the child's output, capped; shim.log has the shim's own
outcome.json    result or error; the child's last act
exit.json       how the attempt ended; by the shim, before it tells the database
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from workbench import paths
from workbench.files import atomic_write

__all__ = ["EXIT", "LOCK", "LOG", "METRICS", "ORDER", "OUTCOME", "PROCESSES", "SHIM_LOG", "attempt_dir", "read_json", "write_json"]

ORDER, LOCK, PROCESSES, OUTCOME, EXIT = "order.json", "attempt.lock", "processes.json", "outcome.json", "exit.json"
LOG, SHIM_LOG, METRICS = "log", "shim.log", "metrics.jsonl"


def attempt_dir(job_id: str, n: int) -> Path:
    """`<home>/jobs/<id>/attempt-<n>`."""
    return paths.jobs_dir() / job_id / f"attempt-{n}"


def write_json(path: Path, value: Any, *, mode: int = 0o644) -> None:
    """Write an object durably: a reader sees the old file or the whole new one."""
    atomic_write(path, json.dumps(value, sort_keys=True), mode=mode)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in the file; None when there is no such file or it holds none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return value if isinstance(value, dict) else None
