"""Check adapters on one new base, which is loaded once.

Every adapter's check is saved as soon as it is finished, so an attempt that takes over repeats none of them.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from workbench.bases.lock import Lock, read_lock
from workbench.bases.store import Bases
from workbench.cache import remembered
from workbench.data.rows import read_jsonl
from workbench.data.store import Datasets
from workbench.errors import DataError, JobError, UsageError, WorkbenchError
from workbench.evidence import Evidence
from workbench.jobs.phases import frozen_base, frozen_dataset
from workbench.jobs.tasks import Spec, TaskContext
from workbench.rebase import health, structure, verdict, weights
from workbench.rebase.contrasts import recovered
from workbench.rebase.findings import found
from workbench.rebase.result import STAGES, Check, Finding, Health, Probes, Retrained, Settings, Structure, Verdict, Weights
from workbench.rebase.store import Checks
from workbench.rebase.tokenizers import same_tokenizer
from workbench.recipe import Recipe
from workbench.records import Adapter, AdapterRef, Base, BaseRef, ItemScore, Progress
from workbench.registry.store import Registry

if TYPE_CHECKING:
    from workbench.hf.evaluate import Evaluator, Test

__all__ = ["RebaseSpec", "require_evidence"]

T = TypeVar("T")
TEXTS = 64  # test rows whose tokenization is compared


class RebaseSpec(Spec):
    """Check adapters on a base."""

    kind = "rebase"

    adapters: tuple[str, ...]
    base: str
    base_lock_sha256: str
    stages: tuple[str, ...]
    retrain: bool = False
    rows: int | None = None
    settings: Settings = Settings()

    @classmethod
    def of(
        cls,
        bases: Bases,
        registry: Registry,
        adapters: Sequence[str | AdapterRef],
        onto: str | BaseRef,
        *,
        stages: Sequence[str],
        retrain: bool,
        rows: int | None,
        settings: Mapping[str, Any],
    ) -> RebaseSpec:
        """Raises `NotFound`, `UsageError`, and `DataError` for an adapter that was never scored."""
        base = bases.get(onto)
        wanted = _ordered(stages)
        chosen = {adapter.ref: adapter for adapter in map(registry.get, adapters)}
        if not chosen:
            raise UsageError("No adapter was named.", hint="Name one or more: workbench rebase check ADAPTER --onto BASE")
        if "behaviour" in wanted:
            require_evidence(list(chosen.values()))
        known = {field.name for field in dataclasses.fields(Settings)}
        if unknown := sorted(set(settings) - known):
            raise UsageError(f"'{unknown[0]}' is no setting of a check.", hint=f"There are: {', '.join(sorted(known))}.")
        if rows is not None and rows < 1:
            raise UsageError(f"{rows} test rows cannot be scored.", hint="Give a positive number, or leave it out for all of them.")
        return cls(
            adapters=tuple(chosen),
            base=str(base.ref),
            base_lock_sha256=base.lock_sha256,
            stages=wanted,
            retrain=retrain,
            rows=rows,
            settings=Settings(**settings),
        )

    @property
    def title(self) -> str:
        return f"{self.adapters[0] if len(self.adapters) == 1 else f'{len(self.adapters)} adapters'}: check on {self.base}"

    def run(self, ctx: TaskContext) -> dict[str, Any]:
        """Returns {"base", "checks": [{"adapter", "word"}], "failed": {adapter: message}}.

        An adapter that cannot be checked does not keep the others from it; when none can, the job fails with the first message.
        """
        work = _Work(ctx, self, frozen_base(self.base, self.base_lock_sha256))
        # adapters of one precision follow each other, so that the base is loaded once for each
        subjects = [_subject(ref, self.rows) for ref in self.adapters]
        subjects.sort(key=lambda subject: (subject.recipe.quantization or "", str(subject.recipe.bf16)))
        words, failed = {}, {}
        for subject in subjects:
            try:
                words[subject.adapter.ref] = work.check(subject).word
            except JobError:  # told to stop, or no longer ours
                raise
            except WorkbenchError as error:
                failed[subject.adapter.ref] = str(error)
        if not words:
            raise JobError(next(iter(failed.values()), "There was nothing to check."), hint="Nothing was saved.")
        ordered = [{"adapter": ref, "word": words[ref]} for ref in self.adapters if ref in words]
        return {"base": self.base, "checks": ordered, "failed": failed}


def _ordered(stages: Sequence[str]) -> tuple[str, ...]:
    """The stages in their order; the first is always among them. Raises `UsageError` for a word that is none."""
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown or not stages:
        raise UsageError(f"'{', '.join(unknown)}' is no stage.", hint=f"There are: {', '.join(STAGES)}.")
    return tuple(stage for stage in STAGES if stage in {*stages, "structure"})


def require_evidence(adapters: Sequence[Adapter]) -> None:
    """Raises `DataError` naming every adapter without scores."""
    if bare := [adapter.ref for adapter in adapters if not adapter.scores]:
        raise _never_scored(bare)


def _never_scored(refs: list[str]) -> DataError:
    return DataError(
        "These adapters were never scored, so nobody knows what they give at home:",
        refs,
        hint=f"Score them on a test set: workbench adapter evaluate {refs[0]} --dataset NAME. "
        f"What can be said without one: workbench rebase check {refs[0]} --onto … --stages structure,weights",
    )


@dataclass(frozen=True)
class Subject:
    """One adapter under test, with everything that was stored beside it."""

    adapter: Adapter
    lock: Lock  # of the base it was trained on, as the adapter remembers it
    home: Base | None  # that base, when it is on this disk unchanged
    trained_by: Recipe | None
    evidence: Evidence | None
    rows: list[dict[str, Any]]

    @property
    def recipe(self) -> Recipe:
        """What it was trained by, else the defaults."""
        return self.trained_by or Recipe(base=str(self.adapter.base), dataset=self.adapter.dataset or "unknown")

    @property
    def folder(self) -> Path | None:
        """Of its home base."""
        return self.home.path if self.home else None

    @property
    def texts(self) -> list[str]:
        from workbench.data.rows import answer_of, question_of

        return [f"{question_of(row)}\n{answer_of(row)}" for row in self.rows[:TEXTS]]

    @property
    def scorer(self) -> str | None:
        return self.adapter.scores.get("scorer")

    @property
    def test(self) -> Test:
        from workbench.hf.evaluate import Test
        from workbench.hf.load import compute_dtype

        return Test(self.rows, self.scorer, self.recipe.max_length, compute_dtype(self.recipe.bf16), self.recipe.quantization)


def _subject(ref: str, limit: int | None) -> Subject:
    """Read an adapter and what lies beside it. Every file was verified against its manifest. `limit` keeps so many of its test
    rows, evenly spread."""
    adapter = Registry().get(ref, verify=True)
    test = adapter.path / "evidence" / "test.jsonl"
    evidence = Registry().evidence(adapter.ref) if test.is_file() else None
    rows = read_jsonl(test) if evidence else []
    if limit is not None and limit < len(rows):
        rows = [rows[i * len(rows) // limit] for i in range(limit)]
    bases, home = Bases(), None
    if bases.has(adapter.base):
        there = bases.get(adapter.base)
        home = there if there.lock_sha256 == adapter.base_lock_sha256 else None
    return Subject(adapter, read_lock(adapter.path / "base.lock.json"), home, Recipe.beside(adapter.path), evidence, rows)


class _Work:
    """One new base, and what all checks on it share."""

    def __init__(self, ctx: TaskContext, spec: RebaseSpec, base: Base) -> None:
        self.ctx, self.spec, self.base = ctx, spec, base
        self.lock = Bases().lock(base.ref)
        self._arms: Evaluator | None = None

    def check(self, subject: Subject) -> Check:
        """All stages asked for on one adapter, saved. What this job already saved is read back."""
        done = Checks().find(subject.adapter.ref, self.base.ref)
        if done is not None and done.job_id == self.ctx.job_id:
            return done
        seconds: dict[str, float] = {}
        shape = self._timed(seconds, "structure", subject, lambda: self._structure(subject))
        moved = self._timed(seconds, "weights", subject, lambda: self._weights(subject)) if "weights" in self.spec.stages else None
        check = Check(
            adapter=subject.adapter.ref,
            adapter_sha256=subject.adapter.manifest_sha256,
            home=str(subject.adapter.base),
            home_lock_sha256=subject.adapter.base_lock_sha256,
            base=str(self.base.ref),
            base_lock_sha256=self.base.lock_sha256,
            dataset=subject.adapter.dataset,
            structure=shape,
            weights=moved,
            how={"seconds": seconds},
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            job_id=self.ctx.job_id,
        )
        breaks, scores = shape.breaks, None
        if "probes" in self.spec.stages and subject.home and subject.rows and not breaks:
            check = dataclasses.replace(check, probes=self._timed(seconds, "probes", subject, lambda: self._probe(subject)))
        if "behaviour" in self.spec.stages:
            check, scores = self._timed(seconds, "behaviour", subject, lambda: self._behaviour(subject, check, breaks))
        return self._save(check, scores)

    def _timed(self, seconds: dict[str, float], stage: str, subject: Subject, work: Callable[[], T]) -> T:
        self.ctx.report(Progress(t=time.time(), phase=stage, message=f"{subject.adapter.ref} on {self.base.ref}: {stage}"))
        if self.ctx.stopping():
            raise JobError("The check was stopped as asked.", hint="Go on: workbench jobs resume")
        started = time.monotonic()
        done = work()
        seconds[stage] = round(time.monotonic() - started, 2)
        return done

    def _save(self, check: Check, scores: Evidence | None) -> Check:
        from workbench.db import fencing
        from workbench.db.session import transaction

        with transaction() as connection:  # an attempt that was taken over must not overwrite the newer one's check
            fencing.check(connection, self.ctx.token)
            Checks().save(check, scores)
        return check

    # ------------------------------------------------------------ stages 0 to 2

    def _structure(self, subject: Subject) -> Structure:
        return structure.examine(
            subject.adapter.path, subject.lock, self.lock, home_folder=subject.folder, new_folder=self.base.path, texts=subject.texts
        )

    def _weights(self, subject: Subject) -> Weights:
        return weights.examine(subject.adapter.path, subject.lock, self.lock, home_folder=subject.folder, new_folder=self.base.path)

    def _probe(self, subject: Subject) -> Probes:
        from workbench.hf.probes import probe

        assert subject.home is not None
        self._release()  # two bases follow each other here: neither needs a third one in memory
        test = subject.test
        return probe(subject.home.path, self.base.path, subject.adapter.path, subject.rows, max_length=test.max_length, dtype=test.dtype)

    # ------------------------------------------------------------ stage 3

    def _behaviour(self, subject: Subject, check: Check, breaks: tuple[Finding, ...]) -> tuple[Check, Evidence | None]:
        if breaks:
            return dataclasses.replace(check, verdict=verdict.cannot_load(breaks, subject.evidence, settings=self.spec.settings)), None
        if subject.evidence is None:
            raise _never_scored([subject.adapter.ref])
        home, test = subject.evidence, subject.test

        def ask(scores: list[ItemScore]) -> list[int]:
            place = {score.id: i for i, score in enumerate(scores)}
            kept = _only(home, set(place))
            shown = verdict.witnesses(kept, Evidence([], scores, kept.groups), subject.rows)
            return [place[witness.id] for witness in shown]

        new = self._loaded().score(test, subject.adapter.path, ask=ask)
        home = _only(home, {score.id for score in new.base})
        judged = self._judge(subject, home, new)
        check = dataclasses.replace(
            check,
            verdict=judged,
            witnesses=tuple(verdict.witnesses(home, new, subject.rows)),
            health=self._health(subject),
            how={**check.how, **new.report},
            warnings=tuple(_warnings(subject, new)),
        )
        if self.spec.retrain:
            check = dataclasses.replace(check, retrained=self._retrain(subject, new, judged))
        return check, new

    def _judge(self, subject: Subject, home: Evidence, new: Evidence) -> Verdict:
        same = same_tokenizer(subject.lock, self.lock)
        return verdict.judge(home, new, scorer=subject.scorer, same_tokenizer=same, settings=self.spec.settings)

    def _loaded(self) -> Evaluator:
        from workbench.hf.evaluate import Evaluator
        from workbench.hf.load import set_threads

        if self._arms is None:
            set_threads()
            arms = 2 * len(self.spec.adapters)  # fewer where test sets coincide
            self._arms = Evaluator(
                self.base.path, lock_sha256=self.base.lock_sha256, arms=arms, report=self.ctx.report, stopping=self.ctx.stopping
            )
        return self._arms

    def _release(self) -> None:
        if self._arms is not None:
            self._arms.release()

    def _health(self, subject: Subject) -> Health:
        new = self._passages(self.base)
        return health.compare(self._passages(subject.home) if subject.home else None, new)

    def _passages(self, base: Base) -> list[health.Passage]:
        """Each neutral passage under a base; asked once per base."""
        texts = health.neutral_passages()

        def ask() -> list[health.Passage]:
            if base.ref == self.base.ref:
                return self._loaded().passages(texts)
            from workbench.hf.evaluate import Evaluator

            self._release()  # never two bases in memory
            return Evaluator(base.path).passages(texts)

        libraries = [version("torch"), version("transformers")]
        return [(nats, size) for nats, size in remembered("health", base.lock_sha256, texts, libraries, make=ask)]

    # ------------------------------------------------------------ stage 4

    def _retrain(self, subject: Subject, copied: Evidence, judged: Verdict) -> Retrained:
        """Train on the new base by the stored recipe and score that too."""
        from workbench.hf.train import train

        adapter, recipe = subject.adapter, subject.trained_by
        if recipe is None or not adapter.dataset or not adapter.dataset_sha256:
            raise DataError(f"{adapter.ref} has no recipe to train by.", hint="Check it without --retrain.")
        frozen_dataset(adapter.dataset, adapter.dataset_sha256)
        started, name = time.monotonic(), f"retrain-{adapter.name}-{adapter.version}"
        self._release()
        trained = train(
            recipe.model_copy(update={"base": str(self.base.ref)}),
            self.base.path,
            Datasets().rows(adapter.dataset, split="train"),
            self.ctx.folder / name,
            earlier=[folder / name for folder in self.ctx.earlier],
            report=self.ctx.report,
            stopping=self.ctx.stopping,
        )
        fresh = self._loaded().score(subject.test, trained.folder)
        return recovered(copied, fresh, judged.metric, seconds=time.monotonic() - started, settings=self.spec.settings)


def _only(evidence: Evidence, ids: set[str]) -> Evidence:
    """The rows that could be scored on the new base too: another tokenizer may push an answer beyond max_length."""
    keep = [i for i, score in enumerate(evidence.base) if score.id in ids]
    groups = [evidence.groups[i] for i in keep] if evidence.groups else None
    return dataclasses.replace(evidence, base=[evidence.base[i] for i in keep], adapter=[evidence.adapter[i] for i in keep], groups=groups)


def _warnings(subject: Subject, new: Evidence) -> list[Finding]:
    """What a reader must know before trusting the numbers."""
    warnings = []
    how_file = subject.adapter.path / "evidence" / "how.json"
    how = json.loads(how_file.read_text(encoding="utf-8")) if how_file.is_file() else {}
    if how.get("dtype") not in (None, new.report["dtype"]):
        warnings.append(found("dtype_of_home", was=how["dtype"], now=new.report["dtype"]))
    if skipped := new.report["skipped"]:
        warnings.append(found("rows_left_out", rows=len(skipped)))
    agreed = new.report["adapter"]["agreement"]
    if agreed["agree"] < agreed["rows"]:
        warnings.append(found("generation_disagrees", agree=agreed["agree"], rows=agreed["rows"]))
    served = new.report["adapter"].get("served", {"rows": 0, "same": 0})
    if served["same"] < served["rows"]:
        warnings.append(found("served_otherwise", lost=served["rows"] - served["same"], rows=served["rows"]))
    if subject.home is None:
        warnings.append(found("home_is_gone", home=str(subject.adapter.base)))
    return warnings
