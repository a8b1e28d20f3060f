"""The one front door: the command line, the browser pages and Python scripts all call `Workbench`.

    from workbench import Workbench

    bench = Workbench()
    bench.bases.add("smollm2-135m-instruct@1")
    job = bench.train({"base": "smollm2-135m-instruct@1", "dataset": "order-codes"})
    print(bench.jobs.wait(job.id).result)

Nothing here trains, scores or loads weights in the caller's process: that is a job's work.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import paths
from workbench.errors import Conflict, RecipeError, WorkbenchError
from workbench.records import Adapter, AdapterRef, Base, BaseRef, Dataset, Job, as_json

if TYPE_CHECKING:
    from workbench.bases.store import Bases
    from workbench.data.checks import Report, RowLength
    from workbench.data.store import Datasets
    from workbench.doctor import Check
    from workbench.estimate import Estimate
    from workbench.jobs.store import Jobs
    from workbench.prune import Leftover
    from workbench.rebasing import Rebase
    from workbench.recipe import Recipe, Resolved
    from workbench.registry.store import Registry

__all__ = ["Plan", "Workbench"]


@dataclass(frozen=True)
class Plan:
    """What `train` would do with a recipe, found out without training."""

    recipe: Recipe
    origin: dict[str, str]  # key -> "default", "preset quick", "file" or "given"
    base: Base
    dataset: Dataset
    publishes: str  # "refunds (next version)" or "smollm2-135m-instruct@2"
    lengths: dict[str, int]  # rows, tokens, supervised, longest, cut, answer_lost, unlearnable; of the train part
    estimate: Estimate
    problems: list[str] = field(default_factory=list)  # each one blocks the start
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values: the keys of `workbench train --dry-run --json`."""
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "origin": self.origin,
            "base": str(self.base.ref),
            "dataset": self.dataset.name,
            "publishes": self.publishes,
            "lengths": self.lengths,
            "estimate": as_json(self.estimate),
            "problems": self.problems,
            "warnings": self.warnings,
        }


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

        return Rebase(self)

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
        from workbench import planning
        from workbench.bases.layout import Layout
        from workbench.estimate import estimate, held_back
        from workbench.recipe import Recipe, Resolved

        if isinstance(recipe, Resolved):
            origin, recipe = recipe.origin, recipe.recipe
        else:
            recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(dict(recipe))
            origin = {key: "given" if key in recipe.model_fields_set else "default" for key in Recipe.model_fields}
        base, dataset = self.bases.get(recipe.base), self.datasets.get(recipe.dataset)
        lengths = self.lengths(dataset, base, recipe, split="train")
        problems, warnings = planning.judge_lengths(lengths, recipe)
        problems += planning.without_effect(recipe, dataset.form) + planning.missing_loggers(recipe)
        layout = Layout(self.bases.lock(base.ref))
        problems += planning.too_long(lengths, recipe, layout.lock) + planning.unknown_targets(recipe, layout)
        if recipe.early_stopping_patience and not held_back(recipe, len(lengths)):
            warnings.append("There are too few rows to hold any back, so early_stopping_patience has nothing to watch.")
        if recipe.resume_from_checkpoint:
            problems += planning.check_start(recipe)
            warnings.append("Only weights are taken from resume_from_checkpoint: steps, schedule and optimiser begin anew.")
        return Plan(
            recipe=recipe,
            origin=origin,
            base=base,
            dataset=dataset,
            publishes=self._publishes(recipe, base),
            lengths=planning.sum_lengths(lengths),
            estimate=estimate(recipe, base, [length.total for length in lengths], test_rows=dataset.test_rows),
            problems=problems,
            warnings=warnings,
        )

    def train(self, recipe: Recipe | Resolved | Mapping[str, Any], *, publish: bool = True, key: str | None = None) -> Job:
        """Submit a training job and make sure a dispatcher is running; returns at once.

        With `publish` false it is a trial: trained and scored, and its result stays in the job's folder.
        The same `key` twice gives the same job. Raises `RecipeError` with all of the plan's problems.
        """
        from workbench import planning

        plan = self._sound(recipe)
        if plan.recipe.publish_as and not publish:
            raise RecipeError("publish_as: a trial publishes nothing.", hint="Leave one of the two out.")
        spec = {
            "recipe": plan.recipe.model_dump(mode="json"),
            "base_lock_sha256": plan.base.lock_sha256,
            "dataset_sha256": plan.dataset.sha256,
            "total_steps": plan.estimate.steps,
            "publish": publish,
        }
        if plan.recipe.resume_from_checkpoint:
            file = planning.start_file(plan.recipe)
            spec["start"] = {"file": str(file), "sha256": planning.sha256_of(file)}
        title = f"{'Trial of ' * (not publish)}{plan.recipe.adapter_name}: {plan.recipe.method} on {plan.base.ref}"
        return self._submit("train", spec, title=title, key=key)

    def export_trl(self, recipe: Recipe | Resolved | Mapping[str, Any], out: Path) -> Path:
        """Write a recipe as files for plain TRL, with its rows, to the new folder `out`: `trl sft --config sft.yaml`, or
        train.py for the very losses. Raises `RecipeError` with all of the plan's problems, and for what TRL does otherwise."""
        if out.exists():
            raise Conflict(f"{out} exists already.", hint="Name a folder that does not.")
        plan = self._sound(recipe)
        from workbench.hf.export_trl import export_trl

        return export_trl(plan.recipe, plan.base.path, self.datasets.rows(plan.dataset.name, split="train"), out)

    def lengths(self, dataset: Dataset, base: Base, recipe: Recipe, *, split: str | None = None) -> list[RowLength]:
        """Token counts of each row as the trainer will see it; kept beside the home's other caches.

        Reading the tokenizer costs seconds, so the counts are stored under the hashes of everything that decides them.
        """
        from workbench.data.checks import RowLength

        choices = (recipe.max_length, recipe.assistant_only_loss, recipe.completion_only_loss)
        parts = ("2", dataset.sha256[:16], base.lock_sha256[:16], split or "all", *(str(int(c)) for c in choices))
        cache = paths.home() / "cache" / "lengths" / ("-".join(parts) + ".json")
        if cache.is_file():
            return [RowLength(*values) for values in json.loads(cache.read_text(encoding="utf-8"))]
        from workbench.hf import bounded

        found = bounded.lengths(
            base,
            list(self.datasets.rows(dataset.name, split=split)),
            max_length=recipe.max_length,
            assistant_only=recipe.assistant_only_loss,
            completion_only=recipe.completion_only_loss,
        )
        cache.parent.mkdir(parents=True, exist_ok=True)
        partial = cache.with_suffix(f".{id(found)}.tmp")
        partial.write_text(json.dumps([astuple(r) for r in found]), encoding="utf-8")
        partial.replace(cache)
        return found

    def preview(self, dataset: str, base: str | BaseRef, *, n: int = 3, split: str = "train", max_length: int = 1024) -> list[Any]:
        """The first `n` rows as the trainer will see them: per row a list of (text, class) spans.

        The class is "template", "prompt" or "learned"; the spans joined are the exact text the model reads.
        """
        from workbench.hf import bounded

        return bounded.spans(self.bases.get(base), self.datasets.rows(dataset, split=split)[:n], max_length=max_length)

    def check_data(self, name_or_file: str | Path, *, base: str | None = None, max_length: int = 1024, **reading: Any) -> Report:
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
        ref = BaseRef.parse(base)
        if self.bases.has(ref):
            raise Conflict(f"The base {ref} is here already.")
        if source is None:
            self.bases.catalogue().get(ref)
        return self._submit("fetch", {"base": str(ref), "source": source}, title=f"Fetch {ref}", key=key)

    # ---------------------------------------------------------------- adapters

    def evaluate(self, adapter: str | AdapterRef, *, dataset: str | None = None, key: str | None = None) -> Job:
        """Submit a job that scores an adapter on a dataset's test part and publishes a version with that evidence.

        Meant for imported adapters, which come without evidence. `dataset` defaults to the one it was trained on.
        """
        found = self.adapters.get(adapter)
        name = dataset or found.dataset
        if not name:
            raise WorkbenchError(
                f"{found.ref} does not say what it was trained on.", hint="Name a dataset: workbench adapter evaluate … --dataset NAME"
            )
        spec = {"adapter": found.ref, "dataset": name, "dataset_sha256": self.datasets.get(name).sha256}
        return self._submit("evaluate", spec, title=f"{found.ref}: score on {name}", key=key)

    def merge(self, adapter: str | AdapterRef, out: Path, *, base: str | None = None, key: str | None = None) -> Job:
        """Submit a job that writes full merged weights, in the base's dtype, to the new folder `out`."""
        found = self.adapters.get(adapter)
        target = self.bases.get(base or found.base)
        if out.exists():
            raise WorkbenchError(f"{out} exists already.", hint="Name a folder that does not.")
        spec = {"adapter": found.ref, "base": str(target.ref), "base_lock_sha256": target.lock_sha256, "out": str(out.resolve())}
        return self._submit("merge", spec, title=f"{found.ref}: merge into {target.ref}", key=key)

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

    def prune(self, *, keep_days: float = 30, apply: bool = False) -> list[Leftover]:
        """What of this home nothing needs any more, the largest first; removed for good only with `apply`.

        The trash and what would let an ended job go on are kept for `keep_days`; second copies of published results are not.
        """
        from workbench import prune

        found = prune.leftovers(self.jobs.list(limit=sys.maxsize), keep_days=keep_days)
        if apply:
            prune.remove(found)
        return found

    def doctor(self, *, deep: bool = False) -> list[Check]:
        """Look for what would go wrong later: libraries, disk, database, damaged files. `deep` hashes every file again."""
        from workbench.doctor import examine

        return examine(self, deep=deep)

    # ---------------------------------------------------------------- inside

    def _sound(self, recipe: Recipe | Resolved | Mapping[str, Any]) -> Plan:
        """The plan of a recipe; raises `RecipeError` when it has problems."""
        plan = self.plan(recipe)
        if plan.problems:
            raise RecipeError("This run would be wasted:", plan.problems, hint="Look at the rows: workbench data preview")
        return plan

    def _submit(self, kind: str, spec: dict[str, Any], *, title: str, key: str | None) -> Job:
        return self.jobs.submit(kind, spec, title=title, key=key)  # which also sees to it that a dispatcher runs

    def _publishes(self, recipe: Recipe, base: Base) -> str:
        if recipe.method != "sft":
            return f"{recipe.adapter_name} (next version)"
        return recipe.publish_as or str(self.bases.next_version(base.ref.family))


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
