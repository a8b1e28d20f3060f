"""What the names, scales and targets in a PEFT folder mean; that PEFT itself means the same is in `hf/test_published.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench import peft_layout
from workbench.bases.tensors import TensorInfo
from workbench.errors import IntegrityError
from workbench.peft_layout import Key, Scaling

Q = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (f"{Q}.lora_A.weight", (Q, peft_layout.LORA_A, True)),
        (f"{Q}.lora_B.weight", (Q, peft_layout.LORA_B, True)),
        (f"{Q}.lora_B.bias", (Q, peft_layout.BIAS, True)),
        (f"{Q}.lora_A", (Q, peft_layout.LORA_A, False)),  # AdaLoRA; as plain LoRA PEFT would pass over it
        (f"{Q}.lora_magnitude_vector", (Q, peft_layout.MAGNITUDE, True)),
        (f"{Q}.lora_magnitude_vector.weight", (Q, peft_layout.MAGNITUDE, True)),
        ("model.embed_tokens.lora_embedding_A", ("model.embed_tokens", peft_layout.EMBEDDING_A, True)),
        ("model.embed_tokens.lora_embedding_A.weight", ("model.embed_tokens", peft_layout.OTHER, False)),
        ("model.embed_tokens.token_adapter.trainable_tokens_delta", ("model.embed_tokens", peft_layout.TOKENS, True)),
        ("model.embed_tokens.trainable_tokens_delta", ("model.embed_tokens", peft_layout.TOKENS, False)),
        ("model.layers.0.mlp.experts.base_layer.lora_A.weight", ("model.layers.0.mlp.experts.base_layer", peft_layout.LORA_A, True)),
        ("lm_head.weight", ("lm_head.weight", peft_layout.WHOLE, True)),
        ("lm_head.modules_to_save.weight", ("lm_head.weight", "modules_to_save", False)),
        ("model.embed_tokens.token_adapter.base_layer.weight", ("model.embed_tokens.weight", "token_adapter.base_layer", False)),
        (f"{Q}.base_layer.weight", (f"{Q}.weight", "base_layer", False)),
        (f"{Q}.hada_w1_a", (Q, peft_layout.OTHER, False)),
    ],
)
def test_a_name_says_what_a_tensor_is(name: str, wanted: tuple[str, str, bool]) -> None:
    assert Key.of(peft_layout.PREFIX + name) == wanted
    assert Key.of(name) == (*wanted[:2], False), "PEFT finds no tensor without its prefix"


def _tensor(name: str, *shape: int) -> TensorInfo:
    return TensorInfo(peft_layout.PREFIX + name, Path("x"), "F32", shape, 0, 0)


def test_factors_come_in_pairs_that_multiply() -> None:
    a, b, whole = _tensor(f"{Q}.lora_A.weight", 2, 8), _tensor(f"{Q}.lora_B.weight", 6, 2), _tensor("lm_head.weight", 9, 8)
    contents = peft_layout.sort({t.name: t for t in (a, b, whole)})
    assert contents.pairs() == {Q: (a, b)} and contents.whole == {"lm_head.weight": whole}
    assert peft_layout.shape_of(contents.lora[Q]) == (6, 8)
    assert peft_layout.shape_of(contents.lora[Q], turned=True) == (8, 6)
    for parts in ((a,), (b,), (a, _tensor(b.name.removeprefix(peft_layout.PREFIX), 6, 3))):
        with pytest.raises(IntegrityError, match=f"factors of {Q} are no pair"):
            peft_layout.sort({t.name: t for t in parts}).pairs()


def test_what_was_trained_in_full_goes_before_its_copies() -> None:
    whole, copy = _tensor("lm_head.weight", 9, 8), _tensor("lm_head.original_module.weight", 7, 8)
    for order in ((whole, copy), (copy, whole)):
        assert peft_layout.sort({t.name: t for t in order}).whole == {"lm_head.weight": whole}


def test_scales_of_single_modules_and_of_fused_experts() -> None:
    config = {"r": 4, "lora_alpha": 8, "rank_pattern": {r".*\.gate_up_proj": 2}, "alpha_pattern": {"layers.0.self_attn.q_proj": 16}}
    scaling = Scaling.of(config)
    assert scaling.scale_of(Q) == 4 and scaling.scale_of(Q.replace(".0.", ".1.")) == 2
    assert scaling.scale_of("model.layers.0.mlp.experts.gate_up_proj") == 4
    assert Scaling.of({**config, "use_rslora": True}).scale_of(Q) == 8
    assert Scaling.of({"r": None, "rank_pattern": None}).scale_of(Q) == 1
    with pytest.raises(IntegrityError, match="by the pattern"):
        Scaling.of({"alpha_pattern": {"(a+)+$": 3}})


def test_a_target_is_a_whole_name_or_an_end_of_one() -> None:
    there = [f"{Q[:-6]}{name}" for name in ("q_proj", "k_proj")]
    assert peft_layout.unmatched_targets("lora_target_modules", ["q_proj", "self_attn.k_proj", Q, "all-linear"], there) == ""
    assert peft_layout.unmatched_targets("lora_target_modules", ["proj", "attn.q_proj", "q_proj"], there) == (
        "lora_target_modules: this base has no proj and no attn.q_proj; it has k_proj, q_proj; all-linear takes them all."
    )
    assert peft_layout.unmatched_targets("target_parameters", ["experts.w1"], []) == (
        "target_parameters: this base has no experts.w1; it has none."
    )
