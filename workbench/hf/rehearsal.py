"""The smallest step of everything that a job will do, on two rows and before the first real step.

A base that cannot learn, cannot be scored, or whose adapter would not be taken by the registry or not be the same when it is
loaded again, is found out in seconds, not after the whole run. Weights, gradients and random numbers are afterwards what they were.
"""

from __future__ import annotations

import copy
import functools
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from workbench.errors import TrainingError, WorkbenchError
from workbench.hf.load import first_line, load_adapter
from workbench.hf.machine import enough_memory
from workbench.hf.packed import Row, log_probs, trim
from workbench.hf.render import IGNORED
from workbench.hf.scoring import Arm, TestItem, TestSet

__all__ = ["possible", "rehearse"]

_OFF = 0.1  # share of what a step changed that the weights may lose by being saved and loaded


def rehearse(trainer: Any, tokenizer: Any, rows: Sequence[Row], *, dtype: torch.dtype, save: Callable[[], Path] | None) -> float:
    """Learn from, score and answer the two shortest of `rows`, then `save` an adapter and load it again; returns the seconds it took.

    Without `save` all weights learn, and the optimiser takes a step of no length: of them there is no room for a copy.
    Raises `TrainingError` naming what this base or adapter cannot do.
    """
    began, model = time.perf_counter(), trainer.model
    two = sorted(rows, key=lambda row: len(row[0]))[:2]
    training, learning = model.training, [p for p in model.parameters() if p.requires_grad]
    kept = [p.detach().clone() for p in learning] if save else []
    # entered anew for each step: weights are cast once in it, and a step of the optimiser changes them
    cast = functools.partial(torch.autocast, model.device.type, dtype=dtype, enabled=dtype != torch.float32)
    with torch.random.fork_rng():
        try:
            with possible("score two rows"), cast():
                before = torch.cat(log_probs(model.eval(), two, packs=trainer.packs))
            with possible("learn from two rows as this job would"), cast():
                _learn(trainer, two, still=save is None)
            with possible("score and answer two rows as this job would"), cast():
                _answer(model.eval(), tokenizer, two)
            if save:
                with possible("save what it learns and load it again"), cast():
                    _reload(model, save(), two, before, packs=trainer.packs)
        finally:
            model.train(training)
            for parameter, value in zip(learning, kept, strict=False):
                parameter.data.copy_(value)
    return time.perf_counter() - began


@contextmanager
def possible(what: str) -> Iterator[None]:
    """Raise `TrainingError` saying that this base cannot `what`, or that memory ran out, for whatever goes wrong inside."""
    hint = "Nothing was trained. Try other lora_target_modules or method lora without 4 bits; else another base: workbench base list"
    try:
        with enough_memory():
            yield
    except WorkbenchError as error:
        raise TrainingError(f"This base cannot {what}: {error.message}", hint=error.hint or hint) from error
    except Exception as error:  # whatever a model's own code raises, it would raise it in the middle of the run
        raise TrainingError(f"This base cannot {what}: {type(error).__name__}: {first_line(error)}", hint=hint) from error


def _learn(trainer: Any, rows: Sequence[Row], *, still: bool) -> None:
    """One step of the optimiser; a `still` one moves nothing."""
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
        optimizer = trainer.create_optimizer()
        for group in optimizer.param_groups if still else ():
            group["lr"] = 0.0
        optimizer.step()
    finally:
        model.zero_grad(set_to_none=True)
        trainer.optimizer = None  # the run makes its own


def _answer(model: Any, tokenizer: Any, rows: Sequence[Row]) -> None:
    """As the evidence will be made: teacher forcing after a shared start, then real answers."""
    items = []
    for n, (ids, labels) in enumerate(trim(row) for row in rows):
        start = next(i for i, label in enumerate(labels) if label != IGNORED)
        items.append(TestItem(str(n), ids[: start + 2], start, False, "", ""))
    arm = Arm(model, tokenizer, TestSet(items, "normalised"))
    arm.check(arm.score(lambda rows, tokens: None))


def _reload(model: Any, folder: Path, rows: Sequence[Row], before: torch.Tensor, *, packs: bool) -> None:
    """The adapter in `folder`, put on the base anew as scoring will do it, must give what the weights in memory give."""
    base = copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())}).unload()  # the numbers are shared
    vars(base).pop("forward", None)  # TRL's, which would call the first model's
    here, there = (torch.cat(log_probs(arm, rows, packs=packs)) for arm in (model, load_adapter(base, folder)))
    shutil.rmtree(folder)
    off, moved = float((there - here).abs().max()), float((here - before).abs().max())
    if math.isfinite(moved) and not off <= max(_OFF * moved, 1e-4):
        raise TrainingError(f"loaded again, what was saved is {off:.2g} nats off in a learned token, and a step moved it by {moved:.2g}.")
