"""Does this token still own its attempt? Asked inside the transaction that would write something.

A lease alone never proves that only one process acts; the record that is written to must refuse old tokens
(M. Kleppmann, "How to do distributed locking", 2016). So `check` locks the job's row until the commit:
a takeover or a cancel comes either before it, and the write is refused, or after the commit.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, select

from workbench.db.tables import attempts, jobs
from workbench.errors import Fenced

__all__ = ["check", "lock"]


def lock(connection: Connection, token: str) -> tuple[Row[Any], int]:
    """The job whose attempt `token` owns, and the attempt's number; else raise `Fenced`. The row stays locked until the commit."""
    job_id = connection.execute(select(attempts.c.job_id).where(attempts.c.token == token)).scalar_one_or_none()
    if job_id is None:
        raise Fenced("This attempt is not known to the database.", hint="Nothing was written.")
    job = connection.execute(select(jobs).where(jobs.c.id == job_id).with_for_update()).one()
    attempt = connection.execute(select(attempts.c.n, attempts.c.state).where(attempts.c.token == token)).one()
    if attempt.state != "running":
        raise Fenced(
            f"Attempt {attempt.n} of job {job_id} was taken over ({attempt.state}).", hint="Nothing was written; the newer attempt goes on."
        )
    return job, attempt.n


def check(connection: Connection, token: str) -> str:
    """Return the job's id if `token` owns a running attempt that nobody asked to cancel; else raise `Fenced`.

    Call it first in the transaction. The job's row stays locked until the commit.
    """
    job, _ = lock(connection, token)
    if job.cancel_requested_at is not None:
        raise Fenced(f"Job {job.id} was cancelled.", hint="Nothing was written.")
    return str(job.id)
