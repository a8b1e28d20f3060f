"""The tables, as SQLAlchemy Core. Times are seconds since the epoch by the database's clock; JSON is text.

Plain numbers and text read the same through SQLAlchemy and through `reading.rows`, on SQLite and on PostgreSQL.
Importing this module imports SQLAlchemy (0.3 s): listings use `reading.rows` instead.
A change here needs a new file in `migrations/versions` and the new number in `schema.HEAD`.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Column, Dialect, Float, ForeignKey, Index, Integer, MetaData, PrimaryKeyConstraint, Table, Text, TypeDecorator

__all__ = ["JsonText", "adapter_versions", "alias_log", "aliases", "attempts", "job_events", "jobs", "metadata", "slots", "store"]


class JsonText(TypeDecorator[Any]):
    """A JSON value kept as text with sorted keys. None is NULL."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(value, sort_keys=True, allow_nan=False)  # ASCII: every database keeps it

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


class AnyText(TypeDecorator[str]):
    """What people and libraries say. No database keeps half a surrogate pair, PostgreSQL no NUL: they are kept as `\\ud83d` and `␀`."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else value.replace("\0", "\u2400").encode("utf-8", "backslashreplace").decode()


metadata = MetaData(naming_convention={"ix": "ix_%(table_name)s_%(column_0_name)s", "fk": "fk_%(table_name)s_%(column_0_name)s"})

store = Table(
    "store",
    metadata,
    Column("one", Integer, primary_key=True, autoincrement=False),  # always 1
    Column("id", Text, nullable=False),  # of the home that the other tables speak of
    Column("home", Text, nullable=False),  # where it was, and on which machine, to tell people
    Column("host", Text, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),  # the order of the queue
    Column("id", Text, nullable=False, unique=True),
    Column("key", AnyText, unique=True),  # the caller's idempotency key
    Column("kind", Text, nullable=False),
    Column("title", AnyText, nullable=False),
    Column("spec", JsonText, nullable=False),
    Column("state", Text, nullable=False, index=True),
    Column("slots", Integer, nullable=False),
    Column("policy", Text, nullable=False),  # after a crash: "resume" or "hold"
    Column("crashes", Integer, nullable=False),  # since submission or the last `resume`
    Column("max_crashes", Integer, nullable=False),  # one more and the job has failed for good
    Column("created_at", Float, nullable=False),
    Column("not_before", Float),  # do not claim before (after a crash)
    Column("ended_at", Float),
    Column("cancel_requested_at", Float),
    Column("result", JsonText),
    Column("error", AnyText),
)

attempts = Table(
    "attempts",
    metadata,
    Column("job_id", Text, ForeignKey("jobs.id"), nullable=False),
    Column("n", Integer, nullable=False),
    Column("token", Text, nullable=False, unique=True),  # the fencing token
    Column("state", Text, nullable=False, index=True),
    Column("host", Text, nullable=False),  # identity.node_id()
    Column("boot_id", Text, nullable=False),
    Column("lease_until", Float, nullable=False),
    Column("started_at", Float, nullable=False),  # when it was claimed, then when its shim reported
    Column("ended_at", Float),
    Column("shim_pid", Integer),  # NULL until the shim has reported for work
    Column("shim_started", Text),  # start time of that pid, so a reused pid is never taken for it
    Column("pgid", Integer),  # process group of the child
    Column("exit_code", Integer),
    Column("error", AnyText),
    PrimaryKeyConstraint("job_id", "n"),
)

job_events = Table(
    "job_events",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("job_id", Text, ForeignKey("jobs.id"), nullable=False, index=True),
    Column("n", Integer),  # the attempt, where one is meant
    Column("at", Float, nullable=False),
    Column("what", Text, nullable=False),
    Column("detail", AnyText, nullable=False),
)

slots = Table(
    "slots",
    metadata,
    Column("host", Text, nullable=False),
    Column("name", Text, nullable=False),  # "cpu-0", or a GPU's UUID
    Column("token", Text, index=True),  # of the attempt that holds it
    PrimaryKeyConstraint("host", "name"),
)

adapter_versions = Table(
    "adapter_versions",
    metadata,
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("base", Text, nullable=False),  # family@version
    Column("base_lock_sha256", Text, nullable=False),
    Column("dataset", Text),
    Column("dataset_sha256", Text),
    Column("method", Text, nullable=False),
    Column("manifest_sha256", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("job_id", Text, index=True),
    Column("parents", JsonText, nullable=False),  # ["name@2", ...]
    Column("scores", JsonText, nullable=False),  # evidence.Summary.as_dict(); {} without evidence
    Column("trashed_at", Float),
    PrimaryKeyConstraint("name", "version"),
)

aliases = Table(
    "aliases",
    metadata,
    Column("name", Text, nullable=False),
    Column("alias", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("updated_at", Float, nullable=False),
    PrimaryKeyConstraint("name", "alias"),
)

alias_log = Table(
    "alias_log",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("name", Text, nullable=False),
    Column("alias", Text, nullable=False),
    Column("from_version", Integer),
    Column("to_version", Integer),
    Column("at", Float, nullable=False),
    Index("ix_alias_log_name", "name"),
)
