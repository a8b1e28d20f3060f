"""A database of the first schema as it was made then: jobs, attempts, events, slots; adapters and their aliases. It never changes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

__all__ = ["create"]


def create(connection: sa.Connection) -> None:
    """Make revision 0001 in an empty database."""
    op = Operations(MigrationContext.configure(connection))
    op.create_table(
        "jobs",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("key", sa.Text, unique=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("slots", sa.Integer, nullable=False),
        sa.Column("policy", sa.Text, nullable=False),
        sa.Column("crashes", sa.Integer, nullable=False),
        sa.Column("max_crashes", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("not_before", sa.Float),
        sa.Column("ended_at", sa.Float),
        sa.Column("cancel_requested_at", sa.Float),
        sa.Column("result", sa.Text),
        sa.Column("error", sa.Text),
    )
    op.create_index("ix_jobs_state", "jobs", ["state"])
    op.create_table(
        "attempts",
        sa.Column("job_id", sa.Text, sa.ForeignKey("jobs.id", name="fk_attempts_job_id"), nullable=False),
        sa.Column("n", sa.Integer, nullable=False),
        sa.Column("token", sa.Text, nullable=False, unique=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("boot_id", sa.Text, nullable=False),
        sa.Column("lease_until", sa.Float, nullable=False),
        sa.Column("started_at", sa.Float, nullable=False),
        sa.Column("ended_at", sa.Float),
        sa.Column("shim_pid", sa.Integer),
        sa.Column("shim_started", sa.Text),
        sa.Column("pgid", sa.Integer),
        sa.Column("exit_code", sa.Integer),
        sa.Column("error", sa.Text),
        sa.PrimaryKeyConstraint("job_id", "n"),
    )
    op.create_index("ix_attempts_state", "attempts", ["state"])
    op.create_table(
        "job_events",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("job_id", sa.Text, sa.ForeignKey("jobs.id", name="fk_job_events_job_id"), nullable=False),
        sa.Column("n", sa.Integer),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("what", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )
    op.create_index("ix_job_events_job_id", "job_events", ["job_id"])
    op.create_table(
        "slots",
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("token", sa.Text),
        sa.PrimaryKeyConstraint("host", "name"),
    )
    op.create_index("ix_slots_token", "slots", ["token"])
    op.create_table(
        "adapter_versions",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("base", sa.Text, nullable=False),
        sa.Column("base_lock_sha256", sa.Text, nullable=False),
        sa.Column("dataset", sa.Text),
        sa.Column("dataset_sha256", sa.Text),
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("manifest_sha256", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("job_id", sa.Text),
        sa.Column("parents", sa.Text, nullable=False),
        sa.Column("scores", sa.Text, nullable=False),
        sa.Column("trashed_at", sa.Float),
        sa.PrimaryKeyConstraint("name", "version"),
    )
    op.create_index("ix_adapter_versions_job_id", "adapter_versions", ["job_id"])
    op.create_table(
        "aliases",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("alias", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("updated_at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("name", "alias"),
    )
    op.create_table(
        "alias_log",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("alias", sa.Text, nullable=False),
        sa.Column("from_version", sa.Integer),
        sa.Column("to_version", sa.Integer),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_index("ix_alias_log_name", "alias_log", ["name"])
    op.create_table("alembic_version", sa.Column("version_num", sa.String(32), primary_key=True))
    connection.execute(sa.text("INSERT INTO alembic_version VALUES ('0001')"))
