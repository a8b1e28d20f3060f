"""The one front door: the command line, the browser pages and Python scripts all call `Workbench`.

    from workbench import Workbench

    bench = Workbench()
    bench.bases.add("smollm2-135m-instruct@1")
    job = bench.train({"base": "smollm2-135m-instruct@1", "dataset": "order-codes"})
    print(bench.jobs.wait(job.id).result)

Nothing here trains, scores or loads weights in the caller's process: that is a job's work.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from dataclasses import astuple
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import paths
from workbench.errors import Conflict
from workbench.prune import KEEP_DAYS, Leftover
from workbench.records import MAX_LENGTH, Adapter, AdapterRef, Base, BaseRef, Dataset, Job

if TYPE_CHECKING:
    from workbench.bases.store import Bases
    from workbench.data.checks import Report, RowLength
    from workbench.data.store import Datasets
    from workbench.doctor import Diagnosis
    from workbench.jobs.store import Jobs
    from workbench.planning import Plan
    from workbench.rebasing import Rebase
    from workbench.recipe import Recipe, Resolved
    from workbench.registry.store import Registry

__all__ = ["Workbench"]


class Workbench:
    """Bases, datasets, jobs and adapters of one home folder (see `workbench.paths.home`).

    >>> from workbench import Workbench
    >>> bench = Workbench()
    >>> bench.bases.add("folder:pico", name="pico@1").license
    'unknown'
    >>> bench.datasets.add("orders.csv", name="orders", test_rows=20).train_rows
    40
    >>> recipe = {"base": "pico@1", "dataset": "orders", "max_steps": 30, "learning_rate": 0.02}
    >>> bench.plan(recipe).problems
    []
    >>> job = bench.train(recipe)
    >>> bench.jobs.wait(job.id).result["adapter"]
    'orders@1'
    """

    @cached_property
    def bases(self) -> Bases:
        from workbench.bases.store import Bases

        return Bases()

    @cached_property
    def datasets(self) -> Datasets:
        from workbench.data.store import Datasets

        return Datasets()

    @cached_property
    def jobs(self) -> Jobs:
        from workbench.jobs.store import Jobs

        return Jobs()

    @cached_property
    def adapters(self) -> Registry:
        from workbench.registry.store import Registry

        return Registry()

    @cached_property
    def rebase(self) -> Rebase:
        from workbench.rebasing import Rebase

        return Rebase(self.bases, self.adapters, self.jobs)

    # ---------------------------------------------------------------- training

    def resolve(self, given: Mapping[str, Any], *, preset: str | None = None, file: Path | None = None) -> Resolved:
        """Lay what is given over a recipe file over a preset over the defaults. Raises `RecipeError`."""
        from workbench.recipe import read_yaml, resolve

        return resolve(dict(given), preset=preset, file=read_yaml(file) if file else None)

    def plan(self, recipe: Recipe | Resolved | Mapping[str, Any]) -> Plan:
        """Check a recipe against its base and dataset and estimate what it costs here. Trains nothing.

        Raises `RecipeError` for a malformed recipe and `NotFound` for a base or dataset that is not here;
        what would make the run useless is listed in `Plan.problems`.
        """
        from workbench.bases.layout import Layout
        from workbench.estimate import estimate
        from workbench.planning import Plan, judge, sum_lengths
        from workbench.recipe import Resolved

        resolved = recipe if isinstance(recipe, Resolved) else Resolved.of(recipe)
        recipe = resolved.recipe
        base, dataset = self.bases.get(recipe.base), self.datasets.get(recipe.dataset)
        lengths = self._lengths(dataset, base, recipe)
        problems, warnings = judge(recipe, dataset, lengths, Layout(self.bases.lock(base.ref)))
        return Plan(
            recipe=recipe,
            origin=resolved.origin,
            base=base,
            dataset=dataset,
            publishes=self._publishes(recipe, base),
            lengths=sum_lengths(lengths),
            estimate=estimate(recipe, base, [length.total for length in lengths], test_rows=dataset.test_rows),
            problems=problems,
            warnings=warnings,
        )

    def train(self, recipe: Plan | Recipe | Resolved | Mapping[str, Any], *, publish: bool = True, key: str | None = None) -> Job:
        """Submit a training job and make sure a dispatcher is running; returns at once. A plan in hand is not made again.

        With `publish` false it is a trial: trained and scored, and its result stays in the job's folder.
        The same `key` twice gives the same job. Raises `RecipeError` with all of the plan's problems.
        """
        from workbench.jobs.training import TrainSpec

        return self.jobs.submit(TrainSpec.of(self._planned(recipe), publish=publish), key=key)

    def export_trl(self, recipe: Plan | Recipe | Resolved | Mapping[str, Any], out: Path) -> Path:
        """Write a recipe as files for plain TRL, with its rows, to the new folder `out`: `trl sft --config sft.yaml`, or
        train.py for the very losses. Raises `RecipeError` with all of the plan's problems, and for what TRL does otherwise."""
        if out.exists():
            raise Conflict(f"{out} exists already.", hint="Name a folder that does not.")
        plan = self._planned(recipe).sound()
        from workbench.hf.export_trl import export_trl

        return export_trl(plan.recipe, plan.base.path, self.datasets.rows(plan.dataset.name, split="train"), out)

    def preview(self, dataset: str, base: str | BaseRef, *, n: int = 3, split: str = "train", max_length: int = MAX_LENGTH) -> list[Any]:
        """The first `n` rows as the trainer will see them: per row a list of (text, class) spans.

        The class is "template", "prompt" or "learned"; the spans joined are the exact text the model reads.
        """
        from workbench.hf import bounded

        return bounded.spans(self.bases.get(base), self.datasets.rows(dataset, split=split)[:n], max_length=max_length)

    def check_data(self, name_or_file: str | Path, *, base: str | None = None, max_length: int = MAX_LENGTH, **reading: Any) -> Report:
        """Every problem of a dataset, or of a file that was not added yet, with its row number.

        With a base the lengths are counted in its tokens: rows that would be cut, rows that would lose their answer.
        """
        lengths_of = None
        if base:
            from workbench.hf import bounded

            lengths_of = partial(bounded.lengths, self.bases.get(base), max_length=max_length)

        path = Path(name_or_file)
        if path.exists() and not path.is_dir():  # a folder may be called like a dataset
            return self.datasets.check_file(path, lengths_of=lengths_of, **reading)
        return self.datasets.check(str(name_or_file), lengths_of=lengths_of, **reading)

    def fetch(self, base: str | BaseRef, *, source: str | None = None, key: str | None = None) -> Job:
        """Submit a job that adds a base, as `bases.add` does here and now. Raises `NotFound` for a name nobody knows, `Conflict`
        when the base is there already."""
        from workbench.jobs.fetching import FetchSpec

        return self.jobs.submit(FetchSpec.of(self.bases, base, source), key=key)

    # ---------------------------------------------------------------- adapters

    def evaluate(self, adapter: str | AdapterRef, *, dataset: str | None = None, key: str | None = None) -> Job:
        """Submit a job that scores an adapter on a dataset's test part and publishes a version with that evidence.

        Meant for imported adapters, which come without evidence. `dataset` defaults to the one it was trained on.
        """
        from workbench.jobs.scoring import EvaluateSpec

        return self.jobs.submit(EvaluateSpec.of(self.datasets, self.adapters, adapter, dataset), key=key)

    def merge(
        self, adapter: str | AdapterRef, out: Path, *, base: str | None = None, dtype: str | None = None, key: str | None = None
    ) -> Job:
        """Submit a job that writes full merged weights to the new folder `out`, in `dtype` or the base's own."""
        from workbench.jobs.merging import MergeSpec

        return self.jobs.submit(MergeSpec.of(self.bases, self.adapters, adapter, out, base, dtype), key=key)

    def import_adapter(self, path: str | Path, *, name: str, base: str | BaseRef | None = None) -> Adapter:
        """Take in a PEFT folder or zip made by any tool, as the next version of `name`; nothing in it is run.

        Raises `ImportRefused` for what breaks a rule, `UsageError` when the base cannot be told and has to be named.
        """
        from workbench.registry.imports import import_adapter

        return import_adapter(path, name=name, base=base, registry=self.adapters, bases=self.bases)

    def samples(self, adapter: str | AdapterRef, *, n: int = 5) -> list[dict[str, Any]]:
        """Stored answers to the first test questions: prompt, expected, base, adapter. [] without evidence."""
        file = self.adapters.get(adapter).path / "evidence" / "samples.jsonl"
        if not file.is_file():
            return []
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[:n]]

    # ---------------------------------------------------------------- the machine

    def info(self) -> dict[str, Any]:
        """Paths, versions and machine facts, without loading torch."""
        from importlib.metadata import version

        import psutil

        from workbench import __version__

        names = ("torch", "transformers", "trl", "peft", "bitsandbytes", "gradio", "datasets", "SQLAlchemy")
        url = paths.database_url()
        return {
            "version": __version__,
            "home": str(paths.home()),
            "database": url.split("://")[0] + "://…@" + url.rsplit("@", 1)[1] if "@" in url else url,
            "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
            "threads": paths.wanted_threads(),
            "memory_bytes": psutil.virtual_memory().total,
            "free_disk_bytes": psutil.disk_usage(str(_existing(paths.home()))).free,
            "libraries": {name: version(name) for name in names},
        }

    def prune(self, *, keep_days: float = KEEP_DAYS, apply: bool = False) -> list[Leftover]:
        """What of this home nothing needs any more, the largest first; removed for good only with `apply`.

        The trash and what would let an ended job go on are kept for `keep_days`; second copies of published results are not.
        """
        from workbench import prune

        leftovers = prune.leftovers(self.jobs.list(limit=sys.maxsize), keep_days=keep_days)
        if apply:
            prune.remove(leftovers)
        return leftovers

    def doctor(self, *, deep: bool = False) -> list[Diagnosis]:
        """Look for what would go wrong later: libraries, disk, database, damaged files. `deep` hashes every file again."""
        from workbench import doctor

        return doctor.installation() + (list(doctor.contents(self.bases, self.datasets, self.adapters)) if deep else [])

    # ---------------------------------------------------------------- inside

    def _lengths(self, dataset: Dataset, base: Base, recipe: Recipe) -> list[RowLength]:
        """Token counts of each training row as the trainer will see it; reading the tokenizer costs seconds, so they are remembered."""
        from importlib.metadata import version

        from workbench.cache import remembered
        from workbench.data.checks import RowLength

        limits = {
            "max_length": recipe.max_length,
            "assistant_only": recipe.assistant_only_loss,
            "completion_only": recipe.completion_only_loss,
        }

        def count() -> list[tuple[Any, ...]]:
            from workbench.hf import bounded

            rows = list(self.datasets.rows(dataset.name, split="train"))
            return [astuple(length) for length in bounded.lengths(base, rows, **limits)]

        by = [version("transformers"), version("tokenizers"), [field.name for field in dataclasses.fields(RowLength)]]
        known = remembered("lengths", dataset.sha256, base.lock_sha256, limits, by, make=count)
        return [RowLength(*values) for values in known]

    def _planned(self, recipe: Plan | Recipe | Resolved | Mapping[str, Any]) -> Plan:
        from workbench.planning import Plan

        return recipe if isinstance(recipe, Plan) else self.plan(recipe)

    def _publishes(self, recipe: Recipe, base: Base) -> str:
        if recipe.method != "sft":
            return f"{recipe.adapter_name} (next version)"
        return recipe.publish_as or str(self.bases.next_version(base.ref.family))


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
