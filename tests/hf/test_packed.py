"""Packed rows with a shared beginning give the loss and the gradient of padded rows, on every kind of attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from workbench.hf.load import load_base
from workbench.hf.packed import ATTENTION, Row, common_beginning, pack, pad, row_mask, scored, split, trim
from workbench.hf.preflight import kept_for_backward
from workbench.hf.proof import prove
from workbench.hf.render import IGNORED

CPU = torch.device("cpu")


def row(ids: list[int], learned: set[int]) -> Row:
    return ids, [t if i in learned else IGNORED for i, t in enumerate(ids)]


def rows(n: int = 5, *, prefix: int = 9) -> list[Row]:
    """Rows of different lengths with a common beginning, several answers each, and a tail that is not learned."""
    generator = torch.Generator().manual_seed(3)
    first = torch.randint(10, 90, (prefix,), generator=generator).tolist()
    made = []
    for i in range(n):
        rest = torch.randint(10, 90, (4 + 3 * i,), generator=generator).tolist()
        ids = [*first, 91 + i, *rest]
        made.append(row(ids, {prefix + 2, len(ids) - 3, len(ids) - 2}))
    return made


def plain_loss(model: Any, batch: list[Row]) -> torch.Tensor:
    """transformers' own loss, summed over rows given one at a time."""
    total = torch.zeros(())
    for ids, labels in batch:
        out = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels]))
        total = total + out.loss * sum(label != IGNORED for label in labels[1:])
    return total


def adapted(model: Any, attention: str) -> Any:
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    wrapped = get_peft_model(model, config)
    model.set_attn_implementation(attention)
    return wrapped


def gradients(model: Any, loss: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("share", [True, False])
def test_loss_and_gradient_are_those_of_plain_rows(pico_base: Path, share: bool) -> None:
    batch = rows()
    plain = adapted(load_base(pico_base, dtype=torch.float32), "sdpa")
    ours = adapted(load_base(pico_base, dtype=torch.float32), ATTENTION)
    packed = pack([trim(r) for r in batch], device=CPU, share=share)
    assert packed.layout.prefix == (9 if share else 0)
    assert packed.input_ids.shape[1] < sum(len(ids) for ids, _ in batch)
    wanted, found = plain_loss(plain, batch), -scored(ours, packed)[0].sum()
    assert float((wanted - found).detach().abs()) < 1e-4
    for a, b in zip(gradients(plain, wanted), gradients(ours, found), strict=True):
        assert float((a - b).abs().max()) <= 1e-5 * max(1.0, float(a.abs().max()))
    padded = -scored(ours, pad([trim(r) for r in batch], device=CPU))[0].sum()
    assert float((wanted - padded).detach().abs()) < 1e-4


def tiny(kind: str) -> Any:
    """A random model of another family: what matters is its attention."""
    import transformers as t

    common = {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    gqa = {**common, "intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 128}
    configs = {
        "qwen3": lambda: t.Qwen3Config(**gqa, head_dim=8),
        "mistral, window": lambda: t.MistralConfig(**gqa, sliding_window=6),
        "gemma3, window": lambda: t.Gemma3TextConfig(
            **gqa, head_dim=8, sliding_window=6, layer_types=["sliding_attention", "full_attention"]
        ),
        "gemma2, soft capping": lambda: t.Gemma2Config(**gqa, head_dim=8, attn_logit_softcapping=5.0),
        "phi3": lambda: t.Phi3Config(**gqa, pad_token_id=0),
        "opt, learned positions": lambda: t.OPTConfig(**common, ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=128),
        "bloom, no interface": lambda: t.BloomConfig(vocab_size=128, hidden_size=32, n_layer=2, n_head=4),
        "mamba, no attention": lambda: t.MambaConfig(vocab_size=128, hidden_size=32, num_hidden_layers=2, state_size=4),
    }
    torch.manual_seed(0)
    model = t.AutoModelForCausalLM.from_config(configs[kind]()).eval()
    with torch.no_grad():  # fresh weights give nearly even logits, under which any mask would do
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(4)
    return model


@pytest.mark.parametrize(
    ("kind", "packs"),
    [
        ("qwen3", True),
        ("mistral, window", True),
        ("gemma3, window", True),
        ("gemma2, soft capping", True),
        ("phi3", True),
        ("opt, learned positions", None),
        ("bloom, no interface", False),
        ("mamba, no attention", False),
    ],
)
def test_the_trial_tells_which_models_can_pack(kind: str, packs: bool | None) -> None:
    """Whatever the trial says, what is then used is right: packed rows where it says so, padded ones elsewhere."""
    model = tiny(kind)
    wanted = float(plain_loss(model, rows()).detach())
    proof = prove(model, rows())
    packed = not proof.why_not
    assert packs is None or packed is packs, proof
    assert kept_for_backward(model, rows(), torch.float32, packs=packed)[1] > 0
    batch = [trim(r) for r in rows()]
    ours = scored(model, (pack if packed else pad)(batch, device=CPU))[0]
    assert -float(ours.detach().sum()) == pytest.approx(wanted, rel=1e-4)


def test_the_trial_notices_attention_that_crosses_rows(pico_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    def careless(module: Any, q: Any, k: Any, v: Any, mask: Any, packed_layout: Any = None, **others: Any) -> Any:
        return sdpa_attention_forward(module, q, k, v, None if packed_layout else mask, is_causal=packed_layout is not None, **others)

    AttentionInterface.register("careless", careless)
    AttentionMaskInterface.register("careless", row_mask)
    monkeypatch.setattr("workbench.hf.proof.ATTENTION", "careless")
    model = load_base(pico_base, dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(8)
    assert "another row's tokens" in prove(model, rows()).why_not and model.config._attn_implementation == "sdpa"


def test_long_rows_and_large_outputs_take_other_paths_to_the_same_loss(pico_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trl.trainer.utils import add_fused_lm_head

    from workbench.hf import packed

    model = load_base(pico_base, dtype=torch.float32, attn=ATTENTION)
    batch = pack([trim(r) for r in rows()], device=CPU)
    wanted = scored(model, batch)[0]
    add_fused_lm_head(model)
    monkeypatch.setattr(packed, "_WHOLE_LOGITS_UP_TO", 1)
    assert torch.allclose(scored(model, batch, tiles=True)[0], wanted, atol=1e-5)
    monkeypatch.setattr(packed, "_PLAIN_ATTENTION_UP_TO", 1)
    assert torch.allclose(scored(model, batch)[0], wanted, atol=1e-5)


def test_beginnings_and_groups() -> None:
    a, b = row([1, 2, 3, 4, 5], {3, 4}), row([1, 2, 3, 9, 9, 9], {4})
    assert trim(b) == ([1, 2, 3, 9, 9], [IGNORED] * 4 + [9])
    assert common_beginning([a, b]) == 2  # the token before the first learned one stays each row's own
    assert common_beginning([row([1, 2], {1}), row([1, 2], {1})]) == 0
    assert split([a, b, a], tokens=7) == [[a], [b], [a]] and split([a, b, a], tokens=9) == [[a, b], [a]]
    assert split([a, b, a], tokens=1) == [[a], [b], [a]]
    assert sum(split(rows(), tokens=30), []) == rows()
