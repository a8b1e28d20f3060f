"""The queue, the files of an attempt and what people see of a job. Processes that die are in `tests/reliability`."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
from counting import Count
from pydantic import ValidationError

from workbench.db.reading import rows
from workbench.errors import Conflict, Fenced, JobError, JobFailed, NotFound, UsageError
from workbench.jobs import endings, folder, log, processes, progress, queue, tasks, trainer_main
from workbench.jobs.checking import RebaseSpec
from workbench.jobs.dispatcher import machine_slots
from workbench.jobs.endings import Ending
from workbench.jobs.store import Jobs
from workbench.jobs.timing import Timing
from workbench.rebase.result import Settings
from workbench.recipe import Recipe
from workbench.records import Dataset, Job, JobState, Progress

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture
def jobs() -> Jobs:
    """Only a queue: nothing is started."""
    return Jobs(start_dispatcher=False)


def _add(jobs: Jobs, **given: Any) -> Job:
    return jobs.submit(given.pop("spec", Count()), **given)


def _claim(host: str = "here", *, lease: float = 30.0) -> queue.Claim:
    queue.register_slots(host, ["cpu-0"])
    claim = queue.claim(host, "boot", lease=lease)
    assert claim is not None
    return claim


def _line(step: int, **more: Any) -> Progress:
    return Progress(t=float(step), phase="training", step=step, **more)


# ---------------------------------------------------------------- submit


def test_a_job_is_what_was_submitted(jobs: Jobs) -> None:
    spec = Count(steps=3, name="été", history=Path("/tmp/x"))
    job = _add(jobs, spec=spec)
    assert (job.kind, job.title, job.state, tasks.read(job.kind, job.spec)) == ("count", "été", JobState.queued, spec)
    assert job == jobs.get(job.id) == jobs.get(job.id[:3]) == jobs.list()[0]
    assert [event["what"] for event in jobs.events(job.id)] == ["submitted"]


def test_the_same_key_is_the_same_job(database: str, jobs: Jobs) -> None:
    first = _add(jobs, key="k")
    assert _add(jobs, key="k").id == first.id
    with pytest.raises(Conflict, match=f"key 'k' was used for another job, {first.id}"):
        _add(jobs, key="k", spec=Count(steps=2))
    assert _add(jobs).id != _add(jobs).id
    assert len(jobs.list()) == 3


def test_one_job_however_many_submit_it_at_once(database: str, jobs: Jobs) -> None:
    _add(jobs)  # the schema is there
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.append(_add(jobs, key="once").id)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 6 and len(set(made)) == 1


@pytest.mark.parametrize("given", [{"slots": 0}, {"policy": "maybe"}])
def test_a_job_that_makes_no_sense_is_refused(jobs: Jobs, given: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        _add(jobs, **given)
    assert jobs.list() == []


@pytest.mark.parametrize("given", [{"seconds": float("nan")}, {"steps": "many"}, {"step": 3}, {"helper": "friend"}])
def test_a_spec_holds_what_its_kind_knows_and_nothing_else(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Count(**given)
    with pytest.raises(JobError, match=f"kind count was told cannot be read: {next(iter(given))}.*Submit the job again"):
        tasks.read("count", given)
    with pytest.raises(UsageError, match="no kind of job 'rm -rf'.*train"):
        tasks.read("rm -rf", {})


@pytest.mark.parametrize("kind", tasks.KINDS)
def test_every_kind_is_read_as_it_was_written(kind: str) -> None:
    written = _written(kind)
    assert written.kind == kind and written.title
    assert tasks.read(kind, json.loads(json.dumps(written.model_dump(mode="json")))) == written


def test_specs_of_earlier_versions_are_read() -> None:
    """As version 0.1.0 wrote them."""
    now = _written("train").model_dump(mode="json")
    assert tasks.read("train", {**now, "total_steps": 60}) == _written("train")
    check = {"adapters": ["a@1"], "base": "b@2", "base_lock_sha256": "0", "stages": ["structure"], "retrain": False, "rows": None}
    read = tasks.read("rebase", {**check, "settings": {"delta": 0.2}})
    assert isinstance(read, RebaseSpec) and read.settings == Settings(delta=0.2)
    assert tasks.read("rebase", check).model_dump()["settings"] == dataclasses.asdict(Settings())


def _written(kind: str) -> tasks.Spec:
    recipe = Recipe.load({"base": "b@1", "dataset": "d", "method": "qlora", "lora_target_modules": ["q_proj"]})
    base = {"base": "b@1", "base_lock_sha256": "0"}
    given: dict[str, dict[str, Any]] = {
        "train": {
            "recipe": recipe,
            "base_lock_sha256": "0",
            "dataset_sha256": "1",
            "start": {"file": "/x/model.safetensors", "sha256": "2"},
        },
        "evaluate": {"adapter": "a@1", "dataset": "d", "dataset_sha256": "1"},
        "merge": {**base, "adapter": "a@1", "out": "/x/out"},
        "fetch": {"base": "b@1"},
        "rebase": {**base, "adapters": ["a@1", "c@2"], "stages": ["structure", "weights"], "settings": Settings(epsilon=0.1)},
        "rebase-selftest": {**base, "adapter": "a@1", "strangers": ["s@1"]},
    }
    return resolve_name(tasks.KINDS[kind])(**given[kind])


def test_asking_for_what_is_not_there(jobs: Jobs) -> None:
    with pytest.raises(NotFound, match="There is no job yet"):
        jobs.get("abc")
    ids = {_add(jobs).id for _ in range(3)}
    for name in ("zzzzzzzz", "", "../../etc", "%", "x' OR 1=1", "a" * 50):
        with pytest.raises(NotFound, match="workbench jobs list"):
            jobs.get(name)
    with pytest.raises(UsageError, match="There is no state 'done'.*queued, running"):
        jobs.list("done")
    assert {job.id for job in jobs.list("queued")} == ids and jobs.list(JobState.failed) == []
    assert len(jobs.list(limit=2)) == 2


def test_a_beginning_that_fits_several_jobs_is_asked_about(jobs: Jobs) -> None:
    ids = [_add(jobs).id for _ in range(30)]
    letter = next(i[0] for i in ids if sum(j[0] == i[0] for j in ids) > 1)  # 29 letters, 30 jobs
    with pytest.raises(UsageError, match=f"jobs begin with '{letter}'"):
        jobs.get(letter)


# ---------------------------------------------------------------- the queue


def test_first_come_first_served(jobs: Jobs) -> None:
    first, second = _add(jobs), _add(jobs)
    claim = _claim()
    assert (claim.job_id, claim.n, claim.spec, claim.slots) == (first.id, 1, first.spec, ("cpu-0",))
    assert queue.claim("here", "boot", lease=30) is None  # the only slot is taken
    assert queue.finish(claim.token, Ending("succeeded", 0, result={"x": 1})) is JobState.succeeded
    assert _claim().job_id == second.id
    done = jobs.get(first.id)
    assert done.result == {"x": 1} and done.ended_at is not None and done.attempts[0].state == "succeeded"


def test_a_big_job_waits_for_its_slots_and_is_not_overtaken(jobs: Jobs) -> None:
    queue.register_slots("here", ["GPU-a", "GPU-b"])
    small, big, later = _add(jobs), _add(jobs, slots=2), _add(jobs)
    too_big = _add(jobs, slots=3)
    one = queue.claim("here", "boot", lease=30)
    assert one is not None and one.job_id == small.id
    assert queue.claim("here", "boot", lease=30) is None
    queue.finish(one.token, Ending("succeeded"))
    two = queue.claim("here", "boot", lease=30)
    assert two is not None and two.job_id == big.id and set(two.slots) == {"GPU-a", "GPU-b"}
    queue.finish(two.token, Ending("succeeded"))
    three = queue.claim("here", "boot", lease=30)
    assert three is not None and three.job_id == later.id
    assert queue.claim("here", "boot", lease=30) is None and jobs.get(too_big.id).state is JobState.queued
    queue.register_slots("here", ["GPU-b"])  # what is free and gone is forgotten, what is in use stays
    assert {row["name"] for row in rows("SELECT name FROM slots")} == {"GPU-b", three.slots[0]}


def test_an_attempt_has_its_own_slot_supervisor_and_lease(jobs: Jobs) -> None:
    """What is recorded of one attempt touches no other, nor the slots of another machine."""
    for _ in range(3):
        _add(jobs)
    queue.register_slots("there", ["cpu-0"])
    assert queue.claim("here", "boot", lease=30) is None, "the slots of another machine are not for this one"
    queue.register_slots("here", ["cpu-1", "cpu-0"])
    before = time.time()
    one, two = (queue.claim("here", "boot", lease=30) for _ in range(2))
    assert one is not None and two is not None and (one.slots, two.slots, one.kind) == (("cpu-0",), ("cpu-1",), "count")
    assert queue.begin(one.token, pid=77, started="5", lease=500) is False
    queue.set_group(one.token, 99)
    columns = "SELECT n, state, host, boot_id, shim_pid, shim_started, pgid FROM attempts WHERE token = :t"
    claimed = {"n": 1, "state": "running", "host": "here", "boot_id": "boot", "shim_pid": None, "shim_started": None, "pgid": None}
    assert rows(columns, t=one.token) == [{**claimed, "shim_pid": 77, "shim_started": "5", "pgid": 99}]
    assert rows(columns, t=two.token) == [claimed]
    leases = {token: rows("SELECT lease_until, started_at FROM attempts WHERE token = :t", t=token)[0] for token in (one.token, two.token)}
    assert leases[one.token]["lease_until"] == pytest.approx(before + 500, abs=20)
    assert leases[two.token]["lease_until"] == pytest.approx(before + 30, abs=20)
    assert leases[one.token]["started_at"] >= leases[two.token]["started_at"], "it counts from when its supervisor began"
    jobs.cancel(two.job_id)
    assert queue.begin(two.token, pid=78, started="6", lease=30) is True, "it was cancelled meanwhile"
    assert queue.finish(one.token, Ending("failed", 3, error="why")) is JobState.failed
    assert rows("SELECT host, name, token FROM slots ORDER BY host, name") == [
        {"host": "here", "name": "cpu-0", "token": None},
        {"host": "here", "name": "cpu-1", "token": two.token},
        {"host": "there", "name": "cpu-0", "token": None},
    ]
    ended = jobs.get(one.job_id)
    assert (ended.attempts[0].exit_code, ended.attempts[0].error, ended.error) == (3, "why", "why")
    assert ended.ended_at is not None and jobs.get(two.job_id).state is JobState.running


def test_what_happened_to_a_job_is_told_in_order(jobs: Jobs) -> None:
    job, waiting = _add(jobs), _add(jobs)
    first = _claim()
    queue.begin(first.token, pid=77, started="5", lease=30)
    queue.finish(first.token, Ending("crashed", -9, error="boom"))
    jobs.cancel(waiting.id)
    _wait_until(time.time() - 1)
    second = _claim()
    jobs.cancel(job.id)
    jobs.cancel(job.id)  # once is enough
    queue.finish(second.token, Ending("interrupted", error="stopped"))
    jobs.resume(job.id)
    queue.finish(_claim().token, Ending("succeeded"))
    claimed = f"on {platform.node()}, slots cpu-0"
    assert [(event["attempt"], event["what"], event["detail"]) for event in jobs.events(job.id)] == [
        (None, "submitted", "count"),
        (1, "claimed", claimed),
        (1, "started", "supervisor 77"),
        (1, "attempt crashed", "boom"),
        (1, "job queued", ""),
        (2, "claimed", claimed),
        (None, "cancel requested", ""),
        (2, "attempt interrupted", "stopped"),
        (2, "job cancelled", ""),
        (None, "resumed", "was cancelled"),
        (3, "claimed", claimed),
        (3, "attempt succeeded", ""),
    ]
    assert [(event["what"], event["detail"]) for event in jobs.events(waiting.id)] == [("submitted", "count"), ("job cancelled", "")]
    assert jobs.get(waiting.id).cancel_requested and jobs.get(waiting.id).ended_at is not None


def test_every_claim_is_of_another_job(database: str, jobs: Jobs) -> None:
    ids = {_add(jobs).id for _ in range(40)}
    queue.register_slots("here", [f"cpu-{i}" for i in range(4)])
    claimed: list[str] = []

    def work() -> None:
        empty = 0
        while empty < 3:
            claim = queue.claim("here", "boot", lease=30)
            if claim is None:
                empty += 1
                time.sleep(0.01)
            else:
                claimed.append(claim.job_id)
                queue.finish(claim.token, Ending("succeeded"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(ids)
    assert rows("SELECT count(*) AS n FROM slots WHERE token IS NOT NULL") == [{"n": 0}]


def test_a_token_that_lost_its_attempt_changes_nothing(jobs: Jobs) -> None:
    job = _add(jobs)
    old = _claim()
    queue.finish(old.token, Ending("interrupted", error="taken over"))
    new = _claim()
    for use in (
        lambda: queue.begin(old.token, pid=1, started="1", lease=30),
        lambda: queue.set_group(old.token, 1),
        lambda: queue.renew(old.token, lease=30),
        lambda: queue.cancel_wanted(old.token),
        lambda: queue.finish(old.token, Ending("succeeded", result={"stale": True})),
        lambda: queue.renew("0" * 32, lease=30),
        lambda: queue.finish("0" * 32, Ending("succeeded")),
    ):
        with pytest.raises(Fenced):
            use()
    assert queue.cancel_wanted(new.token) is False and jobs.get(job.id).state is JobState.running
    assert rows("SELECT token FROM slots") == [{"token": new.token}]


def test_a_lease_can_be_renewed_after_it_ran_out(jobs: Jobs) -> None:
    """The machine slept: the attempt is still ours as long as nobody took it over."""
    _add(jobs)
    claim = _claim(lease=-100)
    queue.renew(claim.token, lease=30)
    assert rows("SELECT lease_until FROM attempts")[0]["lease_until"] > time.time() + 20


@pytest.mark.parametrize(
    ("how", "policy", "becomes"),
    [
        ("failed", "resume", JobState.failed),
        ("crashed", "resume", JobState.queued),
        ("crashed", "hold", JobState.interrupted),
        ("interrupted", "resume", JobState.queued),
        ("interrupted", "hold", JobState.interrupted),
    ],
)
def test_what_becomes_of_a_job_whose_attempt_ends_badly(jobs: Jobs, how: Any, policy: str, becomes: JobState) -> None:
    job = _add(jobs, policy=policy)
    assert queue.finish(_claim().token, Ending(how, 1, error="why")) is becomes
    after = jobs.get(job.id)
    assert after.state is becomes and after.attempts[0].error == "why"
    assert after.attempts[0].state == ("failed" if how == "failed" else "interrupted")


def test_crashes_wait_longer_each_time_and_end_for_good(jobs: Jobs) -> None:
    job = _add(jobs, max_crashes=2)
    waits = []
    for _ in range(2):
        assert queue.finish(_claim().token, Ending("crashed", -9, error="boom")) is JobState.queued
        waits.append(rows("SELECT not_before - (SELECT max(at) FROM job_events) AS wait FROM jobs")[0]["wait"])
        _wait_until(time.time() + 50)
        assert queue.claim("here", "boot", lease=30) is None
        _wait_until(time.time() - 1)
    assert waits == pytest.approx([0.5, 1.0], abs=0.1)
    assert queue.finish(_claim().token, Ending("interrupted", error="reboot")) is JobState.queued  # does not count
    assert queue.finish(_claim().token, Ending("crashed", -9, error="boom")) is JobState.failed_permanently
    assert jobs.get(job.id).error == "It crashed 3 times; the last time: boom"
    assert jobs.resume(job.id).state is JobState.queued
    assert queue.finish(_claim().token, Ending("crashed", error="boom")) is JobState.queued  # counted anew


WILD = "half a character: \ud83d, and the byte that ends a C string: \0."


def test_any_text_can_be_kept(database: str, jobs: Jobs) -> None:
    """PostgreSQL takes no NUL, and no database takes half a surrogate pair; an error message may hold both."""
    spec = {"steps": 1, WILD: WILD}
    first, again = (queue.submit("count", spec, title=WILD, key=WILD, count=1, policy="resume", max_crashes=3) for _ in range(2))
    assert first == again
    assert queue.finish(_claim().token, Ending("failed", 1, error=WILD)) is JobState.failed
    after = jobs.get(first)
    assert after.error == after.attempts[0].error == after.title == "half a character: \\ud83d, and the byte that ends a C string: \u2400."
    assert after.spec == spec


def test_an_ending_that_cannot_be_kept_is_an_ending_all_the_same(database: str, jobs: Jobs) -> None:
    """Or the attempt would run for ever in the books, and hold its slot."""
    for ending in (Ending("succeeded", 0, result={"loss": float("nan")}), Ending("failed", 2**70, error="x")):
        job = _add(jobs)
        assert queue.finish(_claim().token, ending) is JobState.failed
        assert f"It {ending.how}, but how cannot be recorded" in (jobs.get(job.id).error or "")
    assert rows("SELECT count(*) AS n FROM slots WHERE token IS NOT NULL") == [{"n": 0}]


def test_a_clock_that_was_put_back_holds_nothing_up(jobs: Jobs) -> None:
    """No wait is longer than a minute, so one that ends in an hour was begun by another clock."""
    _add(jobs)
    _wait_until(time.time() + 3600)
    assert _claim()


def _wait_until(t: float) -> None:
    from sqlalchemy import update

    from workbench.db.session import transaction
    from workbench.db.tables import jobs as table

    with transaction() as connection:
        connection.execute(update(table).values(not_before=t))


# ---------------------------------------------------------------- cancel, resume, give up


def test_cancel_ends_what_waits_and_asks_what_runs(jobs: Jobs) -> None:
    waiting, running = _add(jobs), _add(jobs)
    assert jobs.cancel(waiting.id).state is JobState.cancelled
    assert jobs.cancel(waiting.id).state is JobState.cancelled  # again: no harm
    claim = _claim()
    asked = jobs.cancel(running.id)
    assert asked.state is JobState.running and asked.cancel_requested and queue.cancel_wanted(claim.token)
    assert queue.finish(claim.token, Ending("interrupted")) is JobState.cancelled
    assert jobs.get(running.id).attempts[0].state == "cancelled"
    assert rows("SELECT count(*) AS n FROM slots WHERE token IS NOT NULL") == [{"n": 0}]
    assert jobs.resume(running.id).cancel_requested is False and _claim().n == 2


@pytest.mark.parametrize(
    ("ending", "becomes"),
    [
        (Ending("succeeded", result={}), JobState.succeeded),  # the work was done: it counts
        (Ending("failed", error="x"), JobState.cancelled),
        (Ending("crashed", error="x"), JobState.cancelled),
    ],
)
def test_cancel_that_comes_at_the_very_end(jobs: Jobs, ending: Ending, becomes: JobState) -> None:
    job = _add(jobs)
    claim = _claim()
    jobs.cancel(job.id)
    assert queue.finish(claim.token, ending) is becomes


def test_cancel_and_finish_at_the_same_moment(database: str, jobs: Jobs) -> None:
    """Each job ends once, in one of the two ways, whatever came first."""
    queue.register_slots("here", ["cpu-0"])
    seen = set()
    for _ in range(12):
        job = _add(jobs)
        claim = _claim()
        results: list[object] = []
        acts = [
            lambda i=job.id: queue.cancel(i),
            lambda t=claim.token: queue.finish(t, Ending("failed", error="x")),
            lambda t=claim.token: queue.finish(t, Ending("interrupted")),
        ]
        threads = [threading.Thread(target=_call, args=(act, results)) for act in acts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        state = jobs.get(job.id).state
        seen.add(state)
        assert state in {JobState.cancelled, JobState.failed, JobState.queued}
        assert sum(isinstance(result, Fenced) for result in results) == 1
        assert rows("SELECT count(*) AS n FROM slots WHERE token IS NOT NULL") == [{"n": 0}]
        if state is JobState.queued:
            assert jobs.cancel(job.id).state is JobState.cancelled
    assert seen


def _call(act: Any, results: list[object]) -> None:
    try:
        results.append(act())
    except (Fenced, JobError) as error:
        results.append(error)


def test_what_has_ended_stays_ended(jobs: Jobs) -> None:
    job = _add(jobs)
    queue.finish(_claim().token, Ending("succeeded", result={}))
    with pytest.raises(JobError, match="has ended already \\(succeeded\\)"):
        jobs.cancel(job.id)
    with pytest.raises(JobError, match="cannot be resumed: it is succeeded"):
        jobs.resume(job.id)
    other = _add(jobs)
    with pytest.raises(JobError, match="it is queued"):
        jobs.resume(other.id)


def test_a_job_can_be_taken_from_a_machine_that_is_gone_but_not_from_this_one(jobs: Jobs) -> None:
    job = _add(jobs)
    with pytest.raises(JobError, match="it is queued"):
        jobs.resume(job.id, give_up_machine=True)
    claim = _claim("elsewhere")
    assert jobs.resume(job.id, give_up_machine=True).state is JobState.queued
    with pytest.raises(Fenced):
        queue.renew(claim.token, lease=30)
    queue.register_slots("here", ["cpu-0"])
    assert queue.claim("here", processes.boot_id(), lease=30) is not None
    with pytest.raises(JobError, match="runs on this machine.*workbench jobs cancel"):
        jobs.resume(job.id, give_up_machine=True)


# ---------------------------------------------------------------- waiting and looking


def test_wait_follows_and_says_how_it_ended(jobs: Jobs) -> None:
    job = _add(jobs)
    claim = _claim()
    attempt = folder.attempt_dir(job.id, 1)
    attempt.mkdir(parents=True)
    seen: list[Progress] = []

    def run() -> None:
        for step in (1, 2, 3):
            progress.append(attempt / folder.METRICS, _line(step))
            time.sleep(0.05)
        queue.finish(claim.token, Ending("succeeded", result={"adapter": "a@1"}))

    thread = threading.Thread(target=run)
    thread.start()
    done = jobs.wait(job.id, on_progress=seen.append, poll=0.02)
    thread.join()
    assert [line.step for line in seen] == [1, 2, 3] and done.result == {"adapter": "a@1"} and done.progress == seen[-1]


def test_wait_raises_for_every_other_ending(jobs: Jobs) -> None:
    def ended(ending: Ending, **given: Any) -> str:
        job = _add(jobs, **given)
        queue.finish(_claim().token, ending)
        with pytest.raises(JobFailed) as caught:
            jobs.wait(job.id)
        assert job.id in str(caught.value)
        return str(caught.value)

    assert "failed: no disk" in ended(Ending("failed", error="no disk"))
    assert "failed for good: It crashed 1 times" in ended(Ending("crashed", error="x"), max_crashes=0)
    assert "is on hold: reboot" in ended(Ending("interrupted", error="reboot"), policy="hold")
    job = _add(jobs)
    jobs.cancel(job.id)
    with pytest.raises(JobFailed, match=f"was cancelled. Go on with it: workbench jobs resume {job.id}"):
        jobs.wait(job.id)
    with pytest.raises(JobError, match="is still queued after 0.05 s"):
        jobs.wait(_add(jobs).id, timeout=0.05, poll=0.02)


def test_the_course_of_a_resumed_training_has_no_step_twice(jobs: Jobs) -> None:
    job = _add(jobs)
    for n, steps in ((1, [1, 2, 3, 4]), (2, [3, 4, 5])):
        queue.finish(_claim().token, Ending("interrupted" if n == 1 else "succeeded"))
        attempt = folder.attempt_dir(job.id, n)
        attempt.mkdir(parents=True)
        progress.append(attempt / folder.METRICS, Progress(t=0.0, phase="preparing"))
        for step in steps:
            progress.append(attempt / folder.METRICS, _line(step, loss=n + step / 10))
        (attempt / folder.LOG).write_text(f"said in {n}\n")
    course = [(line.step, line.loss) for line in jobs.metrics(job.id) if line.step]
    assert course == [(1, 1.1), (2, 1.2), (3, 2.3), (4, 2.4), (5, 2.5)]
    assert jobs.logs(job.id) == "--- attempt 1 ---\nsaid in 1\n--- attempt 2 ---\nsaid in 2\n"
    assert "".join(jobs.follow(job.id)) == "said in 1\n--- attempt 2 ---\nsaid in 2\n"


# ---------------------------------------------------------------- files of an attempt


def test_progress_survives_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert progress.read(path) == ([], 0) and progress.last(path) is None
    progress.append(path, _line(1, loss=float("nan"), samples=[{"answer": "a\nb\u2028"}]))
    first, offset = progress.read(path)
    assert [line.step for line in first] == [1] and first[0].loss is None and first[0].samples == [{"answer": "a\nb\u2028"}]
    json.loads(path.read_bytes(), parse_constant=pytest.fail)  # NaN is not JSON
    with path.open("a") as file:
        file.write('{"t": 2, "phase": "training", "st')
    assert progress.read(path, offset) == ([], offset) and progress.last(path) == first[0]
    with path.open("a") as file:
        file.write('ep": 2, "news": true}\nnot json\n[1]\n{"step": 3}\n')
    lines, end = progress.read(path, offset)
    assert [line.step for line in lines] == [2] and end == path.stat().st_size
    assert progress.last(path) == lines[0]


def test_wild_text_survives_the_files_of_an_attempt(tmp_path: Path) -> None:
    progress.append(tmp_path / "metrics.jsonl", _line(1, message=WILD))
    folder.write_json(tmp_path / "outcome.json", {"ok": False, "error": WILD})
    assert progress.read(tmp_path / "metrics.jsonl")[0][0].message == WILD
    assert endings.after_child(tmp_path, 1, asked=None).error == WILD


def test_the_newest_progress_is_read_from_the_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"t": i, "phase": "training", "step": i}) + "\n" for i in range(30_000)))
    newest = progress.last(path)
    assert newest is not None and newest.step == 29_999


def test_waiting_in_the_queue_is_no_work(database: str, jobs: Jobs) -> None:
    job = _add(jobs)
    assert jobs.get(job.id).worked() == 0.0
    time.sleep(0.3)
    claim = _claim()
    time.sleep(0.3)  # the shim is on its way
    queue.begin(claim.token, pid=1, started="1", lease=30)
    queue.finish(claim.token, Ending("succeeded", result={}))
    done = jobs.get(job.id)
    assert done.ended_at is not None and (done.ended_at - done.created_at).total_seconds() > 0.6 and done.worked() < 0.3


def test_a_job_prints_as_one_line_and_in_a_notebook_as_a_table(jobs: Jobs) -> None:
    job = _add(jobs, spec=Count(name="learn <b>bold</b>"))
    claim = _claim()
    path = folder.attempt_dir(job.id, 1)
    path.mkdir(parents=True)
    progress.append(path / folder.METRICS, _line(3, total_steps=60, loss=0.8123, seconds_left=42.4))
    assert repr(jobs.get(job.id)) == f"<Job {job.id} running: learn <b>bold</b>: training, 3/60, loss 0.8123, 42 s left>"
    assert repr(jobs.get(job.id).progress) == "<Progress training, 3/60, loss 0.8123, 42 s left>"
    queue.finish(claim.token, Ending("failed", error="no\nroom <on> the disk"))
    failed = jobs.get(job.id)
    assert repr(failed) == f"<Job {job.id} failed: learn <b>bold</b>: no room <on> the disk>"
    table = failed._repr_html_()
    assert "<td>learn &lt;b&gt;bold&lt;/b&gt;</td>" in table and "room &lt;on&gt;" in table and table.count("<tr>") == 5


def test_the_time_left_in_training_holds_the_testing_that_follows() -> None:
    """Before, the last step said 0 s, and minutes of testing came."""
    seen: list[Progress] = []
    dataset = Dataset("d", Path(), "", rows=800, train_rows=400, test_rows=400, form="messages", scorer="exact")
    report = progress.with_testing(seen.append, dataset)
    report(_line(50, epoch=1.0, tokens=40_000, tokens_per_second=100.0, seconds_left=0.0))  # 100 tokens a row
    report(_line(1, seconds_left=7.0))
    report(Progress(t=0.0, phase="testing", step=1, epoch=1.0, tokens=9, tokens_per_second=1.0, seconds_left=3.0))
    assert [line.seconds_left for line in seen] == [400.0, 7.0, 3.0]


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "exit.json"
    folder.write_json(path, {"a": 1})
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom workbench.jobs import folder\n"
        "os.fsync = lambda fd: os._exit(9)\nfolder.write_json(Path(sys.argv[1]), {'a': 2})"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 9
    assert folder.read_json(path) == {"a": 1}
    path.write_text('{"a":')
    assert folder.read_json(path) is None and folder.read_json(tmp_path / "none") is None
    folder.write_json(path, {"token": "x"}, mode=0o600)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_log_stays_small_and_keeps_the_newest(tmp_path: Path) -> None:
    path = tmp_path / "log"
    text = b"".join(b"line %d of many\r" % i for i in range(10_000)) + b"my token is hf_abcdefghijklmnopqrstuvwxyz\nno line end"
    log.pump(io.BufferedReader(io.BytesIO(text)), log.CappedLog(path, 40_000))  # type: ignore[arg-type]
    kept = log.Tail(path).more()
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 80_000
    assert kept.endswith("line 9999 of many\rmy token is hf_***\nno line end") and "line 0 of" not in kept
    assert log.Tail(tmp_path / "none").more() == ""


def test_a_log_is_followed_across_its_turns(tmp_path: Path) -> None:
    capped, tail, seen = log.CappedLog(tmp_path / "log", 100), log.Tail(tmp_path / "log"), ""
    assert tail.more() == ""
    for i in range(60):
        capped.write(b"line %d\n" % i)
        if i % 5 == 0:
            seen += tail.more()
    assert seen + tail.more() == "".join(f"line {i}\n" for i in range(60)) and tail.more() == ""


@pytest.mark.parametrize(
    ("result", "says"), [({"loss": float("nan")}, "ValueError"), ({"path": Path("x")}, "TypeError"), (SystemExit(0), "SystemExit")]
)
def test_a_task_that_returns_what_cannot_be_kept_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, result: Any, says: str
) -> None:
    class Odd(tasks.Spec):
        def run(self, ctx: tasks.TaskContext) -> Any:
            if isinstance(result, BaseException):
                raise result
            return result

    monkeypatch.setattr(tasks, "read", lambda kind, stored: Odd())
    order = {"job_id": "abc", "n": 1, "kind": "odd", "spec": {}, "token": "t"}
    stopping = threading.Event()
    context = trainer_main._context(tmp_path / "attempt-1", order, stopping)
    outcome = trainer_main._run(context, order, stopping)
    assert outcome["ok"] is False and says in outcome["error"] and context.earlier == []


@pytest.mark.parametrize(
    ("files", "code", "asked", "how", "says"),
    [
        ({"outcome.json": {"ok": True, "result": {"x": 1}}}, 0, None, "succeeded", ""),
        ({"outcome.json": {"ok": True, "result": {"x": 1}}}, -9, "Cancelled.", "succeeded", ""),
        ({"outcome.json": {"ok": False, "stopped": False, "error": "no rows"}}, 1, None, "failed", "no rows"),
        ({"outcome.json": {"ok": False, "stopped": True, "error": "saved"}}, 3, "Cancelled.", "interrupted", "Cancelled"),
        ({"outcome.json": {"ok": False, "stopped": True, "error": "saved"}}, 3, None, "crashed", "SIGTERM"),
        ({}, -9, None, "crashed", "killed by SIGKILL"),
        ({}, -11, None, "crashed", "killed by SIGSEGV"),
        ({}, 0, None, "crashed", "status 0"),
        ({}, -9, "Cancelled.", "interrupted", "Cancelled"),
    ],
)
def test_how_an_attempt_ended(tmp_path: Path, files: dict[str, Any], code: int, asked: str | None, how: str, says: str) -> None:
    for name, value in files.items():
        folder.write_json(tmp_path / name, value)
    found = endings.after_child(tmp_path, code, asked=asked)
    assert found.how == how and says in (found.error or "")
    endings.write(tmp_path, found)
    assert endings.after_shim(tmp_path, rebooted=True, began=True, seen_to_fail=True) == found  # the record wins


# ---------------------------------------------------------------- processes


def test_a_pid_is_told_apart_by_its_start() -> None:
    me = os.getpid()
    started = processes.start_time(me)
    assert started is not None and processes.is_alive(me, started)
    assert (
        not processes.is_alive(me, str(int(started) + 1)) and not processes.is_alive(None, None) and not processes.is_alive(2**22 + 1, "1")
    )
    child = subprocess.Popen(["sleep", "30"])
    born = processes.start_time(child.pid)
    assert born is not None
    processes.kill(child.pid, str(int(born) + 1))  # a later process with the same number: left alone
    assert child.poll() is None
    processes.kill(child.pid, born)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert processes.start_time(child.pid) is None  # a zombie counts as dead
    child.wait()


def test_all_processes_of_an_attempt_are_found_and_no_others() -> None:
    environment = {**os.environ, processes.MARK: "m" * 32}
    spawn = [
        sys.executable,
        "-c",
        "import subprocess; subprocess.Popen(['sleep', '60'], start_new_session=True); subprocess.run(['sleep', '60'])",
    ]
    ours = subprocess.Popen(spawn, env=environment, process_group=0)
    stranger = subprocess.Popen(["sleep", "60"], process_group=0)
    unmarked = subprocess.Popen(["env", "-i", "sleep", "60"], process_group=ours.pid)  # in the group, without the mark
    try:
        deadline = time.monotonic() + 10
        while len(processes.leftovers("m" * 32, ours.pid, None)) < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert unmarked.pid in [pid for pid, _ in processes.leftovers("m" * 32, ours.pid, None)]
        assert processes.leftovers("n" * 32, stranger.pid, "12345") == []  # the number was given to a stranger
        assert processes.kill_all("m" * 32, ours.pid, None)
        assert processes.leftovers("m" * 32, ours.pid, None) == [] and stranger.poll() is None
    finally:
        for process in (ours, stranger, unmarked):
            process.kill()
            process.wait()


def test_a_lock_is_seen_and_ends_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "lock"
    assert not processes.is_locked(path)
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom workbench.jobs import processes\n"
        "print(processes.try_lock(Path(sys.argv[1])), flush=True)\ntime.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline().strip().isdigit()
    assert processes.is_locked(path) and processes.try_lock(path) is None
    with processes.locked(path) as free:
        assert not free
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert not processes.is_locked(path)
    with processes.locked(path) as free:
        assert free and processes.try_lock(path) is None


def test_small_things() -> None:
    timing = Timing(lease=1.5)
    assert Timing.of({**dataclasses.asdict(timing), "of another version": 2}) == timing == Timing.of({"lease": 1.5})
    assert machine_slots() and all(name == "cpu-0" or name.startswith("GPU-") for name in machine_slots())
