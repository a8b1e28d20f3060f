"""A child with limits: what it may use, what it may send back, and that it never outlives its parent."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from workbench import foreign
from workbench.errors import DataError, IntegrityError, UsageError
from workbench.foreign import GIB, MIB, Limits
from workbench.records import BaseRef

pytestmark = pytest.mark.slow


def test_value_records_and_errors_come_back() -> None:
    limits = Limits("a file")
    assert limits.run(_double, 21) == 42
    assert limits.run(BaseRef.parse, "pico@1") == BaseRef("pico", "1")
    with pytest.raises(UsageError, match="names no version") as found:
        limits.run(BaseRef.parse, "pico")
    assert "family@version" in found.value.hint
    with pytest.raises(DataError) as listed:
        limits.run(_problems)
    assert listed.value.problems == ["row 1"]


def test_progress_is_passed_on() -> None:
    heard: list[str] = []
    assert Limits("a file", on_progress=heard.append).run(_talk) == 3
    assert heard == ["one", "two"]


@pytest.mark.parametrize(
    ("what", "limits", "words"),
    [
        ("loop", {"seconds": 0.5}, "more than 0.5 seconds"),
        ("sleep", {"seconds": 0.5}, "more than 0.5 seconds"),
        ("compute", {"seconds": 30.0, "cpu": 1.0}, "more than 1 seconds"),
        ("swell", {"memory": 64 * MIB}, "more than 0.1 GB of memory"),
        ("many", {"memory": 64 * MIB}, "more than 0.1 GB of memory"),
        ("stop", {"seconds": 0.5}, "more than 0.5 seconds"),
        ("abort", {}, "crashes its reader, or reading it takes more than 1.0 GB of memory"),
        ("leave", {}, "without a word"),
    ],
)
def test_a_limit_ends_the_child_and_says_so(what: str, limits: dict[str, float], words: str) -> None:
    began = time.monotonic()
    with pytest.raises(IntegrityError, match=words):
        Limits("evil.bin", error=IntegrityError, **limits).run(_misbehave, what)  # type: ignore[arg-type]
    assert time.monotonic() - began < 10


def test_a_panic_that_is_no_exception_is_reported_as_a_bug_with_its_trace() -> None:
    with pytest.raises(RuntimeError, match="Panic: at the disco"):
        Limits("evil.json").run(_panic)


def test_a_child_cannot_write_or_see_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary")
    monkeypatch.setenv("WORKBENCH_DB", "postgresql://user:canary@host/db")
    assert "canary" not in str(Limits("a file").run(_environment))
    with pytest.raises(RuntimeError, match="File too large"):
        Limits("a file").run(_write, str(tmp_path / "out"))
    assert Limits("a file", writes=100).run(_write, str(tmp_path / "out")) == 5


def test_only_plain_values_and_records_are_taken_from_a_child() -> None:
    with pytest.raises(pickle.UnpicklingError, match="may not come"):
        Limits("a file").run(_evil)


def test_calls_run_side_by_side_and_survive_the_death_of_the_server() -> None:
    server = Limits("a file").run(os.getppid)
    os.kill(server, signal.SIGKILL)
    while psutil.pid_exists(server):  # its threads hold its files until the last of them is gone
        time.sleep(0.01)
    assert Limits("a file").run(os.getppid) != server


def test_children_die_with_their_parent(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from workbench.foreign import Limits\nfrom tests.test_foreign import _note_and_sleep\n"
        f"Limits('a file', writes=100).run(_note_and_sleep, {str(tmp_path / 'pid')!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    note = tmp_path / "pid"
    while not note.exists() or not note.read_text():
        time.sleep(0.02)
    child = int(note.read_text())
    process.kill()
    process.wait()
    for _ in range(200):
        if not psutil.pid_exists(child):
            return
        time.sleep(0.02)
    raise AssertionError("the child outlived its parent")


def test_regular_files_only(tmp_path: Path) -> None:
    plain, link, pipe = tmp_path / "plain", tmp_path / "link", tmp_path / "pipe"
    plain.write_bytes(b"abc")
    link.symlink_to(plain)
    os.mkfifo(pipe)
    assert foreign.read_regular(plain, most=3) == b"abc"
    for odd in (link, pipe, tmp_path, Path("/dev/zero")):
        with pytest.raises(DataError):
            foreign.read_regular(odd, most=GIB)
    with pytest.raises(DataError, match="3 bytes; 2 are the most"):
        foreign.read_regular(plain, most=2)


def _double(x: int) -> int:
    return 2 * x


def _problems() -> None:
    raise DataError("It is wrong:", ["row 1"])


def _talk() -> int:
    foreign.say("one")
    foreign.say("two")
    return 3


def _misbehave(what: str) -> object:
    if what == "loop":
        while True:
            pass
    if what == "compute":
        return sum(i for i in range(10**12))
    if what == "sleep":
        time.sleep(60)
    if what == "swell":
        return len(b"x" * GIB)
    if what == "many":
        return len([str(i) * 10 for i in range(10**8)])
    if what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if what == "abort":
        os.abort()
    os._exit(7)


class Panic(BaseException):
    """As a Rust library panics: not an Exception."""


def _panic() -> None:
    raise Panic("at the disco")


def _environment() -> dict[str, str]:
    return dict(os.environ)


def _write(path: str) -> int:
    return Path(path).write_bytes(b"12345")


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


def _evil() -> _Evil:
    return _Evil()


def _note_and_sleep(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(60)
