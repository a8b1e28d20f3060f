"""The job of a rebase check: several adapters on one new base, which is loaded once.

Every adapter's check is saved as soon as it is finished, so an attempt that takes over repeats none of them.
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from workbench import paths
from workbench.bases.lock import Lock, read_lock
from workbench.bases.store import Bases
from workbench.data.store import Datasets
from workbench.errors import DataError, JobError, WorkbenchError
from workbench.evidence import Evidence, summary
from workbench.jobs.tasks import TaskContext
from workbench.jobs.training import frozen_base, frozen_dataset
from workbench.rebase import structure, verdict, weights
from workbench.rebase.ceiling import recovered
from workbench.rebase.findings import found
from workbench.rebase.result import STAGES, Check, Finding, Health, Probes, Retrained, Settings, Structure, Verdict, Weights, Witness
from workbench.rebase.store import Checks, neutral_passages
from workbench.rebase.tokenizers import same_tokenizer
from workbench.recipe import Recipe
from workbench.records import Adapter, Base, ItemScore, Progress
from workbench.registry.store import Registry
from workbench.stats import Interval

if TYPE_CHECKING:
    from workbench.hf.arms import NewBase, Test

__all__ = ["check_stages", "run"]

BROKEN_HEALTH = 0.10  # of the old base's bits per byte: a base that is worse by more, beyond doubt, is called broken
TEXTS = 64  # test rows whose tokenization is compared


@dataclass(frozen=True)
class Subject:
    """One adapter under test, with everything that was stored beside it."""

    adapter: Adapter
    lock: Lock  # of the base it was trained on, as the adapter remembers it
    home: Base | None  # that base, when it is on this disk unchanged
    recipe: Recipe | None
    evidence: Evidence | None
    rows: list[dict[str, Any]]

    @property
    def texts(self) -> list[str]:
        from workbench.data.rows import answer_of, question_of

        return [f"{question_of(row)}\n{answer_of(row)}" for row in self.rows[:TEXTS]]

    @property
    def scorer(self) -> str | None:
        return self.adapter.scores.get("scorer")

    @property
    def test(self) -> Test:
        from workbench.hf.arms import Test

        recipe = self.recipe
        quantized = recipe.bnb_4bit_quant_type if recipe and recipe.quantized else None
        return Test(self.rows, self.scorer, recipe.max_length if recipe else 1024, recipe.bf16 if recipe else None, quantized)


def run(ctx: TaskContext) -> dict[str, Any]:
    """Check the adapters of the spec on its base. Returns {"base", "checks": [{"adapter", "word"}], "failed": {adapter: message}}.

    An adapter that cannot be checked does not keep the others from it; when none can, the job fails with the first message.
    """
    base = frozen_base(ctx.spec["base"], ctx.spec["base_lock_sha256"])
    stages, settings = list(ctx.spec["stages"]), Settings(**ctx.spec.get("settings", {}))
    work = _Work(ctx, base, stages, settings)
    subjects = [_subject(ref, ctx.spec.get("rows")) for ref in ctx.spec["adapters"]]
    # adapters of one precision follow each other, so that the base is loaded once for each
    subjects.sort(key=lambda s: (bool(s.recipe and s.recipe.quantized), str(s.recipe.bf16) if s.recipe else ""))
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
    ctx.report(Progress(t=time.time(), phase="done"))
    ordered = [{"adapter": ref, "word": words[ref]} for ref in ctx.spec["adapters"] if ref in words]
    return {"base": str(base.ref), "checks": ordered, "failed": failed}


def _subject(ref: str, limit: int | None) -> Subject:
    """Read an adapter and what lies beside it. Every file was verified against its manifest. `limit` keeps so many of its test
    rows, evenly spread."""
    adapter = Registry().get(ref, verify=True)
    lock = read_lock(adapter.path / "base.lock.json")
    recipe_file, test = adapter.path / "recipe.yaml", adapter.path / "evidence" / "test.jsonl"
    recipe = Recipe.from_yaml(recipe_file) if recipe_file.is_file() else None
    evidence = Registry().evidence(adapter.ref) if test.is_file() else None
    rows = [json.loads(line) for line in test.read_text(encoding="utf-8").split("\n") if line] if evidence else []
    if limit is not None and limit < len(rows):
        rows = [rows[i * len(rows) // limit] for i in range(limit)]
    bases, home = Bases(), None
    if bases.has(adapter.base):
        there = bases.get(adapter.base)
        home = there if there.lock_sha256 == adapter.base_lock_sha256 else None
    return Subject(adapter, lock, home, recipe, evidence, rows)


class _Work:
    """One new base, and what all checks on it share."""

    def __init__(self, ctx: TaskContext, base: Base, stages: list[str], settings: Settings) -> None:
        self.ctx, self.base, self.stages, self.settings = ctx, base, stages, settings
        self.lock = Bases().lock(base.ref)
        self._arms: NewBase | None = None
        self._health: dict[str, list[tuple[float, int]]] = {}

    def check(self, subject: Subject) -> Check:
        """All stages asked for on one adapter, saved. What this job already saved is read back."""
        done = Checks().find(subject.adapter.ref, self.base.ref)
        if done is not None and done.job_id == self.ctx.job_id:
            return done
        seconds: dict[str, float] = {}
        shape = self._timed(seconds, "structure", subject, lambda: self._structure(subject))
        moved = self._timed(seconds, "weights", subject, lambda: self._weights(subject)) if "weights" in self.stages else None
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
        if "probes" in self.stages and subject.home and subject.rows and not breaks:
            check = dataclasses.replace(check, probes=self._timed(seconds, "probes", subject, lambda: self._probe(subject)))
        if "behaviour" in self.stages:
            check, scores = self._timed(seconds, "behaviour", subject, lambda: self._behaviour(subject, check, breaks))
        return self._save(check, scores)

    def _timed(self, seconds: dict[str, float], stage: str, subject: Subject, work: Any) -> Any:
        self.ctx.report(Progress(t=time.time(), phase=stage, message=f"{subject.adapter.ref} on {self.base.ref}: {stage}"))
        if self.ctx.stopping():
            raise JobError("The check was stopped as asked.", hint="Go on: workbench jobs resume")
        started = time.monotonic()
        found = work()
        seconds[stage] = round(time.monotonic() - started, 2)
        return found

    def _save(self, check: Check, scores: Evidence | None) -> Check:
        from workbench.db import fencing
        from workbench.db.session import transaction

        with transaction() as connection:  # an attempt that was taken over must not overwrite the newer one's check
            fencing.check(connection, self.ctx.token)
            Checks().save(check, scores)
        return check

    # ------------------------------------------------------------ stages 0 to 2

    def _structure(self, subject: Subject) -> Structure:
        home_folder = subject.home.path if subject.home else None
        return structure.examine(
            subject.adapter.path, subject.lock, self.lock, home_folder=home_folder, new_folder=self.base.path, texts=subject.texts
        )

    def _weights(self, subject: Subject) -> Weights:
        return weights.measure(
            subject.adapter.path,
            subject.lock,
            self.lock,
            home_folder=subject.home.path if subject.home else None,
            new_folder=self.base.path,
        )

    def _probe(self, subject: Subject) -> Probes:
        from workbench.hf.probes import probe

        assert subject.home is not None
        self._release()  # two bases follow each other here: neither needs a third one in memory
        test = subject.test
        return probe(subject.home.path, self.base.path, subject.adapter.path, subject.rows, max_length=test.max_length, dtype=test.dtype)

    # ------------------------------------------------------------ stage 3

    def _behaviour(self, subject: Subject, check: Check, breaks: tuple[Finding, ...]) -> tuple[Check, Evidence | None]:
        if breaks:
            return dataclasses.replace(check, verdict=verdict.cannot_load(breaks, subject.evidence, settings=self.settings)), None
        if subject.evidence is None:
            raise DataError(f"{subject.adapter.ref} was never scored, so nobody knows what it gives at home.", hint=_SCORE_FIRST)
        home, test = subject.evidence, subject.test

        def ask(scores: list[ItemScore]) -> list[int]:
            place = {score.id: i for i, score in enumerate(scores)}
            kept = _only(home, set(place))
            shown = verdict.witnesses(kept, Evidence([], scores, kept.groups), subject.rows)
            return [place[witness.id] for witness in shown]

        new = self._loaded().score(test, subject.adapter.path, ask=ask)
        home = _only(home, {score.id for score in new.base})
        judged = self._judge(subject, home, new)
        shown: list[Witness] = verdict.witnesses(home, new, subject.rows)
        check = dataclasses.replace(
            check,
            verdict=judged,
            witnesses=tuple(shown),
            health=self._check_health(subject),
            how={**check.how, **new.report},
            warnings=tuple(_warnings(subject, new)),
        )
        if self.ctx.spec.get("retrain"):
            check = dataclasses.replace(check, retrained=self._retrain(subject, new, judged))
        return check, new

    def _judge(self, subject: Subject, home: Evidence, new: Evidence) -> Verdict:
        same = same_tokenizer(subject.lock, self.lock)
        return verdict.judge(home, new, scorer=subject.scorer, same_tokenizer=same, settings=self.settings)

    def _loaded(self) -> NewBase:
        from workbench.hf.arms import NewBase
        from workbench.hf.load import set_threads

        if self._arms is None:
            set_threads()
            arms = 2 * len(self.ctx.spec["adapters"])  # fewer where test sets coincide
            self._arms = NewBase(self.base.path, self.base.lock_sha256, arms=arms, report=self.ctx.report, stopping=self.ctx.stopping)
        return self._arms

    def _release(self) -> None:
        if self._arms is not None:
            self._arms.release()

    def _check_health(self, subject: Subject) -> Health:
        """Neutral text under both bare bases; the old one may be gone."""
        new = self._passages(self.base)
        old = self._passages(subject.home) if subject.home else None
        if old is None:
            return Health(len(new), None, _bits(new), None, False)
        change = _change(old, new)
        broken = change.high is not None and change.high < -BROKEN_HEALTH * _bits(old)
        return Health(len(new), _bits(old), _bits(new), change, broken)

    def _passages(self, base: Base) -> list[tuple[float, int]]:
        """(nats, bytes) of each neutral passage under a base; asked once per base, kept in the home's cache."""
        passages = neutral_passages()
        file = paths.home() / "cache" / "health" / f"{base.lock_sha256[:32]}-{_digest(passages)}.json"
        if base.lock_sha256 in self._health:
            return self._health[base.lock_sha256]
        if not file.is_file():
            arms = self._loaded()
            if base.ref != self.base.ref:
                from workbench.hf.arms import NewBase

                self._release()  # never two bases in memory
                arms = NewBase(base.path, base.lock_sha256)
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(f".{self.ctx.job_id}.tmp")
            partial.write_text(json.dumps(arms.passages(passages)), encoding="utf-8")
            partial.replace(file)
        self._health[base.lock_sha256] = [(nats, size) for nats, size in json.loads(file.read_text(encoding="utf-8"))]
        return self._health[base.lock_sha256]

    # ------------------------------------------------------------ stage 4

    def _retrain(self, subject: Subject, copied: Evidence, judged: Verdict) -> Retrained:
        """Train on the new base by the stored recipe and score that too."""
        from workbench.hf.train import train

        adapter, recipe = subject.adapter, subject.recipe
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
        return recovered(copied, fresh, judged.metric, seconds=time.monotonic() - started, settings=self.settings)


_SCORE_FIRST = """Score it first: workbench adapter evaluate … --dataset NAME.
What can be said without: workbench rebase check … --stages structure,weights"""


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


def _bits(passages: list[tuple[float, int]]) -> float:
    import math

    return sum(nats for nats, _ in passages) / math.log(2) / sum(size for _, size in passages)


def _change(old: list[tuple[float, int]], new: list[tuple[float, int]]) -> Interval:
    """Old - new in bits per byte, paired by passage."""
    sides = [[ItemScore(str(i), nats, 1, size, False) for i, (nats, size) in enumerate(side)] for side in (old, new)]
    return summary(sides[0], sides[1]).gain["bits_per_byte"]


def _digest(passages: list[str]) -> str:
    import hashlib

    return hashlib.sha256("\0".join(passages).encode()).hexdigest()[:8]


def check_stages(stages: list[str]) -> list[str]:
    """The stages in their order. Raises `WorkbenchError` for a word that is none."""
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown or not stages:
        raise WorkbenchError(f"'{', '.join(unknown)}' is no stage.", hint=f"There are: {', '.join(STAGES)}.")
    return [stage for stage in STAGES if stage in {*stages, "structure"}]
