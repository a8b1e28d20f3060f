"""Fast reads for listings. On SQLite they use the standard library, because importing SQLAlchemy takes 0.3 s.

SQL is plain, parameters are `:name`; values come back as stored (times as seconds, JSON as text). Nothing is
created: a home without a database has no rows.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import Any

from workbench import paths
from workbench.db.schema import HEAD
from workbench.db.session import BUSY_MS, engine, explained, in_home, plain_errors, sqlite_file

__all__ = ["from_json", "rows"]


def rows(sql: str, **parameters: Any) -> list[dict[str, Any]]:
    """The rows of one SELECT, as dictionaries. Brings an older schema up to date first; raises `DatabaseError`."""
    file = sqlite_file(paths.database_url())
    if file is None or (file.is_file() and not in_home(file)):  # is it this home's?
        return _through_sqlalchemy(sql, parameters)
    if not file.is_file() or file.stat().st_size == 0:
        return []
    try:
        with closing(sqlite3.connect(file, timeout=BUSY_MS / 1000)) as connection:
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA query_only=ON")
            version = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            if version and version[0] == HEAD:
                return [dict(row) for row in connection.execute(sql, parameters)]
    except sqlite3.DatabaseError as error:
        if "no such table: alembic_version" not in str(error):
            raise explained(error) from error
    return _through_sqlalchemy(sql, parameters)


def from_json(text: str | None) -> Any:
    """A JSON column as a value; NULL is None."""
    return None if text is None else json.loads(text)


def _through_sqlalchemy(sql: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    from sqlalchemy import text

    with plain_errors(), engine().connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET TRANSACTION READ ONLY"))
        return [dict(row) for row in connection.execute(text(sql), parameters).mappings()]
