"""Engines, transactions and the database's clock: SQLite (WAL, synchronous=FULL) or PostgreSQL, same code.

SQLAlchemy is imported on first use, so that importing this module costs nothing.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import paths
from workbench.db import schema
from workbench.errors import DatabaseError, MissingDependency, UsageError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

__all__ = [
    "clock", "deleted", "dispose", "engine", "explained", "in_home", "now", "plain_errors", "refuse_network_disk", "sqlite_file",
    "transaction", "when",
]  # fmt: skip

BUSY_MS = 30_000
_NETWORK_DISKS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "afs", "ceph", "lustre"}
_LEAST = 256 * 1024  # bytes: a disk with less free is full, whatever SQLite calls it


@dataclass(frozen=True)
class _Opened:
    engine: Engine
    inode: tuple[int, int] | None


_engines: dict[tuple[str, int], _Opened] = {}
_lock = threading.Lock()


@contextmanager
def transaction() -> Iterator[Connection]:
    """One transaction on the database of `paths.database_url()`: commits at the end, rolls back on an error.

    Never open one inside another. Raises `DatabaseError` when the database is away, full or locked for too long.
    On SQLite it takes the write lock at once (BEGIN IMMEDIATE), so what was read stays true until the commit.
    On PostgreSQL (read committed) lock the rows you decide upon: `select(...).with_for_update()`, job row first.
    """
    with plain_errors(), engine().begin() as connection:
        yield connection


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn what the drivers say about a database that is away, full, locked or broken into one `DatabaseError`."""
    from sqlalchemy.exc import DatabaseError as Broken
    from sqlalchemy.exc import InterfaceError, OperationalError

    try:
        yield
    except (InterfaceError, Broken) as error:
        if not isinstance(error, InterfaceError | OperationalError) and type(error) is not Broken:
            raise  # a broken constraint, a mistake in the SQL
        raise explained(error.orig or error) from error


def explained(error: BaseException) -> DatabaseError:
    """What a driver said, and what to do about it: a full disk needs other help than a broken file, and SQLite calls both an I/O error."""
    file = sqlite_file(paths.database_url())
    said = " ".join(str(error).split()).rstrip(".?")
    code = str(getattr(error, "sqlite_errorname", None) or getattr(error, "sqlstate", None) or "")
    where = "the disk of the server" if file is None else f"the disk of {file}"
    if code in {"SQLITE_FULL", "53100"} or (file is not None and _room(file) < _LEAST):
        what, hint = f"{where} is full", "Make room on it, then try again."
    elif code.startswith("SQLITE_READONLY") or code == "25006" or (file is not None and not os.access(file.parent, os.W_OK)):
        what, hint = f"{where} cannot be written", "Mount it for writing, or mend the permissions, then try again."
    elif code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        what, hint = f"{file} is damaged", "Put back a copy of it, or move it away to start with an empty one. It was left as it is."
        return DatabaseError(f"The database could not do it: {what} ({said}).", hint=hint)
    else:
        what, hint = "", "Look at WORKBENCH_DB, the server and the disk, then try again."
    return DatabaseError(f"The database could not do it: {f'{what} ({said})' if what else said}.", hint=f"{hint} Nothing is half written.")


def _room(file: Path) -> int:
    try:
        return shutil.disk_usage(file.parent).free
    except OSError:
        return _LEAST


def now(connection: Connection) -> float:
    """The database's clock, in seconds since the epoch (milliseconds are real, less is not)."""
    from sqlalchemy import text

    return float(connection.execute(text(f"SELECT {clock()}")).scalar_one())


def clock() -> str:
    """The SQL for `now`, for use in `reading.rows`."""
    if sqlite_file(paths.database_url()) is not None:
        return "((julianday('now') - 2440587.5) * 86400.0)"
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"


def when(seconds: float | None) -> datetime | None:
    """A time column as a datetime in UTC; None stays None."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def engine() -> Engine:
    """The engine of `paths.database_url()`, its schema brought up to date; one per URL and process."""
    url = paths.database_url()
    key = (url, os.getpid())  # a forked process must not share its parent's connections
    with _lock:
        opened = _engines.get(key)
        if opened is not None and (there := _inode(url)) != opened.inode:
            if there is None:
                raise DatabaseError(
                    f"The database {sqlite_file(url)} was deleted while it was in use.",
                    hint="Put it back; or end all processes of this workbench and begin again with an empty one.",
                )
            opened.engine.dispose()  # somebody put another file in its place
            opened = None
        if opened is None:
            file = sqlite_file(url)
            made = _postgres_engine(url) if file is None else _sqlite_engine(url, file)
            schema.ensure(made)
            if not in_home(file):
                from workbench.db import owner

                with plain_errors():
                    owner.admit(made)
            opened = _engines[key] = _Opened(made, _inode(url))
    return opened.engine


def dispose() -> None:
    """Close every connection of this process (before a server is stopped, after a test)."""
    with _lock:
        for (_, pid), made in _engines.items():
            made.engine.dispose(close=pid == os.getpid())
        _engines.clear()


def sqlite_file(url: str) -> Path | None:
    """The file behind a SQLite URL; None for PostgreSQL. Raises `UsageError` for any other database."""
    if url.startswith("sqlite:///") and len(url) > len("sqlite:///"):
        return Path(url.removeprefix("sqlite:///").partition("?")[0])
    if url.startswith("postgresql+psycopg://"):
        return None
    scheme = url.partition(":")[0]
    raise UsageError(
        f"WORKBENCH_DB names a database that cannot be used ({scheme}).",
        hint="Use sqlite:////path/to/workbench.db or postgresql+psycopg://user@host/name.",
    )


def deleted() -> bool:
    """Was a SQLite file deleted that this process has open?"""
    return any(opened.inode is not None and _inode(url) is None for (url, pid), opened in list(_engines.items()) if pid == os.getpid())


def in_home(file: Path | None) -> bool:
    """Is it a SQLite file of this home? Then it goes where the home goes, and nobody else's jobs are in it."""
    return file is not None and file.resolve().is_relative_to(paths.home().resolve())


def _inode(url: str) -> tuple[int, int] | None:
    """Of a SQLite file that is there. A file that was deleted lives on, out of reach, for those who have it open."""
    file = sqlite_file(url)
    try:
        stat = file.stat() if file is not None else None
    except OSError:
        return None
    return None if stat is None else (stat.st_dev, stat.st_ino)


def _sqlite_engine(url: str, file: Path) -> Engine:
    from sqlalchemy import create_engine, event

    with suppress(OSError):  # SQLite says why it cannot open a file there
        file.parent.mkdir(parents=True, exist_ok=True)
    refuse_network_disk(file)
    made = create_engine(url, connect_args={"timeout": BUSY_MS / 1000})

    @event.listens_for(made, "connect")
    def _on_connect(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, the driver would say it too late
        for pragma in (f"busy_timeout={BUSY_MS}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(made, "begin")
    def _on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return made


def _postgres_engine(url: str) -> Engine:
    from sqlalchemy import create_engine

    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise MissingDependency("PostgreSQL needs psycopg.", hint="Run: pip install 'openweight-workbench[postgres]'") from error
    options = "-c statement_timeout=60000 -c lock_timeout=30000"
    gone = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 25_000}  # a dead network, too
    return create_engine(url, pool_pre_ping=True, pool_size=4, connect_args={"connect_timeout": 10, "options": options, **gone})


def refuse_network_disk(file: Path, mounts: str | None = None) -> None:
    """SQLite's locks do not hold on network disks; raise `DatabaseError` when `file` lies on one (Linux only)."""
    try:
        table = mounts if mounts is not None else Path("/proc/self/mounts").read_text()
    except OSError:
        return
    real = str(file.parent.resolve())
    points = [line.split()[1:3] for line in table.splitlines()]
    inside = [(len(point), kind) for point, kind in points if real == point or real.startswith(point.rstrip("/") + "/")]
    if inside and max(inside)[1] in _NETWORK_DISKS:
        raise DatabaseError(
            f"The database {file} would lie on a network disk ({max(inside)[1]}), where SQLite loses data.",
            hint="Set WORKBENCH_HOME to a local disk, or WORKBENCH_DB to a PostgreSQL server.",
        )
