"""A base fetched by a job: the same as adding it here and now, but it outlives who asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_base import make_tiny_base
from workbench import Workbench
from workbench.errors import Conflict, NotFound, UsageError, WorkbenchError
from workbench.jobs.fetching import FetchSpec
from workbench.jobs.tasks import TaskContext


@pytest.mark.slow
def test_a_job_fetches_a_base_and_says_how_far_it_is(tmp_path: Path) -> None:
    bench = Workbench()
    source = f"folder:{make_tiny_base(tmp_path / 'tiny')}"
    job = bench.jobs.wait(bench.fetch("tiny@1", source=source).id, timeout=60)
    assert job.result == {"base": "tiny@1"} and bench.bases.get("tiny@1").source["kind"] == "folder"
    course = bench.jobs.metrics(job.id)
    assert any("Locking" in (line.message or "") for line in course) and course[-1].phase == "done"
    with pytest.raises(Conflict, match="tiny@1 is here already"):
        bench.fetch("tiny@1", source=source)


def test_what_cannot_be_fetched_is_refused_at_once_or_fails_with_its_reason(tmp_path: Path) -> None:
    bench = Workbench()
    with pytest.raises(NotFound, match="No base in the catalogue named 'nobody@1'"):
        bench.fetch("nobody@1")
    with pytest.raises(UsageError):
        bench.fetch("no-version")
    assert bench.jobs.list() == []
    spec = FetchSpec(base="empty@1", source=f"folder:{tmp_path}")
    with pytest.raises(WorkbenchError, match="config.json"):
        spec.run(TaskContext("job", 1, tmp_path, [], "token", report=lambda progress: None, stopping=lambda: False))
    assert not bench.bases.has("empty@1")
