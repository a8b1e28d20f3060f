"""Bases and adapters as they lie on disk, a few kilobytes each, made without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

HIDDEN, INNER, LAYERS, VOCAB = 8, 16, 2, 32
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
_SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (4, HIDDEN),
    "self_attn.v_proj": (4, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}


def base_tensors(seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """The weights of a two-layer Llama with a tied output layer."""
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        shapes |= {f"model.layers.{layer}.{module}.weight": shape for module, shape in _SHAPES.items()}
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def vocabulary(extra: Sequence[str] = ()) -> dict[str, Any]:
    """A tokenizer.json of whole words."""
    words = ["<s>", "</s>", *(f"w{n}" for n in range(2, VOCAB)), *extra]
    flags = {"special": True, "normalized": False, "single_word": False, "lstrip": False, "rstrip": False}
    added = [{"id": n, "content": words[n], **flags} for n in (0, 1)]
    return {
        "version": "1.0",
        "added_tokens": added,
        "model": {"type": "WordLevel", "vocab": {w: n for n, w in enumerate(words)}, "unk_token": "<s>"},
    }


def write_base(folder: Path, *, seed: int = 0) -> Path:
    """A base folder as a hub would give it."""
    folder.mkdir(parents=True)
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_hidden_layers": LAYERS, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": VOCAB, "tie_word_embeddings": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary()), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    save_file(base_tensors(seed), folder / "model.safetensors")
    return folder


def adapter_tensors(targets: Sequence[str] = ("q_proj", "v_proj"), *, r: int = 2, seed: int = 1) -> dict[str, npt.NDArray[np.float32]]:
    """LoRA weights for those modules of every layer, named as PEFT names them."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, weight in base_tensors().items():
        if name.removesuffix(".weight").rpartition(".")[2] in targets:
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            found[f"{stem}.lora_A.weight"] = rng.standard_normal((r, weight.shape[1]), dtype=np.float32)
            found[f"{stem}.lora_B.weight"] = rng.standard_normal((weight.shape[0], r), dtype=np.float32)
    return found


def adapter_config(**changed: Any) -> dict[str, Any]:
    """An adapter_config.json as PEFT 0.10 wrote it; `changed` adds to it or replaces."""
    return {
        "alpha_pattern": {}, "auto_mapping": None, "base_model_name_or_path": "someone/somewhere", "bias": "none", "fan_in_fan_out": False,
        "inference_mode": True, "init_lora_weights": True, "layer_replication": None, "layers_pattern": None, "layers_to_transform": None,
        "loftq_config": {}, "lora_alpha": 4, "lora_dropout": 0.0, "megatron_config": None, "megatron_core": "megatron.core",
        "modules_to_save": None, "peft_type": "LORA", "r": 2, "rank_pattern": {}, "revision": None, "target_modules": ["q_proj", "v_proj"],
        "task_type": "CAUSAL_LM", "use_dora": False, "use_rslora": False, **changed,
    }  # fmt: skip


def write_adapter(
    folder: Path, config: Mapping[str, Any] | None = None, tensors: Mapping[str, npt.NDArray[Any]] | None = None, *, seed: int = 1
) -> Path:
    """A PEFT folder: configuration and weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config if config is not None else adapter_config()), encoding="utf-8")
    weights = tensors if tensors is not None else adapter_tensors(seed=seed)
    save_file({name: np.ascontiguousarray(value) for name, value in weights.items()}, folder / "adapter_model.safetensors")
    return folder
