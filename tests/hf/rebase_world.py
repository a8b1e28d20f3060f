"""A tiny base with an adapter that works on it and has evidence, published like any other, and bases to move it to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.hf.tiny_adapter import order_rows, tiny_adapter
from workbench import Workbench
from workbench.data.rows import dumps
from workbench.evidence import summary, write_scores
from workbench.jobs import queue
from workbench.jobs.endings import Ending
from workbench.jobs.tasks import TaskContext, read
from workbench.recipe import Recipe
from workbench.records import Adapter, Base, Dataset, Job, Progress

# What the tiny adapter learned by heart, so at home it is right everywhere; twice, since 24 rows prove no loss
ROWS = [{**row, "id": f"{row['id']}{half}"} for half in "ab" for row in order_rows(24)]
RECIPE = Recipe(base="pico@1", dataset="orders", max_length=256, bf16=False)


@dataclass
class World:
    """One home folder with a base, pico@1, and an adapter for it, orders@1."""

    bench: Workbench
    base: Base
    adapter: Adapter
    room: Path

    def add(self, version: str, folder: Path) -> str:
        """Add a model folder as another version of pico; returns its reference."""
        return str(self.bench.bases.publish(folder, f"pico@{version}", continues=None, source={"kind": "control", "name": version}).ref)

    def check(self, onto: str, adapters: Sequence[str] = ("orders@1",), **options: Any) -> tuple[dict[str, Any], list[Progress]]:
        """Submit a check and run it here. Returns its result and its progress."""
        return self.run(lambda: self.bench.rebase.check(list(adapters), onto=onto, **options))

    def run(self, submit: Callable[[], Job]) -> tuple[dict[str, Any], list[Progress]]:
        """Submit a job and run it here, under a really claimed attempt. Returns its result and its progress."""
        with quiet_jobs(self.bench):
            job = submit()
        queue.register_slots("here", ["cpu-0"])
        claimed = queue.claim("here", "boot", lease=600)
        assert claimed is not None and not queue.begin(claimed.token, pid=1, started="0", lease=600)
        folder = self.room / f"attempt-{job.id}"
        folder.mkdir()
        seen: list[Progress] = []
        context = TaskContext(job.id, 1, folder, [], claimed.token, seen.append, lambda: False)
        try:
            return read(job.kind, job.spec).run(context), seen
        finally:
            queue.finish(claimed.token, Ending("succeeded", result={}))


@contextmanager
def quiet_jobs(bench: Workbench) -> Iterator[None]:
    """No dispatcher starts meanwhile: the test runs the job itself."""
    bench.jobs._start_dispatcher = False
    try:
        yield
    finally:
        bench.jobs._start_dispatcher = True


def make_world(pico: Path, room: Path) -> World:
    """Publish the tiny base and its adapter with real evidence over `ROWS`."""
    import torch

    from workbench.hf.evaluate import evaluate

    bench = Workbench()
    base = bench.bases.add("pico@1", source=f"folder:{pico}", license="Apache-2.0")
    trained = tiny_adapter(pico)
    found = evaluate(base.path, trained, ROWS, max_length=256, dtype=torch.float32)
    return World(bench, base, publish(bench, base, trained, found, room, "orders"), room)


def publish(
    bench: Workbench,
    base: Base,
    trained: Path,
    found: Any,
    room: Path,
    name: str,
    *,
    rows: Sequence[dict[str, Any]] = ROWS,
    dataset: Dataset | None = None,
    recipe: Recipe = RECIPE,
) -> Adapter:
    """Publish an adapter folder with its evidence, as a training job does."""
    import shutil

    draft = room / f"draft-{name}"
    shutil.copytree(trained, draft)
    evidence = draft / "evidence"
    evidence.mkdir()
    (evidence / "test.jsonl").write_text("".join(dumps({**row, "split": "test"}) + "\n" for row in rows), encoding="utf-8")
    (evidence / "samples.jsonl").write_text("", encoding="utf-8")
    (evidence / "how.json").write_text(json.dumps(found.report), encoding="utf-8")
    write_scores(evidence / "scores.jsonl", found)
    scores = summary(found.base, found.adapter).as_dict()
    return bench.adapters.publish(draft, name=name, base=base, dataset=dataset, method="lora", recipe=recipe, scores=scores)
