"""The transactions of the queue: submit, claim, begin, renew, finish, cancel, resume. Nothing else writes its tables.

The job's row is the lock for everything about that job: it is taken first in every transaction that changes one
(SQLite: the whole file is locked instead). Times are the database's. Whoever runs an attempt holds its token;
a token whose attempt is no longer `running` changes nothing and gets `Fenced`.
"""

from __future__ import annotations

import platform
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update
from sqlalchemy.exc import IntegrityError as KeyTaken

from workbench.db import fencing
from workbench.db.reading import rows
from workbench.db.session import now, transaction
from workbench.db.tables import attempts, job_events, jobs, slots
from workbench.errors import Conflict, Fenced, JobError, NotFound, UsageError, WorkbenchError
from workbench.jobs.endings import Ending
from workbench.records import JobState

__all__ = [
    "Claim",
    "begin",
    "cancel",
    "cancel_wanted",
    "claim",
    "finish",
    "give_up",
    "register_slots",
    "renew",
    "resume",
    "set_group",
    "submit",
]

_ALPHABET = "abcdefghjkmnpqrstvwxyz23456789"  # no letters that are read as one another
_MAX_WAIT = 60.0  # seconds between a crash and the next attempt, at most


@dataclass(frozen=True)
class Claim:
    """An attempt that was just made, to be started by whoever made it."""

    job_id: str
    n: int
    token: str
    kind: str
    spec: dict[str, Any]
    slots: tuple[str, ...]  # names: "cpu-0", or GPU UUIDs


def submit(kind: str, spec: dict[str, Any], *, title: str, key: str | None, count: int, policy: str, max_crashes: int) -> str:
    """Add a job and return its id; with a `key` that was used before, the id of that job.

    `spec` is JSON as it reads back: lists, text keys. Raises `Conflict` when the key was used for something else.
    """
    if count < 1 or policy not in {"resume", "hold"}:
        raise UsageError("A job takes at least one slot, and its policy is resume or hold.")
    job_id = "".join(secrets.choice(_ALPHABET) for _ in range(8))
    values = {"id": job_id, "key": key, "kind": kind, "title": title, "spec": spec, "slots": count, "policy": policy}
    values |= {"state": JobState.queued.value, "crashes": 0, "max_crashes": max_crashes}
    try:
        with transaction() as connection:
            if known := _same_key(connection, key, kind, spec):
                return known
            connection.execute(insert(jobs).values(**values, created_at=now(connection)))
            _note(connection, job_id, None, "submitted", title)
            return job_id
    except KeyTaken:  # PostgreSQL: another process used the key a moment ago
        with transaction() as connection:
            known = _same_key(connection, key, kind, spec)
        if known is None:
            raise
        return known


def _same_key(connection: Connection, key: str | None, kind: str, spec: dict[str, Any]) -> str | None:
    if key is None:
        return None
    row = connection.execute(select(jobs.c.id, jobs.c.kind, jobs.c.spec).where(jobs.c.key == key)).one_or_none()
    if row is None:
        return None
    if (row.kind, row.spec) != (kind, spec):
        raise Conflict(f"The key '{key}' was used for another job, {row.id}.", hint="Use a new key, or leave it out.")
    return str(row.id)


def register_slots(host: str, names: Sequence[str]) -> None:
    """Make the host's free slots those named. Slots in use stay until their attempt ends."""
    with transaction() as connection:
        rows = connection.execute(select(slots.c.name, slots.c.token).where(slots.c.host == host).with_for_update()).all()
        for row in rows:
            if row.name not in names and row.token is None:
                connection.execute(slots.delete().where(slots.c.host == host, slots.c.name == row.name))
        for name in names:
            if name not in {row.name for row in rows}:
                connection.execute(insert(slots).values(host=host, name=name, token=None))


def claim(host: str, boot_id: str, *, lease: float) -> Claim | None:
    """Take the first waiting job that this host can run, with its slots. None when nothing can start now.

    A job that needs more slots than are free waits at the head of the queue, so it is not overtaken for ever.
    """
    with transaction() as connection:
        t = now(connection)
        total = connection.execute(select(func.count()).select_from(slots).where(slots.c.host == host)).scalar_one()
        waiting = select(jobs).where(jobs.c.state == JobState.queued.value, jobs.c.slots <= total)
        no_wait = jobs.c.not_before.is_(None) | (jobs.c.not_before <= t) | (jobs.c.not_before > t + _MAX_WAIT)  # the clock was put back
        due = waiting.where(no_wait).order_by(jobs.c.seq).limit(1)
        job = connection.execute(due.with_for_update(skip_locked=True)).one_or_none()
        if job is None:
            return None
        free = select(slots.c.name).where(slots.c.host == host, slots.c.token.is_(None)).order_by(slots.c.name).limit(job.slots)
        names = tuple(connection.execute(free.with_for_update(skip_locked=True)).scalars())
        if len(names) < job.slots:
            return None
        n = 1 + (connection.execute(select(func.max(attempts.c.n)).where(attempts.c.job_id == job.id)).scalar_one() or 0)
        token = secrets.token_hex(16)
        row = {"job_id": job.id, "n": n, "token": token, "state": "running", "host": host, "boot_id": boot_id}
        connection.execute(insert(attempts).values(**row, lease_until=t + lease, started_at=t))
        connection.execute(update(slots).where(slots.c.host == host, slots.c.name.in_(names)).values(token=token))
        connection.execute(update(jobs).where(jobs.c.id == job.id).values(state=JobState.running.value, not_before=None))
        _note(connection, job.id, n, "claimed", f"on {platform.node()}, slots {', '.join(names)}")
        return Claim(job.id, n, token, job.kind, job.spec, names)


def begin(token: str, *, pid: int, started: str, lease: float) -> bool:
    """The shim reports for work. True when the job was cancelled meanwhile. Raises `Fenced`."""
    with transaction() as connection:
        job, n = fencing.lock(connection, token)
        t = now(connection)
        values = {"shim_pid": pid, "shim_started": started, "started_at": t, "lease_until": t + lease}
        connection.execute(update(attempts).where(attempts.c.token == token).values(**values))
        _note(connection, job.id, n, "started", f"supervisor {pid}")
        return job.cancel_requested_at is not None


def set_group(token: str, pgid: int) -> None:
    """Record the child's process group. Raises `Fenced`."""
    with transaction() as connection:
        fencing.lock(connection, token)
        connection.execute(update(attempts).where(attempts.c.token == token).values(pgid=pgid))


def renew(token: str, *, lease: float) -> None:
    """Put the lease's end `lease` seconds from now, also when it has passed (the machine may have slept). Raises `Fenced`."""
    with transaction() as connection:
        mine = (attempts.c.token == token) & (attempts.c.state == "running")
        if connection.execute(update(attempts).where(mine).values(lease_until=now(connection) + lease)).rowcount == 0:
            raise Fenced("This attempt was taken over.")


def cancel_wanted(token: str) -> bool:
    """Has anybody asked to cancel the job? Reads only. Raises `Fenced` when the attempt was taken over."""
    attempt = rows("SELECT j.cancel_requested_at AS at, a.state FROM attempts a JOIN jobs j ON j.id = a.job_id WHERE a.token = :t", t=token)
    if not attempt or attempt[0]["state"] != "running":
        raise Fenced("This attempt was taken over.")
    return attempt[0]["at"] is not None


def finish(token: str, ending: Ending) -> JobState:
    """Record how the attempt ended, free its slots, decide what becomes of the job. Raises `Fenced`.

    Work that was done counts as done, even if somebody asked to cancel a moment before. What the database cannot keep
    fails the job, with a reason: an attempt that never ends would hold its slot for ever.
    """
    try:
        return _finish(token, ending)
    except WorkbenchError:
        raise
    except Exception as error:  # whatever the drivers think of a value
        said = f"It {ending.how}, but how cannot be recorded: {type(error).__name__}. See exit.json in the attempt's folder."
        return _finish(token, Ending("failed", error=said))


def _finish(token: str, ending: Ending) -> JobState:
    with transaction() as connection:
        job, n = fencing.lock(connection, token)
        t = now(connection)
        state, values = _verdict(job, ending, t)
        tried = "cancelled" if state is JobState.cancelled else ending.how if ending.how in {"succeeded", "failed"} else "interrupted"
        attempt = {"state": tried, "ended_at": t, "exit_code": ending.exit_code, "error": ending.error}
        connection.execute(update(attempts).where(attempts.c.token == token).values(**attempt))
        connection.execute(update(slots).where(slots.c.token == token).values(token=None))
        connection.execute(update(jobs).where(jobs.c.id == job.id).values(state=state.value, **values))
        _note(connection, job.id, n, f"attempt {ending.how}", ending.error or "")
        if not (state is JobState.succeeded and ending.how == "succeeded"):
            _note(connection, job.id, n, f"job {state.value}", "")
        return state


def _verdict(job: Row[Any], ending: Ending, t: float) -> tuple[JobState, dict[str, Any]]:
    """The job's next state, and what else changes in its row."""
    if ending.how == "succeeded":
        return JobState.succeeded, {"result": ending.result or {}, "ended_at": t, "error": None}
    if job.cancel_requested_at is not None:
        return JobState.cancelled, {"ended_at": t}
    if ending.how == "failed":
        return JobState.failed, {"ended_at": t, "error": ending.error}
    crashes = job.crashes + (ending.how == "crashed")
    if crashes > job.max_crashes:
        error = f"It crashed {crashes} times; the last time: {ending.error}"
        return JobState.failed_permanently, {"crashes": crashes, "ended_at": t, "error": error}
    if job.policy == "hold":
        return JobState.interrupted, {"crashes": crashes, "error": ending.error}
    wait = min(_MAX_WAIT, 2.0 ** (crashes - 2)) if ending.how == "crashed" else 0.0
    return JobState.queued, {"crashes": crashes, "not_before": t + wait}


def cancel(job_id: str) -> JobState:
    """Ask for the end of a job. One that waits ends now; one that runs ends when its processes are gone."""
    with transaction() as connection:
        job = _lock(connection, job_id)
        state, t = JobState(job.state), now(connection)
        if state is JobState.cancelled:
            return state
        if state.final:
            raise JobError(f"Job {job_id} has ended already ({state.value}).", hint=f"Look at it: workbench jobs show {job_id}")
        values: dict[str, Any] = {"cancel_requested_at": job.cancel_requested_at or t}
        if state is not JobState.running:
            state = JobState.cancelled
            values |= {"state": state.value, "ended_at": t}
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(**values))
        if job.cancel_requested_at is None:
            _note(connection, job_id, None, "cancel requested" if state is JobState.running else "job cancelled", "")
        return state


def resume(job_id: str) -> None:
    """Put a job that was interrupted, failed or cancelled back into the queue; it goes on from its last good checkpoint."""
    with transaction() as connection:
        job = _lock(connection, job_id)
        state = JobState(job.state)
        if not state.resumable:
            raise JobError(f"Job {job_id} cannot be resumed: it is {state.value}.", hint=f"Look at it: workbench jobs show {job_id}")
        cleared = dict.fromkeys(("cancel_requested_at", "not_before", "ended_at", "error"))
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(state=JobState.queued.value, crashes=0, **cleared))
        _note(connection, job_id, None, "resumed", f"was {state.value}")


def give_up(job_id: str, *, here: str) -> None:
    """Declare the machine that runs a job gone for good. Its token is refused from then on; the policy decides what follows.

    Raises `JobError` for a job of this machine (`here` is its boot id): whether that is dead can be proven.
    """
    with transaction() as connection:
        _lock(connection, job_id)
        running = select(attempts.c.token, attempts.c.boot_id).where(attempts.c.job_id == job_id, attempts.c.state == "running")
        row = connection.execute(running).one_or_none()
    if row is None:
        raise JobError(f"Job {job_id} runs nowhere.", hint=f"Look at it: workbench jobs show {job_id}")
    if row.boot_id == here:
        raise JobError(f"Job {job_id} runs on this machine.", hint=f"Stop it: workbench jobs cancel {job_id}")
    finish(row.token, Ending("interrupted", error="Its machine was given up."))


def _lock(connection: Connection, job_id: str) -> Row[Any]:
    job = connection.execute(select(jobs).where(jobs.c.id == job_id).with_for_update()).one_or_none()
    if job is None:
        raise NotFound(f"No job '{job_id}'.", hint="List them: workbench jobs list")
    return job


def _note(connection: Connection, job_id: str, n: int | None, what: str, detail: str) -> None:
    connection.execute(insert(job_events).values(job_id=job_id, n=n, at=now(connection), what=what, detail=detail))
