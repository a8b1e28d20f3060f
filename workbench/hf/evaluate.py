"""Score the frozen test part with the bare base and with adapters on it, from one model load.

Teacher forcing: the expected answer is shown to the model, and each of its tokens is scored given those before. One
pass gives the answer's negative log-likelihood and, where every token was the most likely one, the certainty that
greedy decoding says exactly this answer. Only rows that a dataset's scorer could still call right are generated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from workbench.cache import key_of, remembered
from workbench.data.rows import answer_of, question_of
from workbench.errors import DataError, JobError
from workbench.evidence import Evidence
from workbench.hf.load import compute_dtype, device, load_adapter, load_base, load_tokenizer
from workbench.hf.probes import passages_nll
from workbench.hf.render import IGNORED, render
from workbench.hf.scoring import Arm, TestItem, TestSet, spread
from workbench.peft_layout import CONFIG
from workbench.records import ItemScore, Progress

__all__ = ["ArmScores", "Evaluator", "Test", "evaluate"]

SERVED = 4  # exact rows that are answered once more by transformers' own generate
Ask = Callable[[list[ItemScore]], Sequence[int]]


@dataclass(frozen=True)
class Test:
    """Frozen test rows and how they are scored."""

    __test__ = False

    rows: Sequence[dict[str, Any]]
    scorer: str | None
    max_length: int
    dtype: torch.dtype | None = None  # None computes in what this machine is fast in
    quantized: str | None = None  # "nf4" or "fp4": the base in 4 bits for every arm, as an adapter of qlora was trained


class ArmScores(NamedTuple):
    """The scores of one arm, how they were made, its answers to a few rows, and to those that `ask` chose."""

    scores: list[ItemScore]
    facts: dict[str, Any]
    shown: list[str]
    asked: dict[str, str] = {}  # row id -> answer


def evaluate(
    base: Path,
    adapter: Path | None,
    rows: Sequence[dict[str, Any]],
    *,
    max_length: int,
    scorer: str | None = None,
    dtype: torch.dtype | None = None,
    quantized: str | None = None,
    samples: int = 0,
    report: Callable[[Progress], None] | None = None,
    stopping: Callable[[], bool] | None = None,
) -> Evidence:
    """Score `rows` with the base in the folder `base` and with `adapter` on it. `samples` rows are answered in words too, for people
    to look at.

    `adapter` is a PEFT folder, a folder with full weights (then it is the other arm by itself), or None (then the
    base is scored alone and `Evidence.adapter` is empty). Raises `DataError` when no row can be scored,
    `IntegrityError` when the adapter does not fit, `JobError` when asked to stop.
    """
    test = Test(rows, scorer, max_length, dtype, quantized)
    evaluator = Evaluator(base, arms=1 + bool(adapter), samples=samples, report=report, stopping=stopping)
    prepared = evaluator.prepare(test)
    bare = evaluator.arm(prepared)
    other: ArmScores | None = None
    if adapter is not None and (adapter / CONFIG).is_file():
        other = evaluator.arm(prepared, adapter)
    elif adapter is not None:
        evaluator.release()
        tuned = Evaluator(adapter, samples=samples, report=report, stopping=stopping)
        tuned.done = 1
        other = tuned.arm(tuned.prepare(test))
    said = {"base": bare.shown, **({"adapter": other.shown} if other else {})}
    shown = [
        {"id": item.id, "prompt": item.question, "expected": item.expected, **{arm: texts[n] for arm, texts in said.items()}}
        for n, item in enumerate(prepared.items[i] for i in evaluator.shown(prepared))
    ]
    how = evaluator.how(test, prepared, base=bare.facts, **({"adapter": other.facts} if other else {}))
    return Evidence(bare.scores, other.scores if other else [], prepared.groups, how, shown)


class Evaluator:
    """One base in memory, scored bare once per test, and under any number of adapters, on any number of test sets.

    With `lock_sha256`, that of the base, bare scores are kept in the home's cache. `samples` rows are answered in words too.
    `arms`, the number of passes to come, only serves the progress bar.
    """

    def __init__(
        self,
        base: Path,
        *,
        lock_sha256: str | None = None,
        arms: int = 2,
        samples: int = 0,
        report: Callable[[Progress], None] | None = None,
        stopping: Callable[[], bool] | None = None,
    ) -> None:
        self.base, self.lock_sha256 = base, lock_sha256
        self.dtype = compute_dtype(None)
        self.quantized: str | None = None
        self.tokenizer = load_tokenizer(base)
        self.done = 0  # arms
        self._arms, self._samples, self._report, self._stopping = arms, samples, report, stopping
        self._bare_scores: dict[str, tuple[list[ItemScore], dict[str, Any]]] = {}
        self._model: Any = None

    def score(self, test: Test, adapter: Path, *, ask: Ask | None = None, serve: int = SERVED) -> Evidence:
        """The base bare and with `adapter` on the rows of `test` that fit; `ask` and `serve` as for `arm`.

        Raises `DataError` when no row can be scored, `IntegrityError` when the adapter does not fit.
        """
        prepared = self.prepare(test)
        bare, facts = self._bare(test, prepared)
        arm = self.arm(prepared, adapter, ask=ask, serve=serve)
        scores = [replace(s, answer=arm.asked.get(s.id, s.answer)) for s in arm.scores]
        return Evidence(bare, scores, prepared.groups, self.how(test, prepared, base=facts, adapter=arm.facts))

    def _bare(self, test: Test, prepared: TestSet) -> tuple[list[ItemScore], dict[str, Any]]:
        """Scores and facts of the bare base: equal for equal weights, test rows and way of scoring."""
        libraries = [version("torch"), version("transformers")]
        how = (
            self.lock_sha256, list(test.rows), test.scorer, test.max_length, str(self.dtype), self.quantized, device().type, libraries,
        )  # fmt: skip
        key, done = key_of(*how), self.done
        if key not in self._bare_scores:

            def score() -> dict[str, Any]:
                bare = self.arm(prepared)
                return {"scores": [asdict(score) for score in bare.scores], "facts": bare.facts}

            kept = remembered("bare", *how, make=score) if self.lock_sha256 else score()
            facts = kept["facts"] | ({"cached": True} if self.done == done else {})
            self._bare_scores[key] = [ItemScore(**score) for score in kept["scores"]], facts
        return self._bare_scores[key]

    def how(self, test: Test, prepared: TestSet, **arms: dict[str, Any]) -> dict[str, Any]:
        """How the scores of `test` were made, with the facts of each arm."""
        return {
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": device().type,
            "quantized": self.quantized,
            "max_length": test.max_length,
            "shared_prefix_tokens": prepared.prefix,
            "skipped": prepared.skipped,
            "cut": [item.id for item in prepared.items if item.cut],
            **arms,
        }

    def prepare(self, test: Test) -> TestSet:
        """Render the rows once for all arms, which then compute as `test` says. Raises `DataError` when no answer is left to score."""
        computes = test.dtype or compute_dtype(None), test.quantized
        if computes != (self.dtype, self.quantized):
            self.release()
            self.dtype, self.quantized = computes
        rows, limit = test.rows, test.max_length
        items, skipped, groups = [], [], []
        for row in rows:
            item = self._item(row, limit)
            if item is None:
                skipped.append(str(row["id"]))
            else:
                items.append(item)
                groups.append(None if row.get("group") is None else str(row["group"]))
        if not items:
            lost = f"None of the {len(rows)} test rows has an answer within {limit} tokens."
            raise DataError(lost if rows else "There are no test rows to score.", hint="Raise max_length, or give the dataset a test part.")
        return TestSet(items, test.scorer, skipped, groups if any(groups) else None)

    def _item(self, row: dict[str, Any], max_length: int) -> TestItem | None:
        """The row without what follows its last answer; None when nothing of that answer is left."""
        one = render(self.tokenizer, row, max_length=max_length)
        answer = [i for i, label in enumerate(one.labels) if label != IGNORED and i >= one.answer_start]
        if not answer:
            return None
        return TestItem(str(row["id"]), one.input_ids[: answer[-1] + 1], answer[0], one.length.cut, question_of(row), answer_of(row))

    def arm(self, test: TestSet, adapter: Path | None = None, *, ask: Ask | None = None, serve: int = 0) -> ArmScores:
        """Score every item of `test` under one arm, in order. Same machine, same input: same scores, bit for bit.

        `ask` picks rows, by the scores, to be answered in words. `serve` exact rows are answered once more as a server would.
        """
        model = self._loaded()
        if adapter is None:
            return self._score(Arm(model, self.tokenizer, test), "the bare base", ask, serve)
        self.release()  # an adapter that does not fit leaves a base behind that is not bare
        model = load_adapter(model, adapter)
        try:
            return self._score(Arm(model, self.tokenizer, test), "the base with the adapter", ask, serve)
        finally:
            # Adapters such as PiSSA's change the base when they are put on: after them it has to be read again.
            if not _changes_base(model):
                self._model = model.unload()

    def passages(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        """(nats, bytes) of plain texts under the bare base."""
        return passages_nll(self._loaded(), self.tokenizer, texts)

    def _loaded(self) -> Any:
        if self._model is None:
            self._model = load_base(self.base, dtype=self.dtype, quantized=self.quantized)
        return self._model

    def release(self) -> None:
        """Give the model's memory back; the next pass reads it again."""
        self._model = None

    def _score(self, arm: Arm, name: str, ask: Ask | None, serve: int) -> ArmScores:
        started, rows, tokens, reported = time.monotonic(), 0, 0, 0.0
        of = len(arm.test.items)

        def advance(more_rows: int, more_tokens: int) -> None:
            nonlocal rows, tokens, reported
            rows, tokens, now = rows + more_rows, tokens + more_tokens, time.monotonic()
            if self._report is not None and (now - reported >= 1 or rows == of):
                reported = now
                self._report(self._progress(name, rows, of, tokens, now - started))
            if self._stopping is not None and self._stopping():
                raise JobError(f"Scoring {name} was stopped as asked, after {rows} of {of} rows.", hint="Go on: workbench jobs resume")

        scores = arm.score(advance)
        arm.check(scores)
        self.done += 1
        facts = {
            "tokens": tokens,
            "seconds": round(time.monotonic() - started, 2),
            "generated": arm.generated,
            "agreement": {"rows": arm.checked, "agree": arm.agreed},
        }
        if serve:
            facts["served"] = arm.serve(scores, serve)
        chosen = list(ask(scores)) if ask else []
        asked = {arm.test.items[i].id: text for i, text in zip(chosen, arm.show(scores, chosen), strict=True)}
        return ArmScores(scores, facts, arm.show(scores, self.shown(arm.test)), asked)

    def shown(self, test: TestSet) -> list[int]:
        """The rows to answer in words: the same for every arm."""
        return spread(list(range(len(test.items))), self._samples)

    def _progress(self, name: str, rows: int, of: int, tokens: int, seconds: float) -> Progress:
        done = self.done * of + rows
        total = max(done, self._arms * of)  # adapters with test sets of their own make the count an estimate
        return Progress(
            t=time.time(),
            phase="testing",
            step=done,
            total_steps=total,
            tokens=tokens,
            tokens_per_second=tokens / max(seconds, 1e-6),
            seconds_left=seconds / rows * max(total - done, 0),
            message=f"Scoring {name}",
        )


def _changes_base(model: Any) -> bool:
    """True for adapters whose factors were cut out of the base: putting them on changes the base's own weights."""
    how = getattr(next(iter(model.peft_config.values())), "init_lora_weights", True)
    return isinstance(how, str) and how.lower().startswith(("pissa", "olora", "corda", "loftq", "lora_ga"))
