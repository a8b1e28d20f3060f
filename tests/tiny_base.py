"""A base folder without torch: a few random tensors, a byte-level tokenizer and a configuration, written by numpy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TEMPLATE = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 259,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "transformers_version": "5.23.0",
}


def bf16(values: np.ndarray) -> np.ndarray:
    """Float32 values as the upper 16 bits of their representation (truncated)."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype("<u2")


def safetensors(tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> bytes:
    """The bytes of a safetensors file from {name: (dtype, shape, data)}."""
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(data for _, _, data in tensors.values())


def weights(seed: int = 0, *, step: float = 0.0, layers: int = 2) -> dict[str, np.ndarray]:
    """Random weights; with `step`, the same ones moved by that much of their size in a random direction."""
    rng, moves = np.random.default_rng(seed), np.random.default_rng(1000)
    shapes = {"model.embed_tokens.weight": (259, 64), "model.norm.weight": (64,)}
    for n in range(layers):
        shapes |= {f"model.layers.{n}.self_attn.{p}_proj.weight": (64, 64) for p in "qo"}
        shapes |= {f"model.layers.{n}.self_attn.{p}_proj.weight": (32, 64) for p in "kv"}
        shapes |= {f"model.layers.{n}.mlp.{p}_proj.weight": (96, 64) for p in ("gate", "up")}
        shapes |= {f"model.layers.{n}.mlp.down_proj.weight": (64, 96), f"model.layers.{n}.input_layernorm.weight": (64,)}
    found = {}
    for name, shape in shapes.items():
        value = rng.standard_normal(shape).astype(np.float32)
        found[name] = value + step * moves.standard_normal(shape).astype(np.float32)
    return found


def tokenizer_json(extra: tuple[str, ...] = ()) -> dict[str, Any]:
    """A byte-level tokenizer without merges: 256 single characters and three special tokens."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *extra]
    vocab = {token: n for n, token in enumerate([*specials[:3], *(chr(0x100 + n) for n in range(256)), *specials[3:]])}
    flags = {"special": True, "normalized": False, "single_word": False, "lstrip": False, "rstrip": False}
    added = [{"id": vocab[t], "content": t, **flags} for t in specials]
    pre = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "vocab": vocab, "merges": []}
    return {"version": "1.0", "added_tokens": added, "normalizer": None, "pre_tokenizer": pre, "model": model}


def make_tiny_base(folder: Path, seed: int = 0, *, step: float = 0.0, dtype: str = "BF16", config: dict[str, Any] | None = None) -> Path:
    """Write a base of about 60,000 parameters to `folder` in a few milliseconds and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    values = weights(seed, step=step)
    raw = {n: (dtype, v.shape, (bf16(v) if dtype == "BF16" else v.astype("<f4")).tobytes()) for n, v in values.items()}
    (folder / "model.safetensors").write_bytes(safetensors(raw))
    write = {
        "config.json": {**CONFIG, **(config or {})},
        "generation_config.json": {"eos_token_id": 2, "pad_token_id": 0},
        "tokenizer.json": tokenizer_json(),
        "tokenizer_config.json": {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": {"content": "<|endoftext|>"}},
    }
    for name, data in write.items():
        (folder / name).write_text(json.dumps(data), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return folder


def shard(folder: Path) -> Path:
    """Split the weights of a tiny base over two files with an index, and put a stray third one beside them."""
    values = weights()
    (folder / "model.safetensors").unlink()
    names = list(values)
    shards = {"part-1.safetensors": names[:5], "part-2.safetensors": names[5:]}
    for file, members in shards.items():
        (folder / file).write_bytes(safetensors({n: ("BF16", values[n].shape, bf16(values[n]).tobytes()) for n in members}))
    (folder / "stray.safetensors").write_bytes(b"not one of them")
    index = {"metadata": {}, "weight_map": {n: file for file, members in shards.items() for n in members}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def edit_json(name: str, **values: Any) -> Callable[[Path], None]:
    """A change that sets keys of a JSON file of a folder."""

    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change
