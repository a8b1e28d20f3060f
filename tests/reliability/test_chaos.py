"""kill -9 at random moments: shims, children, helpers, dispatchers, a database server. Nothing lost, nothing run twice.

The judge reads only what the jobs themselves appended to their history files, the database, and the process table.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
from counting import Count

from workbench.db.reading import rows
from workbench.errors import DatabaseError
from workbench.jobs import dispatcher, processes
from workbench.jobs.folder import PROCESSES, attempt_dir, read_json
from workbench.jobs.store import Jobs
from workbench.jobs.timing import Timing
from workbench.records import JobState

SEED = 20261121
QUICK = Timing(lease=5.0, grace=1.0, look=0.2, poll=0.1, idle=1.0, store=60.0)
STEPS = 16
LIMIT = 150.0  # seconds until a run counts as stuck (it takes about a third of that on two quiet cores)


class Chaos:
    """Submits jobs, kills things, and judges."""

    def __init__(self, home: Path, *, count: int, kills: int) -> None:
        self.home, self.kills, self.random = home, kills, random.Random(SEED)
        self.jobs = Jobs(start_dispatcher=False)
        self.killed: Counter[str] = Counter()
        self.cancelled: set[str] = set()
        self.ids = [self._submit(i) for i in range(count)]

    def _submit(self, i: int) -> str:
        helper: Any = (None, "child", "daemon")[i % 3]
        spec = Count(name=f"job {i}", steps=STEPS, seconds=0.05, history=self.home / f"history-{i}", helper=helper)
        said = [self.jobs.submit(spec, key=f"key-{i}", max_crashes=1000).id for _ in range(2)]
        assert said[0] == said[1]  # said twice, made once
        return said[0]

    def targets(self) -> dict[str, list[int]]:
        """Pids by what they are. Only processes of this home."""
        found: dict[str, list[int]] = {"shim": [], "child": [], "helper": [], "dispatcher": []}
        for row in rows("SELECT job_id, n, token, shim_pid, shim_started FROM attempts WHERE state = 'running'"):
            if processes.is_alive(row["shim_pid"], row["shim_started"]):
                found["shim"].append(row["shim_pid"])
            child = (read_json(attempt_dir(row["job_id"], row["n"]) / PROCESSES) or {}).get("child")
            ours = [pid for pid, _ in processes.leftovers(row["token"])]
            found["child"] += [pid for pid in ours if pid == child]
            found["helper"] += [pid for pid in ours if pid != child]
        lock = next((self.home / "jobs").glob("dispatcher*.lock"), None)
        pid, started, *_ = [*(lock.read_text() if lock else "").split(), "", ""]
        if pid.isdigit() and processes.is_alive(int(pid), started):
            found["dispatcher"].append(int(pid))
        return found

    def kill_something(self) -> None:
        """One of the four kinds, at a random moment after it was first seen."""
        kind = self.random.choices(["shim", "child", "helper", "dispatcher"], [4, 4, 2, 2])[0]
        deadline = time.monotonic() + 1.5
        while not self.targets()[kind] and time.monotonic() < deadline:
            time.sleep(0.03)
        time.sleep(self.random.choice([0.0, 0.1, 0.3, 0.6]) * self.random.random())
        candidates = self.targets()[kind]
        if candidates:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.random.choice(candidates), signal.SIGKILL)
                self.killed[kind] += 1

    def cancel_something(self) -> None:
        job = self.jobs.get(self.random.choice(self.ids))
        if not job.state.final and len(self.cancelled) < 2:
            self.jobs.cancel(job.id)
            self.cancelled.add(job.id)

    def unfinished(self) -> list[str]:
        return [row["id"] for row in rows("SELECT id, state FROM jobs") if not JobState(row["state"]).final]

    def run(self, server: Any = None, crashes: int = 0) -> None:
        """Kill until enough was killed (new jobs are added should they run out), then let everything end."""
        deadline = time.monotonic() + LIMIT
        crash_at = [self.kills * (i + 1) // (crashes + 1) for i in range(crashes)]
        while time.monotonic() < deadline:
            total = sum(self.killed.values())
            if total >= self.kills and not self.unfinished():
                return
            if crash_at and total >= crash_at[0]:
                crash_at.pop(0)
                self._crash(server)
            dispatcher.ensure_running(QUICK, slots=2)  # what a browser page or `workbench train` does while it looks
            if total < self.kills:
                self.kill_something()
                if self.random.random() < 0.05:
                    self.cancel_something()
                if len(self.unfinished()) < 2:
                    self.ids.append(self._submit(len(self.ids)))
            time.sleep(0.1)
        pytest.fail(f"stuck after {LIMIT:g} s: {self.killed}, {[self.jobs.get(i) for i in self.unfinished()]}")

    def _crash(self, server: Any) -> None:
        server.crash()
        self.killed["database"] += 1
        with pytest.raises(DatabaseError):
            self.jobs.list()
        time.sleep(0.5)
        server.start()

    def judge(self) -> dict[str, int]:
        """What must all be zero."""
        lost = twice = 0
        for i, job_id in enumerate(self.ids):
            job = self.jobs.get(job_id)
            history = self.home / f"history-{i}"
            lines = [line.split() for line in history.read_text().splitlines()] if history.exists() else []
            attempts = [int(line[0]) for line in lines]
            steps = {int(line[2]) for line in lines if line[2].isdigit()}
            twice += attempts != sorted(attempts) or any(line[2] == "TWICE" for line in lines)
            if job.state is JobState.succeeded:
                lost += steps != set(range(1, STEPS + 1))
            else:
                lost += job.state is not JobState.cancelled or job_id not in self.cancelled
        lost += len(rows("SELECT id FROM jobs")) != len(self.ids)
        held = rows("SELECT count(*) AS n FROM slots WHERE token IS NOT NULL")[0]["n"]
        open_attempts = rows("SELECT count(*) AS n FROM attempts WHERE state = 'running'")[0]["n"]
        return {"lost": lost, "double_run": twice, "orphans": self._orphans(), "held_slots": held, "open_attempts": open_attempts}

    def _orphans(self) -> int:
        """Processes of this home that live on: the dispatcher itself leaves when idle, shims a moment after their job."""
        deadline = time.monotonic() + 20
        while (left := self._processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        for pid in left:
            sys.stdout.write(f"left: {pid} {psutil.Process(pid).cmdline()}\n")
        return len(left)

    def _processes(self) -> list[int]:
        wanted = f"WORKBENCH_HOME={self.home}".encode()
        found = []
        for pid in psutil.pids():
            try:
                environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if wanted in environment and pid != os.getpid() and processes.start_time(pid):
                found.append(pid)
        return found


def _report(capsys: pytest.CaptureFixture[str], chaos: Chaos, bad: dict[str, int], name: str, began: float) -> None:
    kinds = " ".join(f"{kind}={n}" for kind, n in sorted(chaos.killed.items()))
    attempts = rows("SELECT count(*) AS n FROM attempts")[0]["n"]
    counts = " ".join(f"{key}={n}" for key, n in bad.items())
    line = f"RELIABILITY {name} kills={sum(chaos.killed.values())} ({kinds}) jobs={len(chaos.ids)} attempts={attempts} {counts}"
    with capsys.disabled():
        sys.stdout.write(f"\n{line} seed={SEED} seconds={time.monotonic() - began:.0f}\n")


def _finish(capsys: pytest.CaptureFixture[str], chaos: Chaos, name: str, began: float) -> None:
    bad = chaos.judge()
    _report(capsys, chaos, bad, name, began)
    assert not any(bad.values()), bad
    assert sum(chaos.killed.values()) >= chaos.kills


def test_kills_lose_nothing_and_run_nothing_twice(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    chaos = Chaos(home, count=8, kills=32)
    chaos.run()
    assert {"shim", "child", "dispatcher"} <= set(chaos.killed)
    _finish(capsys, chaos, "sqlite", began)
    assert not dispatcher.is_running()


@pytest.mark.postgres
def test_kills_and_a_database_that_crashes(
    home: Path, postgres_server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORKBENCH_DB", postgres_server.url())
    began = time.monotonic()
    chaos = Chaos(home, count=4, kills=12)
    chaos.run(postgres_server, crashes=2)
    assert chaos.killed["database"] == 2
    _finish(capsys, chaos, "postgres", began)
