"""What a Llama-like model computes, in plain numpy: a forward pass to check identities with, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from tests import tiny_base
from tests.tiny_base import Array

# Three query heads share a key-value head, every module has a bias, and heads have norms of their own.
CONFIG: dict[str, Any] = {
    **tiny_base.CONFIG, "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "hidden_size": 48, "intermediate_size": 80,
    "num_attention_heads": 6, "head_dim": 8, "vocab_size": 120, "tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True,
}  # fmt: skip


def read(folder: Path) -> dict[str, Array]:
    """The weights of a model folder, or of an adapter's."""
    file = folder / "model.safetensors"
    return load_file(file if file.is_file() else folder / "adapter_model.safetensors")


def with_adapter(weights: dict[str, Array], factors: dict[str, Array], scale: float) -> dict[str, Array]:
    """The weights with an adapter merged in."""
    merged = dict(weights)
    for name, a in factors.items():
        if name.endswith(".lora_A.weight"):
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            merged[f"{module}.weight"] = merged[f"{module}.weight"] + scale * factors[name.replace("lora_A", "lora_B")] @ a
    return merged


def _norm(x: Array, weight: Array) -> Array:
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-6) * weight


def _rotate(x: Array) -> Array:
    """Rotary positions on (heads, tokens, size)."""
    half = x.shape[-1] // 2
    angle = np.arange(x.shape[1])[:, None] / 10_000.0 ** (np.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    return np.concatenate([first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)], axis=-1)


def forward(w: dict[str, Array], ids: list[int], config: dict[str, Any] = CONFIG) -> Array:
    """Logits (tokens, vocabulary)."""
    x = w["model.embed_tokens.weight"][ids]
    share = config["num_attention_heads"] // config["num_key_value_heads"]

    def linear(module: str, value: Array) -> Array:
        return value @ w[f"{module}.weight"].T + w.get(f"{module}.bias", 0.0)

    def heads(module: str, value: Array) -> Array:
        return linear(module, value).reshape(len(ids), -1, config["head_dim"]).transpose(1, 0, 2)

    for n in range(config["num_hidden_layers"]):
        at = f"model.layers.{n}."
        y = _norm(x, w[f"{at}input_layernorm.weight"])
        q, k, v = (heads(f"{at}self_attn.{p}_proj", y) for p in "qkv")
        if f"{at}self_attn.q_norm.weight" in w:
            q, k = _norm(q, w[f"{at}self_attn.q_norm.weight"]), _norm(k, w[f"{at}self_attn.k_norm.weight"])
        q, k, v = _rotate(q), np.repeat(_rotate(k), share, axis=0), np.repeat(v, share, axis=0)
        score = q @ k.transpose(0, 2, 1) / config["head_dim"] ** 0.5 + np.triu(np.full((len(ids), len(ids)), -1e9), 1)
        chance = np.exp(score - score.max(axis=-1, keepdims=True))
        mixed = (chance / chance.sum(axis=-1, keepdims=True)) @ v
        x = x + linear(f"{at}self_attn.o_proj", mixed.transpose(1, 0, 2).reshape(len(ids), -1))
        y = _norm(x, w[f"{at}post_attention_layernorm.weight"])
        gate = linear(f"{at}mlp.gate_proj", y)
        x = x + linear(f"{at}mlp.down_proj", gate / (1 + np.exp(-gate)) * linear(f"{at}mlp.up_proj", y))
    return _norm(x, w["model.norm.weight"]) @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T
