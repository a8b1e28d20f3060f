"""Which home a database belongs to.

Jobs, adapters and bases are folders in the home; the rows that speak of them mean nothing beside another home. So a database
belongs to the first home that opens it, and others are refused: they would take its jobs and fail them.
"""

from __future__ import annotations

import platform
from pathlib import Path

from sqlalchemy import Engine, insert, select
from sqlalchemy.exc import IntegrityError as Taken

from workbench import identity, paths
from workbench.db.tables import store
from workbench.errors import DatabaseError

__all__ = ["admit"]


def _refuse_file_of_another_home(file: str | None) -> None:
    """A home's own SQLite file names no owner, as it goes where the home goes; what lies beside it tells whose it is."""
    folder = Path(file).resolve().parent if file is not None else None
    if folder is not None and Path(str(file)).name == "workbench.db" and any((folder / name).is_dir() for name in ("jobs", "adapters")):
        raise DatabaseError(
            f"The database {file} belongs to the home {folder}, not to {paths.home()}.",
            hint=f"Let WORKBENCH_HOME name {folder}, or give this home another database (WORKBENCH_DB).",
        )


def admit(engine: Engine) -> None:
    """Take the database for this home, unless it has one: raises `DatabaseError` when that is another."""
    mine = identity.store_id()
    with engine.begin() as connection:
        owner = connection.execute(select(store)).one_or_none()
    if owner is None:
        _refuse_file_of_another_home(engine.url.database if engine.dialect.name == "sqlite" else None)
        try:
            with engine.begin() as connection:
                connection.execute(insert(store).values(one=1, id=mine, home=str(paths.home()), host=platform.node()))
        except Taken:  # another home was faster
            admit(engine)
    elif owner.id != mine:
        raise DatabaseError(
            f"The database belongs to the home {owner.home} of {owner.host}, not to {paths.home()}.",
            hint="To work together, mount that folder on every machine and let WORKBENCH_HOME name it; else give this home another "
            f"database (WORKBENCH_DB). If this is that home, moved or restored, write {owner.id} into {paths.store_file()}.",
        )
