"""A Llama-like model as plain numpy: weights on disk, and a forward pass to check identities with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

Array = npt.NDArray[Any]
CONFIG: dict[str, Any] = {
    "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 120,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
}  # fmt: skip


def draw(seed: int = 0, *, config: dict[str, Any] = CONFIG, bias: bool = True, per_head_norms: bool = True) -> dict[str, Array]:
    """Random weights with three query heads per key-value head; float64."""
    rng = np.random.default_rng(seed)
    d, inner, size = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    linear = {
        "self_attn.q_proj": (q, d), "self_attn.k_proj": (kv, d), "self_attn.v_proj": (kv, d), "self_attn.o_proj": (d, q),
        "mlp.gate_proj": (inner, d), "mlp.up_proj": (inner, d), "mlp.down_proj": (d, inner),
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], d), "model.norm.weight": (d,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], d)
    for n in range(config["num_hidden_layers"]):
        at = f"model.layers.{n}."
        shapes |= {f"{at}{module}.weight": shape for module, shape in linear.items()}
        shapes |= {f"{at}{norm}.weight": (d,) for norm in ("input_layernorm", "post_attention_layernorm")}
        if bias:
            shapes |= {f"{at}{module}.bias": shape[:1] for module, shape in linear.items()}
        if per_head_norms:
            shapes |= {f"{at}self_attn.{norm}.weight": (size,) for norm in ("q_norm", "k_norm")}
    return {n: rng.standard_normal(s) / (s[1] ** 0.5 if len(s) == 2 else 1.0) for n, s in shapes.items()}


def write(folder: Path, weights: dict[str, Array], config: dict[str, Any] = CONFIG) -> Path:
    """A model folder of those weights."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(value) for name, value in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": {}, "merges": []}}), encoding="utf-8")
    return folder


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
