"""Making room: only what nothing needs, only with a yes, and a job that may go on keeps everything."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from counting import Count

from tests.folders import write_adapter
from tests.tiny_base import make_tiny_base
from workbench import Workbench, prune
from workbench.cli import run
from workbench.db.session import transaction
from workbench.errors import NotFound, UsageError
from workbench.jobs.store import Jobs
from workbench.jobs.training import Start, TrainSpec
from workbench.recipe import Recipe
from workbench.records import Job, JobState


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    bench = Workbench()
    bench.jobs = Jobs(start_dispatcher=False)  # nothing runs here
    bench.bases.add("tiny@1", source=f"folder:{make_tiny_base(tmp_path / 'tiny')}", license="Apache-2.0")
    return bench


def _job(bench: Workbench, state: JobState, *, days: float, result: dict[str, str] | None = None) -> Job:
    """A job that came to `state` so many days ago, with checkpoints, a result and a log on disk."""
    from sqlalchemy import insert, update

    from workbench.db.tables import attempts, jobs

    job = bench.jobs.submit(Count(name=state.value))
    ended = time.time() - days * 86_400
    with transaction() as connection:
        given = {"state": state.value, "ended_at": ended if state.final else None, "result": result}
        connection.execute(update(jobs).where(jobs.c.id == job.id).values(**given))
        attempt = {"job_id": job.id, "n": 1, "token": f"t-{job.id}", "state": "running", "host": "here", "boot_id": "b"}
        connection.execute(insert(attempts).values(**attempt, started_at=ended, lease_until=ended))
    folder = bench.jobs.get(job.id).attempts[0].path
    for name in ("work/checkpoints/checkpoint-1/model", "trained/adapter_model.safetensors", "log", "metrics.jsonl"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * 1000)
    return bench.jobs.get(job.id)


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_dry_run_lists_and_removes_nothing(bench: Workbench) -> None:
    job = _job(bench, JobState.succeeded, days=0, result={"adapter": "orders@1"})
    before = _files(job.attempts[0].path)
    found = bench.prune()
    assert [(one.kind, one.path.name, one.bytes) for one in found] == [("second copy", "trained", 1000), ("second copy", "work", 1000)]
    assert _files(job.attempts[0].path) == before


def test_copies_of_what_was_published_go_at_once_and_the_log_stays(bench: Workbench) -> None:
    job = _job(bench, JobState.succeeded, days=0, result={"adapter": "orders@1"})
    bench.prune(apply=True)
    assert _files(job.attempts[0].path) == {"log", "metrics.jsonl"}
    assert bench.prune() == []


def test_what_another_job_will_begin_with_is_kept_until_it_has_ended(bench: Workbench) -> None:
    job = _job(bench, JobState.succeeded, days=90, result={"adapter": "orders@1"})
    start = job.attempts[0].path / "trained" / "adapter_model.safetensors"
    recipe = Recipe.load({"base": "tiny@1", "dataset": "orders"})
    waiting = bench.jobs.submit(TrainSpec(recipe=recipe, base_lock_sha256="0", dataset_sha256="0", start=Start(file=start, sha256="0")))
    assert [one.path.name for one in bench.prune(apply=True)] == ["work"] and start.is_file()
    bench.jobs.cancel(waiting.id)
    assert [one.path.name for one in bench.prune(apply=True)] == ["trained"]


@pytest.mark.parametrize(
    ("state", "days", "gone"),
    [
        (JobState.running, 90, False),
        (JobState.interrupted, 90, False),
        (JobState.queued, 90, False),
        (JobState.failed, 29, False),
        (JobState.failed, 31, True),
        (JobState.cancelled, 31, True),
        (JobState.succeeded, 29, False),  # a trial: what it made is nowhere else
        (JobState.succeeded, 31, True),
    ],
)
def test_what_a_job_could_go_on_from_is_kept_for_a_while(bench: Workbench, state: JobState, days: float, gone: bool) -> None:
    job = _job(bench, state, days=days)
    bench.prune(apply=True)
    assert ("work/checkpoints/checkpoint-1/model" not in _files(job.attempts[0].path)) == gone


def test_the_trash_is_emptied_only_when_it_is_old(bench: Workbench, home: Path, tmp_path: Path) -> None:
    folder, base = write_adapter(tmp_path / "made"), bench.bases.get("tiny@1")
    made = bench.adapters.publish(folder, name="orders", base=base, dataset=None, method="lora", recipe=None, scores={})
    bench.adapters.remove(made.ref)
    (home / "datasets" / ".trash" / "old").mkdir(parents=True)
    bench.bases.remove("tiny@1", force=True)
    assert bench.prune() == []
    found = bench.prune(keep_days=0, apply=True)
    assert sorted(str(one.path.relative_to(home).parent) for one in found) == ["adapters/.trash/orders", "bases/.trash", "datasets/.trash"]
    assert not any(one.path.exists() for one in found)
    with pytest.raises(NotFound, match="it was emptied"):
        bench.adapters.restore(made.ref)
    with pytest.raises(UsageError, match="negative"):
        bench.prune(keep_days=-1)


def test_links_are_removed_and_never_followed(bench: Workbench, home: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("x")
    trash = home / "datasets" / ".trash"
    trash.mkdir(parents=True)
    (trash / "link").symlink_to(outside)
    folder = trash / "folder"
    folder.mkdir()
    (folder / "inside").symlink_to(outside)
    bench.prune(keep_days=0, apply=True)
    assert os.listdir(trash) == [] and (outside / "mine").exists()


def test_a_prune_that_was_killed_half_way_is_finished_by_the_next(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    job = _job(bench, JobState.succeeded, days=0, result={"adapter": "orders@1"})
    with monkeypatch.context() as patched:
        patched.setattr(prune.shutil, "rmtree", lambda path, **_: None)  # it renamed, and got no further
        bench.prune(apply=True)
    bench.prune(apply=True)
    assert _files(job.attempts[0].path) == {"log", "metrics.jsonl"}


def test_the_command_says_how_to_go_on(bench: Workbench, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["prune"]) == 0 and "There is nothing to prune." in capsys.readouterr().out
    _job(bench, JobState.succeeded, days=0, result={"adapter": "orders@1"})
    assert run(["prune"]) == 0
    assert "workbench prune --yes" in capsys.readouterr().out
    assert run(["prune", "--yes"]) == 0
    assert "Removed: 2.0 KB." in capsys.readouterr().out
