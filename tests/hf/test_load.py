"""Loading: what fits is loaded whole, what does not fit is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from workbench.errors import IntegrityError, UsageError
from workbench.hf.load import PLAIN_TEMPLATE, compute_dtype, has_bf16_units, load_adapter, load_base, load_tokenizer, set_threads


@pytest.fixture
def adapter(pico_base: Path, tmp_path: Path) -> Path:
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(load_base(pico_base, dtype=torch.float32), config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def change(folder: Path, edit: Any) -> Path:
    file = folder / "adapter_model.safetensors"
    state = load_file(file)
    edit(state)
    save_file(state, file)
    return folder


def test_an_adapter_loads_and_acts(pico_base: Path, adapter: Path) -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    model = load_adapter(load_base(pico_base, dtype=torch.float32), adapter)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        with_it = model(input_ids=ids).logits
        with model.disable_adapter():
            without = model(input_ids=ids).logits
        assert torch.equal(without, load_base(pico_base, dtype=torch.float32)(input_ids=ids).logits)
    assert (with_it - without).abs().max() > 0.01
    assert any(p.requires_grad for p in load_adapter(load_base(pico_base, dtype=torch.float32), adapter, trainable=True).parameters())


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.pop(sorted(s)[0]), "no weight for"),
        (lambda s: s.update({"base_model.model.model.layers.9.mlp.up_proj.lora_A.weight": torch.ones(4, 64)}), "no module for .*layers.9"),
        (lambda s: s.update({k: v[:2].contiguous() for k, v in s.items() if "lora_A" in k}), "not \\(4, 64\\)"),
        (lambda s: s.clear(), "no weight for"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(pico_base: Path, adapter: Path, edit: Any, message: str) -> None:
    with pytest.raises(IntegrityError, match=message):
        load_adapter(load_base(pico_base, dtype=torch.float32), change(adapter, edit))


def test_an_adapter_for_other_modules_is_refused(pico_base: Path, adapter: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["query_key_value"]}))
    with pytest.raises(IntegrityError, match="does not fit this base"):
        load_adapter(load_base(pico_base, dtype=torch.float32), adapter)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(IntegrityError, match="no adapter_model.safetensors"):
        load_adapter(load_base(pico_base, dtype=torch.float32), adapter)


def test_a_base_that_is_torn_or_incomplete_is_refused(pico_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(pico_base, folder)
    weights = folder / "model.safetensors"
    state = load_file(weights)
    save_file({k: v for k, v in state.items() if "layers.1.mlp" not in k}, weights, metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match="missing model.layers.1.mlp"):
        load_base(folder, dtype=torch.float32)
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(IntegrityError, match="cannot be loaded"):
        load_base(folder, dtype=torch.float32)
    weights.unlink()
    with pytest.raises(IntegrityError, match="has no .safetensors weights"):
        load_base(folder, dtype=torch.float32)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_a_base_is_held_in_four_bits(pico_base: Path, kind: str) -> None:
    model = load_base(pico_base, dtype=torch.float32, quantized=kind)
    packed = model.model.layers[0].mlp.up_proj.weight
    assert packed.dtype == torch.uint8 and packed.quant_state.quant_type == kind
    with torch.no_grad():
        near = model(input_ids=torch.tensor([[5, 6, 7]])).logits
        exact = load_base(pico_base, dtype=torch.float32)(input_ids=torch.tensor([[5, 6, 7]])).logits
    assert 0 < (near - exact).abs().max() < 0.5
    with pytest.raises(UsageError, match="no 4-bit type"):
        load_base(pico_base, dtype=torch.float32, quantized="int3")


def test_the_dtype_follows_the_machine_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compute_dtype(True) is torch.bfloat16 and compute_dtype(False) is torch.float32
    assert compute_dtype(None) is (torch.bfloat16 if has_bf16_units() else torch.float32)
    for flags, wanted in (({"amx_bf16": True}, True), ({"avx2": True, "avx512_bf16": False}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda flags=flags: flags)
        assert has_bf16_units(torch.device("cpu")) is wanted


def test_threads_follow_the_recipe_then_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert set_threads() == 1 and set_threads(2) == 2 == torch.get_num_threads()
    torch.set_num_threads(before)


def test_a_base_without_a_chat_template_gets_a_plain_one(pico_base: Path, tmp_path: Path) -> None:
    shutil.copytree(pico_base, tmp_path / "bare")
    (tmp_path / "bare" / "chat_template.jinja").unlink()
    tokenizer = load_tokenizer(tmp_path / "bare")
    assert tokenizer.chat_template == PLAIN_TEMPLATE and tokenizer.pad_token and tokenizer.padding_side == "right"
