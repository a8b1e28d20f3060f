"""Every test gets a home of its own; the tiny real base is built once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_base import make_tiny_base

# Where a kind of job for the tests is installed: for this process, and for those of jobs.
_KINDS = str(Path(__file__).parent / "kinds")
sys.path.append(_KINDS)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), _KINDS]))

# Fast tests first: a broken import shows in seconds, not after the browser has started.
_ORDER = ("tests/hf/", "tests/reliability/", "tests/ui/")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="fail the run if any test was skipped (used by .ci/run)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        return next((i + 1 for i, folder in enumerate(_ORDER) if item.nodeid.startswith(folder)), 0)

    items.sort(key=rank)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if session.config.getoption("--no-skips") and reporter and reporter.stats.get("skipped") and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_report_header() -> list[str]:
    import sqlite3
    from importlib.metadata import version

    names = ("torch", "transformers", "trl", "peft", "gradio", "SQLAlchemy")
    return [f"sqlite {sqlite3.sqlite_version}, " + ", ".join(f"{name} {version(name)}" for name in names)]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home folder, named by WORKBENCH_HOME; no hub, no database of the machine's. Its dispatcher ends with the test."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("WORKBENCH_HOME", str(folder))
    monkeypatch.delenv("WORKBENCH_DB", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    yield folder
    if any((folder / "jobs").glob("dispatcher*.lock")):
        from tests.dispatching import stop_dispatcher

        stop_dispatcher()
    if "workbench.db.session" in sys.modules:
        sys.modules["workbench.db.session"].dispose()


_alone: list[str] = []  # the fast test that runs now


def _watch(event: str, args: tuple[Any, ...]) -> None:
    started = event == "socket.bind" or event == "subprocess.Popen" and "workbench import foreign" not in str(args[1])
    if _alone and started:
        pytest.fail(f"{_alone[0]} starts a process or a server: mark it with pytest.mark.slow, so that `make test-fast` leaves it out.")


sys.addaudithook(_watch)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """A fast test, one directly in tests/ without a mark, starts nothing but the reader of strangers' files."""
    if not item.nodeid.startswith(_ORDER) and not any(map(item.get_closest_marker, ("slow", "postgres"))):
        _alone.append(item.nodeid)
    try:
        return (yield)
    finally:
        _alone.clear()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Any]:
    """A real PostgreSQL server (`tests.postgres.Server`)."""
    from tests.postgres import Server

    try:
        server = Server()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    yield server
    server.close()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The test runs twice: on SQLite in the home, and on an empty database of a PostgreSQL server."""
    if request.param == "postgres":
        monkeypatch.setenv("WORKBENCH_DB", request.getfixturevalue("postgres_server").url())
    return str(request.param)


@pytest.fixture(scope="session")
def pico_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a real two-layer Llama, its tokenizer and chat template."""
    return make_tiny_base(tmp_path_factory.mktemp("pico"), dtype="F32")
