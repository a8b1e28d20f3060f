"""Every kind of symmetry in the table of roles: the moved model computes the same, and the check says what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from benchmarks.controls import add_noise
from benchmarks.zoo import build
from workbench.bases.lock import build_lock
from workbench.bases.tensors import folder_tensors
from workbench.errors import UsageError
from workbench.rebase import lineage, weights
from workbench.rebase.recoordinate import Coordinates, Move
from workbench.rebase.result import Weights
from workbench.rebase.writing import load

ROOT_MEAN_SQUARE = ["llama-3.1", "gemma-2", "gemma-3", "olmo-2", "phi-3", "glm-4", "arcee"]
MEAN = ["olmo", "cohere", "phi", "opt", "gpt-2-hub", "gpt-neox", "starcoder2", "bloom", "falcon-7b", "falcon-new"]
EXPERTS = ["mixtral", "qwen2-moe", "granite-moe", "deepseek-v3", "gpt-oss", "llama-4-text"]
IDS = torch.randint(5, 380, (2, 40), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(folder: Path, adapter: Path | None = None) -> torch.Tensor:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return (PeftModel.from_pretrained(model, str(adapter)) if adapter else model).eval()(input_ids=IDS).logits


def adapted(base: Path, out: Path, *, on: str | list[str] = "all-linear") -> Path:
    """An adapter on every linear module, or on some, strong enough to show."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), LoraConfig(r=4, target_modules=on))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    model.save_pretrained(out)
    return out


def check(adapter: Path, home: Path, new: Path) -> Weights:
    return weights.examine(adapter, *(build_lock(folder, {"kind": "folder"}) for folder in (home, new)), home_folder=home, new_folder=new)


@pytest.mark.parametrize("family", [*ROOT_MEAN_SQUARE, *MEAN, *EXPERTS])
def test_a_family_in_other_coordinates_is_the_same_function_and_recognised(family: str, tmp_path: Path) -> None:
    home = build(family, tmp_path / "a")
    where = Coordinates.draw(home, seed=3)
    moved = where.write_base(home, tmp_path / "b")
    assert float((logits(home) - logits(moved)).abs().max()) < 1e-4


ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


@pytest.mark.parametrize(("family", "on"), [(name, "all-linear") for name in ("phi-3", "gpt-2", "gpt-neox")] + [("mixtral", ATTENTION)])
def test_an_adapter_moves_with_its_base(family: str, on: str | list[str], tmp_path: Path) -> None:
    home = build(family, tmp_path / "a")
    where = Coordinates.draw(home, seed=3)
    moved, adapter = where.write_base(home, tmp_path / "b"), adapted(home, tmp_path / "adapter", on=on)
    followed = where.write_adapter(adapter, tmp_path / "adapter-b")
    assert float((logits(home, adapter) - logits(moved, followed)).abs().max()) < 1e-4
    assert float((logits(home, adapter) - logits(moved, adapter)).abs().max()) > 1e-2, "the copy does something else"
    assert check(adapter, home, moved).change == "permuted"


def test_experts_change_places_with_their_router_rows(tmp_path: Path) -> None:
    """Where only they do, the check finds the first expert under its new number; where nothing else is done to a model, too."""
    home = build("mixtral", tmp_path / "a")
    where = Coordinates.draw(home, seed=5)
    steady = {axis: Move(np.arange(m.take.size), m.flip & False) if axis.role != "x" else m for axis, m in where.moves.items()}
    taken = [[int(n) for n in move.take] for axis, move in steady.items() if axis.role == "x"]
    assert all(order[0] != 0 for order in taken), "this seed moves the first expert of both layers"
    moved = Coordinates(where.family, steady).write_base(home, tmp_path / "b")
    before, after = ({name: load(info) for name, info in folder_tensors(folder).items()} for folder in (home, moved))
    for layer, order in enumerate(taken):
        at = f"model.layers.{layer}.block_sparse_moe."
        assert np.array_equal(after[f"{at}gate.weight"], before[f"{at}gate.weight"][order])
        assert all(np.array_equal(after[f"{at}experts.{n}.w2.weight"], before[f"{at}experts.{o}.w2.weight"]) for n, o in enumerate(order))
    found = lineage.compare(home, moved)
    assert (found.reading, found.residual_identity, found.identity, found.agreement) == ("permuted", 1.0, 0.0, 1.0)
    assert float((logits(home) - logits(moved)).abs().max()) < 1e-4


def test_the_names_of_a_checkpoint_without_a_head_are_known(tmp_path: Path) -> None:
    home, bare = build("gpt-2", tmp_path / "a"), build("gpt-2-hub", tmp_path / "b")
    assert lineage.compare(home, bare).reading == "same"
    assert lineage.compare(home, Coordinates.draw(bare, 1).write_base(bare, tmp_path / "c")).reading == "permuted"


def test_a_family_outside_the_table_is_not_looked_at(tmp_path: Path) -> None:
    """Whatever B is: a model of its own is not called one, and a later version by how little it moved."""
    home, stranger = build("lfm2", tmp_path / "a"), build("lfm2", tmp_path / "b", seed=9)
    later, adapter = add_noise(home, tmp_path / "c", relative=0.02), adapted(home, tmp_path / "adapter")
    for new, change in ((stranger, "unknown"), (later, "continuation")):
        found = check(adapter, home, new)
        assert found.lineage is not None
        assert (found.change, found.lineage.reading, found.lineage.layers) == (change, "not looked at", ())
        assert found.notes == ("order_unknown",)
    with pytest.raises(UsageError, match="'lfm2' cannot be written in other coordinates"):
        Coordinates.draw(home, 0)
    (stranger / "config.json").write_text(json.dumps({"model_type": "llama"}))  # one side is not enough
    assert lineage.compare(stranger, later).reading == "not looked at"
