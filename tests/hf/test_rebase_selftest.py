"""The self-test on a tiny real model: every control comes out as it must, and one that does not is said to have failed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.hf.rebase_world import make_world, publish
from tests.hf.tiny_adapter import order_rows, tiny_adapter
from tests.tiny_base import make_tiny_base
from workbench.errors import DataError, UsageError
from workbench.hf.evaluate import evaluate
from workbench.jobs.rebase_selftest import ROWS

pytestmark = pytest.mark.torch


def test_every_control_comes_out_as_it_must(pico_base: Path, tmp_path: Path) -> None:
    world = make_world(pico_base, tmp_path)
    bench = world.bench
    rows = [{**row, "id": f"{row['id']}-{copy}"} for copy in range(-(-ROWS // 24)) for row in order_rows(24)]
    scored = evaluate(world.base.path, world.adapter.path, rows, max_length=256, dtype=torch.float32)
    sure = publish(bench, world.base, tiny_adapter(world.base.path), scored, tmp_path, "sure", rows=rows)
    narrow = bench.bases.publish(
        make_tiny_base(tmp_path / "narrow", config={"hidden_size": 32}), "narrow@1", continues=None, source={"kind": "control"}
    )

    result, progress = world.run(lambda: bench.rebase.selftest("pico@1", sure.ref, strangers=[narrow.ref]))
    assert [(o["word"], o["change"]) for o in result["outcomes"]] == [
        ("works", "identical"), ("lost", "permuted"), ("works", ""), ("cannot load", ""),
    ]  # fmt: skip
    assert (result["passed"], result["failed"]) == (4, 0), result
    assert {line.phase for line in progress} == {"testing"}

    unproven, _ = world.run(lambda: bench.rebase.selftest("pico@1", "orders@1"))
    first = unproven["outcomes"][0]
    assert (first["word"], first["passed"]) == ("too close to tell", False) and unproven["failed"] >= 1, "48 rows prove too little"


def test_what_it_cannot_try_is_refused_before_a_job_starts(pico_base: Path, tmp_path: Path) -> None:
    world = make_world(pico_base, tmp_path)
    other = world.add("again", world.base.path)
    with pytest.raises(UsageError, match="was not made for pico@again"):
        world.bench.rebase.selftest(other, "orders@1")
    plain = tiny_adapter(world.base.path, seed=2)
    bare = world.bench.adapters.publish(plain, name="bare", base=world.base, dataset=None, method="imported", recipe=None, scores={})
    with pytest.raises(DataError, match="never scored"):
        world.bench.rebase.selftest("pico@1", bare.ref)
