"""Real training of a tiny base: it learns, it is the same every time, it goes on where it stopped, it refuses waste."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny_base import make_tiny_base
from workbench.errors import IntegrityError, JobError, MissingDependency, TrainingError
from workbench.hf import checkpoints, proof
from workbench.hf.load import load_adapter, load_base, load_tokenizer
from workbench.hf.packed import log_probs
from workbench.hf.render import render
from workbench.hf.train import TrainResult, train
from workbench.hf.trainer import Shuffled
from workbench.recipe import Recipe
from workbench.records import Progress

GOODS, PLACES = ["lamp", "fox", "dog", "ship"], ["Cairo", "Oslo", "Lima"]


def chats(n: int = 60) -> list[dict[str, Any]]:
    rows = []
    for i in range(n):
        thing, place, count = GOODS[i % 4], PLACES[i % 3], 1 + i % 9
        question = f"{count} {thing} to {place}" + " by Friday, and jumps over it" * (i % 3 == 1)
        messages = [
            {"role": "system", "content": "question and answer"},
            {"role": "user", "content": question},
            {"role": "assistant", "content": f"{place}/{thing}/{count}"},
        ]
        rows.append({"id": f"r{i}", "form": "messages", "split": "train", "messages": messages})
    return rows


def recipe(**given: Any) -> Recipe:
    values = {
        "base": "pico@1",
        "dataset": "orders",
        "max_steps": 8,
        "per_device_train_batch_size": 4,
        "eval_rows": 6,
        "bf16": False,
        "threads": 1,
        "learning_rate": 5e-3,
        "lora_r": 8,
    }
    return Recipe.load({**values, **given})


@pytest.fixture
def run(pico_base: Path, tmp_path: Path) -> Iterator[Callable[..., TrainResult]]:
    lines: list[Progress] = []
    threads = torch.get_num_threads()
    count = 0

    def go(rows: list[dict[str, Any]] | None = None, *, out: Path | None = None, base: Path | None = None, **given: Any) -> TrainResult:
        nonlocal count
        count += 1
        lines.clear()
        keys = ("earlier", "start", "stopping")
        options = {key: given.pop(key) for key in keys if key in given}
        place = out or tmp_path / f"run-{count}"
        return train(recipe(**given), base or pico_base, rows or chats(), place, report=lines.append, **options)

    go.lines = lines  # type: ignore[attr-defined]
    yield go
    torch.set_num_threads(threads)


def losses(run: Any) -> dict[int, float]:
    return {line.step: line.loss for line in run.lines if line.loss is not None}


def weights_sha(result: TrainResult) -> str:
    name = "adapter_model.safetensors" if (result.folder / "adapter_model.safetensors").exists() else "model.safetensors"
    return sha256((result.folder / name).read_bytes()).hexdigest()


# ------------------------------------------------------------------ the result


def test_a_lora_adapter_loads_with_plain_peft_and_gives_our_logits(run: Any, pico_base: Path) -> None:
    result = run(use_rslora=True)
    assert {p.name for p in result.folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    config = json.loads((result.folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"], config["base_model_name_or_path"]) == (8, 32, True, "pico@1")

    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([load_tokenizer(pico_base)("ship 3 lamps")["input_ids"]])
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(pico_base, dtype=torch.float32), result.folder).eval()
    ours = load_adapter(load_base(pico_base, dtype=torch.float32), result.folder)
    with torch.no_grad():
        assert torch.equal(plain(input_ids=ids).logits, ours(input_ids=ids).logits)
        assert not torch.allclose(ours(input_ids=ids).logits, load_base(pico_base, dtype=torch.float32)(input_ids=ids).logits, atol=1e-3)


def test_the_report_and_the_progress_lines_say_what_happened(run: Any, pico_base: Path) -> None:
    result = run(num_train_epochs=2, max_steps=-1, per_device_train_batch_size=5, max_length=36)
    report, rows = result.report, chats()
    long = sum(len(render(load_tokenizer(pico_base), row, max_length=999).input_ids) > 36 for row in rows)
    assert 0 < long == report["rows_cut"] and report["rows_left_out"] == report["rows_answer_lost"] > 0
    assert report["train_rows"] + report["eval_rows"] + report["rows_left_out"] == report["rows"] == len(rows)
    assert result.steps == 2 * math.ceil(report["train_rows"] / 5) == run.lines[-1].total_steps
    assert result.tokens == 2 * report["tokens_per_epoch"] == run.lines[-1].tokens
    assert report["packed"] and report["dtype"] == "float32" and not report["gradient_checkpointing"] and report["notes"] == []
    assert result.tokens_per_second > 0 and result.peak_bytes > 1e8 and result.seconds > 0
    json.dumps(result.as_dict())

    training = [line for line in run.lines if line.phase == "training"]
    assert [line.step for line in training if line.loss is not None] == list(range(1, result.steps + 1))
    watched = [line for line in training if line.eval_loss is not None]
    assert 5 <= len(watched) <= 6 and watched[-1].step == result.steps and watched[-1].seconds_left == 0
    assert {key for sample in watched[0].samples for key in sample} == {"prompt", "expected", "answer"}
    assert min(line.eval_loss for line in watched) == result.best_eval_loss


def test_all_weights_learn_with_sft_and_keep_the_bases_dtype(run: Any, tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path / "half")
    result = run(base=base, method="sft", learning_rate=3e-3, max_steps=25)
    assert result.final_loss < 0.6 * losses(run)[1]
    state, before = load_file(result.folder / "model.safetensors"), load_file(base / "model.safetensors")
    assert state.keys() == before.keys() and all(t.dtype == torch.bfloat16 for t in state.values())
    assert all(not torch.equal(state[name], before[name]) for name in state)
    config, was = (json.loads((folder / "config.json").read_text()) for folder in (result.folder, base))
    assert {k: v for k, v in config.items() if was.get(k) != v} == {}
    load_base(result.folder, dtype=torch.bfloat16)


def test_weights_that_learned_less_than_bfloat16_can_tell_are_saved_in_float32(run: Any, tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path / "half")
    little = {"base": base, "method": "sft", "learning_rate": 2e-6, "max_steps": 4, "eval_rows": 0}
    result = run(**little)
    state, before = load_file(result.folder / "model.safetensors"), load_file(base / "model.safetensors")
    moved = [float((state[name] != before[name].float()).float().mean()) for name in state]
    assert min(moved) > 0.5, "what was learned is in what is saved"
    assert json.loads((result.folder / "config.json").read_text())["dtype"] == "float32" == result.report["saved_dtype"]
    assert "so the weights are saved in float32" in result.report["notes"][-1] and result.report["rounded_away"] == 0

    told = run(**little, dtype="bfloat16")
    state = load_file(told.folder / "model.safetensors")
    assert {t.dtype for t in state.values()} == {torch.bfloat16} and told.report["rounded_away"] > 0.05


def test_training_begins_with_the_weights_of_a_checkpoint(run: Any, tmp_path: Path) -> None:
    first = run(max_steps=12, learning_rate=3e-2)
    fresh = losses(run)[1]
    run(max_steps=1, start=first.folder)
    assert losses(run)[1] < fresh - 0.3
    with pytest.raises(IntegrityError, match="not of this base and recipe: .* weights are missing, surplus or of another shape"):
        run(lora_r=4, start=first.folder)
    whole = run(method="sft", learning_rate=3e-3, max_steps=12)
    run(method="sft", max_steps=1, start=whole.folder)
    assert losses(run)[1] < fresh - 0.3
    (whole.folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(IntegrityError, match="cannot be read"):
        run(method="sft", max_steps=1, start=whole.folder)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_qlora_trains_on_a_base_in_four_bits(run: Any, kind: str) -> None:
    result = run(method="qlora", bnb_4bit_quant_type=kind, max_steps=12, use_bnb_nested_quant=kind == "nf4")
    state = load_file(result.folder / "adapter_model.safetensors")
    assert all(t.dtype == torch.float32 for t in state.values()) and result.report["packed"]
    assert result.final_loss < losses(run)[1]


def test_dora_learns_the_magnitudes_of_the_modules_that_were_named(run: Any, pico_base: Path) -> None:
    state = load_file(run(use_dora=True, lora_target_modules=("q_proj", "v_proj")).folder / "adapter_model.safetensors")
    learned = {name: value for name, value in state.items() if name.endswith(".lora_magnitude_vector")}
    modules = {name.removeprefix("base_model.model.").removesuffix(".lora_magnitude_vector") for name in learned}
    assert modules == {f"model.layers.{n}.self_attn.{p}_proj" for n in (0, 1) for p in "qv"}
    before = load_file(pico_base / "model.safetensors")
    for name, value in learned.items():
        module = name.removeprefix("base_model.model.").removesuffix(".lora_magnitude_vector")
        assert (value - before[f"{module}.weight"].norm(dim=1)).abs().max() > 1e-3, "it began as the norm of the weights, and moved"


def test_packed_examples_take_fewer_steps_over_the_same_tokens(run: Any) -> None:
    given = {"max_length": 150, "per_device_train_batch_size": 2, "max_steps": -1}
    plain, packed = run(**given), run(**given, packing=True)
    assert packed.tokens == plain.tokens and packed.steps < plain.steps / 2
    assert packed.steps >= packed.tokens / (2 * 150), "two examples of at most 150 tokens a step"


def test_checkpointing_computes_layers_twice_and_learns_the_same(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.llama.modeling_llama import LlamaMLP

    forward, trained = LlamaMLP.forward, [0]

    def counted(self: Any, x: torch.Tensor) -> torch.Tensor:
        trained[0] += self.training
        return forward(self, x)

    monkeypatch.setattr(LlamaMLP, "forward", counted)
    once = run(gradient_checkpointing=False)
    passes, trained[0] = trained[0], 0
    twice = run(gradient_checkpointing=True)
    assert trained[0] >= passes + 2 * twice.steps, "each of two layers once more in every step"
    assert weights_sha(once) == weights_sha(twice)


def test_dropout_and_bfloat16_change_what_is_learned(run: Any) -> None:
    plain = run(max_steps=3)
    dropped, half = run(max_steps=3, lora_dropout=0.3), run(max_steps=3, bf16=True)
    assert (plain.report["dtype"], half.report["dtype"]) == ("float32", "bfloat16")
    assert len({weights_sha(result) for result in (plain, dropped, half)}) == 3
    for result in (dropped, half):
        assert result.final_loss == pytest.approx(plain.final_loss, rel=0.05), "the same task, seen less sharply"


def test_gradients_are_accumulated_to_the_larger_batch(run: Any) -> None:
    parts = run(gradient_accumulation_steps=3, eval_rows=0, per_device_train_batch_size=4)
    in_parts = losses(run)
    whole = run(eval_rows=0, per_device_train_batch_size=12)
    assert in_parts == pytest.approx(losses(run), abs=2e-4) and len(in_parts) == 8
    assert parts.tokens == whole.tokens and parts.best_eval_loss is None


@pytest.mark.parametrize(
    ("given", "keeps"),
    [
        ({"optim": "sgd", "learning_rate": 0.5}, set()),
        ({"optim": "adafactor"}, {"exp_avg_sq_row", "exp_avg_sq_col"}),
        ({}, {"exp_avg", "exp_avg_sq"}),
    ],
    ids=["sgd", "adafactor", "adamw"],
)
def test_the_optimizer_is_the_one_that_was_asked_for(run: Any, given: dict[str, Any], keeps: set[str]) -> None:
    result = run(**given, max_steps=2)
    saved = torch.load(result.folder.parent / "checkpoints" / "checkpoint-2" / "optimizer.pt", weights_only=True)
    state = {name for of in saved["state"].values() for name, value in of.items() if torch.is_tensor(value) and value.ndim}
    assert state == keeps


@pytest.mark.parametrize(
    ("given", "shares"),
    [
        ({"lr_scheduler_type": "linear"}, [0, 7 / 7, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7]),
        ({"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 3}}, [0, 1, 1, 1, 1, 1, 0.75, 0.25]),
        (
            {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1}},
            [0, *(0.1 + 0.9 * (1 + math.cos(math.pi * n / 7)) / 2 for n in range(7))],
        ),
    ],
    ids=lambda value: value.get("lr_scheduler_type") if isinstance(value, dict) else "",
)
def test_the_learning_rate_follows_its_schedule(run: Any, given: dict[str, Any], shares: list[float]) -> None:
    """In eight steps, the first of them to warm up."""
    run(**given, warmup_ratio=0.1)
    rates = [line.learning_rate for line in run.lines if line.loss is not None]
    assert rates == pytest.approx([5e-3 * share for share in shares], abs=1e-9)


def test_weight_decay_shrinks_what_is_learned(run: Any) -> None:
    def size(result: TrainResult) -> float:
        return sum(float(t.square().sum()) for t in load_file(result.folder / "adapter_model.safetensors").values())

    assert size(run(weight_decay=1.0, learning_rate=0.03)) < 0.9 * size(run(weight_decay=0.0, learning_rate=0.03))


def test_noise_on_the_embeddings_changes_training_and_nothing_after_it(run: Any) -> None:
    plain = run(report_to="none")
    quiet = losses(run)
    noisy = run(neftune_noise_alpha=5.0)
    assert losses(run)[1] != pytest.approx(quiet[1], abs=1e-3) and weights_sha(noisy) != weights_sha(plain)
    assert not noisy.report["packed"] and "NEFTune" in noisy.report["notes"][0]


def test_each_schedule_takes_what_the_recipe_says_it_takes() -> None:
    """Upstream's own functions have those arguments, and one that the recipe does not ask for has a default."""
    from inspect import signature

    from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION
    from transformers.trainer_utils import SchedulerType

    from workbench.recipe import _NEEDED, _SCHEDULES

    given = {"optimizer", "num_warmup_steps", "num_training_steps"}
    for name, takes in _SCHEDULES.items():
        known = signature(TYPE_TO_SCHEDULER_FUNCTION[SchedulerType(name)]).parameters
        assert set(takes) <= known.keys(), name
        assert {p for p in known if known[p].default is known[p].empty} - given <= _NEEDED.get(name, set()), name


def test_raw_prompts_and_plain_texts_are_trained_on(run: Any) -> None:
    raw = [{"id": str(i), "form": "prompt_completion", "prompt": f"{i % 7} fox", "completion": f" dog {i % 7}"} for i in range(20)]
    assert run(raw).report["supervised_tokens"] > 0
    texts = [{"id": str(i), "form": "text", "text": f"the quick brown fox {i}"} for i in range(20)]
    assert run(texts).steps == 8 and all(not line.samples for line in run.lines)


# ------------------------------------------------------------------ the same loss as TRL


def test_the_loss_is_trls_loss(run: Any, pico_base: Path, tmp_path: Path) -> None:
    """One step over the same rows: TRL's own trainer at its defaults and ours report the same loss and gradient norm."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    rows, tokenizer = chats(10), load_tokenizer(pico_base)
    run(rows, max_steps=1, per_device_train_batch_size=10, eval_rows=0, max_grad_norm=1e6)
    ours = next(line for line in run.lines if line.loss is not None)
    rendered = [render(tokenizer, row, max_length=999) for row in rows]
    data = Dataset.from_dict({"input_ids": [r.input_ids for r in rendered], "labels": [r.labels for r in rendered]})
    args = SFTConfig(
        str(tmp_path / "trl"), max_steps=1, per_device_train_batch_size=10, bf16=False, use_cpu=True, report_to="none", logging_steps=1
    )
    config = LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    theirs = SFTTrainer(str(pico_base), args, train_dataset=data, peft_config=config)
    theirs.args.max_grad_norm, theirs.args.seed = 1e6, 42
    theirs.train()
    log = theirs.state.log_history[0]
    assert ours.loss == pytest.approx(float(log["loss"]), abs=1e-5)
    assert ours.grad_norm == pytest.approx(float(log["grad_norm"]), rel=1e-3)


def test_padded_rows_and_small_parts_give_the_same_run(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    packed = losses(run)
    monkeypatch.setattr("workbench.hf.machine._CPU_ACTIVATIONS", 1)
    monkeypatch.setattr("workbench.hf.machine.activation_room", lambda machine, weights: 1)
    assert run().report["tokens_at_once"] == 1
    assert losses(run) == pytest.approx(packed, abs=1e-4)
    monkeypatch.setattr(proof, "_WITHIN", -1.0)
    result = run()
    assert not result.report["packed"] and "Rows are padded" in result.report["notes"][0]
    assert sorted(losses(run)) == sorted(packed)


# ------------------------------------------------------------------ the same every time


def test_a_seed_decides_every_bit(run: Any) -> None:
    one, two, other = run(lora_dropout=0.1), run(lora_dropout=0.1), run(lora_dropout=0.1, seed=43)
    assert weights_sha(one) == weights_sha(two) != weights_sha(other)


@pytest.mark.parametrize(
    ("given", "stop"),
    [({}, 10), ({"method": "sft", "learning_rate": 1e-3}, 10), ({"lora_dropout": 0.2, "early_stopping_patience": 4}, 14)],
)
def test_a_resumed_run_is_the_unbroken_one(run: Any, tmp_path: Path, given: dict[str, Any], stop: int) -> None:
    """Stopped within the second epoch or right after it, gone on elsewhere: same losses, evaluations and weights."""
    given = {"num_train_epochs": 3, "max_steps": -1, "gradient_accumulation_steps": 2, "eval_steps": 4, **given}
    whole = run(**given)
    wanted, watched = losses(run), {line.step: line.eval_loss for line in run.lines if line.eval_loss}
    first, second = tmp_path / "attempt-1", tmp_path / "attempt-2"
    with pytest.raises(JobError, match=f"Stopped at step {stop} of 21"):
        run(out=first, stopping=lambda: run.lines[-1].step == stop - 1, **given)
    broken, stopped_watch = losses(run), {line.step: line.eval_loss for line in run.lines if line.eval_loss}
    result = run(out=second, earlier=[first], **given)
    assert result.report["resumed_from_step"] == stop and min(losses(run)) == stop + 1
    broken.update(losses(run))
    stopped_watch.update({line.step: line.eval_loss for line in run.lines if line.eval_loss})
    assert broken == pytest.approx(wanted, abs=1e-6) and stopped_watch == pytest.approx(watched, abs=1e-6)
    assert (result.steps, result.tokens) == (whole.steps, whole.tokens)
    assert result.best_eval_loss == pytest.approx(whole.best_eval_loss, abs=1e-6)
    assert weights_sha(result) == weights_sha(whole)


def test_a_torn_checkpoint_is_passed_over_and_a_finished_one_is_not_trained_again(run: Any, tmp_path: Path) -> None:
    first = tmp_path / "attempt-1"
    whole = run(out=first, save_steps=3, eval_steps=4)
    saved = sorted(checkpoints.step_of(p) for p in (first / "checkpoints").glob("checkpoint-*"))
    assert saved[-1] == 8 and len(saved) == 2
    again = run(out=tmp_path / "attempt-2", earlier=[first], save_steps=3, eval_steps=4)
    assert again.report["resumed_from_step"] == 8 and not losses(run)
    assert weights_sha(again) == weights_sha(whole) and again.steps == 8
    optimizer = first / "checkpoints" / "checkpoint-8" / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:-1])
    (first / "checkpoints" / "checkpoint-99").mkdir()
    third = run(out=tmp_path / "attempt-3", earlier=[first], save_steps=3, eval_steps=4)
    assert third.report["resumed_from_step"] == saved[0] and len(third.report["checkpoints_passed_over"]) == 2
    assert weights_sha(third) == weights_sha(whole)
    other = run(out=tmp_path / "attempt-4", earlier=[first], save_steps=3, eval_steps=4, learning_rate=1e-3)
    assert other.report["resumed_from_step"] is None


def test_the_order_of_rows_depends_on_seed_and_epoch_alone() -> None:
    lengths = [i % 17 for i in range(103)]
    for given in ({}, {"lengths": lengths, "batch": 8}):
        order = Shuffled(103, 1, **given)
        first = list(order)
        assert list(order) == first and sorted(first) == list(range(103)) and len(order) == 103
        order.set_epoch(1)
        assert list(order) != first
        assert list(Shuffled(103, 2, **given)) != first
    batches = [first[i : i + 8] for i in range(0, 96, 8)]
    assert sum(max(lengths[i] for i in b) - min(lengths[i] for i in b) for b in batches) / len(batches) < 4


# ------------------------------------------------------------------ best weights, early end


def test_the_best_weights_are_kept_and_patience_ends_the_run(run: Any, pico_base: Path) -> None:
    result = run(method="sft", max_steps=60, eval_steps=3, early_stopping_patience=2, learning_rate=2e-2, lr_scheduler_type="constant")
    watched = {line.step: line.eval_loss for line in run.lines if line.eval_loss}
    best = min(watched, key=lambda step: watched[step])
    assert result.report["stopped_early"] and result.steps == best + 6 < 60 and result.report["best_step"] == best
    model, tokenizer = load_base(result.folder, dtype=torch.float32), load_tokenizer(pico_base)
    ranked = sorted(range(60), key=lambda i: sha256(f"42:r{i}".encode()).digest())[:6]
    held = [render(tokenizer, chats()[i], max_length=999) for i in ranked]
    scores = torch.cat(log_probs(model, [(r.input_ids, r.labels) for r in held], packs=False))
    assert -float(scores.mean()) == pytest.approx(watched[best], abs=1e-4)


# ------------------------------------------------------------------ waste is refused


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_length": 8}, "None of the 60 rows has a token to learn from; 60 lose their whole answer at max_length 8"),
        ({"lora_target_modules": ("q_proj", "wqkv")}, "this base has no wqkv; it has .*q_proj"),
        ({"learning_rate": 1.0, "method": "sft", "max_grad_norm": 1e9, "max_steps": 60}, "diverging|became"),
        ({"learning_rate": 1e-30, "max_steps": 1}, "Training changed nothing"),
        ({"learning_rate": 3e-9, "max_steps": 1}, "rounding alone moves them"),
    ],
)
def test_a_run_that_would_be_wasted_stops_and_says_what_to_change(run: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        run(**given)


def test_a_loss_that_is_not_a_number_stops_at_once(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_tiny_base(tmp_path / "broken", dtype="F32")
    model = load_base(base, dtype=torch.float32)
    with torch.no_grad():
        model.model.norm.weight[3] = float("nan")
    model.save_pretrained(base)
    with pytest.raises(TrainingError, match="cannot learn from two rows as this job would: the gradient is not a number"):
        run(base=base)
    monkeypatch.setattr("workbench.hf.train.rehearse", lambda *args, **kwargs: 0.0)
    with pytest.raises(TrainingError, match="The loss became nan at step 1. Lower learning_rate .now 0.005; try 0.0005."):
        run(base=base)


def test_the_end_of_turn_must_be_learned_and_be_where_generation_stops(run: Any, tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path / "deaf", dtype="F32")
    settings = json.loads((base / "generation_config.json").read_text())
    (base / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": 0}))
    result = run(base=base, max_steps=2)
    assert "does not stop at <|im_end|>" in result.report["notes"][0]
    assert json.loads((result.folder / "generation_config.json").read_text())["eos_token_id"] == [2, 0]
    (base / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    with pytest.raises(TrainingError, match="No training row teaches the model to end its answer"):
        run(base=base)


def test_rows_must_fit_the_base(run: Any, tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path / "short", dtype="F32")
    settings = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**settings, "max_position_embeddings": 40}))
    with pytest.raises(TrainingError, match="rows of 49 tokens, and this base reads 40 at most. Set max_length: 40"):
        run(base=base)
    tokenizer = load_tokenizer(base)
    tokenizer.add_tokens(["Cairo"])
    tokenizer.save_pretrained(base)
    with pytest.raises(TrainingError, match="they do not belong together"):
        run(base=base, max_length=40)


def test_a_base_that_cannot_answer_still_learns(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no cache")

    monkeypatch.setattr("workbench.hf.follow.answer", broken)
    assert run().steps == 8
    assert [line.message for line in run.lines if line.phase == "training" and line.message] == [
        "This base gives no answers to look at: no cache"
    ]


def test_a_logger_that_is_not_installed_is_named(run: Any) -> None:
    with pytest.raises(MissingDependency, match="pip install mlflow"):
        run(report_to=("mlflow",))


def test_a_run_that_cannot_fit_is_refused_before_it_starts(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.hf import machine

    small = machine.Machine("cpu", "small", 1, 1_000_000, False, torch.__version__)
    monkeypatch.setattr(machine, "facts", lambda: small)
    with pytest.raises(TrainingError, match="this machine has 0.0 GB. Use method qlora"):
        run()


def test_a_library_that_refuses_without_a_word_still_gives_a_sentence(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise NotImplementedError

    monkeypatch.setattr("workbench.hf.train.get_peft_model", refuse)
    with pytest.raises(TrainingError, match="PEFT cannot put such an adapter on this base: NotImplementedError"):
        run()
