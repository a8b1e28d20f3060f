"""One test for each bad moment: who died, when, and what must be true afterwards. Real shims, real children, real signals."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from counting import Count
from sqlalchemy import update

from tests.dispatching import stop_dispatcher
from workbench import identity
from workbench.db import session
from workbench.db.reading import rows
from workbench.db.tables import attempts
from workbench.errors import Conflict, JobFailed
from workbench.jobs import dispatcher, launch, processes, queue
from workbench.jobs.dispatcher import Dispatcher
from workbench.jobs.folder import EXIT, ORDER, OUTCOME, PROCESSES, attempt_dir, read_json, write_json
from workbench.jobs.store import Jobs
from workbench.jobs.timing import Timing
from workbench.records import Job, JobState

SHORT = Timing(lease=20.0, grace=1.0, look=0.1, poll=0.1, idle=0.5, store=30.0)


class Bench:
    """A queue, a dispatcher that does one step when told to, and the history its jobs write."""

    def __init__(self, home: Path) -> None:
        self.home, self.jobs = home, Jobs(start_dispatcher=False)
        self.dispatcher = Dispatcher(slots=1, timing=SHORT)

    def submit(self, **spec: Any) -> Job:
        return self.jobs.submit(Count(**{"steps": 3, "history": self.home / "history", **spec}), max_crashes=5)

    def step_until(self, done: Callable[[], object], *, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, self.story()
            self.dispatcher.step()
            time.sleep(0.03)

    def finish(self, job: Job) -> Job:
        self.step_until(lambda: self.jobs.get(job.id).state.final)
        return self.jobs.get(job.id)

    def until(self, done: Callable[[], object], *, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, self.story()
            time.sleep(0.03)

    def finish_alone(self, job: Job) -> None:
        """Somebody else steps."""
        self.until(lambda: self.jobs.get(job.id).state.final)

    def history(self) -> list[tuple[int, int, str]]:
        """(attempt, pid, what) as they happened."""
        path = self.home / "history"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(a), int(pid), what) for a, pid, what in (line.split() for line in lines)]

    def claim(self, *, lease: float) -> queue.Claim:
        """What a dispatcher does before it dies: the order is written, no shim is started."""
        queue.register_slots(self.dispatcher.host, ["cpu-0"])
        claim = queue.claim(self.dispatcher.host, self.dispatcher.boot_id, lease=lease)
        assert claim is not None
        return claim

    def order(self, claim: queue.Claim) -> Path:
        folder = attempt_dir(claim.job_id, claim.n)
        folder.mkdir(parents=True)
        write_json(folder / ORDER, {**vars(claim), "slots": list(claim.slots), "timing": vars(SHORT)})
        return folder

    def shim(self, job: Job) -> int:
        """Wait for the job's shim and give its pid."""
        found: list[dict[str, Any]] = []

        def begun() -> bool:
            found[:] = rows("SELECT shim_pid FROM attempts WHERE job_id = :id AND state = 'running' AND pgid IS NOT NULL", id=job.id)
            return bool(found)

        self.step_until(begun)
        return int(found[0]["shim_pid"])

    def story(self) -> str:
        logs = "\n".join(f"{path}: {path.read_text()}" for path in self.home.glob("jobs/*/*/*log"))
        return f"{rows('SELECT * FROM jobs')}\n{rows('SELECT * FROM job_events')}\n{logs}"


@pytest.fixture
def bench(home: Path) -> Iterator[Bench]:
    bench = Bench(home)
    yield bench
    for row in rows("SELECT token, shim_pid, shim_started FROM attempts"):
        if row["shim_pid"]:
            processes.kill(row["shim_pid"], row["shim_started"])
        assert processes.kill_all(row["token"], None, None)


def _shim_that_dies_at(what: str, folder: Path) -> None:
    """Run a real shim that is killed the moment it comes to `what`."""
    code = (
        "import os, sys\nfrom workbench.jobs import endings, folder, queue, shim\n"
        f"def die(*a, **k): os.kill(os.getpid(), 9)\n{what} = die\nshim.main(sys.argv[1:])"
    )
    environment = launch.environment()
    done = subprocess.run([sys.executable, "-c", code, str(folder)], check=False, env=environment, cwd=folder, timeout=60)
    assert done.returncode == -signal.SIGKILL


# ---------------------------------------------------------------- the shim dies


@pytest.mark.parametrize("moment", ["shim.write_json", "queue.begin"])
def test_before_the_child_is_recorded_nothing_begins(bench: Bench, moment: str) -> None:
    """Between starting the child and writing down its process group: the child waits for the word, and leaves."""
    job = bench.submit(helper="child")
    folder = bench.order(bench.claim(lease=0.0))
    _shim_that_dies_at(moment, folder)
    done = bench.finish(job)
    assert done.state is JobState.succeeded and [a.state for a in done.attempts] == ["interrupted", "succeeded"]
    assert {attempt for attempt, _, _ in bench.history()} == {2}


@pytest.fixture
def child(bench: Bench) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a job's child as `parent` (source code) would: its stdin is a pipe; the test is or is not its shim."""
    bench.submit(steps=10_000, seconds=0.02, helper="child")
    claim = bench.claim(lease=60.0)
    folder = bench.order(claim)
    started: list[subprocess.Popen[bytes]] = []

    def start(code: str, **given: Any) -> subprocess.Popen[bytes]:
        command = launch.command("workbench.jobs.trainer_main", str(folder))
        program = [sys.executable, "-c", f"import os, subprocess, sys, time\ncommand = sys.argv[1:]\n{code}", *command]
        environment = launch.environment(**{processes.MARK: claim.token})
        started.append(subprocess.Popen(program, env=environment, cwd=folder, stdin=subprocess.PIPE, **given))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()  # type: ignore[union-attr]


EXEC = "os.setpgid(0, 0); os.execv(command[0], command + [str(os.getppid())])"  # the test itself is the shim
SPAWN = "subprocess.Popen(command + [str(os.getpid())], stdin=0, process_group=0); time.sleep(120)"  # a shim in between
ORPHANED = "os.execv(command[0], command + ['1'])"  # the shim it was told of is not its parent


def _gone(bench: Bench, *, seconds: float = 20.0) -> bool:
    """Do the attempt's processes end without a dispatcher's help?"""
    token = rows("SELECT token FROM attempts")[0]["token"]
    deadline = time.monotonic() + seconds
    while processes.leftovers(token):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _begun(bench: Bench) -> bool:
    deadline = time.monotonic() + 20
    while not any(what == "3" for _, _, what in bench.history()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return any(what == "helper" for _, _, what in bench.history())


def test_a_child_waits_for_the_word(bench: Bench, child: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = child(EXEC)
    time.sleep(1.0)
    assert process.poll() is None and bench.history() == []
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=20) == 70 and bench.history() == []


def test_a_child_whose_shim_was_dead_before_it_looked_leaves(bench: Bench, child: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = child(ORPHANED)
    assert process.wait(timeout=20) == 70 and bench.history() == []


def test_a_child_sees_the_end_of_the_pipe_and_takes_its_group_along(bench: Bench, child: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = child(EXEC)
    assert process.stdin is not None
    process.stdin.write(b"!")
    process.stdin.flush()
    assert _begun(bench)
    process.stdin.close()
    assert process.wait(timeout=20) == -signal.SIGKILL and _gone(bench)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a child with its parent")
def test_a_child_dies_with_its_shim_even_if_it_cannot_look(bench: Bench, child: Callable[..., subprocess.Popen[bytes]]) -> None:
    """The pipe stays open here: it is the kernel that acts."""
    shim = child(SPAWN)
    assert shim.stdin is not None
    shim.stdin.write(b"!")
    shim.stdin.flush()
    assert _begun(bench)
    trainer = next(pid for _, pid, what in bench.history() if what == "1")
    shim.kill()
    shim.wait()
    deadline = time.monotonic() + 10
    while processes.start_time(trainer) is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert processes.start_time(trainer) is None


@pytest.mark.parametrize(
    ("moment", "left"),
    [
        ("endings.write", [OUTCOME]),  # the result is there, the shim had not read it
        ("queue.finish", [OUTCOME, EXIT]),  # all is written, the database does not know
    ],
)
def test_after_the_result_is_written_the_work_is_not_done_again(bench: Bench, moment: str, left: list[str]) -> None:
    job = bench.submit()
    folder = bench.order(bench.claim(lease=SHORT.lease))
    _shim_that_dies_at(moment, folder)
    assert bench.jobs.get(job.id).state is JobState.running and [n for n in (OUTCOME, EXIT) if (folder / n).exists()] == left
    done = bench.finish(job)
    assert done.state is JobState.succeeded and len(done.attempts) == 1
    assert done.result == {"steps": 3, "attempt": 1, "resumed_from": 0}


def test_killed_in_the_middle(bench: Bench) -> None:
    """The child dies with it, helpers in and out of the group are killed before anybody else begins, work goes on."""
    job = bench.submit(steps=40, seconds=0.05, helper="daemon")
    pid = bench.shim(job)
    bench.step_until(lambda: len({what for _, _, what in bench.history()}) > 5)
    os.kill(pid, signal.SIGKILL)
    done = bench.finish(job)
    assert done.state is JobState.succeeded and len(done.attempts) == 2 and done.result is not None
    assert done.result["resumed_from"] > 1 and done.attempts[0].error == "Its supervisor was killed."
    order = [attempt for attempt, _, _ in bench.history()]
    assert order == sorted(order)  # not one line of the first attempt after the second began
    assert rows("SELECT count(*) AS n FROM slots WHERE token IS NOT NULL") == [{"n": 0}]


def test_a_late_shim_finds_its_token_refused(bench: Bench) -> None:
    """Claimed, then the machine stood still for so long that another attempt was made."""
    job = bench.submit()
    late = bench.order(bench.claim(lease=0.0))
    assert bench.finish(job).attempts[0].error == "It was claimed, but the dispatcher ended before starting it."
    run = subprocess.run(
        launch.command("workbench.jobs.shim", str(late)), env=launch.environment(), capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0 and "Not mine any more" in run.stderr
    assert {attempt for attempt, _, _ in bench.history()} == {2} and not (late / PROCESSES).exists()


def test_a_standstill_is_not_death(bench: Bench) -> None:
    """The lease ran out while everything slept: the lock is still held, so nobody takes over."""
    job = bench.submit(steps=10, seconds=0.05)
    pid = bench.shim(job)
    os.kill(pid, signal.SIGSTOP)
    with session.transaction() as connection:
        connection.execute(update(attempts).values(lease_until=0.0))
    for _ in range(10):
        bench.dispatcher.step()
        time.sleep(0.05)
    assert bench.jobs.get(job.id).state is JobState.running
    os.kill(pid, signal.SIGCONT)
    done = bench.finish(job)
    assert done.state is JobState.succeeded and len(done.attempts) == 1


def test_told_to_stop_with_the_machine_it_saves_and_goes_on_later(bench: Bench) -> None:
    job = bench.submit(steps=40, seconds=0.05)
    pid = bench.shim(job)
    bench.step_until(lambda: len(bench.history()) > 3)
    os.kill(pid, signal.SIGTERM)
    done = bench.finish(job)
    assert done.state is JobState.succeeded and done.result is not None and done.result["resumed_from"] > 2
    assert done.attempts[0].error == "The supervisor was told to stop." and done.attempts[0].exit_code == 3
    assert rows("SELECT crashes FROM jobs") == [{"crashes": 0}]


# ---------------------------------------------------------------- the dispatcher dies, the machine restarts


def test_between_claim_and_start(bench: Bench) -> None:
    job = bench.submit()
    bench.claim(lease=1.0)
    bench.dispatcher.step()
    assert [a.state for a in bench.jobs.get(job.id).attempts] == ["running"]  # a shim may be on its way
    done = bench.finish(job)
    assert done.state is JobState.succeeded and [a.state for a in done.attempts] == ["interrupted", "succeeded"]
    assert rows("SELECT crashes FROM jobs") == [{"crashes": 0}]


def test_after_a_restart_of_the_machine_nobody_is_killed(bench: Bench) -> None:
    """Its numbers belong to strangers now."""
    job = bench.submit()
    claim = bench.claim(lease=SHORT.lease)
    folder = bench.order(claim)
    stranger = subprocess.Popen(["sleep", "60"], process_group=0)
    try:
        queue.begin(claim.token, pid=stranger.pid, started=processes.start_time(stranger.pid) or "", lease=60)
        write_json(folder / PROCESSES, {"child": stranger.pid, "child_started": processes.start_time(stranger.pid)})
        with session.transaction() as connection:
            connection.execute(update(attempts).values(boot_id="an earlier one", lease_until=0.0))
        done = bench.finish(job)
        assert done.state is JobState.succeeded and done.attempts[0].error == "The machine was restarted."
        assert stranger.poll() is None and rows("SELECT crashes FROM jobs") == [{"crashes": 0}]
    finally:
        stranger.kill()
        stranger.wait()


def test_a_reused_number_is_not_killed(bench: Bench) -> None:
    job = bench.submit()
    claim = bench.claim(lease=SHORT.lease)
    folder = bench.order(claim)
    stranger = subprocess.Popen(["sleep", "60"], process_group=0)
    try:
        queue.begin(claim.token, pid=stranger.pid, started="1", lease=60)
        write_json(folder / PROCESSES, {"child": stranger.pid, "child_started": "1"})
        assert bench.finish(job).state is JobState.succeeded and stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_job_of_another_machine_is_left_alone(bench: Bench, database: str) -> None:
    """Unless the database is a file in this home: then there is no other machine."""
    job = bench.submit()
    queue.register_slots("elsewhere", ["cpu-0"])
    assert queue.claim("elsewhere", "another boot", lease=-1.0) is not None
    if database == "sqlite":
        assert bench.finish(job).state is JobState.succeeded
    else:
        for _ in range(3):
            bench.dispatcher.step()
        assert bench.jobs.get(job.id).state is JobState.running
        bench.jobs.resume(job.id, give_up_machine=True)
        assert bench.finish(job).state is JobState.succeeded


@pytest.mark.postgres
def test_a_machine_of_the_same_name_or_a_clone_takes_nothing_that_lives(
    bench: Bench, postgres_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_DB", postgres_server.url())
    job = bench.submit()
    claim = bench.claim(lease=60.0)  # there, one second ago
    queue.begin(claim.token, pid=1, started="1", lease=60.0)
    namesake, clone = Dispatcher(slots=1, timing=SHORT), Dispatcher(slots=1, timing=SHORT)
    namesake.host, namesake.boot_id, clone.boot_id = "another machine-id", "its boot", "its boot"

    for other in (namesake, clone):
        other.step()
    assert [a.state for a in bench.jobs.get(job.id).attempts] == ["running"]
    with session.transaction() as connection:
        connection.execute(update(attempts).values(lease_until=0.0))
    namesake.step()
    assert bench.jobs.get(job.id).state is JobState.running  # only a person can give that machine up
    clone.step()  # the machine itself, restarted
    assert bench.jobs.get(job.id).attempts[0].error == "The machine was restarted."


def test_a_lease_from_before_the_clock_was_put_back(bench: Bench) -> None:
    """Claimed, the dispatcher died, and the clock went back by a day: nobody waits for a day."""
    job = bench.submit()
    bench.claim(lease=86_400.0)
    assert bench.finish(job).attempts[0].error == "It was claimed, but the dispatcher ended before starting it."


def test_a_worker_whose_database_was_deleted_says_so_and_takes_up_a_new_one(bench: Bench) -> None:
    said: list[str] = []
    bench.dispatcher.say = said.append
    worker = threading.Thread(target=lambda: bench.dispatcher.run(leave_when_idle=False, stopping=lambda: bool(left)))
    left: list[int] = []
    worker.start()
    try:
        bench.finish_alone(bench.submit())
        for file in bench.home.glob("workbench.db*"):
            file.unlink()
        bench.until(lambda: any("was deleted while it was in use" in text for text in said))
        code = "from counting import Count\nfrom workbench.jobs.store import Jobs\nJobs(start_dispatcher=False).submit(Count())"
        subprocess.run([sys.executable, "-c", code], check=True, env=launch.environment())
        bench.until(lambda: [row["state"] for row in rows("SELECT state FROM jobs")] == ["succeeded"])
    finally:
        left.append(1)
        worker.join()
    assert sum("was deleted" in text for text in said) == 1


def test_a_dispatcher_leaves_when_its_database_was_deleted(bench: Bench) -> None:
    bench.finish(bench.submit())
    (bench.home / "workbench.db").unlink()
    bench.dispatcher.run(leave_when_idle=True)
    assert not (bench.home / "workbench.db").exists()


def test_machines_that_share_a_home_have_a_dispatcher_each(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their locks may be seen across the network; a pid of another machine is nobody's here."""
    monkeypatch.setenv("WORKBENCH_DB", "postgresql+psycopg://workbench@/nowhere")
    held = []
    for machine in ("a", "b"):
        monkeypatch.setattr(identity, "node_id", lambda machine=machine: machine)
        assert not dispatcher.is_running()
        held.append(processes.try_lock(dispatcher._lock_file()))
        assert dispatcher.is_running()
    for handle in held:
        assert handle is not None
        os.close(handle)


def test_however_many_start_a_dispatcher_one_runs_and_it_leaves_when_idle(home: Path) -> None:
    jobs = Jobs(timing=dataclasses.replace(SHORT, idle=3.0))
    threads = [threading.Thread(target=jobs.ensure_running) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert dispatcher.is_running()
    with pytest.raises(Conflict, match="Another dispatcher runs"):
        jobs.work(stopping=lambda: True)
    done = jobs.wait(jobs.submit(Count(steps=2)).id, timeout=60)
    assert done.state is JobState.succeeded
    deadline = time.monotonic() + 30
    while dispatcher.is_running() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not dispatcher.is_running()
    log = (home / "jobs" / "dispatcher.log").read_text()
    assert log.count("started") == 1 and "Another dispatcher" not in log and "Error" not in log


def test_shims_bring_a_killed_dispatcher_back_but_not_one_that_was_told_to_leave(home: Path) -> None:
    """Nobody looks: no browser, no shell. The queue goes on all the same."""
    quick = Timing(lease=3.0, grace=1.0, look=0.1, poll=0.1, idle=60.0, store=30.0)
    jobs, looking = Jobs(timing=quick), Jobs(start_dispatcher=False)
    first, second = (jobs.submit(Count(steps=10, seconds=0.1)) for _ in range(2))

    def until(done: Callable[[], object]) -> None:
        deadline = time.monotonic() + 60
        while not done():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    until(lambda: looking.get(first.id).progress)
    os.kill(int((home / "jobs" / "dispatcher.lock").read_text().split()[0]), signal.SIGKILL)
    assert looking.wait(second.id, timeout=60).state is JobState.succeeded
    third, fourth = (jobs.submit(Count(steps=10, seconds=0.1)) for _ in range(2))
    until(lambda: looking.get(third.id).progress)
    assert stop_dispatcher()
    until(lambda: looking.get(third.id).state.final)
    time.sleep(1.0)
    assert not dispatcher.is_running() and looking.get(fourth.id).state is JobState.queued


def test_a_job_that_comes_while_the_dispatcher_leaves_is_not_forgotten(bench: Bench) -> None:
    """It was idle, has decided to go, still holds the lock: whoever submits now believes that it runs."""
    made: list[Job] = []

    class Leaving(Dispatcher):
        def _loop(self, handle: int, leave_when_idle: bool, stopping: Callable[[], bool]) -> None:
            super()._loop(handle, leave_when_idle, stopping)
            if not made:
                made.append(bench.submit())

    Leaving(slots=1, timing=SHORT).run(leave_when_idle=True)
    assert bench.jobs.get(made[0].id).state is JobState.succeeded


# ---------------------------------------------------------------- cancel


@pytest.mark.parametrize(("helper", "then", "code"), [("child", None, 3), ("daemon", "stubborn", -signal.SIGKILL)])
def test_cancelled_means_that_all_processes_are_gone(bench: Bench, helper: str, then: str | None, code: int) -> None:
    job = bench.submit(steps=10_000, seconds=0.02, helper=helper, at=3, then=then) if then else bench.submit(steps=10_000, helper=helper)
    bench.shim(job)
    bench.step_until(lambda: any(what == "helper" for _, _, what in bench.history()) and any(w == "3" for _, _, w in bench.history()))
    token = rows("SELECT token FROM attempts")[0]["token"]
    assert len(processes.leftovers(token)) >= 2
    bench.jobs.cancel(job.id)
    done = bench.finish(job)
    assert processes.leftovers(token) == []
    assert done.state is JobState.cancelled and done.attempts[0].state == "cancelled" and done.attempts[0].exit_code == code
    count = len(bench.history())
    time.sleep(0.2)
    assert len(bench.history()) == count
    with pytest.raises(JobFailed, match="was cancelled"):
        bench.jobs.wait(job.id)


def test_cancel_before_the_shim_reports(bench: Bench) -> None:
    job = bench.submit()
    folder = bench.order(bench.claim(lease=SHORT.lease))
    bench.jobs.cancel(job.id)
    subprocess.run(launch.command("workbench.jobs.shim", str(folder)), env=launch.environment(), check=True, timeout=60)
    assert bench.jobs.get(job.id).state is JobState.cancelled and bench.history() == []


def test_cancel_of_a_job_whose_shim_is_dead(bench: Bench) -> None:
    job = bench.submit(steps=10_000)
    os.kill(bench.shim(job), signal.SIGKILL)
    bench.jobs.cancel(job.id)
    assert bench.finish(job).state is JobState.cancelled


# ---------------------------------------------------------------- the task misbehaves


@pytest.mark.parametrize(
    ("then", "state", "attempts", "says"),
    [
        ("fail", JobState.failed, 1, "It was told to fail."),
        ("nonsense", JobState.failed, 1, "ValueError: unknown: nonsense (unexpected; the traceback is in the log: workbench jobs logs"),
        ("crash", JobState.succeeded, 2, ""),
    ],
)
def test_a_task_that_fails_says_why_and_one_that_crashes_is_tried_again(
    bench: Bench, then: str, state: JobState, attempts: int, says: str
) -> None:
    done = bench.finish(bench.submit(at=2, then=then))
    assert done.state is state and len(done.attempts) == attempts and says in (done.error or "")
    if state is JobState.failed:
        assert "Traceback" in bench.jobs.logs(done.id)


def test_a_child_that_has_its_result_but_does_not_leave_is_ended(bench: Bench) -> None:
    job = bench.submit(steps=10_000)
    bench.shim(job)
    folder = bench.jobs.get(job.id).attempts[0].path
    write_json(folder / OUTCOME, {"ok": True, "stopped": False, "result": {"done": True}})
    done = bench.finish(job)
    assert done.state is JobState.succeeded and done.result == {"done": True}


def test_a_shim_that_cannot_start_is_a_crash_with_a_reason(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    job = bench.submit()
    real = launch.detached
    monkeypatch.setattr(launch, "detached", lambda module, *a, **k: real("workbench.no_such_module", *a, **k))
    bench.step_until(lambda: rows("SELECT crashes FROM jobs WHERE crashes > 0"))
    monkeypatch.undo()
    monkeypatch.setenv("WORKBENCH_HOME", str(bench.home))
    done = bench.finish(job)
    assert done.state is JobState.succeeded and "could not start" in (done.attempts[0].error or "")


def test_an_attempt_that_cannot_be_judged_does_not_stop_the_others(bench: Bench) -> None:
    """The database takes no ending of the first; the second has a slot of its own."""
    bench.dispatcher.slots = ["cpu-0", "cpu-1"]
    stuck = bench.submit()
    bench.order(bench.claim(lease=0.0))
    with session.transaction() as connection:
        refuse = f"CREATE TRIGGER t BEFORE UPDATE ON jobs WHEN OLD.id = '{stuck.id}' BEGIN SELECT RAISE(ABORT, 'no'); END"
        connection.exec_driver_sql(refuse)
    assert bench.finish(bench.submit()).state is JobState.succeeded
    assert bench.jobs.get(stuck.id).state is JobState.running


def test_a_child_that_hangs_before_its_first_word_is_ended_with_a_reason(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = "import sys, time\nif 'workbench.jobs.trainer_main' in sys.orig_argv: time.sleep(600)\n"
    (tmp_path / "sitecustomize.py").write_text(hangs)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    bench.dispatcher.timing = dataclasses.replace(SHORT, start=1.0)
    job = bench.submit()
    bench.step_until(lambda: rows("SELECT crashes FROM jobs WHERE crashes > 0"), seconds=20)
    (tmp_path / "sitecustomize.py").unlink()
    done = bench.finish(job)
    assert done.state is JobState.succeeded and "Its process hung: not one word in 1 s." in (done.attempts[0].error or "")


# ---------------------------------------------------------------- the database goes away


@pytest.mark.postgres
def test_who_cannot_renew_stops_before_the_lease_is_over(bench: Bench, postgres_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database hangs, so the renewal hangs with it; the helper in the group goes as well."""
    monkeypatch.setenv("WORKBENCH_DB", postgres_server.url())
    bench.dispatcher.timing = dataclasses.replace(SHORT, lease=6.0)
    job = bench.submit(steps=10_000, seconds=0.05, helper="child")
    bench.shim(job)
    bench.until(lambda: len({what for _, _, what in bench.history()}) > 3)
    (row,) = rows("SELECT token FROM attempts")
    with session.transaction() as connection:
        connection.exec_driver_sql("LOCK TABLE attempts IN ACCESS EXCLUSIVE MODE")
        lease_until = connection.exec_driver_sql("SELECT lease_until FROM attempts").scalar_one()
        bench.until(lambda: not processes.leftovers(row["token"]))
        assert session.now(connection) < lease_until
    bench.until(lambda: bench.jobs.get(job.id).state is JobState.queued)
    done = bench.jobs.cancel(job.id)
    assert "before the lease was over" in (done.attempts[0].error or "") and rows("SELECT crashes FROM jobs") == [{"crashes": 0}]


@pytest.mark.postgres
def test_the_database_is_away_when_the_work_is_done(bench: Bench, postgres_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on, the result waits on disk, and is recorded once when the server is back."""
    monkeypatch.setenv("WORKBENCH_DB", postgres_server.url())
    job = bench.submit(steps=20, seconds=0.03)
    bench.shim(job)
    folder = bench.jobs.get(job.id).attempts[0].path
    postgres_server.crash()
    try:
        deadline = time.monotonic() + 60
        while not (folder / EXIT).exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        postgres_server.start()
    record = read_json(folder / EXIT)
    assert record is not None and record["how"] == "succeeded"
    with contextlib.suppress(Exception):
        bench.dispatcher.step()  # its connections are broken
    done = bench.finish(job)
    assert done.state is JobState.succeeded and len(done.attempts) == 1
    assert [what for _, _, what in bench.history()] == [str(step) for step in range(1, 21)]
