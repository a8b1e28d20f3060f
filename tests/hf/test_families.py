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
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from benchmarks.controls import add_noise
from benchmarks.families import ALLOWED, ALLOWED_BF16, difference, other_names, recipe_for, rows
from benchmarks.zoo import build
from tests.hf.tiny_adapter import order_rows
from workbench import Workbench
from workbench.bases.layout import Layout
from workbench.errors import ImportRefused, SourceError
from workbench.hf.load import load_adapter, load_base, load_tokenizer
from workbench.hf.merge import merge
from workbench.hf.proof import prove
from workbench.hf.render import render
from workbench.hf.train import train
from workbench.rebase import structure, weights
from workbench.records import Adapter, Base
from workbench.registry.lora_weights import check_adapter

EXPERTS = {
    "mixtral": {"target_modules": ["q_proj", "v_proj"], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]},
    "qwen3-moe": {"target_modules": "all-linear"},  # which PEFT itself turns into parameters, with a pattern for their rank
    "ernie-4.5-moe": {"target_modules": "all-linear"},
    "hunyuan-moe": {"target_modules": "all-linear"},  # to which PEFT adds a name that this one does not have
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


def test_a_module_in_a_list_is_not_named_by_its_place(zoo: Path, tmp_path: Path) -> None:
    """Gemma 3n has linear layers called altup_projections.0; the end of that name means whole layers to PEFT."""
    bench, base, adapter = published(zoo, "gemma-3n-text", tmp_path, target_modules=r".*(altup_projections\.0|q_proj)")
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.path), tmp_path / "made")
    ours = load_adapter(load_base(base.path, dtype=torch.float32), adapter.path)
    assert torch.allclose(logits(ours, base.path), logits(plain, base.path), atol=1e-5)


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


def test_experts_saved_one_by_one_mean_what_they_did(zoo: Path, tmp_path: Path) -> None:
    """As every adapter of Mixtral was until transformers 5: beside the same updates added to the tensors on disk by hand."""
    source, made = model(zoo, "mixtral"), tmp_path / "made"
    stored = load_file(source / "model.safetensors")
    generator, factors = torch.Generator().manual_seed(0), dict[str, torch.Tensor]()
    for name in [name for name in stored if ".experts." in name]:
        a, b = (torch.randn(*shape, generator=generator) * 0.2 for shape in ((2, stored[name].shape[1]), (stored[name].shape[0], 2)))
        path = f"base_model.model.{name.removesuffix('.weight')}"
        factors |= {f"{path}.lora_A.weight": a, f"{path}.lora_B.weight": b}
        stored[name] += 2.0 * b @ a
    made.mkdir()
    save_file(factors, made / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "target_modules": ["w1", "w2", "w3"]}
    (made / "adapter_config.json").write_text(json.dumps(config))
    shutil.copytree(source, tmp_path / "summed")
    save_file(stored, tmp_path / "summed" / "model.safetensors", metadata={"format": "pt"})
    bench = Workbench()
    base = bench.bases.add("mixtral@1", source=f"folder:{source}")
    adapter = bench.import_adapter(made, name="made", base=base.ref)
    wanted = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "summed"), source)
    assert torch.allclose(logits(load_adapter(load_base(base.path, dtype=torch.float32), adapter.path), source), wanted, atol=1e-4)


def test_experts_that_do_not_fit_are_refused(zoo: Path, tmp_path: Path) -> None:
    """A rank that the file does not say, a parameter without weights, a name the base does not have."""
    bench, base, adapter = published(zoo, "mixtral", tmp_path, **EXPERTS["mixtral"])
    config = json.loads((adapter.path / "adapter_config.json").read_text())
    for change, message in (
        ({"r": 2}, "its rank is 16, adapter_config.json says 8 for 4 experts"),
        ({"target_parameters": [*config["target_parameters"], "gate.weight"]}, "parameters that have no weights here"),
        ({"target_parameters": ["experts.w9"]}, "names what the base does not have: experts.w9"),
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
    moved = weights.examine(adapter.path, *locks, home_folder=base.path, new_folder=again.path)
    assert (moved.change, moved.drift) == ("identical", 0.0)


def test_experts_under_other_names_are_the_same_experts(zoo: Path, tmp_path: Path) -> None:
    bench, base, adapter = published(zoo, "ernie-4.5-moe", tmp_path, **EXPERTS["ernie-4.5-moe"])
    again = bench.bases.add("ernie-4.5-moe@2", source=f"folder:{other_names(base.path, tmp_path / 'other')}")
    locks = bench.bases.lock(base.ref), bench.bases.lock(again.ref)
    moved = weights.examine(adapter.path, *locks, home_folder=base.path, new_folder=again.path)
    assert not locks[0].tensors.keys() & locks[1].tensors.keys() and (moved.change, moved.drift) == ("identical", 0.0)


def test_how_far_experts_moved_is_what_the_weights_say(zoo: Path, tmp_path: Path) -> None:
    """Against matrices built by PEFT itself: drift and update of every adapted parameter, experts by experts."""
    bench, base, adapter = published(zoo, "mixtral", tmp_path, **EXPERTS["mixtral"])
    noisy = bench.bases.add("mixtral@2", source=f"folder:{add_noise(base.path, tmp_path / 'noisy', relative=0.02)}")
    locks = bench.bases.lock(base.ref), bench.bases.lock(noisy.ref)
    assert not structure.examine(adapter.path, *locks, home_folder=base.path, new_folder=noisy.path).breaks
    seen = weights.examine(adapter.path, *locks, home_folder=base.path, new_folder=noisy.path)
    plain, moved = (dict(AutoModelForCausalLM.from_pretrained(b.path).named_parameters()) for b in (base, noisy))
    merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.path), adapter.path).merge_and_unload()
    changed = {name: p for name, p in merged.named_parameters() if not torch.equal(p, plain[name])}
    assert len(changed) == 8 and sum("experts" in name for name in changed) == 4
    drift, update = (sum(float((side[n] - plain[n]).pow(2).sum()) for n in changed) for side in (moved, changed))
    size = sum(float(plain[n].pow(2).sum()) for n in changed)
    assert seen.drift == pytest.approx((drift / size) ** 0.5, rel=1e-4) and seen.ratio == pytest.approx((drift / update) ** 0.5, rel=1e-4)
    assert seen.change != "other_shape" and len(seen.modules) == 4 + 2 * 4 * 3


# window and experts, chunks, caps, sinks and fused experts, dropout and Conv1D, ALiBi, longrope, convolutions, routers that are no layer
MECHANISMS = ("qwen2-moe", "llama-4-text", "gemma-2", "gpt-oss", "gpt-2", "bloom", "phi-3-longrope", "lfm2", "phimoe")


@pytest.mark.parametrize("family", MECHANISMS)
def test_what_is_trained_on_is_what_plain_transformers_computes(zoo: Path, tmp_path: Path, family: str) -> None:
    """Every learned token of long and short rows together, and the gradient of the adapter, beside row after row."""
    found = difference(model(zoo, family), recipe_for("lora", f"{family}@1"), tmp_path)
    assert found.nats < ALLOWED and found.gradient < 1e-4 and found.bf16 < ALLOWED_BF16, found


@pytest.mark.parametrize(("family", "more"), [("mixtral", {}), ("phimoe", EXPERTS["mixtral"]), ("gpt-2", {}), ("jamba", {})])
def test_a_run_ends_in_an_adapter_that_fits(zoo: Path, tmp_path: Path, family: str, more: dict[str, Any]) -> None:
    """With the load-balancing loss of experts, dropout of the base, and layers that take no adapter."""
    keys = {"lora_target_modules": ["o_proj"], "target_parameters": more["target_parameters"]} if more else {}
    bench = Workbench()
    base = bench.bases.add(f"{family}@1", source=f"folder:{model(zoo, family)}")
    result = train(recipe_for("lora", str(base.ref), max_steps=2, **keys), base.path, rows(), tmp_path)
    weights_file = result.folder / "adapter_model.safetensors"
    Layout(bench.bases.lock(base.ref)).ask()
    config = (result.folder / "adapter_config.json").read_bytes()
    checked = check_adapter(config, weights_file, base.path / "lock.json", str(base.ref))
    assert checked.config["target_modules"] and bool(checked.config.get("target_parameters")) == (family in {"mixtral", "phimoe"})
    assert checked.change and 0 < checked.change[0] <= checked.change[1] < 1


def test_an_encoder_decoder_is_refused_with_what_would_do(zoo: Path) -> None:
    with pytest.raises(SourceError, match="mt5 is an encoder-decoder.*Qwen3, Gemma 3 or SmolLM"):
        Workbench().bases.add("mt5@1", source=f"folder:{model(zoo, 'mt5')}")


def test_experts_that_are_one_tensor_on_disk_are_said_to_be_left_out(zoo: Path, tmp_path: Path) -> None:
    bench, base, adapter = published(zoo, "gpt-oss", tmp_path, **EXPERTS["gpt-oss"])
    noisy = bench.bases.add("gpt-oss@2", source=f"folder:{add_noise(base.path, tmp_path / 'noisy', relative=0.02)}")
    seen = weights.examine(
        adapter.path, bench.bases.lock(base.ref), bench.bases.lock(noisy.ref), home_folder=base.path, new_folder=noisy.path
    )
    assert len(seen.modules) == 2 and seen.drift == pytest.approx(0.02, rel=0.1) and seen.notes == ("fused_experts",)


HAS = {
    "gemma-2": (["window of 16 tokens in 1 of 2 layers", "attention scores capped (50)", "logits capped (30)"], ""),
    "llama-4-text": (["attention in chunks of 16 tokens in 1 of 2 layers", "4 experts, 1 of them for each token"], ""),
    "gpt-oss": (["attention sinks", "experts held in one parameter (experts.down_proj, experts.gate_up_proj: target_parameters)"], ""),
    "qwen2-moe": (["window of 16 tokens in 1 of 2 layers", "4 experts, 2 of them for each token"], ""),
    "phi-3-longrope": (["rotary positions stretched by longrope"], ""),
    "gpt-2": (["dropout in training (attn_pdrop 0.1, embd_pdrop 0.1, resid_pdrop 0.1)"], ""),
    "bloom": (["ALiBi in place of positions"], "its attention does not go through transformers' attention interface"),
    "jamba": (["state-space layers"], "some of its layers hand a state on"),
    "lfm2": (["short convolutions in 1 of 2 layers"], "some of its layers hand a state on"),
    "llama-3": ([], ""),
}


@pytest.mark.parametrize("family", HAS)
def test_what_a_base_has_and_how_it_is_trained_is_said_and_true(zoo: Path, family: str) -> None:
    wanted, reason = HAS[family]
    bench = Workbench()
    base = bench.bases.add(f"{family}@1", source=f"folder:{model(zoo, family)}")
    has, padded = bench.bases.mechanisms(base.ref)
    assert set(wanted) <= set(has) and (wanted or not has), has
    assert padded.startswith(reason) and bool(padded) == bool(reason)
    tokenizer = load_tokenizer(base.path)
    few = [render(tokenizer, row, max_length=512) for row in order_rows(8)]
    proof = prove(load_base(base.path, dtype=torch.float32), [(row.input_ids, row.labels) for row in few])
    assert bool(proof.why_not) == bool(padded), proof.why_not
