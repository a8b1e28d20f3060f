"""Source x target: every adapter on every base, with the four stages of the rebase check on each cell.

Scores, weights and probes are pieces on disk. The verdict is made of them anew each time: it costs little, and the rule may
have changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.lab.adapters import MAX_LENGTH
from benchmarks.lab.sizes import Adapters, Bases, Piece, Say, Sizes, piece
from benchmarks.lab.tasks import rows_of, task_of
from workbench.bases.lock import LOCK_FILE, Lock, read_lock
from workbench.evidence import Evidence, read_scores, write_scores
from workbench.files import sha256_of
from workbench.hf import probes
from workbench.hf.evaluate import Evaluator, Test
from workbench.rebase import lineage, weights
from workbench.rebase.contrasts import recovered
from workbench.rebase.result import Check, Settings, Structure
from workbench.rebase.structure import examine
from workbench.rebase.verdict import cannot_load, judge

__all__ = ["SCORER", "Cell", "make_cells"]

SCORER = "exact"
Named = dict[tuple[str, str], Piece]


@dataclass(frozen=True)
class Cell:
    """One adapter, made on `source`, put on `target`."""

    name: str  # of the adapter: a task, and perhaps "-attention"
    source: str
    target: str
    check: Check

    @property
    def home(self) -> bool:
        return self.source == self.target

    @property
    def pair(self) -> tuple[str, str]:
        return self.source, self.target

    def score(self, arm: str) -> float:
        """The share of test rows that `arm` gets right."""
        assert self.check.verdict is not None
        return self.check.verdict.arms[arm]["right"]


class Bench:
    """What all cells share: the pieces so far, the locks, the test rows, and a place to report to."""

    def __init__(
        self,
        root: Path,
        sizes: Sizes,
        text: Piece,
        bases: Bases,
        adapters: Adapters,
        say: Say,
    ) -> None:
        self.root, self.sizes, self.bases, self.adapters, self.say = root, sizes, bases, adapters, say
        self.locks: dict[str, Lock] = {name: read_lock(base.path / LOCK_FILE) for name, base in bases.items()}
        self.rows = {task: rows_of(task, sizes, text)[1] for task in {task_of(name) for name in sizes.adapters}}
        self.pieces: list[Piece] = []

    def keep(self, one: Piece) -> Piece:
        self.pieces.append(one)
        return one


def make_cells(root: Path, sizes: Sizes, text: Piece, bases: Bases, adapters: Adapters, say: Say) -> tuple[list[Cell], list[Piece]]:
    """All cells, home cells among them, and the pieces they were made of."""
    bench = Bench(root, sizes, text, bases, adapters, say)
    say("Scoring every adapter on every base")
    scores = {(task, base): bench.keep(_scores(bench, task, base)) for task in sorted(bench.rows) for base in sizes.bases}
    say("Weights and probes")
    signals = {(name, source): bench.keep(_signals(bench, name, source)) for name in sizes.adapters for source in sizes.bases}
    say("Verdicts")
    return list(_cells(bench, scores, signals)), bench.pieces


def _scores(bench: Bench, task: str, base: str) -> Piece:
    """All adapters of a task on one base: one load, one pass of the bare base."""
    chosen = {(name, source): one for (source, name), one in bench.adapters.items() if task_of(name) == task}
    key = {"base": bench.bases[base].digest, "adapters": {f"{name}-{source}": one.digest for (name, source), one in chosen.items()}}

    def make(out: Path) -> None:
        arms, test = Evaluator(bench.bases[base].path), Test(bench.rows[task], SCORER, MAX_LENGTH, torch.float32)
        evidence = [arms.score(test, one.path, serve=0) for one in chosen.values()]
        for (name, source), scored in zip(chosen, evidence, strict=True):
            write_scores(out / f"{name}-{source}.jsonl", scored)
        bench.say(f"  {task} on {base}: " + ", ".join(f"{n}-{s} {_share(e):.2f}" for (n, s), e in zip(chosen, evidence, strict=True)))

    return piece(bench.root / "scores", f"{task}-{base}", key, make)


def _share(scored: Evidence) -> float:
    return sum(bool(score.right) for score in scored.adapter) / len(scored.adapter)


def _signals(bench: Bench, name: str, source: str) -> Piece:
    """Stage 1 and 2 of one adapter on every base; the old base is asked once for all of them."""
    adapter, home = bench.adapters[source, name], bench.bases[source]
    code = _code(weights, lineage, probes)
    key = {"adapter": adapter.digest, "bases": {b: p.digest for b, p in bench.bases.items()}, "code": code, **bench.sizes.key("prompts")}

    def make(out: Path) -> None:
        rows = bench.rows[task_of(name)]
        asked = rows[:: max(1, len(rows) // bench.sizes.prompts)][: bench.sizes.prompts]
        how: dict[str, Any] = {"max_length": MAX_LENGTH, "dtype": torch.float32}
        old = probes.tell(home.path, adapter.path, asked, **how)
        for target, new in bench.bases.items():
            places = {"home_folder": home.path, "new_folder": new.path}
            moved = weights.examine(adapter.path, bench.locks[source], bench.locks[target], **places)
            seen = None
            if target != source:
                seen = probes.compare(old, probes.tell(new.path, adapter.path, asked, answers=old.answers, doses=probes.DOSES, **how))
            structure = examine(adapter.path, bench.locks[source], bench.locks[target], **places)
            check = replace(_blank(bench, name, source, target), structure=structure, weights=moved, probes=seen)
            (out / f"{target}.json").write_text(json.dumps(check.as_dict()), encoding="utf-8")
        bench.say(f"  {name} on {source}")

    return piece(bench.root / "signals", f"{name}-{source}", key, make)


def _code(*modules: Any) -> str:
    """A digest of the modules' sources: signals are measured again when the way they are measured changes."""
    return hashlib.sha256(b"".join(Path(module.__file__).read_bytes() for module in modules)).hexdigest()[:10]


def _cells(bench: Bench, scores: Named, signals: Named) -> Iterator[Cell]:
    for name in bench.sizes.adapters:
        for source in bench.sizes.bases:
            for target in bench.sizes.bases:
                yield Cell(name, source, target, _check(bench, scores, signals[name, source].path, name, source, target))


def _check(bench: Bench, scores: Named, signals: Path, name: str, source: str, target: str) -> Check:
    """The record of one cell. The adapter trained on the target itself is the reference of the recovered lift."""
    task = task_of(name)

    def evidence(base: str, made_on: str) -> Evidence:
        return read_scores(scores[task, base].path / f"{name}-{made_on}.jsonl")

    home, new, settings = evidence(source, source), evidence(target, source), Settings()
    known = Check.from_dict(json.loads((signals / f"{target}.json").read_text(encoding="utf-8")))
    if breaks := known.structure.breaks:
        verdict = cannot_load(breaks, home, settings=settings)
    else:
        verdict = judge(home, new, scorer=SCORER, same_tokenizer=True, settings=settings)
    ceiling = recovered(new, evidence(target, target), "right", seconds=bench.adapters[target, name].seconds, settings=settings)
    return replace(known, verdict=verdict, retrained=ceiling)


def _blank(bench: Bench, name: str, source: str, target: str) -> Check:
    """The record with its names and nothing found yet."""
    return Check(
        adapter=f"{name}-{source}@1",
        adapter_sha256=sha256_of(bench.adapters[source, name].path / "adapter_model.safetensors"),
        home=f"lab@{source}",
        home_lock_sha256=bench.locks[source].sha256,
        base=f"lab@{target}",
        base_lock_sha256=bench.locks[target].sha256,
        dataset=task_of(name),
        structure=Structure(()),
    )
