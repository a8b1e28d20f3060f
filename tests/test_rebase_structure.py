"""Stage 0 of the rebase check: every difference is named, at its level, and nothing else is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.folders import adapter_config, write_adapter
from tests.tiny_base import CONFIG, bf16, make_tiny_base, safetensors, weights
from workbench.bases.lock import Lock, read_lock, write_lock
from workbench.errors import IntegrityError
from workbench.rebase.findings import CATALOGUE, LEVELS, found, ordered
from workbench.rebase.result import Finding, Structure
from workbench.rebase.structure import examine
from workbench.rebase.templates import PROBES, render_probes

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
    dump(folder / "config.json", vocab_size=262)
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


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every test starts from, made once."""
    folder = tmp_path_factory.mktemp("original")
    make_base(folder / "home")
    make_base(folder / "new", step=0.01)
    write_lock(folder / "home", {"kind": "folder", "name": "home"})
    write_adapter(folder / "adapter", adapter_config(target_modules=["q_proj", "up_proj"]), lora())
    shutil.copyfile(folder / "home" / "lock.json", folder / "adapter" / "base.lock.json")
    return folder


@pytest.fixture
def bench(original: Path, tmp_path: Path) -> Bench:
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    return Bench(tmp_path)


def levels(structure: Structure) -> dict[str, str]:
    assert len({f.name for f in structure.findings}) == len(structure.findings), "a finding is listed once"
    return {f.name: f.level for f in structure.findings}


def the(structure: Structure, name: str) -> Finding:
    return next(f for f in structure.findings if f.name == name)


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
    "norm eps": (config(rms_norm_eps=1e-6), {"norm_eps_changed": "risk"}),
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
    "embeddings saved": (lambda b: embedding_adapter(b, model__embed_tokens__weight=(259, 64)), {"full_weights_saved": "risk"}),
    "embeddings saved that do not fit": (
        lambda b: embedding_adapter(b, model__embed_tokens__weight=(300, 64)), {"full_weights_saved": "break"},
    ),
    "embeddings saved, untied": (
        lambda b: (config(tie_word_embeddings=False)(b), embedding_adapter(b, model__embed_tokens__weight=(259, 64))),
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


@pytest.mark.parametrize("case", CASES)
def test_every_difference_is_named_at_its_level_and_nothing_else_is(case: str, bench: Bench) -> None:
    change, expected = CASES[case]
    change(bench)
    structure = bench.examine()
    assert levels(structure) == expected
    for finding in structure.findings:
        assert finding.text.endswith((".", "…")) and "  " not in finding.text and len(finding.text) < 500, finding.text
    json.dumps([finding.details for finding in structure.findings], allow_nan=False)


def test_every_finding_of_the_catalogue_can_be_found_and_says_what_to_do() -> None:
    expected = {(name, level) for _, found in CASES.values() for name, level in found.items()}
    elsewhere = {  # the tests below
        ("home_mismatch", "break"), ("home_mismatch", "risk"), ("same_base", "note"), ("same_weights", "note"), ("tokens_renamed", "risk"),
        ("hidden_size_changed", "break"), ("heads_changed", "risk"), ("intermediate_size_changed", "risk"), ("experts_changed", "break"),
        ("chat_template_added", "risk"), ("unk_id_moved", "risk"), ("tokenizer_type_changed", "risk"),
    }  # fmt: skip
    every = {(name, level) for name, entry in CATALOGUE.items() for level in (entry.level, entry.milder) if level}
    assert expected | elsewhere == every
    for name, entry in CATALOGUE.items():
        assert entry.level in LEVELS and bool(entry.milder) == bool(entry.when), name
        assert entry.explanation.endswith(".") and entry.advice.endswith(".") and not entry.title.endswith("."), name


def test_a_stranger_gets_every_mismatch_at_once(bench: Bench) -> None:
    """Another family of another size: breaks first, and one finding for all modules."""
    config(
        model_type="gemma3_text", architectures=["Gemma3ForCausalLM"], hidden_size=96, num_attention_heads=2, num_key_value_heads=1,
        head_dim=48, intermediate_size=200, hidden_activation="gelu_pytorch_tanh", sliding_window=512, num_local_experts=4,
    )(bench)  # fmt: skip
    bench.tensors(lambda v: v.update({n: np.ones((100, 96), np.float32) for n, x in v.items() if x.ndim == 2}))
    special(eos_token="<|endoftext|>", unk_token="<|endoftext|>")(bench)
    generation(eos_token_id=0)(bench)
    tokens(swap)(bench)
    (bench.new_folder / "chat_template.jinja").write_text("{{ raise_exception('no') if messages[0].role == 'system' else 'x' }}")
    structure = bench.examine()
    assert levels(structure) == {
        "module_reshaped": "break", "hidden_size_changed": "break", "heads_changed": "break", "intermediate_size_changed": "break",
        "architecture_changed": "break", "token_id_moved": "break", "eos_id_moved": "break", "experts_changed": "risk",
        "activation_changed": "risk", "window_changed": "risk", "generation_eos_changed": "risk", "unk_id_moved": "risk",
        "chat_template_changed": "risk",
    }  # fmt: skip
    order = [LEVELS.index(finding.level) for finding in structure.findings]
    assert order == sorted(order) and len(structure.breaks) == 7
    wrong = the(structure, "module_reshaped")
    assert len(wrong.details["modules"]) == 4 and wrong.details["modules"]["model.layers.1.mlp.up_proj"] == {
        "was": [96, 64],
        "is": [100, 96],
    }
    assert wrong.text.startswith("4 of the adapter's 4 modules have another shape: model.layers.0.mlp.up_proj")
    assert "The model was llama (LlamaForCausalLM) and is gemma3_text (Gemma3ForCausalLM)." == the(structure, "architecture_changed").text
    assert "system and user, empty system" in the(structure, "chat_template_changed").text.partition("refuses: ")[2]


def test_sizes_break_only_what_the_adapter_touches(bench: Bench) -> None:
    bench.lora(lora(("up_proj",)), target_modules=["up_proj"])
    config(num_attention_heads=8, head_dim=8)(bench)
    assert levels(bench.examine()) == {"heads_changed": "risk"}
    bench.lora(lora(("q_proj",)), target_modules=["q_proj"])
    config(num_attention_heads=4, head_dim=16, intermediate_size=128)(bench)
    assert levels(bench.examine()) == {"intermediate_size_changed": "risk"}
    name = "base_model.model.model.layers.0.mlp.experts.0.up_proj"
    bench.lora({f"{name}.lora_A.weight": np.ones((2, 64)), f"{name}.lora_B.weight": np.ones((96, 2))}, target_modules=["up_proj"])
    config(intermediate_size=96, num_local_experts=4)(bench)
    assert levels(bench.examine()) == {"experts_changed": "break", "module_missing": "break"}


def test_the_home_base_in_hand_must_be_the_one_of_the_training(bench: Bench) -> None:
    bench.home_folder = make_base(bench.folder / "stranger", step=0.5)
    right, bench.home = bench.home, write_lock(bench.home_folder, {"kind": "folder", "name": "stranger"})
    text = the(bench.examine(), "home_mismatch").text
    assert right.weights_sha256[:12] in text and bench.home.weights_sha256[:12] in text and "stranger" in text
    assert levels(examine(bench.adapter, bench.home, bench.home, home_folder=None, new_folder=bench.home_folder)) == {
        "home_mismatch": "break", "same_base": "note",
    }  # fmt: skip
    bench.home_folder = make_base(bench.folder / "elsewhere")
    bench.home = write_lock(bench.home_folder, {"kind": "folder", "name": "elsewhere"})
    assert levels(bench.examine()) == {}, "the same files from another source"
    (bench.home_folder / "chat_template.jinja").write_text("{{ messages }}")
    bench.home = write_lock(bench.home_folder, {"kind": "folder", "name": "elsewhere"})
    found = the(bench.examine(), "home_mismatch")
    assert found.level == "risk" and found.details == {"differ": ["the chat template"]}


def test_on_the_home_base_itself_there_are_only_notes(bench: Bench) -> None:
    bench.lora(lora(), init_lora_weights="pissa", use_dora=True)
    given: dict[str, Any] = {"home_folder": bench.home_folder, "new_folder": bench.folder / "home"}
    assert levels(examine(bench.adapter, bench.home, bench.home, **given)) == {"same_base": "note"}
    bench.new_folder = make_base(bench.folder / "mirror")
    dump(bench.new_folder / "base.json", license="Apache-2.0")
    assert levels(bench.examine()) == {"same_weights": "note", "license_changed": "note"}
    (bench.new_folder / "chat_template.jinja").write_text("{{ messages }}")
    assert levels(bench.examine())["chat_template_changed"] == "risk", "equal weights do not excuse another template"


def test_texts_measure_what_a_tokenizer_change_means(bench: Bench) -> None:
    tokens(lambda d: d["model"].update(merges=["e r"]))(bench)
    cut = the(bench.examine(), "merges_changed")
    size = sum(len(text.encode()) for text in TEXTS)
    assert cut.details == {"texts": 3, "differ": 1, "share": 1 / 3, "tokens_per_byte": [(size - 2) / size, (size - 1) / size],
                           "ratio": (size - 1) / (size - 2)}  # fmt: skip
    assert "1 of 3 texts have other ids (33%)" in cut.text
    assert "not measured" in the(bench.examine(texts=()), "merges_changed").text


def test_tokens_are_named_and_renamed_ones_are_told_from_lost_ones(bench: Bench) -> None:
    bench.new_folder = make_base(bench.folder / "newer", step=0.02)
    (bench.folder / "home" / "tokenizer.json").write_text(json.dumps(tokenizer(("<|reserved_0|>", "<|reserved_1|>"))))
    bench.home = write_lock(bench.folder / "home", {"kind": "folder", "name": "home"})
    bench.keep_lock(bench.home)
    (bench.new_folder / "tokenizer.json").write_text(json.dumps(tokenizer(("<|tool|>", "<|reserved_1|>"))))
    structure = bench.examine()
    assert levels(structure) == {"tokens_renamed": "risk"}
    assert the(structure, "tokens_renamed").details["tokens"] == {"<|reserved_0|>": "<|tool|>"}
    tokens(swap)(bench)
    moved = the(bench.examine(), "token_id_moved")
    a = tokenizer()["model"]["vocab"]["a"]
    assert moved.details["tokens"] == {"a": [a, a + 1], "b": [a + 1, a]} and f"'a' was {a} and is {a + 1}" in moved.text


def test_without_the_home_base_its_lock_and_the_adapters_tokenizer_serve(bench: Bench) -> None:
    tokens(swap)(bench)
    bench.home_folder = bench.folder / "deleted"
    assert levels(bench.examine()) == {"tokenizer_unreadable": "risk"}
    assert "no longer here" in bench.examine().findings[0].text
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bench.adapter / name).write_bytes((bench.folder / "home" / name).read_bytes())
    assert levels(bench.examine()) == {"token_id_moved": "break"}


def test_a_tokenizer_in_another_form_is_said_to_be_one(bench: Bench) -> None:
    (bench.new_folder / "tokenizer.json").unlink()
    (bench.new_folder / "tokenizer.model").write_bytes(b"sentencepiece")
    special(bos_token=None, eos_token=None, pad_token=None)(bench)
    structure = levels(bench.examine())
    assert {"tokenizer_type_changed", "tokenizer_unreadable", "merges_changed"} <= structure.keys()
    assert structure["eos_id_moved"] == "risk", "the stop token of generation is still the old one"


def test_a_pad_token_that_the_old_base_lacked_has_not_moved(bench: Bench) -> None:
    """The usual repair of a base that padded with its end-of-text token."""
    (bench.new_folder / "tokenizer.json").write_text(json.dumps(tokenizer(("<|pad|>",))))
    special(pad_token="<|pad|>")(bench)
    assert levels(bench.examine()) == {"tokens_added": "risk", "pad_id_moved": "risk"}


def test_templates_are_compared_by_what_they_write(bench: Bench) -> None:
    (bench.new_folder / "chat_template.jinja").write_text(TEMPLATE.replace("m in messages", "m in messages if m.content"))
    structure = bench.examine()
    changed = the(structure, "chat_template_changed")
    assert changed.details["differ"] == ["tool call", "empty system"] and changed.details["refused"] == []
    assert "--- old: empty system" in structure.template_diff and "-<|im_start|>system" in structure.template_diff
    assert "several turns" not in structure.template_diff
    (bench.folder / "home" / "chat_template.jinja").unlink()
    bench.home = write_lock(bench.folder / "home", {"kind": "folder", "name": "home"})
    bench.keep_lock(bench.home)
    assert levels(bench.examine()) == {"chat_template_added": "risk"}


def test_the_same_template_can_write_other_special_tokens(bench: Bench) -> None:
    (bench.folder / "home" / "chat_template.jinja").write_text("{{ bos_token }}" + TEMPLATE)
    bench.home = write_lock(bench.folder / "home", {"kind": "folder", "name": "home"})
    bench.keep_lock(bench.home)
    (bench.new_folder / "chat_template.jinja").write_text("{{ bos_token }}" + TEMPLATE)
    special(bos_token="<|endoftext|>")(bench)
    structure = bench.examine()
    assert levels(structure) == {"bos_id_moved": "risk", "chat_template_changed": "risk"}
    assert "special tokens that it writes" in the(structure, "chat_template_changed").text


def test_ids_of_rendered_conversations_are_compared_where_tokenizers_differ(bench: Bench) -> None:
    (bench.new_folder / "chat_template.jinja").write_text("{# of 2025 #}" + TEMPLATE)
    tokens(lambda d: d.update(normalizer={"type": "Lowercase"}))(bench)
    note = the(bench.examine(), "chat_template_text_changed")
    assert note.details["ids_differ"] == list(PROBES) and "cuts 5 of them into other tokens" in note.text


def test_probes_render_as_transformers_does() -> None:
    template = (
        "{%- for m in messages %}\n{%- if m.role == 'tool' %}{% continue %}{% endif %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{{ m.tool_calls | tojson if m.tool_calls }}"
        "{%- endfor %}{{ (tools or []) | tojson(indent=1) }}{{ bos_token }}{{ strftime_now('%Y')|int > 2000 }}"
        "{% if messages[0].content == '' %}{{ raise_exception('an empty system prompt') }}{% endif %}"
    )
    rendering = render_probes(template, {"bos_token": "<é>"})
    assert rendering.refused == {"empty system"} and rendering.readable
    assert rendering.texts["empty system"] == "refused: an empty system prompt"
    assert '"arguments": {"city": "Oslo"}' in rendering.texts["tool call"] and "-4 degrees" not in rendering.texts["tool call"]
    assert rendering.texts["system and user"] == "Answer in one word.What is the capital of Norway?[]<é>True"
    escape = render_probes("{{ messages.append(1) }}{{ ''.__class__.__mro__ }}", {})
    assert not escape.readable, "the sandbox holds"


def test_packed_weights_are_not_measured_by_their_packed_shape(bench: Bench) -> None:
    def pack(values: dict[str, np.ndarray]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
        raw = {n: ("BF16", v.shape, bf16(v).tobytes()) for n, v in values.items() if "up_proj" not in n}
        packed = {n.replace(".weight", ".qweight"): ("I32", (8, 96), bytes(8 * 96 * 4)) for n in values if "up_proj" in n}
        return {**raw, **packed}

    (bench.new_folder / "model.safetensors").write_bytes(safetensors(pack(weights(step=0.01))))
    config(quantization_config={"quant_method": "gptq", "bits": 4})(bench)
    structure = bench.examine()
    assert levels(structure) == {"quantization_changed": "risk"}
    assert the(structure, "quantization_changed").text == "Weights were not quantised and are quantised (gptq, 4 bits)."


@pytest.mark.parametrize("damage", ["no config", "config", "no weights", "weights", "a pair of wrong ranks", "nothing in it"])
def test_an_adapter_that_cannot_be_read_is_an_error(damage: str, bench: Bench) -> None:
    if "config" in damage:
        (bench.adapter / "adapter_config.json").write_text("[") if damage == "config" else (bench.adapter / "adapter_config.json").unlink()
    elif damage == "no weights":
        (bench.adapter / "adapter_model.safetensors").unlink()
    elif damage == "weights":
        (bench.adapter / "adapter_model.safetensors").write_bytes(b"\x00" * 40)
    elif damage == "nothing in it":
        (bench.adapter / "adapter_model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    else:
        name = "base_model.model.model.layers.0.self_attn.q_proj"
        bench.lora({f"{name}.lora_A.weight": np.ones((2, 64)), f"{name}.lora_B.weight": np.ones((64, 3))})
    with pytest.raises(IntegrityError):
        bench.examine()


def test_findings_have_only_the_levels_of_their_entry() -> None:
    with pytest.raises(KeyError):
        found("rope_changed", "x", milder=True)
    with pytest.raises(KeyError):
        found("no_such_finding", "x")
    mixed = [found("config_changed", "."), found("rope_changed", "."), found("eos_id_moved", "."), found("bias_changed", ".")]
    assert [f.name for f in ordered(mixed)] == ["eos_id_moved", "bias_changed", "rope_changed", "config_changed"]


def test_configurations_of_multimodal_models_are_read_through(bench: Bench) -> None:
    inner = {k: v for k, v in CONFIG.items() if k not in {"architectures", "model_type", "transformers_version"}}
    inner |= {"rope_theta": 20000.0, "vocab_size": 262}
    file = bench.new_folder / "config.json"
    file.write_text(json.dumps({"architectures": CONFIG["architectures"], "model_type": "llama", "text_config": inner}))
    assert levels(bench.examine()) == {"rope_changed": "risk"}
    assert the(bench.examine(), "rope_changed").details == {"rope_theta": {"was": 10000.0, "is": 20000.0}}
