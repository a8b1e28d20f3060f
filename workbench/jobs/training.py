"""Train, score and publish.

A finished phase leaves a folder with a manifest, so an attempt that takes over repeats no finished phase; and a job
publishes once, however often its last step is tried.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from workbench import estimate
from workbench.bases.lock import LOCK_FILE
from workbench.bases.store import Bases
from workbench.data.store import Datasets
from workbench.errors import IntegrityError, RecipeError
from workbench.files import sha256_of
from workbench.foreign import open_regular
from workbench.jobs import progress
from workbench.jobs.phases import finished, frozen_base, frozen_dataset
from workbench.jobs.scoring import score
from workbench.jobs.tasks import Spec, TaskContext
from workbench.peft_layout import CONFIG, WEIGHTS
from workbench.planning import Plan, start_file
from workbench.recipe import Recipe
from workbench.records import Base, BaseRef, Dataset, Progress
from workbench.registry.lora_weights import check_adapter
from workbench.registry.store import Registry

__all__ = ["TrainSpec"]

_FACTS = "training.json"  # what the run itself has to tell: steps, tokens, speed, memory, the data report


class Start(BaseModel):
    """The weights of a checkpoint to begin with, as they were at submission."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: Path
    sha256: str


class TrainSpec(Spec):
    """Train by the frozen recipe, score on the frozen test part, publish; a trial publishes nothing."""

    kind = "train"
    retired = frozenset({"total_steps"})

    recipe: Recipe
    base_lock_sha256: str
    dataset_sha256: str
    publish: bool = True
    start: Start | None = None

    @classmethod
    def of(cls, plan: Plan, *, publish: bool) -> TrainSpec:
        """Raises `RecipeError` with all of the plan's problems."""
        recipe = plan.sound().recipe
        if recipe.publish_as and not publish:
            raise RecipeError("publish_as: a trial publishes nothing.", hint="Leave one of the two out.")
        file = start_file(recipe) if recipe.resume_from_checkpoint else None
        return cls(
            recipe=recipe,
            base_lock_sha256=plan.base.lock_sha256,
            dataset_sha256=plan.dataset.sha256,
            publish=publish,
            start=Start(file=file, sha256=sha256_of(file)) if file else None,
        )

    @property
    def title(self) -> str:
        return f"{'Trial of ' * (not self.publish)}{self.recipe.adapter_name}: {self.recipe.method} on {self.recipe.base}"

    @property
    def needs(self) -> tuple[Path, ...]:
        return (self.start.file,) if self.start else ()

    def run(self, ctx: TaskContext) -> dict[str, Any]:
        """Returns {"adapter": "name@1"} or, for method sft, {"base": "family@2"}, with "scores" and "training" beside it; of a
        trial {"folder": where the result lies}."""
        base = frozen_base(self.recipe.base, self.base_lock_sha256)
        dataset = frozen_dataset(self.recipe.dataset, self.dataset_sha256)
        ctx = dataclasses.replace(ctx, report=progress.with_testing(ctx.report, dataset))
        trained = finished(ctx, "trained", lambda out: self._train(ctx, base, out))
        facts = json.loads((trained / _FACTS).read_text(encoding="utf-8"))
        folder = finished(ctx, "scored", lambda out: self._score(ctx, base, dataset, trained, out))
        scores = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        shutil.rmtree(trained / "evidence", ignore_errors=True)
        if scores:
            shutil.copytree(folder / "evidence", trained / "evidence")
        ctx.report(Progress(t=time.time(), phase="publishing"))
        published = self._publish(ctx, base, dataset, trained, scores)
        _drop_checkpoints(ctx)
        return {**published, "scores": scores, "training": facts}

    def _train(self, ctx: TaskContext, base: Base, out: Path) -> None:
        from workbench.hf.train import train

        result = train(
            self.recipe,
            base.path,
            Datasets().rows(self.recipe.dataset, split="train"),
            ctx.folder / "work",
            start=self._copied_start(ctx),
            earlier=[folder / "work" for folder in ctx.earlier],
            report=ctx.report,
            stopping=ctx.stopping,
            check=lambda folder: check_adapter(
                (folder / CONFIG).read_bytes(), folder / WEIGHTS, base.path / LOCK_FILE, str(base.ref), trained=False
            ),
        )
        shutil.copytree(result.folder, out, dirs_exist_ok=True)
        (out / _FACTS).write_text(json.dumps(result.as_dict(), indent=1), encoding="utf-8")
        estimate.remember(self.recipe, base, result.tokens_per_second, result.peak_bytes, job=ctx.job_id)

    def _copied_start(self, ctx: TaskContext) -> Path | None:
        """The folder with the weights to begin with: a copy of those the job was submitted with, so that they cannot change meanwhile."""
        start = self.start
        if start is None:
            return None
        folder = ctx.folder / "start"
        folder.mkdir(exist_ok=True)
        copy = folder / start.file.name
        try:
            with open_regular(start.file, most=1024**4, error=IntegrityError) as file, copy.open("wb") as out:
                shutil.copyfileobj(file, out)
        except OSError as error:
            raise IntegrityError(f"The checkpoint to begin with cannot be copied: {error}.", hint="Submit the job again.") from None
        if sha256_of(copy) != start.sha256:
            raise IntegrityError(f"{start.file} has changed since the job was submitted.", hint="Submit the job again.")
        return folder

    def _score(self, ctx: TaskContext, base: Base, dataset: Dataset, trained: Path, out: Path) -> None:
        """The evidence of the run; an empty summary where the dataset has no test part."""
        if dataset.test_rows:
            score(ctx, self.recipe, base, dataset, trained, out)
        else:
            (out / "summary.json").write_text("{}", encoding="utf-8")

    def _publish(self, ctx: TaskContext, base: Base, dataset: Dataset, trained: Path, scores: dict[str, Any]) -> dict[str, str]:
        if not self.publish:
            return {"folder": str(trained)}
        if self.recipe.method == "sft":
            return {"base": self._publish_base(ctx, base, dataset, trained, scores)}
        adapter = Registry().publish(
            trained,
            name=self.recipe.adapter_name,
            base=base,
            dataset=dataset,
            method=self.recipe.method,
            recipe=self.recipe,
            scores=scores,
            job_id=ctx.job_id,
            token=ctx.token,
        )
        return {"adapter": adapter.ref}

    def _publish_base(self, ctx: TaskContext, base: Base, dataset: Dataset, trained: Path, scores: dict[str, Any]) -> str:
        """Publish fully trained weights as the next version of the base's family; once per job."""
        from workbench.db import fencing
        from workbench.db.session import transaction

        bases, recipe = Bases(), self.recipe
        if mine := [known for known in bases.list() if known.source.get("job_id") == ctx.job_id]:
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
        with transaction() as connection:  # a taken-over attempt must not publish; the base's own lock keeps two from doing it
            fencing.check(connection, ctx.token)
        return str(bases.publish(trained, ref, continues=base.ref, source=source, license=base.license).ref)


def _drop_checkpoints(ctx: TaskContext) -> None:
    """What was published needs no checkpoint any more; with method sft each takes twelve bytes for every weight."""
    from workbench.hf import checkpoints

    for folder in (ctx.folder, *ctx.earlier):
        checkpoints.remove(folder / "work" / "checkpoints")
        for name in ("work/result", "start"):
            shutil.rmtree(folder / name, ignore_errors=True)
