"""The new base in the rebase check: loaded once, scored bare once per test, and then with one adapter after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from workbench.cache import key_of, remembered
from workbench.evidence import Evidence
from workbench.hf.evaluate import Ask, Evaluator
from workbench.hf.load import compute_dtype, device
from workbench.hf.scoring import TestSet
from workbench.records import MAX_LENGTH, ItemScore, Progress

__all__ = ["NewBase", "Test"]

SERVED = 4  # exact rows that are answered once more by transformers' own generate


@dataclass(frozen=True)
class Test:
    """An adapter's frozen test rows and how they were scored at home."""

    __test__ = False  # pytest: not a test class

    rows: Sequence[dict[str, Any]]
    scorer: str | None
    max_length: int
    bf16: bool | None = None  # of the recipe: None computes in what this machine is fast in
    quantized: str | None = None  # "nf4" or "fp4" for an adapter trained by qlora

    @property
    def dtype(self) -> torch.dtype:
        return compute_dtype(self.bf16)


class NewBase:
    """One base under test. `arms` is the number of passes to come, for the progress bar; without `keep` nothing is read from or
    written to the home's cache of bare scores."""

    def __init__(
        self,
        folder: Path,
        lock_sha256: str,
        *,
        arms: int = 2,
        keep: bool = True,
        report: Callable[[Progress], None] | None = None,
        stopping: Callable[[], bool] | None = None,
    ) -> None:
        self.folder, self.lock_sha256, self._keep = folder, lock_sha256, keep
        self._arms, self._done = arms, 0
        self._report, self._stopping = report, stopping
        self._evaluator: Evaluator | None = None
        self._bare_scores: dict[str, tuple[list[ItemScore], dict[str, Any]]] = {}

    def score(self, test: Test, adapter: Path, *, ask: Ask | None = None, serve: int = SERVED) -> Evidence:
        """The two arms B and B + adapter on the rows of `test` that fit. `ask` picks, by the scores, rows to be answered in words;
        `serve` exact rows are answered once more as a server would.

        Raises `DataError` when no row can be scored, `IntegrityError` when the adapter does not fit.
        """
        evaluator = self._for(test)
        prepared = evaluator.prepare(test.rows, test.scorer, max_length=test.max_length)
        bare, facts = self._bare(evaluator, test, prepared)
        arm = evaluator.score(prepared, adapter, ask=ask, serve=serve)
        self._done += 1
        scores = [replace(s, answer=arm.asked.get(s.id, s.answer)) for s in arm.scores]
        report = {
            "dtype": str(evaluator.dtype).removeprefix("torch."),
            "device": device().type,
            "quantized": evaluator.quantized,
            "skipped": prepared.skipped,
            "base": facts,
            "adapter": arm.facts,
        }
        return Evidence(bare, scores, prepared.groups, report)

    def passages(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        """(nats, bytes) of plain texts under the bare base."""
        if self._evaluator is None:
            self._evaluator = Evaluator(self.folder, max_length=MAX_LENGTH)
        return self._evaluator.passages(texts)

    def release(self) -> None:
        """Give the model's memory back."""
        self._evaluator = None

    def _for(self, test: Test) -> Evaluator:
        """The evaluator in hand when it computes as `test` asks, else a new one: one model in memory at a time."""
        here = self._evaluator
        if here is None or (here.dtype, here.quantized) != (test.dtype, test.quantized):
            self._evaluator = here = Evaluator(
                self.folder,
                max_length=test.max_length,
                dtype=test.dtype,
                quantized=test.quantized,
                arms=self._arms,
                arms_done=self._done,
                report=self._report,
                stopping=self._stopping,
            )
        return here

    def _bare(self, evaluator: Evaluator, test: Test, prepared: TestSet) -> tuple[list[ItemScore], dict[str, Any]]:
        """Scores and facts of the bare base: equal for equal weights, test rows and way of scoring."""
        libraries = [version("torch"), version("transformers")]
        how = (
            self.lock_sha256, list(test.rows), test.scorer, test.max_length, str(test.dtype), test.quantized, device().type, libraries,
        )  # fmt: skip
        key, arms_made = key_of(*how), self._done
        if key not in self._bare_scores:

            def score() -> dict[str, Any]:
                bare = evaluator.score(prepared)
                self._done += 1
                return {"scores": [asdict(score) for score in bare.scores], "facts": bare.facts}

            kept = remembered("bare", *how, make=score) if self._keep else score()
            facts = kept["facts"] | ({"cached": True} if self._done == arms_made else {})
            self._bare_scores[key] = [ItemScore(**score) for score in kept["scores"]], facts
        return self._bare_scores[key]
