"""Every mechanism that the families of the field have, on tiny models of the real architectures (`benchmarks/zoo.py`)."""

from __future__ import annotations

import json
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from benchmarks.zoo import build
from tests.hf.tiny_adapter import order_rows
from workbench import Workbench
from workbench.hf.load import load_adapter, load_base, load_tokenizer
from workbench.hf.merge import merge
from workbench.hf.render import render
from workbench.rebase import structure, weights
from workbench.rebase.controls import add_noise
from workbench.records import Adapter, Base

EXPERTS = {
    "mixtral": {"target_modules": ["q_proj", "v_proj"], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]},
    "qwen3-moe": {"target_modules": "all-linear"},  # which PEFT itself turns into parameters, with a pattern for their rank
    "ernie-4.5-moe": {"target_modules": "all-linear"},
    "deepseek-v3": {"target_modules": ["o_proj"], "target_parameters": ["experts.gate_up_proj"]},
    "gpt-oss": {"target_modules": ["q_proj"], "target_parameters": ["experts.down_proj"]},
}


@lru_cache
def model(room: Path, family: str) -> Path:
    return build(family, room / family)


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


def ids_of(folder: Path) -> list[torch.Tensor]:
    tokenizer = load_tokenizer(folder)
    return [torch.tensor([render(tokenizer, row, max_length=512).input_ids]) for row in order_rows(6)]


def trained(base: Path, out: Path, **targets: Any) -> Path:
    """An adapter as any user of plain PEFT makes it: a few steps of AdamW, saved."""
    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, **targets)
    peft = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config).train()
    optimizer = torch.optim.AdamW([p for p in peft.parameters() if p.requires_grad], lr=2e-2)
    for ids in ids_of(base)[:3]:
        optimizer.zero_grad()
        peft(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    peft.save_pretrained(out)
    return out


@torch.no_grad()
def logits(model: Any, base: Path) -> torch.Tensor:
    return torch.cat([model.eval()(input_ids=ids).logits[0] for ids in ids_of(base)])


def published(zoo: Path, family: str, tmp_path: Path, **targets: Any) -> tuple[Workbench, Base, Adapter]:
    source = model(zoo, family)
    bench = Workbench()
    base = bench.bases.add(f"{family}@1", source=f"folder:{source}")
    return bench, base, bench.import_adapter(trained(source, tmp_path / "made", **targets), name="made", base=base.ref)


@pytest.mark.parametrize("family", EXPERTS)
def test_an_adapter_of_experts_is_published_and_means_the_same_everywhere(zoo: Path, tmp_path: Path, family: str) -> None:
    bench, base, adapter = published(zoo, family, tmp_path, **EXPERTS[family])
    made = tmp_path / "made"
    plain = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.path), made), base.path)
    bare = logits(AutoModelForCausalLM.from_pretrained(base.path), base.path)
    assert (plain - bare).abs().max() > 0.05
    ours = logits(load_adapter(load_base(base.path, dtype=torch.float32), adapter.path), base.path)
    again = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.path), adapter.path), base.path)
    assert torch.allclose(ours, plain, atol=1e-5) and torch.allclose(again, plain, atol=1e-5)
    config = json.loads((adapter.path / "adapter_config.json").read_text())
    assert config["target_parameters"] and not [key for key in config["rank_pattern"] if "*" in key]
    merge(base.path, adapter.path, tmp_path / "merged")
    assert torch.allclose(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"), base.path), plain, atol=1e-4)
    bench.adapters.export(adapter.ref, tmp_path / "out.zip")
    back = bench.import_adapter(tmp_path / "out.zip", name="back")
    assert back.base == adapter.base


def test_experts_that_do_not_fit_are_refused(zoo: Path, tmp_path: Path) -> None:
    """A rank that the file does not say, a parameter without weights, a name the base does not have."""
    from workbench.errors import ImportRefused

    bench, base, adapter = published(zoo, "mixtral", tmp_path, **EXPERTS["mixtral"])
    config = json.loads((adapter.path / "adapter_config.json").read_text())
    for change, message in (
        ({"r": 2}, "its rank is 16, adapter_config.json says 8 for 4 experts"),
        ({"target_parameters": [*config["target_parameters"], "gate.weight"]}, "parameters that have no weights here"),
        ({"target_parameters": [*config["target_parameters"], "experts.w9"]}, "names what the base does not have: experts.w9"),
        ({"rank_pattern": {r".*\.(gate_up_proj|x)+": 4}}, "rank_pattern: names only"),
    ):
        bad = tmp_path / "bad"
        shutil.rmtree(bad, ignore_errors=True)
        shutil.copytree(tmp_path / "made", bad)
        (bad / "adapter_config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ImportRefused, match=message):
            bench.import_adapter(bad, name="bad", base=base.ref)


@pytest.mark.parametrize(("family", "other"), [("gpt-2", "gpt-2-hub"), ("bloom-hub", "bloom")])
def test_the_same_weights_under_other_names_are_the_same_base(zoo: Path, tmp_path: Path, family: str, other: str) -> None:
    bench, base, adapter = published(zoo, family, tmp_path, target_modules="all-linear")
    again = bench.bases.add(f"{family}@2", source=f"folder:{model(zoo, other)}")
    locks = bench.bases.lock(base.ref), bench.bases.lock(again.ref)
    assert not locks[0].tensors.keys() <= locks[1].tensors.keys()
    shape = structure.examine(adapter.path, *locks, home_folder=base.path, new_folder=again.path)
    assert not shape.breaks, shape.breaks
    moved = weights.measure(adapter.path, *locks, home_folder=base.path, new_folder=again.path)
    assert (moved.change, moved.drift) == ("identical", 0.0)


def test_how_far_experts_moved_is_what_the_weights_say(zoo: Path, tmp_path: Path) -> None:
    """Against matrices built by PEFT itself: drift and update of every adapted parameter, experts by experts."""
    bench, base, adapter = published(zoo, "mixtral", tmp_path, **EXPERTS["mixtral"])
    noisy = bench.bases.add("mixtral@2", source=f"folder:{add_noise(base.path, tmp_path / 'noisy', relative=0.02)}")
    locks = bench.bases.lock(base.ref), bench.bases.lock(noisy.ref)
    assert not structure.examine(adapter.path, *locks, home_folder=base.path, new_folder=noisy.path).breaks
    seen = weights.measure(adapter.path, *locks, home_folder=base.path, new_folder=noisy.path)
    plain, moved = (dict(AutoModelForCausalLM.from_pretrained(b.path).named_parameters()) for b in (base, noisy))
    merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.path), adapter.path).merge_and_unload()
    changed = {name: p for name, p in merged.named_parameters() if not torch.equal(p, plain[name])}
    assert len(changed) == 8 and sum("experts" in name for name in changed) == 4
    drift, update = (sum(float((side[n] - plain[n]).pow(2).sum()) for n in changed) for side in (moved, changed))
    size = sum(float(plain[n].pow(2).sum()) for n in changed)
    assert seen.drift == pytest.approx((drift / size) ** 0.5, rel=1e-4) and seen.ratio == pytest.approx((drift / update) ** 0.5, rel=1e-4)
    assert seen.change != "other_shape" and len(seen.modules) == 4 + 2 * 4 * 3
