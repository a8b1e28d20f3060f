"""The rebase check tried on cases whose answer is known, with a real base and a real adapter.

Each control is a base or an adapter made from them (`rebase.controls`, `rebase.recoordinate`) or found (a second seed, another
family). It says what must come out, runs the same code as a check does, and is printed beside what came out.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.bases.lock import Lock, build_lock, read_lock
from workbench.bases.store import Bases
from workbench.errors import JobError, UsageError
from workbench.evidence import Evidence
from workbench.jobs.checking import require_evidence
from workbench.jobs.phases import frozen_base
from workbench.jobs.tasks import Spec, TaskContext
from workbench.rebase import controls, structure, verdict, weights
from workbench.rebase.recoordinate import Coordinates
from workbench.rebase.result import Settings, Verdict, Weights
from workbench.records import Adapter, AdapterRef, Base, BaseRef, Progress
from workbench.registry.store import Registry

if TYPE_CHECKING:
    from workbench.hf.arms import NewBase, Test

__all__ = ["ROWS", "SelfTestSpec"]

ROWS = 184  # rows without a flip that prove a loss below two points; 183 would do
FEW = 48  # where a break shows with fewer
_FINE = ("works", "too close to tell")  # too few rows to prove it works, and nothing speaks against it
_GONE = ("lost", "does harm")


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
    """Try the check on controls made from a base and from the first of two adapters."""

    kind = "rebase-selftest"

    base: str
    base_lock_sha256: str
    adapters: tuple[str, str]
    strangers: tuple[str, ...] = ()
    rows: int = ROWS
    few: int = FEW

    @classmethod
    def of(
        cls, bases: Bases, registry: Registry, base: str | BaseRef, adapters: Sequence[str | AdapterRef], strangers: Sequence[str | BaseRef]
    ) -> SelfTestSpec:
        """Raises `NotFound`, `UsageError` for adapters of another base, `DataError` for one that was never scored."""
        home, pair = bases.get(base), [registry.get(ref) for ref in adapters]
        if len(pair) != 2 or any(adapter.base != home.ref for adapter in pair):
            hint = "They are trained by: workbench rebase selftest"
            raise UsageError(f"The self-test needs two adapters made for {home.ref}.", hint=hint)
        require_evidence(pair)
        return cls(
            base=str(home.ref),
            base_lock_sha256=home.lock_sha256,
            adapters=(pair[0].ref, pair[1].ref),
            strangers=tuple(str(bases.get(ref).ref) for ref in strangers),
        )

    @property
    def title(self) -> str:
        return f"Self-test of the rebase check on {self.base}"

    def run(self, ctx: TaskContext) -> dict[str, Any]:
        """Try every control. Returns {"outcomes": […], "passed": n, "failed": n, "seconds": s}."""
        started = time.monotonic()
        base = frozen_base(self.base, self.base_lock_sha256)
        first, second = (Registry().get(ref, verify=True) for ref in self.adapters)
        bench = _Bench(ctx, base, first, self.rows, self.few)
        bench.same_base()
        bench.other_adapters(second)
        bench.permuted()
        for bits in (8, 4, 3):
            bench.requantised(bits)
        bench.noise()
        bench.independent()
        for ref in self.strangers:
            bench.stranger(Bases().get(ref))
        failed = sum(not outcome.passed for outcome in bench.outcomes)
        listed = [dataclasses.asdict(outcome) for outcome in bench.outcomes]
        return {"outcomes": listed, "passed": len(listed) - failed, "failed": failed, "seconds": round(time.monotonic() - started, 1)}


class _Bench:
    """The base, the adapter, its scores at home, and the controls made of them."""

    def __init__(self, ctx: TaskContext, base: Base, adapter: Adapter, rows: int, few: int) -> None:
        from workbench.hf.load import set_threads

        set_threads()
        self.ctx, self.base, self.adapter, self.few = ctx, base, adapter, few
        self.lock, self.settings = Bases().lock(base.ref), Settings()
        test = adapter.path / "evidence" / "test.jsonl"
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in test.read_text(encoding="utf-8").split("\n") if line][:rows]
        self.scorer: str | None = adapter.scores.get("scorer")
        self.outcomes: list[Outcome] = []
        self.update = 0.01  # |dW| / |W| over the adapted modules, as soon as it was measured
        self.home_base = self._arms(base.path, self.lock)
        self.home = self._score(self.home_base, adapter.path, len(self.rows))

    # ------------------------------------------------------------ the controls

    def same_base(self) -> None:
        """B = A, scored a second time from a fresh load: nothing may change, to the last bit."""
        with self._control("the same base again", "identical, works, every score equal") as (one, _):
            moved = self._stage1(one, self.base.path, self.lock)
            again = self._score(self._arms(self.base.path, self.lock), self.adapter.path, len(self.rows))
            judged = self._judge(one, self.home, again)
            equal = again.base == self.home.base and _losses(again) == _losses(self.home)
            one.note = "all scores equal" if equal else "scores differ"
            one.passed = moved.change == "identical" and judged.word == "works" and equal

    def other_adapters(self, second: Adapter) -> None:
        """A second seed gives the noise floor; a random adapter of the same size must give nothing."""
        with self._control("a second seed of the adapter", "the noise floor: neither lost nor does harm") as (one, _):
            found = self._score(self.home_base, second.path, len(self.rows))
            judged = self._judge(one, self.home, found)
            one.note = f"{judged.lost_rows} rows lost and {judged.won_rows} won between two seeds"
            one.passed = judged.word not in _GONE
        with self._control("a random adapter of the same norms", "never works") as (one, folder):
            controls.random_adapter(self.adapter.path, folder, seed=1)
            one.passed = self._judge(one, *self._few(self.home_base, folder)).word not in _FINE
        self.home_base.release()

    def permuted(self) -> None:
        """The same function in other coordinates: the copy is lost, the adapter moved along works."""
        where = Coordinates.draw(self.base.path, seed=1)
        with tempfile.TemporaryDirectory(dir=self.ctx.folder) as room:
            base = where.write_base(self.base.path, Path(room) / "base")
            with self._control("A in permuted coordinates, the adapter copied", "permuted, lost") as (one, _):
                lock = self._locked(base)
                moved = self._stage1(one, base, lock)
                arms = self._arms(base, lock)
                new = self._score(arms, self.adapter.path, len(self.rows))
                gap = max(abs(a.nll - b.nll) for a, b in zip(new.base, self.home.base, strict=True))
                one.note = f"bare scores differ by at most {gap:.1e} nats"
                one.passed = self._judge(one, self.home, new).word == "lost" and moved.change == "permuted" and gap < 0.1
                if moved.drift and moved.ratio:
                    self.update = moved.drift / moved.ratio
            with self._control("the same, the adapter permuted too", "works") as (one, folder):
                where.write_adapter(self.adapter.path, folder)
                one.passed = self._judge(one, self.home, self._score(arms, folder, len(self.rows))).word == "works"

    def requantised(self, bits: int) -> None:
        """Rounded weights: int8 must not be called broken, int3 must be; int4 lies between."""
        wanted = {8: "requantised, not broken", 4: "requantised, any honest word", 3: "requantised, broken"}[bits]
        with self._control(f"A rounded to int{bits}, groups of 64", wanted) as (one, folder):
            lock = self._locked(controls.requantise(self.base.path, folder, bits=bits))
            moved = self._stage1(one, folder, lock)
            word = self._judge(one, *self._few(self._arms(folder, lock), self.adapter.path)).word
            right = {8: word in _FINE, 4: True, 3: word in (*_GONE, "weaker")}[bits]
            one.passed = moved.change == "requantised" and right

    def noise(self) -> None:
        """Isotropic noise as large as the adapter's own update: drift without structure does little."""
        with self._control("noise of the adapter's own size", "not called re-quantised; the copy is not lost") as (one, folder):
            lock = self._locked(controls.add_noise(self.base.path, folder, relative=self.update, seed=1))
            moved = self._stage1(one, folder, lock)
            word = self._judge(one, *self._few(self._arms(folder, lock), self.adapter.path)).word
            one.passed = moved.change == "continuation" and word not in _GONE

    def independent(self) -> None:
        """Fresh weights of the same shapes: a stranger, whatever the configuration says."""
        with self._control("freshly initialised, same shapes", "independent, never works") as (one, folder):
            lock = self._locked(controls.independent(self.base.path, folder, seed=1))
            moved = self._stage1(one, folder, lock)
            word = self._judge(one, *self._few(self._arms(folder, lock), self.adapter.path)).word
            one.passed = moved.change == "independent" and word not in _FINE

    def stranger(self, other: Base) -> None:
        """A real base of another family: it cannot be loaded, and all reasons are told at once."""
        with self._control(f"{other.ref}, another family", "cannot load") as (one, _):
            lock = read_lock(self.adapter.path / "base.lock.json")
            found = structure.examine(self.adapter.path, lock, Bases().lock(other.ref), home_folder=self.base.path, new_folder=other.path)
            one.word = "cannot load" if found.breaks else ""
            one.note = ", ".join(finding.name for finding in found.breaks)
            one.passed = bool(found.breaks)

    # ------------------------------------------------------------ the parts of a check

    @contextmanager
    def _control(self, name: str, expected: str) -> Iterator[tuple[Outcome, Path]]:
        """Time one control; give it a folder that is gone afterwards, and its line of the table."""
        if self.ctx.stopping():
            raise JobError("The self-test was stopped as asked.", hint="Start it again: workbench rebase selftest")
        self.ctx.report(Progress(t=time.time(), phase="testing", message=name))
        one, started = Outcome(name, expected), time.monotonic()
        with tempfile.TemporaryDirectory(dir=self.ctx.folder) as room:
            yield one, Path(room) / "made"
        one.seconds = round(time.monotonic() - started, 1)
        self.outcomes.append(one)

    def _arms(self, folder: Path, lock: Lock) -> NewBase:
        from workbench.hf.arms import NewBase

        return NewBase(folder, lock.sha256 or str(folder), keep=False, stopping=self.ctx.stopping)

    def _test(self, rows: int) -> Test:
        from workbench.hf.arms import Test

        return Test(self.rows[:rows], self.scorer, 256)

    def _score(self, arms: NewBase, adapter: Path, rows: int) -> Evidence:
        return arms.score(self._test(rows), adapter, serve=0)

    def _few(self, arms: NewBase, adapter: Path) -> tuple[Evidence, Evidence]:
        """The first rows only, at home and under `arms`."""
        new = self._score(arms, adapter, self.few)
        return Evidence(self.home.base[: self.few], self.home.adapter[: self.few]), new

    def _locked(self, folder: Path) -> Lock:
        return dataclasses.replace(build_lock(folder, {"kind": "control"}), sha256=str(folder))

    def _stage1(self, one: Outcome, folder: Path, lock: Lock) -> Weights:
        found = weights.measure(self.adapter.path, self.lock, lock, home_folder=self.base.path, new_folder=folder)
        one.change, one.drift, one.stage1_seconds = found.change, found.drift, found.seconds
        return found

    def _judge(self, one: Outcome, home: Evidence, new: Evidence) -> Verdict:
        found = verdict.judge(home, new, scorer=self.scorer, same_tokenizer=True, settings=self.settings)
        one.word = found.word
        metric = found.metric
        arms = {arm: scores[metric] for arm, scores in found.arms.items()}
        one.numbers = f"A+a {arms['home_adapter']:.3f}, B {arms['new']:.3f}, B+a {arms['new_adapter']:.3f} ({metric}, n {found.n})"
        return found


def _losses(evidence: Evidence) -> list[float]:
    return [score.nll for score in evidence.adapter]
