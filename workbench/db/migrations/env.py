"""Alembic runs this; the connection and its transaction come from `workbench.db.schema`."""

from __future__ import annotations

from alembic import context

from workbench.db.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite cannot alter a column in place
    transactional_ddl=True,
)
context.run_migrations()
