"""Score weights on a dataset's frozen test part: the evidence of a training run, and of an adapter that came without any."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from workbench import manifest
from workbench.data.rows import dumps
from workbench.data.store import Datasets
from workbench.errors import DataError, WorkbenchError
from workbench.evidence import Evidence, summary, write_scores
from workbench.jobs.phases import finished, frozen_base, frozen_dataset
from workbench.jobs.tasks import Spec, TaskContext
from workbench.recipe import Recipe
from workbench.records import AdapterRef, Base, Dataset
from workbench.registry.store import Registry

__all__ = ["EvaluateSpec", "score"]

SAMPLES = 5  # test rows whose answers are written out beside the scores


class EvaluateSpec(Spec):
    """Score an adapter and publish the same weights with that evidence as its next version."""

    kind = "evaluate"

    adapter: str
    dataset: str
    dataset_sha256: str

    @classmethod
    def of(cls, datasets: Datasets, adapters: Registry, adapter: str | AdapterRef, dataset: str | None) -> EvaluateSpec:
        """`dataset` defaults to the one it was trained on. Raises `NotFound`."""
        chosen = adapters.get(adapter)
        name = dataset or chosen.dataset
        if not name:
            raise WorkbenchError(
                f"{chosen.ref} does not say what it was trained on.", hint="Name a dataset: workbench adapter evaluate … --dataset NAME"
            )
        return cls(adapter=chosen.ref, dataset=name, dataset_sha256=datasets.get(name).sha256)

    @property
    def title(self) -> str:
        return f"{self.adapter}: score on {self.dataset}"

    def run(self, ctx: TaskContext) -> dict[str, Any]:
        """Returns {"adapter": the new version, "scores": …}."""
        registry = Registry()
        adapter = registry.get(self.adapter, verify=True)
        base = frozen_base(str(adapter.base), adapter.base_lock_sha256)
        dataset = frozen_dataset(self.dataset, self.dataset_sha256)
        stored = Recipe.beside(adapter.path)
        recipe = stored or Recipe(base=str(base.ref), dataset=dataset.name)
        folder = finished(ctx, "scored", lambda out: score(ctx, recipe, base, dataset, adapter.path, out))
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
            recipe=stored,
            scores=scores,
            parents=[adapter.ref],
            job_id=ctx.job_id,
            token=ctx.token,
        )
        return {"adapter": scored.ref, "scores": scores}


def score(ctx: TaskContext, recipe: Recipe, base: Base, dataset: Dataset, weights: Path, out: Path) -> None:
    """Score base and `weights` on the frozen test part; writes summary.json and evidence/ into `out`.

    Raises `DataError` when the dataset has no test part.
    """
    from workbench.hf.evaluate import evaluate
    from workbench.hf.load import compute_dtype, set_threads

    rows = Datasets().rows(dataset.name, split="test")
    if not rows:
        raise DataError(
            f"{dataset.name} has no test part to score on.", hint="Add it again with a test part: workbench data add … --test-rows 100"
        )
    set_threads(recipe.threads)
    evidence: Evidence = evaluate(
        base.path,
        weights,
        rows,
        scorer=dataset.scorer,
        max_length=recipe.max_length,
        dtype=compute_dtype(False if _is_float32(weights) else recipe.bf16),
        quantized=recipe.quantization,
        samples=SAMPLES,
        report=ctx.report,
        stopping=ctx.stopping,
    )
    folder = out / "evidence"
    folder.mkdir()
    scored = {score.id for score in evidence.base}
    (folder / "test.jsonl").write_text("".join(dumps(row) + "\n" for row in rows if row["id"] in scored), encoding="utf-8")
    (folder / "samples.jsonl").write_text("".join(dumps(sample) + "\n" for sample in evidence.samples), encoding="utf-8")
    (folder / "how.json").write_text(json.dumps(evidence.report, indent=1, sort_keys=True), encoding="utf-8")
    write_scores(folder / "scores.jsonl", evidence)
    scores = summary(evidence.base, evidence.adapter, dataset.scorer, groups=evidence.groups).as_dict()
    (out / "summary.json").write_text(json.dumps(scores), encoding="utf-8")


def _is_float32(weights: Path) -> bool:
    """Full weights that were saved in float32, because rounding would lose what they learned, are scored as they are."""
    config = weights / "config.json"
    return config.is_file() and json.loads(config.read_text(encoding="utf-8")).get("dtype") == "float32"
