"""The rebase check tried on cases whose answer is known, with a real base and a real adapter.

Each control is the base itself, the base in other coordinates (`rebase.recoordinate`), or one of another family. It says what must come
out, runs the same code as a check does, and is printed beside what came out.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.bases.lock import Lock, build_lock, read_lock
from workbench.bases.store import Bases
from workbench.data.rows import read_jsonl
from workbench.errors import JobError, UsageError
from workbench.evidence import Evidence
from workbench.jobs.checking import require_evidence
from workbench.jobs.phases import frozen_base
from workbench.jobs.tasks import Spec, TaskContext
from workbench.rebase import structure, verdict, weights
from workbench.rebase.recoordinate import Coordinates
from workbench.rebase.result import Verdict, Weights
from workbench.records import Adapter, AdapterRef, Base, BaseRef, Progress
from workbench.registry.store import Registry

if TYPE_CHECKING:
    from workbench.hf.evaluate import Evaluator

__all__ = ["ROWS", "SelfTestSpec"]

ROWS = 184  # rows without a flip that prove a loss below two points; 183 would do


@dataclass
class Outcome:
    """One line of the table."""

    control: str
    expected: str
    word: str = ""  # the verdict
    change: str = ""  # what stage 1 called it
    drift: float | None = None
    numbers: str = ""  # "A+a 1.000, B 0.000, B+a 0.995 of 184"
    stage1_seconds: float | None = None
    seconds: float = 0.0
    passed: bool = False
    note: str = ""


class SelfTestSpec(Spec):
    """Try the check on controls made from a base, with an adapter made for it."""

    kind = "rebase-selftest"

    base: str
    base_lock_sha256: str
    adapter: str
    strangers: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, bases: Bases, registry: Registry, base: str | BaseRef, adapter: str | AdapterRef, strangers: Sequence[str | BaseRef]
    ) -> SelfTestSpec:
        """Raises `NotFound`, `UsageError` for an adapter of another base, `DataError` for one that was never scored."""
        home, made = bases.get(base), registry.get(adapter)
        if made.base != home.ref:
            raise UsageError(f"{made.ref} was not made for {home.ref}.", hint="One is trained by: workbench rebase selftest")
        require_evidence([made])
        return cls(
            base=str(home.ref),
            base_lock_sha256=home.lock_sha256,
            adapter=made.ref,
            strangers=tuple(str(bases.get(ref).ref) for ref in strangers),
        )

    @property
    def title(self) -> str:
        return f"Self-test of the rebase check on {self.base}"

    def run(self, ctx: TaskContext) -> dict[str, Any]:
        """Try every control. Returns {"outcomes": […], "passed": n, "failed": n, "seconds": s}."""
        started = time.monotonic()
        base = frozen_base(self.base, self.base_lock_sha256)
        controls = _Controls(ctx, base, Registry().get(self.adapter, verify=True))
        controls.same_base()
        controls.permuted()
        for ref in self.strangers:
            controls.stranger(Bases().get(ref))
        failed = sum(not outcome.passed for outcome in controls.outcomes)
        listed = [dataclasses.asdict(outcome) for outcome in controls.outcomes]
        return {"outcomes": listed, "passed": len(listed) - failed, "failed": failed, "seconds": round(time.monotonic() - started, 1)}


class _Controls:
    """The base, the adapter, its scores at home, and the controls made of them."""

    def __init__(self, ctx: TaskContext, base: Base, adapter: Adapter) -> None:
        from workbench.hf.evaluate import Test
        from workbench.hf.load import set_threads

        set_threads()
        self.ctx, self.base, self.adapter = ctx, base, adapter
        self.lock = Bases().lock(base.ref)
        self.scorer: str | None = adapter.scores.get("scorer")
        self.test = Test(read_jsonl(adapter.path / "evidence" / "test.jsonl")[:ROWS], self.scorer, 256)
        self.outcomes: list[Outcome] = []
        self.home = self._score(self._arms(base.path), adapter.path)

    # ------------------------------------------------------------ the controls

    def same_base(self) -> None:
        """B = A, scored a second time from a fresh load: nothing may change, to the last bit."""
        with self._control("the same base again", "identical, works, every score equal") as (outcome, _):
            moved = self._stage1(outcome, self.base.path, self.lock)
            again = self._score(self._arms(self.base.path), self.adapter.path)
            judged = self._judge(outcome, again)
            equal = again.base == self.home.base and _losses(again) == _losses(self.home)
            outcome.note = "all scores equal" if equal else "scores differ"
            outcome.passed = moved.change == "identical" and judged.word == "works" and equal

    def permuted(self) -> None:
        """The same function in other coordinates: the copy is lost, the adapter moved along works."""
        where = Coordinates.draw(self.base.path, seed=1)
        with tempfile.TemporaryDirectory(dir=self.ctx.folder) as room:
            base = where.write_base(self.base.path, Path(room) / "base")
            with self._control("A in permuted coordinates, the adapter copied", "permuted, lost") as (outcome, _):
                lock = dataclasses.replace(build_lock(base, {"kind": "control"}), sha256=str(base))
                moved = self._stage1(outcome, base, lock)
                arms = self._arms(base)
                new = self._score(arms, self.adapter.path)
                gap = max(abs(a.nll - b.nll) for a, b in zip(new.base, self.home.base, strict=True))
                outcome.note = f"bare scores differ by at most {gap:.1e} nats"
                outcome.passed = self._judge(outcome, new).word == "lost" and moved.change == "permuted" and gap < 0.1
            with self._control("the same, the adapter permuted too", "works") as (outcome, folder):
                where.write_adapter(self.adapter.path, folder)
                outcome.passed = self._judge(outcome, self._score(arms, folder)).word == "works"

    def stranger(self, other: Base) -> None:
        """A real base of another family: it cannot be loaded, and all reasons are told at once."""
        with self._control(f"{other.ref}, another family", "cannot load") as (outcome, _):
            lock = read_lock(self.adapter.path / "base.lock.json")
            seen = structure.examine(self.adapter.path, lock, Bases().lock(other.ref), home_folder=self.base.path, new_folder=other.path)
            outcome.word = "cannot load" if seen.breaks else ""
            outcome.note = ", ".join(finding.name for finding in seen.breaks)
            outcome.passed = bool(seen.breaks)

    # ------------------------------------------------------------ the parts of a check

    @contextmanager
    def _control(self, name: str, expected: str) -> Iterator[tuple[Outcome, Path]]:
        """Time one control; give it a folder that is gone afterwards, and its line of the table."""
        if self.ctx.stopping():
            raise JobError("The self-test was stopped as asked.", hint="Start it again: workbench rebase selftest")
        self.ctx.report(Progress(t=time.time(), phase="testing", message=name))
        outcome, started = Outcome(name, expected), time.monotonic()
        with tempfile.TemporaryDirectory(dir=self.ctx.folder) as room:
            yield outcome, Path(room) / "made"
        outcome.seconds = round(time.monotonic() - started, 1)
        self.outcomes.append(outcome)

    def _arms(self, folder: Path) -> Evaluator:
        from workbench.hf.evaluate import Evaluator

        return Evaluator(folder, stopping=self.ctx.stopping)

    def _score(self, arms: Evaluator, adapter: Path) -> Evidence:
        return arms.score(self.test, adapter, serve=0)

    def _stage1(self, outcome: Outcome, folder: Path, lock: Lock) -> Weights:
        moved = weights.examine(self.adapter.path, self.lock, lock, home_folder=self.base.path, new_folder=folder)
        outcome.change, outcome.drift, outcome.stage1_seconds = moved.change, moved.drift, moved.seconds
        return moved

    def _judge(self, outcome: Outcome, new: Evidence) -> Verdict:
        judged = verdict.judge(self.home, new, scorer=self.scorer, same_tokenizer=True)
        outcome.word, metric = judged.word, judged.metric
        arms = {arm: scores[metric] for arm, scores in judged.arms.items()}
        outcome.numbers = f"A+a {arms['home_adapter']:.3f}, B {arms['new']:.3f}, B+a {arms['new_adapter']:.3f} ({metric}, n {judged.n})"
        return judged


def _losses(evidence: Evidence) -> list[float]:
    return [score.nll for score in evidence.adapter]
