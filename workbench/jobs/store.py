"""The jobs of a home, for everybody who only looks or asks: the shell, the browser, Python.

Reading goes through `db.reading` and files; SQLAlchemy is imported only by what writes.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.db.reading import from_json, rows
from workbench.db.session import when
from workbench.errors import DatabaseError, JobError, JobFailed, NotFound, UsageError
from workbench.jobs import log, progress
from workbench.jobs.folder import LOG, METRICS, attempt_dir
from workbench.jobs.timing import Timing
from workbench.records import Attempt, Job, JobState, Progress

if TYPE_CHECKING:
    from workbench.jobs.tasks import Spec

__all__ = ["Jobs"]

_ID = re.compile(r"[a-z0-9]{1,8}")


class Jobs:
    """Submit, look at, wait for, cancel and resume jobs. It never runs one in the caller's process.

    >>> [(job.kind, job.state.value) for job in bench.jobs.list()]
    [('train', 'succeeded')]
    >>> bench.jobs.metrics(job.id)[-1].phase
    'done'
    """

    def __init__(self, *, start_dispatcher: bool = True, timing: Timing | None = None) -> None:
        """With `start_dispatcher=False` nothing is started; a `workbench worker` must run somewhere."""
        self._start_dispatcher, self._timing = start_dispatcher, timing

    def submit(self, spec: Spec, *, key: str | None = None, slots: int = 1, policy: str = "resume", max_crashes: int = 3) -> Job:
        """Add a job and make sure that somebody takes care of it. It survives this process from here on.

        `key` makes it idempotent: the same key again returns the same job. `policy` says what follows a crash:
        "resume" (at most `max_crashes` times) or "hold". Raises `Conflict` when the key was used for another job.
        """
        from workbench.jobs import queue

        _check_platform()
        told = spec.model_dump(mode="json")
        job_id = queue.submit(spec.kind, told, title=spec.title, key=key, count=slots, policy=policy, max_crashes=max_crashes)
        self.ensure_running()
        return self.get(job_id)

    def ensure_running(self) -> None:
        """Start a dispatcher in the background unless one runs, or this object was told not to."""
        if self._start_dispatcher:
            from workbench.jobs import dispatcher

            dispatcher.ensure_running(self._timing)

    def list(self, state: JobState | str | None = None, *, limit: int = 50) -> list[Job]:
        """The newest jobs first, each with its attempts and newest progress."""
        chosen, given = "", {}
        if state is not None:
            try:
                chosen, given = "WHERE state = :state", {"state": JobState(state).value}
            except ValueError:
                raise UsageError(f"There is no state '{state}'.", hint=f"There are: {', '.join(s.value for s in JobState)}.") from None
        inner = f"FROM jobs {chosen} ORDER BY seq DESC LIMIT :limit"
        listed = rows(f"SELECT * {inner}", limit=limit, **given)
        tries = rows(f"SELECT * FROM attempts WHERE job_id IN (SELECT id {inner}) ORDER BY n", limit=limit, **given)
        return [_job(row, [a for a in tries if a["job_id"] == row["id"]]) for row in listed]

    def get(self, job_id: str) -> Job:
        """One job, by its id or the beginning of it. Raises `NotFound`, or `UsageError` when several begin so."""
        matches: list[dict[str, Any]] = []
        if _ID.fullmatch(job_id):
            matches = rows("SELECT * FROM jobs WHERE substr(id, 1, :size) = :start ORDER BY seq DESC", size=len(job_id), start=job_id)
        if not matches:
            have = [row["id"] for row in rows("SELECT id FROM jobs ORDER BY seq DESC LIMIT 13")]
            raise NotFound.of("job", job_id, have, command="workbench jobs list")
        if len(matches) > 1:
            names = ", ".join(row["id"] for row in matches[:12])
            raise UsageError(f"{len(matches)} jobs begin with '{job_id}': {names}.", hint="Write one more letter.")
        return _job(matches[0], rows("SELECT * FROM attempts WHERE job_id = :id ORDER BY n", id=matches[0]["id"]))

    def cancel(self, job_id: str) -> Job:
        """Ask a job to end. A running one saves, then goes; it is `cancelled` when all its processes are gone.

        Raises `JobError` when it has ended already.
        """
        from workbench.jobs import queue

        job = self.get(job_id)
        if queue.cancel(job.id) is JobState.running:
            self.ensure_running()  # an attempt whose supervisor died needs somebody to notice
        return self.get(job.id)

    def resume(self, job_id: str, *, give_up_machine: bool = False) -> Job:
        """Queue a job again that was interrupted, failed or cancelled; it goes on from its last good checkpoint.

        `give_up_machine` takes a running job away from another machine that will never come back: its
        token is refused from then on. Raises `JobError` when there is nothing to resume.
        """
        from workbench.jobs import processes, queue

        job = self.get(job_id)
        if give_up_machine and job.state is JobState.running:
            queue.give_up(job.id, here=processes.boot_id())
        else:
            queue.resume(job.id)
        self.ensure_running()
        return self.get(job.id)

    def wait(
        self,
        job_id: str,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        poll: float = 0.3,
        timeout: float | None = None,
    ) -> Job:
        """Follow a job to its end and return it. Interrupting the wait leaves the job alone.

        Raises `JobFailed` when it ended without success or is on hold, `JobError` after `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        seen: dict[Path, int] = {}
        for job in self._looks(job_id, poll):
            for attempt in job.attempts if on_progress else ():
                lines, seen[attempt.path] = progress.read(attempt.path / METRICS, seen.get(attempt.path, 0))
                for line in lines:
                    on_progress(line)  # type: ignore[misc]
            if not _is_over(job) and deadline is not None and time.monotonic() > deadline:
                raise JobError(f"Job {job.id} is still {job.state.value} after {timeout:g} s.", hint=f"See: workbench jobs show {job.id}")
        if job.state is not JobState.succeeded:
            raise _failure(job)
        return job

    def _looks(self, job_id: str, poll: float, *, patience: float = 60.0) -> Iterator[Job]:
        """The job now and every `poll` seconds, for the last time when it has ended or is on hold.

        Whoever has waited for hours does not go because a database restarts: it may be away for `patience` seconds.
        """
        answered = looked = time.monotonic()
        while True:
            try:
                job = self.get(job_id)
            except DatabaseError:
                if time.monotonic() - answered > patience:
                    raise
                time.sleep(1.0)
                continue
            yield job
            if _is_over(job):
                return
            answered = time.monotonic()
            if answered - looked > 2.0:  # the dispatcher may have been killed
                self.ensure_running()
                looked = answered
            time.sleep(poll)

    def logs(self, job_id: str) -> str:
        """The output of all attempts that is kept, oldest first; a line names each attempt when there are several."""
        job = self.get(job_id)
        parts = [(attempt.n, log.Tail(attempt.path / LOG).more()) for attempt in job.attempts]
        if len(parts) == 1:
            return parts[0][1]
        return "".join(f"--- attempt {n} ---\n{text}" + ("" if text.endswith("\n") or not text else "\n") for n, text in parts)

    def follow(self, job_id: str, *, poll: float = 0.3) -> Iterator[str]:
        """The output so far, then what is added, until the job has ended."""
        tails: dict[Path, log.Tail] = {}
        for job in self._looks(job_id, poll):
            for attempt in job.attempts:
                if attempt.path not in tails:
                    tails[attempt.path] = log.Tail(attempt.path / LOG)
                    yield f"--- attempt {attempt.n} ---\n" if attempt.n > 1 else ""
                if text := tails[attempt.path].more():
                    yield text

    def metrics(self, job_id: str) -> Sequence[Progress]:
        """One course of training: an attempt that resumed replaces the lines from its first step on."""
        course: list[Progress] = []
        for attempt in self.get(job_id).attempts:
            lines, _ = progress.read(attempt.path / METRICS)
            first = next((line.step for line in lines if line.step is not None), None)
            if first is not None:
                course = [line for line in course if line.step is None or line.step < first]
            course += lines
        return course

    def events(self, job_id: str) -> Sequence[dict[str, Any]]:
        """What happened to a job, in order: {"at": datetime, "attempt": int | None, "what": str, "detail": str}."""
        events = rows("SELECT * FROM job_events WHERE job_id = :id ORDER BY seq", id=self.get(job_id).id)
        return [{"at": when(row["at"]), "attempt": row["n"], "what": row["what"], "detail": row["detail"]} for row in events]

    def work(self, *, slots: int | None = None, say: Callable[[str], None] = lambda text: None, stopping: Callable[[], bool]) -> None:
        """Run the dispatcher in this process until `stopping()`; jobs that run go on without it.

        Raises `Conflict` when one runs already.
        """
        from workbench.jobs.dispatcher import Dispatcher

        Dispatcher(slots=slots, timing=self._timing, say=say).run(leave_when_idle=False, stopping=stopping)


def _check_platform() -> None:
    if sys.platform == "win32":
        raise JobError("Jobs run on Linux and macOS.", hint="On Windows, use the workbench inside WSL 2.")


def _is_over(job: Job) -> bool:
    return job.state.final or job.state is JobState.interrupted


def _failure(job: Job) -> JobFailed:
    what = {
        JobState.cancelled: "was cancelled",
        JobState.interrupted: "was interrupted and is on hold",
        JobState.failed_permanently: "failed for good",
    }.get(job.state, "failed")
    how = f"workbench jobs logs {job.id}" if job.state is not JobState.cancelled else f"workbench jobs resume {job.id}"
    verb = "See its output" if job.state is not JobState.cancelled else "Go on with it"
    return JobFailed(f"Job {job.id} {what}" + (f": {job.error}" if job.error else "."), hint=f"{verb}: {how}")


def _job(row: dict[str, Any], tries: list[dict[str, Any]]) -> Job:
    attempts = tuple(_attempt(row) for row in tries)
    created = when(row["created_at"])
    assert created is not None
    return Job(
        id=row["id"],
        kind=row["kind"],
        title=row["title"],
        state=JobState(row["state"]),
        spec=from_json(row["spec"]),
        created_at=created,
        ended_at=when(row["ended_at"]),
        cancel_requested=row["cancel_requested_at"] is not None,
        attempts=attempts,
        result=from_json(row["result"]),
        error=row["error"],
        progress=next((p for a in reversed(attempts) if (p := progress.last(a.path / METRICS)) is not None), None),
    )


def _attempt(row: dict[str, Any]) -> Attempt:
    return Attempt(
        n=row["n"],
        state=row["state"],
        path=attempt_dir(row["job_id"], row["n"]),
        started_at=when(row["started_at"]),
        ended_at=when(row["ended_at"]),
        exit_code=row["exit_code"],
        error=row["error"],
    )
