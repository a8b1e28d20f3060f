"""The smallest step of everything that a job will do, on two rows and before the first real step.

A base that cannot learn, cannot be scored, or whose adapter would not be taken by the registry is found out in seconds, not
after the whole run. Weights, gradients and random numbers are afterwards what they were.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from workbench.errors import TrainingError, WorkbenchError
from workbench.hf.packed import Row, trim
from workbench.hf.prefix import common_prefix
from workbench.hf.render import IGNORED
from workbench.hf.scoring import Arm, TestItem, TestSet

__all__ = ["rehearse"]


def rehearse(trainer: Any, tokenizer: Any, rows: Sequence[Row], *, dtype: torch.dtype, save: Callable[[], Path] | None) -> float:
    """Learn from, score and answer the two shortest of `rows`, then `save` and try what was saved; returns the seconds it took.

    Raises `TrainingError` naming what this base or adapter cannot do.
    """
    began, model = time.perf_counter(), trainer.model
    two = sorted(rows, key=lambda row: len(row[0]))[:2]
    training = model.training
    with torch.random.fork_rng(), torch.autocast(model.device.type, dtype=dtype, enabled=dtype != torch.float32):
        with _step("learn from"):
            _learn(trainer, two)
        with _step("score and answer"):
            _answer(model.eval(), tokenizer, two)
        model.train(training)
    if save is not None:
        with _step("save what it learns from"):
            shutil.rmtree(save())
    return time.perf_counter() - began


@contextmanager
def _step(what: str) -> Iterator[None]:
    hint = "Nothing was trained. Try other lora_target_modules or method lora without 4 bits; else another base: workbench base list"
    try:
        yield
    except WorkbenchError as error:
        raise TrainingError(f"This base cannot {what} two rows as this job would: {error.message}", hint=error.hint or hint) from error
    except Exception as error:  # whatever a model's own code raises, it would raise it in the middle of the run
        told = str(error).splitlines()[0] if str(error) else ""
        raise TrainingError(f"This base cannot {what} two rows as this job would: {type(error).__name__}: {told}", hint=hint) from error


def _learn(trainer: Any, rows: Sequence[Row]) -> None:
    inputs = trainer.data_collator([{"input_ids": ids, "labels": labels} for ids, labels in rows])
    model = trainer.model.train()
    try:
        for loss in trainer.losses(model, inputs, trainer.tokens_at_once, items=1):
            loss.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        if not any(bool(gradient.any()) for gradient in gradients):
            raise TrainingError("no weight that is to learn gets a gradient.", hint="Name other modules in lora_target_modules.")
        if not all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
            raise TrainingError("the gradient is not a number.", hint="Set bf16: false, or use another base.")
    finally:
        model.zero_grad(set_to_none=True)


def _answer(model: Any, tokenizer: Any, rows: Sequence[Row]) -> None:
    """As the evidence will be made: teacher forcing after a shared start, then real answers."""
    items = []
    for n, (ids, labels) in enumerate(trim(row) for row in rows):
        start = next(i for i, label in enumerate(labels) if label != IGNORED)
        items.append(TestItem(str(n), ids[: start + 2], start, False, "", ""))
    shared = common_prefix([item.ids for item in items], min(item.start for item in items) - 1)
    arm = Arm(model, tokenizer, TestSet(items, "normalised", shared, []))
    arm.check(arm.score(lambda rows, tokens: None))
