"""What a run will take on this machine, said before it starts; without loading torch.

The best basis is a run of the same kind that this machine has finished: `remember` keeps its speed and memory in
`<home>/machine.json`. Without one, a matrix product timed for a third of a second stands in.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from workbench import paths
from workbench.files import atomic_write
from workbench.recipe import Recipe
from workbench.records import Base

__all__ = ["Estimate", "estimate", "remember"]

_KEPT = 50  # runs remembered
_START_SECONDS = 15.0  # importing the libraries, loading, trying out
_LIBRARIES_BYTES = 550_000_000  # resident before any weights
_WORKING_BYTES = 600_000_000  # activations, logits and what the allocator keeps
# A token costs 2 operations per weight forward and as many for the gradient of the activations; training all weights
# adds the gradient of the weights. That the common beginning and the unlearned outputs are skipped makes up for what
# element-wise work costs beside the products.
_OPERATIONS = {"lora": 4.0, "qlora": 5.5, "sft": 6.5}
_GPU_SPEED = 2e13  # operations per second that a data-centre GPU gets out of small batches; a guess, and said to be one


@dataclass(frozen=True)
class Estimate:
    """Tokens and steps of a run, and about how long and how much memory it takes here."""

    tokens: int  # real tokens trained on
    steps: int  # optimiser steps
    seconds: float
    peak_bytes: int
    basis: str  # "measured on this machine by job 3f2a", "estimated from a 0.3 s probe", ...


def estimate(recipe: Recipe, base: Base, lengths: Sequence[int], *, test_rows: int = 0) -> Estimate:
    """Estimate a run over rows of `lengths` tokens (before cutting) on `base`, and the scoring of `test_rows` like them in both arms."""
    cut = [min(length, recipe.max_length) for length in lengths]
    held_back = recipe.held_back(len(cut))
    rows = max(1, len(cut) - held_back)
    tokens_per_row = sum(cut) / max(1, len(cut))
    examples = rows
    if recipe.packing:
        examples = max(1, math.ceil(rows * tokens_per_row / recipe.max_length))
    steps = recipe.steps(examples)
    batch = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps
    epochs = steps / max(1, math.ceil(examples / batch)) if recipe.max_steps > 0 else recipe.num_train_epochs
    tokens = round(epochs * rows * tokens_per_row)
    speed, peak, basis = _speed(recipe, base)
    watched = math.ceil(steps / recipe.evaluate_every(steps)) * held_back * tokens_per_row / 2  # forward only
    tested = test_rows * tokens_per_row  # forward only, twice
    return Estimate(tokens, steps, _START_SECONDS + (tokens + watched + tested) / speed, peak or _peak(recipe, base), basis)


def remember(recipe: Recipe, base: Base, tokens_per_second: float, peak_bytes: int, *, job: str) -> None:
    """Keep what a finished run measured, for later estimates."""
    if tokens_per_second <= 0:
        return
    run = {
        **_kind(recipe),
        "base_lock_sha256": base.lock_sha256,
        "parameters": base.parameters,
        "tokens_per_second": tokens_per_second,
        "peak_bytes": peak_bytes,
        "job": job,
        "at": time.time(),
    }
    paths.home().mkdir(parents=True, exist_ok=True)
    atomic_write(paths.machine_file(), json.dumps({"runs": [*_history(), run][-_KEPT:]}, indent=1))


def _history() -> list[dict[str, Any]]:
    """Runs remembered, oldest first; a file that cannot be read counts as empty, since it only serves estimates."""
    try:
        runs = json.loads(paths.machine_file().read_text(encoding="utf-8"))["runs"]
        return [run for run in runs if run["tokens_per_second"] > 0 and run["parameters"] > 0 and run["job"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _kind(recipe: Recipe) -> dict[str, Any]:
    """What else has to be alike for a measured speed to carry over."""
    method = "qlora" if recipe.quantization else recipe.method
    return {"method": method, "bf16": recipe.bf16, "threads": _threads(recipe), "host": platform.node(), "gpu": _has_gpu()}


def _threads(recipe: Recipe) -> int:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return recipe.threads or paths.wanted_threads() or allowed


def _speed(recipe: Recipe, base: Base) -> tuple[float, int | None, str]:
    """(tokens per second, peak bytes where measured, basis)."""
    kind = _kind(recipe)
    alike = [run for run in _history() if all(run.get(key) == value for key, value in kind.items())]
    same = [run for run in alike if run.get("base_lock_sha256") == base.lock_sha256]
    if same:
        run = same[-1]
        return float(run["tokens_per_second"]), int(run["peak_bytes"]), f"measured on this machine by job {run['job']}"
    if alike:
        run = alike[-1]
        speed = run["tokens_per_second"] * run["parameters"] / max(1, base.parameters)
        return float(speed), None, f"scaled from job {run['job']} on another base"
    per_token = _OPERATIONS[kind["method"]] * max(1, base.parameters)
    if kind["gpu"]:
        return _GPU_SPEED / per_token, None, "a guess: nothing was measured on this GPU yet"
    return _bf16_factor(recipe) * _probe() / per_token, None, "estimated from a 0.3 s probe"


def _bf16_factor(recipe: Recipe) -> float:
    """How much faster than float32: matrix units gain less than they could, because element-wise work does not speed up."""
    if _has_bf16_units():
        return 1.0 if recipe.bf16 is False else 1.3
    return 1 / 30 if recipe.bf16 else 1.0


def _peak(recipe: Recipe, base: Base) -> int:
    """Bytes held at the peak: libraries, weights, what is learned with its gradient and Adam's two moments, activations."""
    n = base.parameters
    if recipe.method == "sft":
        return _LIBRARIES_BYTES + 16 * n + _WORKING_BYTES
    learned = 16 * int(1.2 * recipe.lora_r * n ** (2 / 3))
    if recipe.quantization:
        return _LIBRARIES_BYTES + max(3 * n, n + learned + _WORKING_BYTES)
    width: int = 2 if recipe.bf16 or (recipe.bf16 is None and (_has_bf16_units() or _has_gpu())) else 4
    # while loading, the stored copy is mapped beside the converted one
    return _LIBRARIES_BYTES + max((width + 2) * n, width * n + learned + _WORKING_BYTES)


def _has_gpu() -> bool:
    return Path("/proc/driver/nvidia/gpus").is_dir()


@cache
def _has_bf16_units() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return any(flag in flags for flag in ("amx_bf16", "avx512_bf16", " bf16"))


@cache
def _probe(seconds: float = 0.3) -> float:
    """Operations per second of float32 products of the shapes that training uses; the best of what fits in `seconds`."""
    import numpy as np

    tokens, width, inner = 192, 576, 1536
    a, b = np.ones((tokens, width), np.float32), np.ones((width, inner), np.float32)
    best, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        for _ in range(4):
            a @ b
        best = min(best, (time.perf_counter() - began) / 4)
    return 2 * tokens * width * inner / best
