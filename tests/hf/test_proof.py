"""The proof that rows may be packed: what packs is what rows alone are, and each silent mistake is caught when it is made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from trl import SFTTrainer

from benchmarks.families import recipe_for, rows
from benchmarks.zoo import build
from workbench.hf import packed, train
from workbench.hf.evaluate import evaluate
from workbench.hf.load import load_base, load_tokenizer
from workbench.hf.packed import ATTENTION, Row, attend, pack, pad, row_mask, scored, trim
from workbench.hf.preflight import _kept, kept_for_backward
from workbench.hf.prepare import prepare
from workbench.hf.proof import prove
from workbench.hf.render import IGNORED, render
from workbench.hf.trainer import AnswerTrainer

pytestmark = pytest.mark.torch
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    room = tmp_path_factory.mktemp("zoo")
    return lambda family: room / family if (room / family).exists() else build(family, room / family)


def rendered(folder: Path) -> list[Row]:
    tokenizer = load_tokenizer(folder)
    return [(one.input_ids, one.labels) for one in (render(tokenizer, row, max_length=512) for row in rows())]


def alone(model: Any, few: list[Row]) -> torch.Tensor:
    """Log-probabilities of the learned tokens by plain transformers, row after row."""
    found = []
    for ids, labels in few:
        follows = torch.tensor(labels[1:])
        at = follows != IGNORED
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, : len(follows)][at].float()
        found.append(logits.log_softmax(-1).gather(1, follows[at][:, None])[:, 0])
    return torch.cat(found)


def gradient(model: Any, total: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    total.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


PACKED = ["qwen2-window", "gemma-2", "gemma-3-text", "gpt-oss", "qwen2-moe", "phimoe", "llama-4-text", "deepseek-v3", "seed-oss", "gpt-2"]


@pytest.mark.parametrize("family", PACKED)
def test_what_is_proven_has_the_scores_and_gradients_of_rows_alone(zoo: Any, family: str) -> None:
    model = load_base(zoo(family), dtype=torch.float32).requires_grad_(True)
    few = rendered(zoo(family))[:7]
    wanted = alone(model, few)
    wanted_gradient = gradient(model, wanted.sum())
    proof = prove(model, few)
    assert not proof.why_not, proof
    assert proof.random is (family in {"gpt-2", "seed-oss", "phimoe"}), "these have dropout or jitter of their own"
    found = scored(model, pack([trim(row) for row in few], device=CPU))[0]
    assert float((found - wanted).detach().abs().max()) < 1e-4
    assert float((gradient(model, found.sum()) - wanted_gradient).norm() / wanted_gradient.norm()) < 1e-4


def without(**lost: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: attend(*args, **{**kwargs, **lost})


def leaking(module: Any, q: Any, k: Any, v: Any, mask: Any, packed_layout: Any = None, **others: Any) -> Any:
    """As if attention knew of no rows: one causal sequence."""
    return attend(module, q, k, v, None, **others)


def without_masks(**how: Any) -> None:
    """As it was: what a model's masks say beside plain causal is lost."""
    return None


MUTATIONS: dict[str, tuple[str, Any, Any]] = {
    "windows lost": ("qwen2-window", attend, without_masks),
    "windows of experts lost": ("qwen2-moe", attend, without_masks),
    "windows of phimoe lost": ("phimoe", attend, without_masks),
    "chunks lost": ("llama-4-text", attend, without_masks),
    "capping lost": ("gemma-2", without(softcap=None), row_mask),
    "sinks lost": ("gpt-oss", without(s_aux=None), row_mask),
    "rows not kept apart": ("llama-3", leaking, without_masks),
    "scale lost": ("granite", without(scaling=None), row_mask),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_proof_catches_each_mistake(zoo: Any, mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family, attention, mask = MUTATIONS[mutation]
    monkeypatch.setitem(AttentionInterface._global_mapping, ATTENTION, attention)
    monkeypatch.setitem(AttentionMaskInterface._global_mapping, ATTENTION, mask)
    model = load_base(zoo(family), dtype=torch.float32)
    own = model.config._attn_implementation
    proof = prove(model, rendered(zoo(family)))
    assert "row's states" in proof.why_not
    assert model.config._attn_implementation == own and not model.training


@pytest.mark.parametrize(
    ("family", "why"),
    [("lfm2", "otherwise than by attention"), ("falcon-7b", "keeps to itself"), ("bloom", "keeps to itself"), ("mamba", "no attention")],
)
def test_what_cannot_pack_says_why(zoo: Any, family: str, why: str) -> None:
    proof = prove(load_base(zoo(family), dtype=torch.float32), rendered(zoo(family)))
    assert why in proof.why_not


@pytest.mark.parametrize("family", ["gemma-2", "mistral"])
def test_a_bfloat16_model_is_proven_in_float32_and_left_as_it_was(zoo: Any, family: str) -> None:
    model = load_base(zoo(family), dtype=torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert not prove(model, rendered(zoo(family))).why_not
    assert all(torch.equal(before[name], tensor) and tensor.dtype == before[name].dtype for name, tensor in model.state_dict().items())
    assert len(model.model.layers) == model.config.num_hidden_layers and not model.training


def test_draws_are_seen_even_where_they_change_nothing_yet(zoo: Any) -> None:
    """Phimoe samples its experts in training; in 4 bits a short row may come out alike with every seed."""
    model = load_base(zoo("phimoe"), dtype=torch.float32, quantized="nf4")
    proof = prove(model, rendered(zoo("phimoe")))
    assert proof.random and not proof.why_not


def test_one_layer_of_each_kind_is_enough(zoo: Any) -> None:
    assert prove(load_base(zoo("llama-3"), dtype=torch.float32), rendered(zoo("llama-3"))).layers == 1
    assert prove(load_base(zoo("gemma-2"), dtype=torch.float32), rendered(zoo("gemma-2"))).layers == 2


# ------------------------------------------------------------------ training


def trainer_of(folder: Path, room: Path, **more: Any) -> AnswerTrainer:
    tokenizer, recipe = load_tokenizer(folder), recipe_for("lora", "zoo@1", **more)
    run = train._Run(recipe, folder, tokenizer, prepare(recipe, tokenizer, rows()), room)
    trainer, _ = run.trainer(lambda progress: None, lambda: False)
    with torch.no_grad():
        for name, weight in trainer.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    return trainer


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("family", ["mixtral", "qwen3-moe", "gpt-oss", "ernie-4.5-moe", "phimoe", "jamba"])
def test_the_loss_of_experts_is_trls(zoo: Any, tmp_path: Path, family: str, tiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over real tokens, those after the last learned one included, a shared beginning once for each row it stands for."""
    asked = load_base(zoo(family), dtype=torch.float32).config.output_router_logits
    trainer = trainer_of(zoo(family), tmp_path)
    if tiled:
        monkeypatch.setattr(packed, "_WHOLE_LOGITS_UP_TO", 1)
    assert trainer.model.config.output_router_logits is asked, "TRL's switch is not left in what is saved"
    assert trainer.balances and trainer.packs is (family != "jamba")
    trainer.router_aux_loss_coef = 0.5  # so that it counts
    model = trainer.model.eval()
    inputs = trainer.data_collator([trainer.train_dataset[i] for i in range(5)])
    with torch.no_grad():
        found = trainer.compute_loss(model, dict(inputs))
        if family == "phimoe":  # whose experts TRL does not find; transformers' own loss is the same
            model.get_base_model().router_aux_loss_coef = 0.5
            wanted = model(**inputs, output_router_logits=True).loss
        else:
            wanted = SFTTrainer.compute_loss(trainer, model, dict(inputs))
        trainer.router_aux_loss_coef = 0.0
        plain = trainer.compute_loss(model, dict(inputs))
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)
    assert float(found) > float(plain) + 0.1


@pytest.mark.parametrize(
    ("family", "dropout", "shares"), [("gpt-2", 0.0, False), ("opt", 0.0, False), ("qwen3", 0.0, True), ("qwen3", 0.1, False)]
)
def test_a_beginning_is_not_shared_where_numbers_are_drawn(zoo: Any, tmp_path: Path, family: str, dropout: float, shares: bool) -> None:
    assert trainer_of(zoo(family), tmp_path, lora_dropout=dropout)._shares_in_training is shares


def test_dropout_falls_on_each_row_by_itself(zoo: Any) -> None:
    """With the same rows twice in a batch: alike without dropout, and each on its own with it."""
    folder = zoo("gpt-2")
    model = load_base(folder, dtype=torch.float32)
    one = trim(rendered(folder)[0])
    assert not prove(model, [one, one]).why_not
    batch = pack([one, one], device=CPU, share=False)
    first, second = scored(model.train(), batch)[0].chunk(2)
    assert not torch.allclose(first, second)
    first, second = scored(model.eval(), batch)[0].chunk(2)
    assert torch.allclose(first, second, atol=1e-5)


@pytest.mark.parametrize("family", ["llama-3", "qwen3-moe", "bloom"])
def test_what_the_backward_pass_needs_is_foreseen_from_a_few_rows(zoo: Any, tmp_path: Path, family: str) -> None:
    """Adapted experts keep whole weights, however few the tokens: counted by the token, a batch would go in far too many parts."""
    trainer, few = trainer_of(zoo(family), tmp_path), [trim(row) for row in rendered(zoo(family))[:16]]
    fixed, per_token = kept_for_backward(trainer.model, few, torch.float32, packs=trainer.packs)
    batch: Any = (pack if trainer.packs else pad)(few, device=CPU)
    tokens = batch.input_ids.numel()
    assert fixed + per_token * tokens == pytest.approx(_kept(trainer.model, lambda: scored(trainer.model, batch)), rel=0.35)
    experts = sum(p.nbytes for name, p in trainer.model.named_parameters() if ".experts." in name and p.ndim == 3)
    assert fixed >= 0.8 * experts and bool(experts) is (family == "qwen3-moe")


# ------------------------------------------------------------------ positions that depend on the longest row


def test_a_row_scores_the_same_whatever_stands_beside_it(zoo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Phi-3's longrope turns all rows of a pass by other angles once one of them is long."""
    folder = zoo("phi-3-longrope")
    lengths = [len(ids) for ids, _ in rendered(folder)]
    assert min(lengths) < 48 < max(lengths)
    asked = [{"id": f"r{i}", **{k: v for k, v in row.items() if k != "id"}} for i, row in enumerate(rows())]
    options: dict[str, Any] = {"max_length": 512, "dtype": torch.float32}
    together = evaluate(folder, None, asked, **options).base
    model = load_base(folder, dtype=torch.float32)
    for score, row in zip(together, rendered(folder), strict=True):
        last = max(i for i, label in enumerate(row[1]) if label != IGNORED)
        by_itself = -float(alone(model, [(row[0][:last], row[1][: last + 1])]).sum())
        assert score.nll == pytest.approx(by_itself, abs=1e-3)
    trainer = trainer_of(folder, tmp_path)
    model = trainer.model.eval()
    examples = [trainer.train_dataset[i] for i in range(12)]
    wanted = -sum(float(alone(model, [(e["input_ids"], e["labels"])]).sum()) for e in examples)
    learned = sum(label != IGNORED for e in examples for label in e["labels"])
    with torch.no_grad():
        assert float(trainer.compute_loss(model, trainer.data_collator(examples))) == pytest.approx(wanted / learned, rel=1e-5)
        monkeypatch.setattr(trainer, "_kind", lambda length: 0)
        assert float(trainer.compute_loss(model, trainer.data_collator(examples))) != pytest.approx(wanted / learned, rel=1e-3)
