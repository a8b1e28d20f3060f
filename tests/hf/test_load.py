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

from workbench.bases.lock import chat_template
from workbench.errors import IntegrityError, SourceError, UsageError
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


def other_weights(folder: Path, name: str) -> None:
    state = {key: torch.zeros_like(value) for key, value in load_file(folder / "model.safetensors").items()}
    save_file(state, folder / name, metadata={"format": "pt"})


def test_nothing_is_computed_with_but_the_weights_that_were_hashed(pico_base: Path, adapter: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(pico_base, tmp_path / "base")
    other_weights(folder, "other.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": "other.safetensors"}))
    with pytest.raises(SourceError, match="sets transformers_weights"):
        load_base(folder, dtype=torch.float32)
    (folder / "config.json").write_text(json.dumps(config))
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        logits = [load_base(each, dtype=torch.float32)(input_ids=ids).logits for each in (pico_base, folder)]
    assert torch.equal(*logits)
    other_weights(folder, "shard-00001-model-00001-of-00001.safetensors")
    with pytest.raises(IntegrityError, match="shard-00001"):
        load_base(folder, dtype=torch.float32)
    (folder / "shard-00001-model-00001-of-00001.safetensors").unlink()
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(adapter / file, folder)
    with pytest.raises(IntegrityError, match="adapter_config.json"):
        load_base(folder, dtype=torch.float32)


def test_an_index_beside_the_weights_is_not_followed(pico_base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(pico_base, tmp_path / "base")
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    keys = load_file(folder / "part.safetensors").keys()
    index = {"metadata": {}, "weight_map": dict.fromkeys(keys, "part.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    load_base(folder, dtype=torch.float32)
    (folder / "part.safetensors").rename(tmp_path / "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({**index, "weight_map": dict.fromkeys(keys, "../part.safetensors")}))
    with pytest.raises(IntegrityError, match="not a weight file beside it"):
        load_base(folder, dtype=torch.float32)


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation", "_attn_implementation_internal"])
@pytest.mark.parametrize("value", ["eager", "evil/kernel"])
def test_a_configuration_does_not_choose_the_code_that_runs(pico_base: Path, tmp_path: Path, key: str, value: str) -> None:
    folder = shutil.copytree(pico_base, tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: value, "_experts_implementation": value}))
    assert load_base(folder, dtype=torch.float32).config._attn_implementation == "sdpa"
    assert load_base(folder, dtype=torch.float32, attn="eager").config._attn_implementation == "eager"


def test_a_tokenizer_is_read_from_its_own_folder(pico_base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(pico_base, tmp_path / "base")
    other = shutil.copytree(pico_base, tmp_path / "other")
    text = (other / "tokenizer.json").read_text().replace("<|im_end|>", "<|elsewhere|>")
    (other / "tokenizer.json").write_text(text)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    paths = {key: str(other / "tokenizer.json") for key in ("tokenizer_file", "vocab_file", "name_or_path", "gguf_file")}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, **paths}))
    assert "<|elsewhere|>" not in load_tokenizer(folder).get_vocab()


BAD_TOKENIZERS: dict[str, tuple[str, Any, str]] = {
    "not JSON": ("tokenizer.json", "{", "can be read"),
    "a list": ("tokenizer_config.json", "[1]", "can be read"),
    "nested": ("tokenizer_config.json", '{"a":' * 5000 + "1" + "}" * 5000, "can be read"),
    "a long template": ("chat_template.jinja", "x" * 70_000, "longer than 65,536"),
}


@pytest.mark.parametrize("case", BAD_TOKENIZERS)
def test_a_tokenizer_that_cannot_be_read_is_one_sentence(pico_base: Path, tmp_path: Path, case: str) -> None:
    name, text, words = BAD_TOKENIZERS[case]
    folder = shutil.copytree(pico_base, tmp_path / "base")
    (folder / name).write_text(text)
    with pytest.raises(UsageError, match=words):
        load_tokenizer(folder)


@pytest.mark.parametrize("files", ["chat_template.json", "chat_template.json tokenizer_config.json", "tokenizer_config.json jinja"])
def test_the_lock_holds_the_template_that_is_used(pico_base: Path, tmp_path: Path, files: str) -> None:
    folder = shutil.copytree(pico_base, tmp_path / "base")
    template = (folder / "chat_template.jinja").read_text()
    if "jinja" not in files:
        (folder / "chat_template.jinja").unlink()
    for n, name in enumerate(name for name in files.split() if name != "jinja"):
        data = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
        (folder / name).write_text(json.dumps({**data, "chat_template": f"{template}{n}"}))
    assert load_tokenizer(folder).chat_template == (chat_template(folder) or PLAIN_TEMPLATE)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_a_base_is_held_in_four_bits(pico_base: Path, kind: str) -> None:
    model = load_base(pico_base, dtype=torch.float32, quantized=kind)
    packed = model.model.layers[0].mlp.up_proj.weight
    assert packed.dtype == torch.uint8 and packed.quant_state.quant_type == kind
    with torch.no_grad():
        near = model(input_ids=torch.tensor([[5, 6, 7]])).logits
        exact = load_base(pico_base, dtype=torch.float32)(input_ids=torch.tensor([[5, 6, 7]])).logits
    assert 0 < (near - exact).norm() < 0.5 * exact.norm()
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
