"""The database: its guarantees, its migrations, its fast reads. Everything on real SQLite and a real PostgreSQL server."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select, text
from sqlalchemy.exc import InternalError

from tests.reliability import first_schema
from workbench import identity, paths
from workbench.db import fencing, reading, schema, session
from workbench.db.tables import aliases, attempts, jobs, metadata, store
from workbench.errors import DatabaseError, Fenced, UsageError
from workbench.jobs import queue
from workbench.jobs.endings import Ending


def _submit() -> str:
    return queue.submit("count", {"steps": 1}, title="a job", key=None, count=1, policy="resume", max_crashes=3)


def _claim() -> queue.Claim:
    queue.register_slots("here", ["cpu-0"])
    claim = queue.claim("here", "boot", lease=5)
    assert claim is not None
    return claim


def test_sqlite_is_durable(home: Path) -> None:
    with session.transaction() as connection:
        found = {name: connection.execute(text(f"PRAGMA {name}")).scalar_one() for name in ("journal_mode", "synchronous", "foreign_keys")}
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_a_transaction_is_all_or_nothing(database: str) -> None:
    row = {"name": "a", "version": 1, "updated_at": 0.0}
    with pytest.raises(ZeroDivisionError), session.transaction() as connection:
        connection.execute(insert(aliases).values(alias="x", **row))
        _ = 1 / 0
    assert reading.rows("SELECT * FROM aliases") == []
    with session.transaction() as connection:
        connection.execute(insert(aliases).values(alias="y", **row))
    assert reading.rows("SELECT alias, version FROM aliases WHERE name = :name", name="a") == [{"alias": "y", "version": 1}]


def test_the_clock_is_the_databases(database: str) -> None:
    with session.transaction() as connection:
        first = session.now(connection)
        time.sleep(0.02)
        second = session.now(connection)  # moves on within a transaction, too
    assert abs(first - time.time()) < 5 and second > first
    moment = session.when(first)
    assert moment is not None and moment.tzinfo is not None and moment.timestamp() == pytest.approx(first, abs=1e-3)
    assert session.when(None) is None


def test_a_new_database_and_the_first_one_brought_up_to_date_have_the_tables_of_the_code(database: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    def compare() -> None:
        with session.transaction() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, metadata) == []
            assert context.get_current_revision() == schema.HEAD

    compare()
    with session.transaction() as connection:
        assert ScriptDirectory.from_config(schema.alembic_config(connection)).get_heads() == [schema.HEAD]
        _first_schema(connection)
    session.dispose()
    compare()
    assert _submit()


def test_what_an_older_workbench_wrote_is_still_there_and_belongs_to_the_home_that_opens_it(database: str) -> None:
    with session.transaction() as connection:
        _first_schema(connection)
        values = {"id": "abc", "kind": "count", "title": "a job", "spec": {}, "state": "queued", "slots": 1, "policy": "resume"}
        connection.execute(insert(jobs).values(**values, crashes=0, max_crashes=3, created_at=1.0))
    session.dispose()
    assert reading.rows("SELECT id FROM jobs") == [{"id": "abc"}]  # brings it up to date
    with session.transaction() as connection:
        owners = connection.execute(select(store.c.id, store.c.home)).all()
    mine = [(identity.store_id(), str(paths.home()))] if database == "postgres" else []  # a file in a home goes where the home goes
    assert owners == mine and (database == "postgres") == paths.store_file().exists()


def _first_schema(connection: Connection) -> None:
    """Put the first schema in the place of this one."""
    metadata.drop_all(connection)
    connection.execute(text("DROP TABLE alembic_version"))
    first_schema.create(connection)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def shared(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A database that several homes may name."""
    url = request.getfixturevalue("postgres_server").url() if request.param == "postgres" else f"sqlite:///{tmp_path / 'shared.db'}"
    monkeypatch.setenv("WORKBENCH_DB", url)


def test_a_database_belongs_to_one_home(shared: None, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second one would take its jobs and fail them, and move its adapters to a trash where they are not."""
    job_id = _submit()
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setenv("WORKBENCH_HOME", str(other))
    session.dispose()
    for use in (_submit, _claim, lambda: reading.rows("SELECT * FROM jobs")):
        with pytest.raises(DatabaseError, match=f"belongs to the home {home} .*mount that folder on every machine") as refused:
            use()
    moved = re.search(r"write (\w+) into (\S+)\.$", str(refused.value))
    assert moved is not None
    Path(moved[2]).write_text(moved[1])  # what it says for a home that was moved
    assert reading.rows("SELECT id FROM jobs") == [{"id": job_id}] and _claim().job_id == job_id


def test_a_home_does_not_take_the_file_of_another(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = _submit()
    (home / "jobs").mkdir(exist_ok=True)
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("WORKBENCH_DB", f"sqlite:///{home / 'workbench.db'}")
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "other"))
    session.dispose()
    for use in (_submit, _claim, lambda: reading.rows("SELECT * FROM jobs")):
        with pytest.raises(DatabaseError, match=f"belongs to the home {home}"):
            use()
    monkeypatch.setenv("WORKBENCH_HOME", str(home))
    session.dispose()
    assert reading.rows("SELECT id FROM jobs") == [{"id": job_id}] and _claim().job_id == job_id


@pytest.mark.postgres
def test_of_many_homes_that_come_first_one_gets_the_database(postgres_server: Any, tmp_path: Path) -> None:
    code = "from workbench.db import session\nwith session.transaction() as c: print(session.now(c))"
    url, started = postgres_server.url(), []
    for i in range(4):
        environment = paths.child_environment(WORKBENCH_DB=url, WORKBENCH_HOME=str(tmp_path / f"home-{i}"))
        started.append(subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL))
    said = [process.communicate()[1].decode() for process in started]
    assert [process.returncode for process in started].count(0) == 1, said
    assert sum("belongs to the home" in text for text in said) == 3


def test_machines_that_share_a_name_and_a_home_differ(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def machine(number: str, account: str) -> str:
        (tmp_path / f"id-{number}").write_text(f"{number * 32}\n")
        monkeypatch.setattr(identity, "_MACHINE_ID", tmp_path / f"id-{number}")
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / account))
        identity.node_id.cache_clear()
        return identity.node_id()

    assert machine("a", "x") == machine("a", "y") != machine("b", "x")
    assert machine("", "x") == machine("", "x") != machine("", "y")  # no machine-id: a file of the account on that machine
    identity.node_id.cache_clear()
    assert not any(home.iterdir())


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home on a disk of 2 MB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a disk")
    monkeypatch.setenv("WORKBENCH_HOME", str(disk / "home"))
    yield disk
    session.dispose()
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_called_full_and_loses_nothing(small_disk: Path) -> None:
    job_id = _submit()
    session.dispose()
    fill = small_disk / "fill"
    with suppress(OSError), fill.open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    for use in (_submit, lambda: reading.rows("SELECT * FROM jobs")):
        with pytest.raises(DatabaseError, match="workbench.db is full.*Make room on it") as refused:
            use()
        assert "move it away" not in str(refused.value)
    fill.unlink()
    assert reading.rows("SELECT id FROM jobs") == [{"id": job_id}] and _submit()


def test_a_disk_that_cannot_be_written_is_called_so(small_disk: Path) -> None:
    job_id = _submit()
    session.dispose()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for use in (_submit, lambda: reading.rows("SELECT * FROM jobs")):
        with pytest.raises(DatabaseError, match="workbench.db cannot be written.*Mount it for writing"):
            use()
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    assert reading.rows("SELECT id FROM jobs") == [{"id": job_id}]


def test_a_deleted_database_is_missed_and_another_in_its_place_is_seen(home: Path) -> None:
    """Who has a deleted file open reads and writes what nobody else will ever see."""
    _submit()
    file, aside = home / "workbench.db", home / "aside.db"
    with sqlite3.connect(file) as connection:
        connection.execute("VACUUM INTO ?", (str(aside),))
    _submit()
    file.unlink()
    for _ in range(2):
        with pytest.raises(DatabaseError, match="was deleted while it was in use.*Put it back"):
            _submit()
    assert not file.exists()  # nobody begins an empty one by mistake
    for rest in home.glob("workbench.db-*"):
        rest.unlink()
    aside.rename(file)
    third = _submit()
    session.dispose()
    assert [row["id"] for row in reading.rows("SELECT id FROM jobs ORDER BY seq")][1:] == [third]


def test_a_newer_database_is_refused_and_left_alone(database: str) -> None:
    with session.transaction() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    session.dispose()
    for use in (_submit, lambda: reading.rows("SELECT * FROM jobs")):
        with pytest.raises(DatabaseError, match="has schema 9999.*newer workbench"):
            use()


def test_an_older_sqlite_database_is_copied_before_it_is_migrated(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id, newest = _submit(), schema.HEAD
    session.dispose()
    monkeypatch.setattr(schema, "HEAD", "9999")
    seen = []
    monkeypatch.setattr("alembic.command.upgrade", lambda config, revision: seen.append(revision))
    with session.transaction():
        pass
    copy = home / f"workbench.db.before-9999-from-{newest}"
    with sqlite3.connect(copy) as connection:
        assert connection.execute("SELECT id FROM jobs").fetchall() == [(job_id,)]
    assert seen == ["9999"]


def test_a_migration_that_fails_changes_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr("alembic.command.stamp", fail)  # after the tables
    with pytest.raises(RuntimeError, match="out of luck"):
        session.engine()
    with sqlite3.connect(home / "workbench.db") as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


@pytest.mark.parametrize(
    "url", ["mysql://root@localhost/x", "postgres://u@h/d", "postgresql://u@h/d", "sqlite://", "sqlite+aiosqlite:///x.db", "workbench.db"]
)
def test_other_databases_are_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_DB", url)
    for use in (session.engine, lambda: reading.rows("SELECT 1")):
        with pytest.raises(UsageError, match="postgresql\\+psycopg://"):
            use()


def test_a_server_that_is_away_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_DB", "postgresql+psycopg://workbench@/nowhere?host=/nonexistent")
    for use in (_submit, lambda: reading.rows("SELECT * FROM jobs")):
        with pytest.raises(DatabaseError, match="could not do it.*WORKBENCH_DB"):
            use()


@pytest.mark.parametrize(
    "content", [b"this is no database, but it is long enough to have a header" * 20, b"SQLite format 3\0" + b"\xff" * 600]
)
def test_a_broken_file_is_one_clear_error_and_left_alone(home: Path, content: bytes) -> None:
    file = home / "workbench.db"
    file.write_bytes(content)
    for use in (_submit, lambda: reading.rows("SELECT * FROM jobs")):
        with pytest.raises(DatabaseError, match="workbench.db|database"):
            use()
    assert file.read_bytes() == content


def test_network_disks_are_refused(home: Path) -> None:
    mounts = f"/dev/sda / ext4 rw 0 0\nserver:/x {home.parent} nfs4 rw 0 0\ntmpfs {home}/local tmpfs rw 0 0\n"
    with pytest.raises(DatabaseError, match="network disk \\(nfs4\\)"):
        session.refuse_network_disk(home / "workbench.db", mounts)
    (home / "local").mkdir()
    session.refuse_network_disk(home / "local" / "workbench.db", mounts)
    session.refuse_network_disk(home / "workbench.db")


def test_reading_creates_nothing_and_imports_little(home: Path) -> None:
    _submit()
    code = (
        "import sys\nfrom workbench.jobs.store import Jobs\njobs = Jobs().list()\n"
        "print(len(jobs), [m for m in ('sqlalchemy', 'alembic', 'pydantic', 'psutil', 'asyncio', 'numpy', 'torch') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "1 []", run.stderr
    before = sorted(home.rglob("*"))
    session.dispose()
    other = home / "empty"
    other.mkdir()
    environment = paths.child_environment(WORKBENCH_HOME=str(other))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout.strip() == "0 []" and list(other.iterdir()) == []
    assert {path for path in before if path.suffix == ".db"} == set(home.glob("*.db"))


def test_reading_cannot_write(database: str) -> None:
    _submit()
    with pytest.raises((DatabaseError, InternalError)):  # SQLite's and PostgreSQL's way to refuse
        reading.rows("DELETE FROM job_events RETURNING seq")
    assert reading.rows("SELECT count(*) AS n FROM job_events") == [{"n": 1}]


def test_a_token_is_good_only_while_its_attempt_runs(database: str) -> None:
    job_id = _submit()
    claim = _claim()
    with session.transaction() as connection:
        assert fencing.check(connection, claim.token) == job_id
    with pytest.raises(Fenced, match="not known"), session.transaction() as connection:
        fencing.check(connection, "0" * 32)
    queue.cancel(job_id)
    with pytest.raises(Fenced, match="cancelled"), session.transaction() as connection:
        fencing.check(connection, claim.token)
    queue.finish(claim.token, Ending("interrupted"))
    with pytest.raises(Fenced, match="taken over"), session.transaction() as connection:
        fencing.check(connection, claim.token)


def test_a_takeover_waits_for_a_write_that_was_let_through(database: str) -> None:
    """What `check` let through is committed before the attempt can end in any other way."""
    _submit()
    claim = _claim()
    order: list[str] = []

    def take_over() -> None:
        queue.finish(claim.token, Ending("interrupted"))
        order.append("taken over")

    thread = threading.Thread(target=take_over)
    with session.transaction() as connection:
        fencing.check(connection, claim.token)
        thread.start()
        time.sleep(0.3)
        connection.execute(insert(aliases).values(name="a", alias="published", version=1, updated_at=session.now(connection)))
        order.append("published")
    thread.join(timeout=10)
    assert order == ["published", "taken over"]
    with session.transaction() as connection:
        assert connection.execute(select(jobs.c.state)).scalar_one() == "queued"
        assert connection.execute(select(attempts.c.state)).scalar_one() == "interrupted"
