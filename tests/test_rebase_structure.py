"""Stage 0 of the rebase check: every difference is named, at its level, and nothing else is."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.structure_cases import (
    CASES,
    TEMPLATE,
    TEXTS,
    Bench,
    config,
    dump,
    generation,
    lora,
    make_base,
    make_original,
    special,
    swap,
    tokenizer,
    tokens,
)  # fmt: skip
from tests.tiny_base import bf16, safetensors, weights
from workbench.bases.lock import write_lock
from workbench.errors import IntegrityError
from workbench.rebase import structure
from workbench.rebase.findings import CATALOGUE, LEVELS, described, explained, found, ordered
from workbench.rebase.result import Finding, Structure
from workbench.rebase.structure import examine
from workbench.rebase.templates import PROBES, render_probes
from workbench.words import words

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_original(tmp_path_factory.mktemp("original"))


@pytest.fixture
def bench(original: Path, tmp_path: Path) -> Bench:
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    return Bench(tmp_path)


def levels(structure: Structure) -> dict[str, str]:
    assert len({f.name for f in structure.findings}) == len(structure.findings), "a finding is listed once"
    return {f.name: f.level for f in structure.findings}


def the(structure: Structure, name: str) -> Finding:
    return next(f for f in structure.findings if f.name == name)


@pytest.mark.parametrize("case", CASES)
def test_every_difference_is_named_at_its_level_and_nothing_else_is(case: str, bench: Bench) -> None:
    change, expected = CASES[case]
    change(bench)
    structure = bench.examine()
    assert levels(structure) == expected
    for finding in structure.findings:
        assert finding.text.endswith((".", "…")) and "  " not in finding.text and len(finding.text) < 500, finding.text
        chinese = words("zh").say(explained(finding))
        assert re.search("[\u4e00-\u9fff]", chinese) and "{" not in chinese, chinese
    json.dumps([finding.details for finding in structure.findings], allow_nan=False)


def test_every_finding_of_the_catalogue_can_be_found_and_says_what_to_do() -> None:
    expected = {(name, level) for _, found in CASES.values() for name, level in found.items()}
    elsewhere = {  # the tests below
        ("home_mismatch", "break"), ("home_mismatch", "risk"), ("same_base", "note"), ("same_weights", "note"), ("tokens_renamed", "risk"),
        ("hidden_size_changed", "break"), ("heads_changed", "risk"), ("intermediate_size_changed", "risk"), ("experts_changed", "break"),
        ("chat_template_added", "risk"), ("unk_id_moved", "risk"), ("tokenizer_type_changed", "risk"),
        # of the test itself: jobs/checking.py
        ("home_is_gone", "note"), ("dtype_of_home", "risk"), ("rows_left_out", "risk"), ("generation_disagrees", "risk"),
        ("served_otherwise", "risk"),
    }  # fmt: skip
    every = {(name, level) for name, entry in CATALOGUE.items() for level in (entry.level, entry.milder) if level}
    assert expected | elsewhere == every
    for name, entry in CATALOGUE.items():
        told = described(name)
        assert entry.level in LEVELS and bool(entry.milder) == bool(told["when"]), name
        assert told["explanation"].endswith(".") and told["advice"].endswith(".") and not told["title"].endswith("."), name


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
    assert found.level == "risk" and found.details == {"differ": ["chat_template.jinja"]}


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
    assert "1 of 3 texts have other ids" in cut.text
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
    assert moved.details["tokens"] == {"a": [a, a + 1], "b": [a + 1, a]} and f"a was {a} and is {a + 1}" in moved.text


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


@pytest.mark.parametrize("what", ["a template that never ends", "a tokenizer that panics"])
def test_a_program_of_the_new_base_cannot_hang_or_crash_the_check(what: str, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure, "_SECONDS", 1)
    if "template" in what:
        loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
        (bench.new_folder / "chat_template.jinja").write_text(loop)
    else:
        split = {"type": "Split", "pattern": {"Regex": "(x+x+)+[yY]"}, "behavior": "Isolated", "invert": False}
        bench.edit("tokenizer.json", lambda data: data.update(pre_tokenizer=split))
    began = time.monotonic()
    found = bench.examine(texts=["x" * 64])
    assert time.monotonic() - began < 20
    assert levels(found)["tokenizer_unreadable"] == "risk"


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
    assert the(structure, "quantization_changed").text == "Quantisation was none and is quant_method: gptq; bits: 4."


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
        found("rope_changed", milder=True)
    with pytest.raises(KeyError):
        found("no_such_finding")
    mixed = [found("config_changed"), found("rope_changed"), found("eos_id_moved", was=2, now=7), found("bias_changed")]
    assert [f.name for f in ordered(mixed)] == ["eos_id_moved", "bias_changed", "rope_changed", "config_changed"]


def test_configurations_of_multimodal_models_are_read_through(bench: Bench) -> None:
    file = bench.new_folder / "config.json"
    config = json.loads(file.read_text())
    outer = {key: config.pop(key) for key in ("architectures", "model_type", "transformers_version")}
    file.write_text(json.dumps({**outer, "text_config": {**config, "rope_theta": 20000.0}}))
    assert levels(bench.examine()) == {"rope_changed": "risk"}
    assert the(bench.examine(), "rope_changed").details == {"rope_theta": {"was": 10000.0, "is": 20000.0}}
