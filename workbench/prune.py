"""What only takes room: the trash, second copies in the folders of jobs, and what ended jobs keep to go on from.

Nothing is looked for outside the home and no link is followed. What a job that runs, waits or is on hold may need is never
listed; logs, metrics and the database stay.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from workbench import paths
from workbench.errors import UsageError
from workbench.records import Job, JobState

__all__ = ["KEEP_DAYS", "Leftover", "leftovers", "remove"]

KEEP_DAYS = 30  # in which a removed thing can be brought back, and an ended job can go on


@dataclass(frozen=True)
class Leftover:
    """A file or folder of the home that nothing needs."""

    path: Path
    kind: str  # "trash" | "second copy" (of what a job published) | "ended job" (checkpoints, trial results)
    bytes: int
    since: datetime  # when it was removed, or its job ended


def leftovers(jobs: Sequence[Job], *, keep_days: float) -> list[Leftover]:
    """What could be removed of this home, the largest first. `jobs` are all of them. Raises `UsageError` for negative days."""
    if not keep_days >= 0:
        raise UsageError("The days to keep cannot be negative.", hint="Write 0 to keep nothing.")
    before = time.time() - keep_days * 86_400
    leftovers = [*_trash(before), *_of_jobs(jobs, before)]
    return sorted(leftovers, key=lambda leftover: (-leftover.bytes, leftover.path))


def remove(leftovers: Sequence[Leftover]) -> None:
    """Delete them. A folder is renamed first, so that none is ever seen half deleted."""
    for leftover in leftovers:
        if leftover.path.is_symlink() or leftover.path.is_file():
            leftover.path.unlink(missing_ok=True)
        elif leftover.path.is_dir():
            doomed = leftover.path.with_name(f".pruned-{leftover.path.name}")
            shutil.rmtree(doomed, ignore_errors=True)  # of an earlier call that was killed
            os.rename(leftover.path, doomed)
            shutil.rmtree(doomed)


def _trash(before: float) -> Iterator[Leftover]:
    """What was removed long ago: a rename sets the time of change."""
    adapters = (paths.adapters_dir() / ".trash").glob("*/*")
    others = [path for folder in (paths.bases_dir(), paths.datasets_dir()) for path in (folder / ".trash").glob("*")]
    yield from (_leftover(path, "trash", t) for path in [*adapters, *others] if (t := path.lstat().st_ctime) <= before)


def _of_jobs(jobs: Sequence[Job], before: float) -> Iterator[Leftover]:
    from workbench.jobs import tasks

    needed = [file for job in jobs if not job.state.final for file in tasks.read(job.kind, job.spec).needs]
    for job in jobs:
        if not job.state.final or job.ended_at is None:
            continue
        published = job.state is JobState.succeeded and bool(job.result and (job.result.get("adapter") or job.result.get("base")))
        ended = job.ended_at.timestamp()
        if published or ended <= before:
            kind = "second copy" if published else "ended job"
            heavy = (path for attempt in job.attempts for path in attempt.path.glob("*") if path.is_dir() and not path.is_symlink())
            yield from (_leftover(path, kind, ended) for path in heavy if not any(file.is_relative_to(path) for file in needed))


def _leftover(path: Path, kind: str, since: float) -> Leftover:
    below = path.rglob("*") if path.is_dir() and not path.is_symlink() else ()
    size = sum(file.lstat().st_size for file in (path, *below) if file.is_symlink() or file.is_file())
    return Leftover(path, kind, size, datetime.fromtimestamp(since, UTC))
