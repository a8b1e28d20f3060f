"""Which revision the database has, and how it is brought to this code's. Alembic is imported only when they differ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import DatabaseError

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection, Engine

__all__ = ["HEAD", "alembic_config", "ensure"]

HEAD = "0002"
_MIGRATIONS = Path(__file__).parent / "migrations"
_ADVISORY_KEY = 0x77627363  # one migration at a time on a PostgreSQL server


def stored(connection: Connection) -> str | None:
    """The revision in the database; None when it is empty."""
    from sqlalchemy import inspect, text

    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def ensure(engine: Engine) -> None:
    """Bring the schema to `HEAD`: an empty database at once, an older one by the steps in `migrations/versions`; SQLite files are
    copied beside themselves first. Raises `DatabaseError` for a newer one."""
    with engine.connect() as connection:
        revision = stored(connection)
    if revision == HEAD:
        return
    if revision is not None:
        _refuse_newer(revision)
        if engine.dialect.name == "sqlite":
            _back_up(engine, revision)
    from alembic import command
    from sqlalchemy import text

    from workbench.db.tables import metadata

    with engine.begin() as connection:  # one transaction: the old schema or the new one, never half
        if engine.dialect.name != "sqlite":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_KEY})
        revision = stored(connection)  # another process may have been faster
        if revision is None:
            metadata.create_all(connection)
            command.stamp(alembic_config(connection), HEAD)
        elif revision != HEAD:
            command.upgrade(alembic_config(connection), HEAD)


def alembic_config(connection: Connection) -> Config:
    """Alembic's configuration for our migrations, bound to an open transaction."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _refuse_newer(revision: str) -> None:
    known = {file.name.partition("_")[0] for file in (_MIGRATIONS / "versions").glob("*.py")}
    if revision not in known:
        raise DatabaseError(
            f"The database has schema {revision}; this workbench knows schemas up to {HEAD}.",
            hint="Install the newer workbench, or point WORKBENCH_HOME (or WORKBENCH_DB) elsewhere. Nothing was changed.",
        )


def _back_up(engine: Engine, revision: str) -> None:
    file = Path(str(engine.url.database))
    copy = file.with_name(f"{file.name}.before-{HEAD}-from-{revision}")
    if copy.exists():  # an earlier try got this far
        return
    raw = engine.raw_connection()
    try:
        raw.cursor().execute("VACUUM INTO ?", (str(copy),))
    finally:
        raw.close()
