"""The whole check on tiny real models: every control must come out as it is known to be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import controls
from tests.hf.rebase_world import ROWS, World, make_world, publish
from tests.hf.tiny_adapter import tiny_adapter
from tests.test_cli import ok
from tests.tiny_base import make_tiny_base
from workbench.errors import DataError, NotFound, UsageError
from workbench.evidence import read_scores
from workbench.hf.evaluate import Evaluator, Test, evaluate
from workbench.rebase import verdict
from workbench.rebase.recoordinate import Coordinates
from workbench.rebase.store import Checks
from workbench.recipe import Recipe

pytestmark = pytest.mark.torch


@pytest.fixture
def world(pico_base: Path, tmp_path: Path) -> World:
    return make_world(pico_base, tmp_path)


def test_the_same_weights_change_nothing_to_the_last_bit(world: World) -> None:
    again = world.add("again", world.base.path)
    result, progress = world.check(again)
    found = world.bench.rebase.get("orders@1", again)
    home = world.bench.adapters.evidence("orders@1")
    assert result["checks"] == [{"adapter": "orders@1", "word": found.word}] and not result["failed"]
    assert found.weights is not None and found.weights.change == "identical"
    assert found.verdict is not None and found.verdict.lost_rows == 0 == found.verdict.won_rows
    new = read_scores(Checks().folder("orders@1", again) / "scores.jsonl")
    assert [s.nll for s in new.base] == [s.nll for s in home.base]
    assert [s.nll for s in new.adapter] == [s.nll for s in home.adapter]
    assert found.word == "too close to tell" and (found.verdict.rows_needed or 0) >= 183, "48 rows without a flip prove no two points"
    assert found.health is not None and found.health.change is not None and found.health.change.value == 0.0 and not found.health.broken
    assert {line.phase for line in progress} >= {"structure", "weights", "behaviour", "testing"}
    page = world.bench.rebase.report("orders@1", again)
    assert "orders@1" in page and "http://" not in page.replace("http://www.w3.org", "") and "<script" not in page


def test_permuted_coordinates_lose_the_copy_and_not_the_adapter_that_moved_along(world: World, tmp_path: Path) -> None:
    where = Coordinates.draw(world.base.path, seed=5)
    moved = world.add("permuted", where.write_base(world.base.path, tmp_path / "permuted"))
    world.check(moved, probes=True)
    found = world.bench.rebase.get("orders@1", moved)
    assert found.word == "lost", found.verdict
    assert found.weights is not None and found.weights.change == "permuted"
    assert found.probes is not None and found.probes.cka_mean == pytest.approx(1.0, abs=1e-3), "CKA does not see it"
    assert found.witnesses and all(w.home == w.expected != w.new for w in found.witnesses)
    assert found.health is not None and found.health.change is not None and abs(found.health.change.value) < 1e-3

    home = world.bench.adapters.evidence("orders@1")
    rebased = where.write_adapter(world.adapter.path, tmp_path / "rebased")
    test = Test([{**row, "split": "test"} for row in ROWS], None, 256, dtype=torch.float32)
    new = Evaluator(world.bench.bases.get(moved).path).score(test, rebased)
    judged = verdict.judge(home, new, scorer=None, same_tokenizer=True)
    assert judged.lost_rows == 0 and judged.word == "too close to tell", "with more rows it would be 'works'"
    assert max(abs(a.nll - b.nll) for a, b in zip(home.adapter, new.adapter, strict=True)) < 1e-2


def test_a_ladder_of_roundings_is_named_and_gets_worse(world: World, tmp_path: Path) -> None:
    kept = []
    for bits in (8, 4, 2):
        base = world.add(f"int{bits}", controls.requantise(world.base.path, tmp_path / f"int{bits}", bits=bits, group=32))
        world.check(base)
        found = world.bench.rebase.get("orders@1", base)
        assert found.weights is not None and found.weights.change == "requantised", bits
        assert found.verdict is not None
        kept.append(found.verdict.arms["new_adapter"]["exact_match"])
    assert kept[0] >= kept[1] >= kept[2] and kept[0] > 0.9 and kept[2] < 0.6, kept


def test_a_random_adapter_of_the_same_size_never_works(world: World, tmp_path: Path) -> None:
    home = world.bench.adapters.evidence("orders@1")
    placebo = controls.random_adapter(world.adapter.path, tmp_path / "placebo", seed=1)
    test = Test([{**row, "split": "test"} for row in ROWS], None, 256, dtype=torch.float32)
    new = Evaluator(world.base.path).score(test, placebo)
    assert verdict.judge(home, new, scorer=None, same_tokenizer=True).word in ("lost", "does harm")


def test_an_independent_base_of_the_same_shape_is_called_one(world: World, tmp_path: Path) -> None:
    stranger = world.add("stranger", controls.independent(world.base.path, tmp_path / "stranger", seed=3))
    world.check(stranger)
    found = world.bench.rebase.get("orders@1", stranger)
    assert found.weights is not None and found.weights.change == "independent"
    assert found.word in ("lost", "does harm")


def test_a_base_that_cannot_take_the_adapter_is_judged_with_what_it_had_at_home(world: World, tmp_path: Path) -> None:
    onto = world.add("narrow", make_tiny_base(tmp_path / "narrow", config={"hidden_size": 32}))
    world.check(onto)
    found = world.bench.rebase.get("orders@1", onto)
    assert found.word == "cannot load" and found.verdict is not None and found.verdict.arms["home_adapter"]["exact_match"] == 1.0
    assert "new" not in found.verdict.arms and "cannot be used" in found.verdict.because and found.structure.breaks
    assert "Cannot load" in ok("rebase", "matrix").out


def test_several_adapters_share_one_load_and_the_bare_pass(world: World, tmp_path: Path) -> None:
    second = publish(
        world.bench, world.base, tiny_adapter(world.base.path, seed=1), world.bench.adapters.evidence("orders@1"), tmp_path, "more"
    )
    onto = world.add("again", world.base.path)
    result, _ = world.check(onto, ["orders@1", second.ref])
    assert [one["adapter"] for one in result["checks"]] == ["orders@1", "more@1"]
    first, other = (world.bench.rebase.get(ref, onto) for ref in ("orders@1", "more@1"))
    assert first.how["base"] == other.how["base"], "one pass, with its seconds, serves both"
    scores = [read_scores(Checks().folder(ref, onto) / "scores.jsonl") for ref in (first.adapter, other.adapter)]
    assert scores[0].base == scores[1].base and scores[0].adapter != scores[1].adapter
    world.check(onto)
    assert world.bench.rebase.get("orders@1", onto).how["base"]["cached"] is True


def test_another_template_and_stop_token_are_told_and_shown(world: World, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    import shutil

    shutil.copytree(world.base.path, changed)
    (changed / "generation_config.json").write_text(json.dumps({"eos_token_id": 0, "pad_token_id": 0}), encoding="utf-8")
    onto = world.add("stops", changed)
    world.check(onto)
    found = world.bench.rebase.get("orders@1", onto)
    names = {finding.name for finding in found.structure.findings}
    assert any("eos" in name for name in names), names
    told = {warning.name: warning.details for warning in found.warnings}
    assert found.word == "too close to tell" and 0 < told["served_otherwise"]["lost"] <= told["served_otherwise"]["rows"] == 4


def test_what_cannot_be_checked_is_said_before_a_job_starts(world: World, tmp_path: Path) -> None:
    plain = world.bench.adapters.publish(
        tiny_adapter(world.base.path, seed=2), name="plain", base=world.base, dataset=None, method="imported", recipe=None, scores={}
    )
    onto = world.add("again", world.base.path)
    with pytest.raises(DataError, match="never scored"):
        world.bench.rebase.check(plain.ref, onto=onto)
    with pytest.raises(NotFound):
        world.bench.rebase.check("orders@1", onto="pico@77")
    with pytest.raises(UsageError, match="no setting"):
        world.bench.rebase.check("orders@1", onto=onto, settings={"eps": 1})
    with pytest.raises(UsageError, match="no sense"):
        world.bench.rebase.check("orders@1", onto=onto, settings={"epsilon": 3.0})
    result, _ = world.check(onto, [plain.ref], stages=("structure", "weights"))
    found = world.bench.rebase.get(plain.ref, onto)
    assert found.verdict is None and found.word is None and found.weights is not None and found.weights.change == "identical"
    assert result["checks"] == [{"adapter": plain.ref, "word": None}]
    assert not world.bench.jobs.list(state="queued")


def test_training_anew_on_the_new_base_gives_the_ceiling(world: World, tmp_path: Path) -> None:
    bench, file = world.bench, tmp_path / "letters.csv"
    words = [f"{a}{b}" for a in "abcdefgh" for b in "klmnopqr"]
    file.write_text("question,answer\n" + "".join(f"say {w},{w}\n" for w in words), encoding="utf-8")
    dataset = bench.datasets.add(file, name="letters", test_rows=12, scorer="exact")
    rows = bench.datasets.rows("letters", split="test")
    given = {"base": "pico@1", "dataset": "letters", "max_steps": 6, "learning_rate": 0.01, "max_length": 64, "bf16": False}
    recipe = Recipe.load({**given, "eval_rows": 0, "threads": 1})
    found = evaluate(world.base.path, world.adapter.path, rows, scorer="exact", max_length=64, dtype=torch.float32)
    publish(bench, world.base, tiny_adapter(world.base.path, seed=3), found, tmp_path, "letters", rows=rows, dataset=dataset, recipe=recipe)
    onto = world.add("again", world.base.path)
    world.check(onto, ["letters@1"], retrain=True)
    again = bench.rebase.get("letters@1", onto).retrained
    assert again is not None and again.seconds > 0
    assert (again.metric, again.score, again.headroom.value) == ("exact_match", 0.0, 0.0), "six steps teach no answer by heart"
    assert (again.recovered, again.recovered_low, again.recovered_high) == (None, None, None), "so there is nothing to divide by"
