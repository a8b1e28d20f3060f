"""What changed between two bases, for any adapter."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.tiny_base import HIDDEN, VOCAB, make_tiny_base, safetensors, tokenizer_json, weights
from workbench import Workbench


@pytest.fixture
def bench() -> Workbench:
    return Workbench()


def test_diff_of_a_continuation_measures_the_drift(bench: Workbench, tmp_path: Path) -> None:
    bench.bases.add("mine@1", source=str(make_tiny_base(tmp_path / "a", dtype="F32")))
    bench.bases.add("mine@2", source=str(make_tiny_base(tmp_path / "b", dtype="F32", step=0.05)), continues="mine@1")
    found = bench.rebase.diff("mine@1", "mine@2")
    assert not found.identical and found.moved == len(weights()) and not found.findings
    assert found.drift[0].group == "all" and found.drift[0].relative == pytest.approx(0.05, rel=0.15)
    assert {d.group for d in found.drift} == {"all", "embeddings", "norms", "attention", "mlp"}
    assert [d.group for d in found.layers] == ["layer 0", "layer 1"] and found.layers[1].relative == pytest.approx(0.05, rel=0.3)
    assert "moved by about" in found.summary()[-1]
    assert bench.rebase.diff("mine@1", "mine@1").identical
    assert json.loads(json.dumps(found.as_dict()))["drift"][0]["group"] == "all"


def test_diff_names_every_kind_of_change(bench: Workbench, tmp_path: Path) -> None:
    bench.bases.add("mine@1", source=str(make_tiny_base(tmp_path / "a")), license="MIT")
    other = make_tiny_base(
        tmp_path / "b",
        config={"rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}, "hidden_act": "gelu", "use_cache": False},
    )
    swapped = tokenizer_json(extra=("<|tool|>",))
    vocab = swapped["model"]["vocab"]
    vocab[chr(0x141)], vocab[chr(0x142)] = vocab[chr(0x142)], vocab[chr(0x141)]
    (other / "tokenizer.json").write_text(json.dumps(swapped))
    (other / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
    (other / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|im_start|>", "eos_token": "<|endoftext|>"}))
    (other / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    values = weights()
    del values["model.norm.weight"]
    values |= {"model.extra.weight": np.zeros((2, 2), np.float32), "model.embed_tokens.weight": np.zeros((VOCAB + 1, HIDDEN), np.float32)}
    raw = {n: ("F32", v.shape, v.astype("<f4").tobytes()) for n, v in values.items()}
    (other / "model.safetensors").write_bytes(safetensors(raw))
    bench.bases.add("mine@2", source=str(other), license="Apache-2.0")
    found = bench.rebase.diff("mine@1", "mine@2")
    assert {finding.name: finding.level for finding in found.findings} == {
        "activation_changed": "risk", "rope_changed": "risk", "config_changed": "note", "token_id_moved": "break", "tokens_added": "risk",
        "eos_id_moved": "risk", "pad_id_moved": "risk", "generation_eos_changed": "risk", "chat_template_changed": "risk",
        "dtype_changed": "risk", "license_changed": "note",
    }  # fmt: skip
    assert (found.added, found.removed, found.reshaped) == (("model.extra.weight",), ("model.norm.weight",), ("model.embed_tokens.weight",))
    assert "-<|im_start|>" in found.template_diff
    order = [line.split(":")[0] for line in found.summary()]
    assert order == sorted(order, key=["break", "risk", "note"].index) and "break: 1 tensor is gone (model.norm.weight)." in found.summary()
