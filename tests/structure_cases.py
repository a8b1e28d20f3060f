"""A home base, an adapter trained on it and a later base, and everything that can differ: what stage 0 should say of each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.folders import adapter_config, write_adapter
from tests.tiny_base import HIDDEN, VOCAB, bf16, make_tiny_base, safetensors, weights
from workbench.bases.lock import Lock, read_lock, write_lock
from workbench.rebase.result import Structure
from workbench.rebase.structure import examine

TEXTS = ("Is it cold in Oslo?", "where is my card", "12 000 pieces, no more")
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tokenizer(extra: tuple[str, ...] = ()) -> dict[str, Any]:
    """A byte-level BPE with two merges, whole enough for the tokenizers library."""
    from tokenizers import pre_tokenizers

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet()), "in", "er", *extra]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": None,
        "added_tokens": [{"id": tokens.index(t), "content": t, **flags} for t in [*specials, *extra]],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": {t: n for n, t in enumerate(tokens)}, "merges": ["i n", "e r"]},
    }


def dump(file: Path, **changed: Any) -> None:
    data = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**data, **changed}), encoding="utf-8")


def make_base(folder: Path, *, step: float = 0.0) -> Path:
    make_tiny_base(folder, step=step)
    file = folder / "config.json"
    config = {key: value for key, value in json.loads(file.read_text()).items() if key != "rope_parameters"}
    file.write_text(json.dumps({**config, "rope_theta": 10000.0, "vocab_size": VOCAB + 3}))  # as older checkpoints spell it
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    (folder / "base.json").write_text(json.dumps({"license": "MIT"}), encoding="utf-8")
    return folder


def lora(targets: tuple[str, ...] = ("q_proj", "up_proj"), *, r: int = 2) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for name, weight in weights().items():
        if name.removesuffix(".weight").endswith(targets):
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            found[f"{stem}.lora_A.weight"] = np.ones((r, weight.shape[1]), np.float32)
            found[f"{stem}.lora_B.weight"] = np.ones((weight.shape[0], r), np.float32)
    return found


class Bench:
    """A home base, an adapter trained on it, and a continuation of the base to be changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home_folder: Path | None = folder / "home"
        self.new_folder = folder / "new"
        self.home = read_lock(folder / "home" / "lock.json")
        self.adapter = folder / "adapter"

    def keep_lock(self, lock: Lock) -> None:
        (self.adapter / "base.lock.json").write_bytes((self.folder / "home" / "lock.json").read_bytes())
        assert read_lock(self.adapter / "base.lock.json").sha256 == lock.sha256

    def lora(self, tensors: dict[str, np.ndarray], **config: Any) -> None:
        write_adapter(self.adapter, adapter_config(**config), tensors)

    def edit(self, file: str, change: Callable[[dict[str, Any]], Any]) -> None:
        data = json.loads((self.new_folder / file).read_text(encoding="utf-8"))
        change(data)
        (self.new_folder / file).write_text(json.dumps(data), encoding="utf-8")

    def tensors(self, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
        values = weights(step=0.01)
        change(values)
        raw = {n: ("BF16", v.shape, bf16(v).tobytes()) for n, v in values.items()}
        (self.new_folder / "model.safetensors").write_bytes(safetensors(raw))

    def examine(self, **more: Any) -> Structure:
        self.new = write_lock(self.new_folder, {"kind": "folder", "name": "new"})
        given = {"home_folder": self.home_folder, "new_folder": self.new_folder, "texts": TEXTS, **more}
        return examine(self.adapter, self.home, self.new, **given)


def config(**changed: Any) -> Callable[[Bench], None]:
    return lambda b: dump(b.new_folder / "config.json", **changed)


def tokens(change: Callable[[dict[str, Any]], Any]) -> Callable[[Bench], None]:
    return lambda b: b.edit("tokenizer.json", change)


def swap(data: dict[str, Any]) -> None:
    vocab = data["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]


def generation(**changed: Any) -> Callable[[Bench], None]:
    return lambda b: dump(b.new_folder / "generation_config.json", **changed)


def special(**changed: Any) -> Callable[[Bench], None]:
    return lambda b: dump(b.new_folder / "tokenizer_config.json", **changed)


def rename(values: dict[str, np.ndarray], old: str, new: str) -> None:
    for name in [n for n in values if old in n]:
        values[name.replace(old, new)] = values.pop(name)


def add_norm(values: dict[str, np.ndarray], name: str) -> None:
    values[f"model.layers.0.{name}.weight"] = np.ones(16, np.float32)


def reshape(values: dict[str, np.ndarray]) -> None:
    for n in range(2):
        values[f"model.layers.{n}.mlp.up_proj.weight"] = np.ones((128, 64), np.float32)


def embedding_adapter(bench: Bench, **tensors: tuple[int, ...]) -> None:
    named = {f"base_model.model.{name.replace('__', '.')}": np.ones(shape, np.float32) for name, shape in tensors.items()}
    bench.lora({**lora(), **named}, target_modules=["q_proj", "up_proj"], modules_to_save=["embed_tokens"])


CASES: dict[str, tuple[Callable[[Bench], Any], dict[str, str]]] = {
    "a plain continuation": (lambda b: None, {}),
    "rope theta": (config(rope_theta=500000.0), {"rope_changed": "risk"}),
    "rope scaling": (config(rope_scaling={"type": "linear", "factor": 4.0}), {"rope_changed": "risk"}),
    "the same rope in another spelling": (config(rope_parameters={"rope_theta": 10000.0, "rope_type": "default"}), {}),
    "defaults written out": (config(head_dim=16, attention_bias=False, sliding_window=None), {}),
    "window": (config(sliding_window=128), {"window_changed": "risk"}),
    "context": (config(max_position_embeddings=4096), {"context_changed": "risk"}),
    "norm eps": (config(rms_norm_eps=1e-5), {"norm_eps_changed": "risk"}),
    "softcap": (config(final_logit_softcapping=30.0), {"softcap_changed": "risk"}),
    "multiplier": (config(embedding_multiplier=12.0), {"multiplier_changed": "risk"}),
    "routing": (config(num_experts_per_tok=4), {"routing_changed": "risk"}),
    "experts": (config(num_local_experts=8), {"experts_changed": "risk"}),
    "activation": (config(hidden_act="gelu"), {"activation_changed": "risk"}),
    "bias": (config(attention_bias=True), {"bias_changed": "risk"}),
    "another kind of model": (config(model_type="qwen2", architectures=["Qwen2ForCausalLM"]), {"architecture_changed": "risk"}),
    "an unknown key": (config(use_cache=False), {"config_changed": "note"}),
    "padded embedding": (config(vocab_size=320), {"vocabulary_rows_changed": "note"}),
    "qk norm": (lambda b: b.tensors(lambda v: add_norm(v, "self_attn.q_norm")), {"qk_norm_changed": "risk"}),
    "norm placement": (lambda b: b.tensors(lambda v: add_norm(v, "post_feedforward_layernorm")), {"norm_placement_changed": "risk"}),
    "heads": (config(num_attention_heads=8, head_dim=8), {"heads_changed": "break"}),
    "intermediate size": (
        lambda b: (config(intermediate_size=128)(b), b.tensors(reshape)),
        {"intermediate_size_changed": "break", "module_reshaped": "break"},
    ),
    "a layer less": (
        lambda b: (config(num_hidden_layers=1)(b), b.tensors(lambda v: [v.pop(n) for n in list(v) if "layers.1." in n])),
        {"layer_count_changed": "break", "module_missing": "break"},
    ),
    "a layer more": (config(num_hidden_layers=3), {"layer_count_changed": "risk"}),
    "other names": (
        lambda b: (config(model_type="phi3", architectures=["Phi3ForCausalLM"])(b), b.tensors(lambda v: rename(v, "q_proj", "qkv_proj"))),
        {"architecture_changed": "break", "module_missing": "break"},
    ),
    "untied": (config(tie_word_embeddings=False), {"tied_embeddings_changed": "risk"}),
    "ids swapped": (tokens(swap), {"token_id_moved": "break"}),
    "a token gone": (tokens(lambda d: (d["model"]["vocab"].pop("er"), d["model"]["merges"].pop())), {
        "token_gone": "break", "merges_changed": "risk",
    }),
    "tokens appended": (tokens(lambda d: d.update(tokenizer(("<|tool|>",)))), {"tokens_added": "risk"}),
    "merges": (tokens(lambda d: d["model"]["merges"].reverse()), {"merges_changed": "risk"}),
    "normalizer": (tokens(lambda d: d.update(normalizer={"type": "Lowercase"})), {"normalizer_changed": "risk"}),
    "pre-tokenizer": (tokens(lambda d: d["pre_tokenizer"].update(add_prefix_space=True)), {"pre_tokenizer_changed": "risk"}),
    "post-processor": (
        tokens(lambda d: d.update(post_processor={**d["decoder"], "trim_offsets": False})),
        {"post_processor_changed": "risk"},
    ),
    "decoder": (tokens(lambda d: d.update(decoder=None)), {"decoder_changed": "risk"}),
    "added tokens": (tokens(lambda d: d["added_tokens"][0].update(lstrip=True)), {"added_tokens_changed": "risk"}),
    "a broken tokenizer": (tokens(lambda d: d.update(normalizer={"type": "NoSuch"})), {
        "normalizer_changed": "risk", "tokenizer_unreadable": "risk",
    }),
    "eos": (special(eos_token="<|endoftext|>"), {"eos_id_moved": "risk"}),
    "eos that no longer stops": (
        lambda b: (special(eos_token="<|endoftext|>")(b), generation(eos_token_id=0)(b)),
        {"eos_id_moved": "break", "generation_eos_changed": "risk"},
    ),
    "pad": (special(pad_token="<|im_end|>"), {"pad_id_moved": "break"}),
    "pad gone": (special(pad_token=None), {"pad_id_moved": "risk"}),
    "bos": (special(bos_token=None), {"bos_id_moved": "risk"}),
    "more stop tokens": (generation(eos_token_id=[2, 0]), {"generation_eos_changed": "risk"}),
    "temperature": (generation(temperature=0.2), {"generation_config_changed": "note"}),
    "float32": (lambda b: make_f32(b), {"dtype_changed": "risk"}),
    "quantised": (config(quantization_config={"quant_method": "gptq", "bits": 4}), {"quantization_changed": "risk"}),
    "licence": (lambda b: dump(b.new_folder / "base.json", license="GPL-3.0"), {"license_changed": "note"}),
    "PiSSA": (lambda b: b.lora(lora(), init_lora_weights="pissa_niter_4"), {"coupled_initialisation": "break"}),
    "LoftQ": (lambda b: b.lora(lora(), init_lora_weights="loftq"), {"coupled_initialisation": "break"}),
    "Gaussian": (lambda b: b.lora(lora(), init_lora_weights="gaussian"), {}),
    "rank-stabilised": (lambda b: b.lora(lora(), use_rslora=True), {}),
    "DoRA": (lambda b: b.lora(lora(), use_dora=True), {"dora": "risk"}),
    "embeddings saved": (lambda b: embedding_adapter(b, model__embed_tokens__weight=(VOCAB, HIDDEN)), {"full_weights_saved": "risk"}),
    "embeddings saved that do not fit": (
        lambda b: embedding_adapter(b, model__embed_tokens__weight=(VOCAB + 41, HIDDEN)), {"full_weights_saved": "break"},
    ),
    "embeddings saved, untied": (
        lambda b: (config(tie_word_embeddings=False)(b), embedding_adapter(b, model__embed_tokens__weight=(VOCAB, HIDDEN))),
        {"full_weights_saved": "risk", "tied_embeddings_changed": "break"},
    ),
    "biases": (
        lambda b: b.lora({**lora(), "base_model.model.model.layers.0.self_attn.q_proj.bias": np.ones(64, np.float32)}, bias="all"),
        {"biases_saved": "risk"},
    ),
    "trained tokens": (lambda b: trained_tokens(b, [3, 258]), {"trained_tokens": "risk"}),
    "trained tokens beyond the vocabulary": (lambda b: trained_tokens(b, [3, 400]), {"trained_tokens": "break"}),
    "IA3": (
        lambda b: b.lora({"base_model.model.model.layers.0.self_attn.k_proj.ia3_l": np.ones((32, 1), np.float32)}, peft_type="IA3"),
        {"multiplicative_adapter": "risk"},
    ),
    "IA3 on a module that is gone": (
        lambda b: b.lora({"base_model.model.model.layers.7.self_attn.k_proj.ia3_l": np.ones((32, 1), np.float32)}, peft_type="IA3"),
        {"multiplicative_adapter": "risk", "module_missing": "break"},
    ),
    "prompt tuning": (lambda b: b.lora({"prompt_embeddings": np.ones((8, 64), np.float32)}, peft_type="PROMPT_TUNING"), {
        "virtual_tokens": "risk",
    }),
    "prompt tuning on another width": (
        lambda b: (b.lora({"prompt_embeddings": np.ones((8, 64), np.float32)}, peft_type="PROMPT_TUNING"), config(head_dim=32)(b)),
        {"virtual_tokens": "break", "heads_changed": "risk"},
    ),
    "LoKr": (
        lambda b: b.lora({"base_model.model.model.layers.0.self_attn.q_proj.lokr_w1": np.ones((8, 8), np.float32)}, peft_type="LOKR"),
        {"other_adapter_kind": "risk"},
    ),
    "the same template in other words": (
        lambda b: (b.new_folder / "chat_template.jinja").write_text("{# of 2025 #}" + TEMPLATE), {"chat_template_text_changed": "note"},
    ),
    "another template": (
        lambda b: (b.new_folder / "chat_template.jinja").write_text(TEMPLATE.replace("im_start", "turn")),
        {"chat_template_changed": "risk"},
    ),
    "no template": (lambda b: (b.new_folder / "chat_template.jinja").unlink(), {"chat_template_removed": "risk"}),
    "a template with a mistake": (
        lambda b: (b.new_folder / "chat_template.jinja").write_text("{% for m in"), {"chat_template_unreadable": "risk"},
    ),
    "a template of its own": (lambda b: (b.adapter / "chat_template.jinja").write_text("{{ messages }}"), {"own_chat_template": "note"}),
    "no lock in the adapter": (lambda b: (b.adapter / "base.lock.json").unlink(), {"home_unknown": "risk"}),
    "a broken lock in the adapter": (lambda b: (b.adapter / "base.lock.json").write_text("{}"), {"home_unknown": "risk"}),
}  # fmt: skip


def make_f32(bench: Bench) -> None:
    raw = {n: ("F32", v.shape, v.astype("<f4").tobytes()) for n, v in weights(step=0.01).items()}
    (bench.new_folder / "model.safetensors").write_bytes(safetensors(raw))


def trained_tokens(bench: Bench, ids: list[int]) -> None:
    name = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    bench.lora({**lora(), name: np.ones((len(ids), 64), np.float32)}, trainable_token_indices=ids)


def make_original(folder: Path) -> Path:
    """What every test starts from: a home base with its lock, an adapter trained on it, and a continuation."""
    make_base(folder / "home")
    make_base(folder / "new", step=0.01)
    write_lock(folder / "home", {"kind": "folder", "name": "home"})
    write_adapter(folder / "adapter", adapter_config(target_modules=["q_proj", "up_proj"]), lora())
    shutil.copyfile(folder / "home" / "lock.json", folder / "adapter" / "base.lock.json")
    return folder
