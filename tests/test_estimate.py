"""Estimates: steps and tokens are exact, time and memory come from this machine, the basis is said."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from workbench import estimate as module
from workbench import paths
from workbench.estimate import estimate, remember
from workbench.recipe import Recipe
from workbench.records import Base, BaseRef


def base(parameters: int = 134_515_008, lock: str = "a" * 64) -> Base:
    return Base(BaseRef("tiny", "1"), Path("."), lock, parameters, "bfloat16", "Apache-2.0", {"kind": "folder"})


def recipe(**given: Any) -> Recipe:
    return Recipe.load({"base": "tiny@1", "dataset": "orders", "eval_rows": 0, **given})


@pytest.mark.parametrize(
    ("given", "rows", "steps", "tokens"),
    [
        ({}, 80, 10, 4000),
        ({"num_train_epochs": 2.5}, 81, 28, 10125),
        ({"max_steps": 7}, 80, 7, 2800),
        ({"gradient_accumulation_steps": 4}, 80, 3, 4000),
        ({"eval_rows": 10}, 80, 9, 3500),
        ({"eval_rows": 32}, 20, 2, 800),
        ({"max_length": 20}, 80, 10, 1600),
        ({"packing": True, "max_length": 400, "per_device_train_batch_size": 2}, 80, 5, 4000),
    ],
)
def test_steps_and_tokens(given: dict[str, Any], rows: int, steps: int, tokens: int) -> None:
    found = estimate(recipe(**given), base(), [50] * rows)
    assert (found.steps, found.tokens) == (steps, tokens)


def test_the_rows_that_only_watch_cost_what_their_evaluations_read() -> None:
    seconds = [estimate(recipe(eval_rows=32, eval_steps=every), base(), [50] * 800).seconds for every in (None, 1, 1000)]
    speed = 40_000 / (estimate(recipe(), base(), [50] * 800).seconds - 15)
    assert (seconds[0] - seconds[2]) * speed == pytest.approx(4 * 32 * 50 / 2), "five evaluations, not one"
    assert (seconds[1] - seconds[2]) * speed == pytest.approx(95 * 32 * 50 / 2), "one at each of 96 steps"


def test_without_history_a_probe_is_the_basis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_has_gpu", lambda: False)
    monkeypatch.setattr(module, "_has_bf16_units", lambda: False)
    monkeypatch.setattr(module, "_probe", lambda: 1e11)
    lora = estimate(recipe(), base(), [50] * 800)
    assert lora.basis == "estimated from a 0.3 s probe"
    assert 40_000 / lora.seconds == pytest.approx(170, rel=0.2)
    assert 1.2e9 < lora.peak_bytes < 2.2e9
    scored = estimate(recipe(), base(), [50] * 800, test_rows=400)
    assert scored.seconds - lora.seconds == pytest.approx((lora.seconds - 15) / 2, rel=0.2), "two arms, each read once"
    sft, qlora = (estimate(recipe(method=method), base(), [50] * 800) for method in ("sft", "qlora"))
    assert sft.seconds > lora.seconds and sft.peak_bytes > 2.5e9 and qlora.peak_bytes < lora.peak_bytes
    assert estimate(recipe(bf16=True), base(), [50] * 800).seconds > 10 * lora.seconds
    monkeypatch.setattr(module, "_has_bf16_units", lambda: True)
    assert estimate(recipe(), base(), [50] * 800).seconds < lora.seconds


def test_the_probe_counts_the_operations_of_a_product_and_takes_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < module._probe() < math.inf
    readings = [0.0]  # when it began; then, of each round: not over yet, began, ended
    for began, took in ((0.01, 0.08), (0.1, 0.04), (0.2, 0.12)):
        readings += [began, began, began + took]
    readings += [0.5]
    monkeypatch.setattr(module.time, "perf_counter", iter(readings).__next__)
    assert module._probe.__wrapped__() == pytest.approx(2 * 192 * 576 * 1536 / 0.01), "four products took 0.04 s"


def test_a_finished_run_is_the_better_basis() -> None:
    given = recipe(lora_r=16)
    remember(given, base(), 200.0, 1_700_000_000, job="j1")
    remember(given, base(), 250.0, 1_600_000_000, job="j2")
    remember(given, base(), 0.0, 1, job="j3")
    found = estimate(given, base(), [50] * 800)
    assert found.basis == "measured on this machine by job j2"
    assert found.seconds == pytest.approx(15 + 40_000 / 250) and found.peak_bytes == 1_600_000_000
    larger = estimate(given, base(269_030_016, "b" * 64), [50] * 800)
    assert larger.basis == "scaled from job j2 on another base" and larger.seconds == pytest.approx(15 + 40_000 / 125)
    assert "probe" in estimate(recipe(method="sft"), base(), [50] * 800).basis
    assert "probe" in estimate(recipe(threads=1 + module._threads(given)), base(), [50] * 800).basis


def test_the_history_is_bounded_and_a_broken_one_is_no_obstacle() -> None:
    for n in range(60):
        remember(recipe(), base(), 100.0 + n, 1, job=f"j{n}")
    runs = json.loads(paths.machine_file().read_text())["runs"]
    assert len(runs) == 50 and runs[-1]["job"] == "j59"
    for broken in ("", "{}", "[1]", '{"runs": [{"tokens_per_second": "x"}]}', '{"runs": 3}'):
        paths.machine_file().write_text(broken)
        assert "job" not in estimate(recipe(), base(), [50] * 8).basis
    remember(recipe(), base(), 100.0, 1, job="again")
    assert "again" in estimate(recipe(), base(), [50] * 8).basis


@pytest.mark.slow
def test_no_rows_and_no_torch() -> None:
    assert math.isfinite(estimate(recipe(), base(), []).seconds)
    code = "import sys, workbench.estimate; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
