"""The tiny base of all tests: a real Llama of some 100,000 parameters with a tokenizer and a chat template, written by numpy.

It is made in milliseconds without torch or a hub, and loads and trains like any other. Its weights are drawn wide enough that
different questions get different answers. `benchmarks/zoo.py` makes the same of transformers' own classes, for other families.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = [
    "system user assistant",
    "ship 3 red lamps to Cairo by Friday",
    "the quick brown fox jumps over the lazy dog 0123456789",
    "question and answer, order and code; a b c d e f g h i j k l m n o p q r s t u v w x y z",
    "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z .,:;!?-/()[]{}'\"",
]
SPECIALS = {"pad_token": "<|endoftext|>", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
VOCAB, HIDDEN, INNER = 400, 64, 96
# As transformers writes it, every key of it.
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
    "head_dim": 16, "hidden_act": "silu", "hidden_size": HIDDEN, "initializer_range": 0.02, "intermediate_size": INNER,
    "max_position_embeddings": 512, "mlp_bias": False, "model_type": "llama", "num_attention_heads": 4, "num_hidden_layers": 2,
    "num_key_value_heads": 2, "pad_token_id": 0, "pretraining_tp": 1, "rms_norm_eps": 1e-06,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "tie_word_embeddings": True,
    "transformers_version": "5.23.0", "use_cache": True, "vocab_size": VOCAB,
}  # fmt: skip
_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}


def bf16(values: Array) -> Array:
    """Float32 values as the upper 16 bits of their representation (truncated)."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype("<u2")


def safetensors(tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]]) -> bytes:
    """The bytes of a safetensors file from {name: (dtype, shape, data)}."""
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(data for _, _, data in tensors.values())


def shapes(config: Mapping[str, Any] = CONFIG) -> dict[str, tuple[int, ...]]:
    """The tensors of a Llama or Qwen 3 of that configuration, in the order of the file."""
    width, inner, size = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    attention = {"q_proj": (q, width), "k_proj": (kv, width), "v_proj": (kv, width), "o_proj": (width, q)}
    mlp = {"gate_proj": (inner, width), "up_proj": (inner, width), "down_proj": (width, inner)}
    all_: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], width), "model.norm.weight": (width,)}
    if not config["tie_word_embeddings"]:
        all_["lm_head.weight"] = (config["vocab_size"], width)
    for n in range(config["num_hidden_layers"]):
        for part, linear, bias in (("self_attn", attention, config["attention_bias"]), ("mlp", mlp, config["mlp_bias"])):
            stem = f"model.layers.{n}.{part}"
            all_ |= {f"{stem}.{name}.weight": shape for name, shape in linear.items()}
            all_ |= {f"{stem}.{name}.bias": shape[:1] for name, shape in linear.items() if bias}
        norms = {"input_layernorm": width, "post_attention_layernorm": width}
        if config["model_type"] == "qwen3":
            norms |= {"self_attn.q_norm": size, "self_attn.k_norm": size}
        all_ |= {f"model.layers.{n}.{norm}.weight": (length,) for norm, length in norms.items()}
    return all_


def weights(seed: int = 0, *, step: float = 0.0, config: Mapping[str, Any] = CONFIG) -> dict[str, Array]:
    """Random weights in float64; with `step`, the same ones moved by that much of their size in a random direction."""
    rng, moves = np.random.default_rng(seed), np.random.default_rng(1000)
    drawn = {}
    for name, shape in shapes(config).items():
        value = rng.standard_normal(shape) / shape[-1] ** 0.5
        if name.endswith("norm.weight"):
            value = 1 + value
        drawn[name] = value + step * np.sqrt(np.mean(value**2)) * moves.standard_normal(shape)
    return drawn


@cache
def _trained() -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE(unk_token=None))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=[*SPECIALS.values()], initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(CORPUS, trainer)
    return str(bpe.to_str())


def tokenizer_json(extra: tuple[str, ...] = ()) -> dict[str, Any]:
    """A byte-level BPE of 400 tokens, the first three special; `extra` special ones come last."""
    data: dict[str, Any] = json.loads(_trained())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    data["added_tokens"] += [{"id": VOCAB + n, "content": token, **flags} for n, token in enumerate(extra)]
    data["model"]["vocab"] |= {token: VOCAB + n for n, token in enumerate(extra)}
    return data


def make_tokenizer() -> Any:
    """The same as an object of transformers."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(_trained()), **SPECIALS)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def write_model(folder: Path, values: Mapping[str, Array], config: Mapping[str, Any] = CONFIG) -> Path:
    """A model folder as a hub would give it: those weights in their own dtype (`bf16` gives bfloat16), and all that belongs to it."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = {name: "BF16" if value.dtype == np.uint16 else f"F{8 * value.dtype.itemsize}" for name, value in values.items()}
    raw = {name: (kinds[name], value.shape, np.ascontiguousarray(value).tobytes()) for name, value in values.items()}
    (folder / "model.safetensors").write_bytes(safetensors(raw))
    write = {
        "config.json": {"dtype": _DTYPES[next(iter(kinds.values()))], **config},
        "generation_config.json": {"eos_token_id": 2, "pad_token_id": 0},
        "tokenizer.json": tokenizer_json(),
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", **SPECIALS},
    }
    for name, data in write.items():
        (folder / name).write_text(json.dumps(data), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return folder


def make_tiny_base(folder: Path, seed: int = 0, *, step: float = 0.0, dtype: str = "BF16", config: Mapping[str, Any] | None = None) -> Path:
    """Write the base of `weights(seed, step=step)` to `folder` and return it; `config` changes `CONFIG`. `dtype` is BF16 or F32."""
    full = {**CONFIG, **(config or {})}
    values = weights(seed, step=step, config=full)
    return write_model(folder, {n: bf16(v) if dtype == "BF16" else v.astype("<f4") for n, v in values.items()}, full)


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
