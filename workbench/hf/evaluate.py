"""Score the frozen test part with the bare base and with adapters on it, from one model load.

Teacher forcing: the expected answer is shown to the model, and each of its tokens is scored given those before. One
pass gives the answer's negative log-likelihood and, where every token was the most likely one, the certainty that
greedy decoding says exactly this answer. Only rows that a dataset's scorer could still call right are generated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Required, TypedDict, Unpack

import torch

from workbench.data.rows import answer_of, question_of
from workbench.errors import DataError, JobError
from workbench.evidence import Evidence
from workbench.hf.load import compute_dtype, load_adapter, load_base, load_tokenizer
from workbench.hf.prefix import common_prefix
from workbench.hf.probes import passages_nll
from workbench.hf.render import IGNORED, render
from workbench.hf.scoring import Arm, TestItem, TestSet, spread
from workbench.peft_layout import CONFIG
from workbench.records import ItemScore, Progress

__all__ = ["ArmScores", "Ask", "Evaluator", "Options", "evaluate"]


class Options(TypedDict, total=False):
    """How to score, as `Evaluator` takes it."""

    max_length: Required[int]
    dtype: torch.dtype | None
    quantized: str | None
    samples: int
    report: Callable[[Progress], None] | None
    stopping: Callable[[], bool] | None


Ask = Callable[[list[ItemScore]], Sequence[int]]


class ArmScores(NamedTuple):
    """The scores of one arm, how they were made, its answers to a few rows, and to those that `ask` chose."""

    scores: list[ItemScore]
    facts: dict[str, Any]
    shown: list[str]
    asked: dict[str, str] = {}  # row id -> answer


def evaluate(
    base: Path, adapter: Path | None, rows: Sequence[dict[str, Any]], *, scorer: str | None = None, **options: Unpack[Options]
) -> Evidence:
    """Score `rows` with the base in the folder `base` and with `adapter` on it; `options` are `Evaluator`'s.

    `adapter` is a PEFT folder, a folder with full weights (then it is the other arm by itself), or None (then the
    base is scored alone and `Evidence.adapter` is empty). Raises `DataError` when no row can be scored,
    `IntegrityError` when the adapter does not fit, `JobError` when asked to stop.
    """
    evaluator = Evaluator(base, arms=1 + bool(adapter), **options)
    test = evaluator.prepare(rows, scorer)
    bare = evaluator.score(test)
    other: ArmScores | None = None
    if adapter is not None and (adapter / CONFIG).is_file():
        other = evaluator.score(test, adapter)
    elif adapter is not None:
        evaluator.release()
        tuned = Evaluator(adapter, arms_done=1, **options)
        other = tuned.score(tuned.prepare(rows, scorer))
    report = {
        "dtype": str(evaluator.dtype).removeprefix("torch."),
        "quantized": evaluator.quantized,
        "max_length": evaluator.max_length,
        "shared_prefix_tokens": test.prefix,
        "skipped": test.skipped,
        "cut": [item.id for item in test.items if item.cut],
        "base": bare.facts,
        **({"adapter": other.facts} if other else {}),
    }
    shown = evaluator.samples(test, base=bare.shown, **({"adapter": other.shown} if other else {}))
    return Evidence(bare.scores, other.scores if other else [], test.groups, report, shown)


class Evaluator:
    """One base in memory, scored bare and under any number of adapters, on any number of test sets.

    `dtype` defaults to what this machine computes fast. `quantized` ("nf4" or "fp4") holds the base in 4 bits for
    every arm, as it was when a QLoRA adapter was trained. `samples` rows are answered in words too, for people to
    look at. `arms` and `arms_done` only serve the progress bar.
    """

    def __init__(
        self,
        base: Path,
        *,
        max_length: int,
        dtype: torch.dtype | None = None,
        quantized: str | None = None,
        arms: int = 2,
        arms_done: int = 0,
        samples: int = 0,
        report: Callable[[Progress], None] | None = None,
        stopping: Callable[[], bool] | None = None,
    ) -> None:
        self.base = base
        self.max_length = max_length
        self.dtype = dtype or compute_dtype(None)
        self.quantized = quantized
        self.tokenizer = load_tokenizer(base)
        self._samples = samples
        self._report = report
        self._stopping = stopping
        self._arms, self._arms_done = arms, arms_done
        self._model: Any = None

    def prepare(self, rows: Sequence[dict[str, Any]], scorer: str | None = None, *, max_length: int | None = None) -> TestSet:
        """Render `rows` once for all arms. Raises `DataError` when no answer is left to score."""
        limit = max_length or self.max_length
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
        prompts = min(item.start for item in items) - 1  # the prompt's last token predicts the answer's first: never shared
        return TestSet(items, scorer, common_prefix([item.ids for item in items], prompts), skipped, groups if any(groups) else None)

    def _item(self, row: dict[str, Any], max_length: int) -> TestItem | None:
        """The row without what follows its last answer; None when nothing of that answer is left."""
        one = render(self.tokenizer, row, max_length=max_length)
        answer = [i for i, label in enumerate(one.labels) if label != IGNORED and i >= one.answer_start]
        if not answer:
            return None
        return TestItem(str(row["id"]), one.input_ids[: answer[-1] + 1], answer[0], one.cut, question_of(row), answer_of(row))

    def score(self, test: TestSet, adapter: Path | None = None, *, ask: Ask | None = None, serve: int = 0) -> ArmScores:
        """Score every item of `test` under one arm, in order. Same machine, same input: same scores, bit for bit.

        `ask` picks rows, by the scores, to be answered in words. `serve` exact rows are answered once more as a server would.
        """
        if self._model is None:
            self._model = load_base(self.base, dtype=self.dtype, quantized=self.quantized)
        if adapter is None:
            return self._score(Arm(self._model, self.tokenizer, test), "the bare base", ask, serve)
        base, self._model = self._model, None  # an adapter that does not fit leaves a base behind that is not bare
        model = load_adapter(base, adapter)
        try:
            return self._score(Arm(model, self.tokenizer, test), "the base with the adapter", ask, serve)
        finally:
            # Adapters such as PiSSA's change the base when they are put on: after them it has to be read again.
            if not _changes_base(model):
                self._model = model.unload()

    def passages(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        """(nats, bytes) of plain texts under the bare base."""
        if self._model is None:
            self._model = load_base(self.base, dtype=self.dtype, quantized=self.quantized)
        return passages_nll(self._model, self.tokenizer, texts)

    def release(self) -> None:
        """Give the model's memory back; the next `score` reads it again."""
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
        self._arms_done += 1
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
        return ArmScores(scores, facts, arm.show(scores, self._shown(arm.test)), asked)

    def _shown(self, test: TestSet) -> list[int]:
        """The rows to answer in words: the same for every arm."""
        return spread(list(range(len(test.items))), self._samples)

    def samples(self, test: TestSet, **answers: list[str]) -> list[dict[str, str]]:
        """The shown rows with each arm's answer beside the expected one."""
        rows = [test.items[i] for i in self._shown(test)]
        return [
            {"id": item.id, "prompt": item.question, "expected": item.expected, **{arm: said[n] for arm, said in answers.items()}}
            for n, item in enumerate(rows)
        ]

    def _progress(self, name: str, rows: int, of: int, tokens: int, seconds: float) -> Progress:
        done = self._arms_done * of + rows
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
