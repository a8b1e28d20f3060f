"""What the jobs do in their own process: train, score and publish; score alone; merge.

A finished phase leaves a folder with a manifest, so an attempt that takes over repeats no finished phase; and a job
publishes once, however often its last step is tried.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from workbench import estimate, manifest, planning
from workbench.bases.lock import LOCK_FILE
from workbench.bases.store import Bases
from workbench.data.rows import dumps
from workbench.data.store import Datasets
from workbench.errors import Conflict, DataError, IntegrityError
from workbench.evidence import Evidence, summary, write_scores
from workbench.foreign import open_regular
from workbench.jobs import progress
from workbench.jobs.tasks import TaskContext
from workbench.peft_layout import CONFIG, WEIGHTS
from workbench.recipe import Recipe
from workbench.records import Base, BaseRef, Dataset, Progress
from workbench.registry.lora_weights import check_adapter
from workbench.registry.store import Registry

__all__ = ["evaluate", "frozen_base", "frozen_dataset", "merge", "run"]

_MERGED = "merge.json"
SAMPLES = 5  # test rows whose answers are written out beside the scores
_FACTS = "training.json"  # what the run itself has to tell: steps, tokens, speed, memory, the data report


def run(ctx: TaskContext) -> dict[str, Any]:
    """Train by the frozen recipe, score on the frozen test part, publish.

    Returns {"adapter": "name@1"} or, for method sft, {"base": "family@2"}, with "scores" and "training" beside it; of a
    trial, which publishes nothing, {"folder": where the result lies}.
    """
    recipe = Recipe.load(ctx.spec["recipe"])
    base = frozen_base(recipe.base, ctx.spec["base_lock_sha256"])
    dataset = frozen_dataset(recipe.dataset, ctx.spec["dataset_sha256"])
    ctx = dataclasses.replace(ctx, report=progress.with_testing(ctx.report, dataset))
    trained = _phase(ctx, "trained", lambda out: _train(ctx, recipe, base, out))
    facts = json.loads((trained / _FACTS).read_text(encoding="utf-8"))
    folder = _phase(ctx, "scored", lambda out: _score_run(ctx, recipe, base, dataset, trained, out))
    scores = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    shutil.rmtree(trained / "evidence", ignore_errors=True)
    if scores:
        shutil.copytree(folder / "evidence", trained / "evidence")
    ctx.report(Progress(t=time.time(), phase="publishing"))
    if not ctx.spec.get("publish", True):
        published = {"folder": str(trained)}
    elif recipe.method == "sft":
        published = {"base": _publish_base(ctx, recipe, base, dataset, trained, scores)}
    else:
        adapter = Registry().publish(
            trained,
            name=recipe.adapter_name,
            base=base,
            dataset=dataset,
            method=recipe.method,
            recipe_yaml=recipe.to_yaml(),
            scores=scores,
            job_id=ctx.job_id,
            token=ctx.token,
        )
        published = {"adapter": adapter.ref}
    _drop_checkpoints(ctx)
    ctx.report(Progress(t=time.time(), phase="done"))
    return {**published, "scores": scores, "training": facts}


def evaluate(ctx: TaskContext) -> dict[str, Any]:
    """Score an adapter on a dataset's test part and publish the same weights with that evidence as its next version."""
    registry = Registry()
    adapter = registry.get(ctx.spec["adapter"], verify=True)
    base = frozen_base(str(adapter.base), adapter.base_lock_sha256)
    dataset = frozen_dataset(ctx.spec["dataset"], ctx.spec["dataset_sha256"])
    recipe_file = adapter.path / "recipe.yaml"
    recipe = Recipe.from_yaml(recipe_file) if recipe_file.is_file() else Recipe(base=str(base.ref), dataset=dataset.name)
    folder = _phase(ctx, "scored", lambda out: _score(ctx, recipe, base, dataset, adapter.path, out))
    scores = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    weights = ctx.folder / "adapter"
    shutil.rmtree(weights, ignore_errors=True)
    shutil.copytree(adapter.path, weights, ignore=shutil.ignore_patterns("evidence", manifest.NAME))
    shutil.copytree(folder / "evidence", weights / "evidence")
    scored = registry.publish(
        weights,
        name=adapter.name,
        base=base,
        dataset=dataset,
        method=adapter.method,
        recipe_yaml=recipe_file.read_text(encoding="utf-8") if recipe_file.is_file() else None,
        scores=scores,
        parents=[adapter.ref],
        job_id=ctx.job_id,
        token=ctx.token,
    )
    ctx.report(Progress(t=time.time(), phase="done"))
    return {"adapter": scored.ref, "scores": scores}


def merge(ctx: TaskContext) -> dict[str, Any]:
    """Write full merged weights to the folder of the spec; whole or not at all. Returns the logit comparison."""
    from workbench.hf.merge import merge as merge_weights

    adapter = Registry().get(ctx.spec["adapter"], verify=True)
    base = frozen_base(ctx.spec["base"], ctx.spec["base_lock_sha256"])
    out = Path(ctx.spec["out"])
    draft = out.with_name(f".{out.name}.{ctx.job_id}")
    if not out.exists():
        shutil.rmtree(draft, ignore_errors=True)
        report = merge_weights(base.path, adapter.path, draft, report=ctx.report)
        (draft / _MERGED).write_text(json.dumps({"job": ctx.job_id, **report.as_dict()}, indent=1), encoding="utf-8")
        os.rename(draft, out)
    done = json.loads((out / _MERGED).read_text(encoding="utf-8")) if (out / _MERGED).is_file() else {}
    if done.get("job") != ctx.job_id:
        raise Conflict(f"{out} exists already.", hint="Name a folder that does not.")
    return {"out": str(out), **done}


# ---------------------------------------------------------------- phases


def _phase(ctx: TaskContext, name: str, work: Any) -> Path:
    """The finished folder `name`: copied from an earlier attempt that got so far, else made by `work(folder)`."""
    goal, draft = ctx.folder / name, ctx.folder / f"{name}.partial"
    for folder in ctx.earlier:
        done = folder / name
        if (done / manifest.NAME).is_file():
            manifest.verify(done, allow_extra=True)
            shutil.copytree(done, goal, ignore=shutil.ignore_patterns("evidence") if name == "trained" else None)
            return goal
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    work(draft)
    manifest.write(draft)
    os.rename(draft, goal)
    return goal


def _train(ctx: TaskContext, recipe: Recipe, base: Base, out: Path) -> None:
    from workbench.hf.train import train

    work = ctx.folder / "work"
    result = train(
        recipe,
        base.path,
        Datasets().rows(recipe.dataset, split="train"),
        work,
        start=_start(ctx, recipe),
        earlier=[folder / "work" for folder in ctx.earlier],
        report=ctx.report,
        stopping=ctx.stopping,
        check=lambda folder: check_adapter(
            (folder / CONFIG).read_bytes(), folder / WEIGHTS, base.path / LOCK_FILE, str(base.ref), trained=False
        ),
    )
    shutil.copytree(result.folder, out, dirs_exist_ok=True)
    (out / _FACTS).write_text(json.dumps(result.as_dict(), indent=1), encoding="utf-8")
    estimate.remember(recipe, base, result.tokens_per_second, result.peak_bytes, job=ctx.job_id)


def _start(ctx: TaskContext, recipe: Recipe) -> Path | None:
    """The folder with the weights to begin with: a copy of those the job was submitted with, so that they cannot change meanwhile."""
    start = ctx.spec.get("start")
    if start is None:
        return None
    folder = ctx.folder / "start"
    folder.mkdir(exist_ok=True)
    source, copy = Path(start["file"]), folder / Path(start["file"]).name
    try:
        with open_regular(source, most=1024**4, error=IntegrityError) as file, copy.open("wb") as out:
            shutil.copyfileobj(file, out)
    except OSError as error:
        raise IntegrityError(f"The checkpoint to begin with cannot be copied: {error}.", hint="Submit the job again.") from None
    if planning.sha256_of(copy) != start["sha256"]:
        raise IntegrityError(f"{source} has changed since the job was submitted.", hint="Submit the job again.")
    return folder


def _drop_checkpoints(ctx: TaskContext) -> None:
    """What was published needs no checkpoint any more; with method sft each takes twelve bytes for every weight."""
    from workbench.hf import checkpoints

    for folder in (ctx.folder, *ctx.earlier):
        checkpoints.remove(folder / "work" / "checkpoints")
        for name in ("work/result", "start"):
            shutil.rmtree(folder / name, ignore_errors=True)


def _score_run(ctx: TaskContext, recipe: Recipe, base: Base, dataset: Dataset, trained: Path, out: Path) -> None:
    """The evidence of a fresh run; an empty summary where the dataset has no test part."""
    if dataset.test_rows:
        _score(ctx, recipe, base, dataset, trained, out)
    else:
        (out / "summary.json").write_text("{}", encoding="utf-8")


def _score(ctx: TaskContext, recipe: Recipe, base: Base, dataset: Dataset, result: Path, out: Path) -> None:
    """Score base and `result` on the frozen test part; writes summary.json and evidence/ into `out`."""
    from workbench.hf.evaluate import evaluate as score
    from workbench.hf.load import compute_dtype, set_threads

    rows = Datasets().rows(dataset.name, split="test")
    if not rows:
        raise DataError(
            f"{dataset.name} has no test part to score on.", hint="Add it again with a test part: workbench data add … --test-rows 100"
        )
    set_threads(recipe.threads)
    found: Evidence = score(
        base.path,
        result,
        rows,
        scorer=dataset.scorer,
        max_length=recipe.max_length,
        dtype=compute_dtype(False if _is_float32(result) else recipe.bf16),
        quantized=recipe.bnb_4bit_quant_type if recipe.quantized else None,
        samples=SAMPLES,
        report=ctx.report,
        stopping=ctx.stopping,
    )
    folder = out / "evidence"
    folder.mkdir()
    scored = {score.id for score in found.base}
    (folder / "test.jsonl").write_text("".join(dumps(row) + "\n" for row in rows if row["id"] in scored), encoding="utf-8")
    (folder / "samples.jsonl").write_text("".join(dumps(sample) + "\n" for sample in found.samples), encoding="utf-8")
    (folder / "how.json").write_text(json.dumps(found.report, indent=1, sort_keys=True), encoding="utf-8")
    write_scores(folder / "scores.jsonl", found)
    scores = summary(found.base, found.adapter, dataset.scorer, groups=found.groups).as_dict()
    (out / "summary.json").write_text(json.dumps(scores), encoding="utf-8")


def _is_float32(result: Path) -> bool:
    """Full weights that were saved in float32, because rounding would lose what they learned, are scored as they are."""
    config = result / "config.json"
    return config.is_file() and json.loads(config.read_text(encoding="utf-8")).get("dtype") == "float32"


def _publish_base(ctx: TaskContext, recipe: Recipe, base: Base, dataset: Dataset, trained: Path, scores: dict[str, Any]) -> str:
    """Publish fully trained weights as the next version of the base's family; once per job."""
    from workbench.db import fencing
    from workbench.db.session import transaction

    bases = Bases()
    mine = [b for b in bases.list() if b.source.get("job_id") == ctx.job_id]
    if mine:
        return str(mine[0].ref)
    source = {
        "kind": "trained",
        "job_id": ctx.job_id,
        "dataset": dataset.name,
        "dataset_sha256": dataset.sha256,
        "recipe": recipe.model_dump(mode="json"),
        "scores": scores,
    }
    ref = BaseRef.parse(recipe.publish_as) if recipe.publish_as else bases.next_version(base.ref.family)
    with transaction() as connection:  # a taken-over attempt must not publish; the base's own lock keeps the newer one from doing it twice
        fencing.check(connection, ctx.token)
    return str(bases.publish(trained, ref, continues=base.ref, source=source, license=base.license).ref)


def frozen_base(ref: str, lock_sha256: str) -> Base:
    base = Bases().get(BaseRef.parse(ref))
    if base.lock_sha256 != lock_sha256:
        raise IntegrityError(f"{ref} is not the base this job was submitted for: its lock changed.", hint="Submit the job again.")
    return base


def frozen_dataset(name: str, sha256: str) -> Dataset:
    dataset = Datasets().get(name)
    if dataset.sha256 != sha256:
        raise IntegrityError(f"{name} is not the dataset this job was submitted for: its rows changed.", hint="Submit the job again.")
    return dataset
