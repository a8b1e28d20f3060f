"""Train by a recipe: rows in, an adapter folder (or full weights) out, with everything checked on the way."""

from __future__ import annotations

import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerState, set_seed
from trl import SFTConfig, pack_dataset

from workbench.errors import JobError, MissingDependency, TrainingError
from workbench.hf import checkpoints, machine, preflight
from workbench.hf.follow import Follower, Report
from workbench.hf.load import compute_dtype, first_line, load_base, load_tokenizer, set_threads
from workbench.hf.packed import log_probs
from workbench.hf.prepare import Prepared, prepare
from workbench.hf.proof import prove
from workbench.hf.rehearsal import possible, rehearse
from workbench.hf.trainer import AnswerTrainer, Collator, Shuffled
from workbench.planning import missing_loggers
from workbench.recipe import Recipe
from workbench.records import Progress

__all__ = ["TrainResult", "schedule", "train"]

_ROUNDED_AWAY = 0.05  # share of what was learned that saving in the base's dtype may cost


@dataclass(frozen=True)
class TrainResult:
    """What a finished run leaves behind."""

    folder: Path  # a PEFT folder, or a full model for method sft; with the tokenizer, without a card
    steps: int
    tokens: int  # real (not padding) tokens trained on, earlier attempts included
    seconds: float  # of this attempt, loading and checks included
    tokens_per_second: float  # of the steps alone
    peak_bytes: int  # the most memory the process held
    final_loss: float  # mean of the last ten steps
    best_eval_loss: float | None  # of the weights in `folder`
    report: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the folder, which is moved."""
        return {name: value for name, value in vars(self).items() if name != "folder"}


def train(
    recipe: Recipe,
    base: Path,
    rows: Sequence[dict[str, Any]],
    out: Path,
    *,
    start: Path | None = None,
    earlier: Sequence[Path] = (),
    report: Report = lambda progress: None,
    stopping: Callable[[], bool] = lambda: False,
    check: Callable[[Path], object] = lambda folder: None,
) -> TrainResult:
    """Train on `rows` (the train part only) and return where the result lies, under `out`.

    `start` is a folder whose weights training begins with: adapter_model.safetensors of the recipe's own shape, or for
    method sft model.safetensors.
    `earlier` are the `out` folders of earlier attempts at the same run: it goes on from the newest checkpoint among
    them that is whole. `report` is called at every step; when `stopping` turns true the run saves and raises `JobError`.
    `check` gets an adapter as it will be saved, before the first step, and raises what would keep it from being published.
    Raises `TrainingError` when going on would be a waste, and says what to change.
    """
    if missing := missing_loggers(recipe):
        raise MissingDependency(" ".join(missing))
    began, threads = time.perf_counter(), set_threads(recipe.threads)
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # between transformers, TRL and PEFT, pinned together
        report(_preparing("Reading the rows."))
        tokenizer = load_tokenizer(base)
        data = prepare(recipe, tokenizer, rows)
        report(_preparing("Loading the base."))
        run = _Run(recipe, base, tokenizer, data, out, start)
        trainer, follower = run.trainer(report, stopping)
        checkpoint, passed_over = checkpoints.newest_verified(
            [out / "checkpoints", *(folder / "checkpoints" for folder in earlier)], of=run.of
        )
        if checkpoint is None:
            report(_preparing("Starting." if not passed_over else f"Starting over: {'; '.join(passed_over)}."))
            run.report["rehearsal_seconds"] = seconds = round(run.rehearse(trainer, check), 2)
            report(_preparing(f"Everything this job does was tried on two rows, in {seconds:.1f} s."))
        else:
            report(_preparing(f"Going on from step {checkpoints.step_of(checkpoint)}."))
        _fit(trainer, follower, checkpoint)
        resumed = checkpoints.step_of(checkpoint) if checkpoint else None
        run.report |= {"threads": threads, "resumed_from_step": resumed, "checkpoints_passed_over": passed_over}
        return run.result(trainer.state, follower.rate(), began)


class _Run:
    """The model of one run and what was found out about it before the first step."""

    def __init__(self, recipe: Recipe, base: Path, tokenizer: Any, data: Prepared, out: Path, start: Path | None = None) -> None:
        self.recipe, self.tokenizer, self.data, self.out = recipe, tokenizer, data, out
        self.of = _fingerprint(recipe, base, data)
        self.dtype = compute_dtype(recipe.bf16)
        set_seed(recipe.seed)
        self.model = self._load(base)
        if start is not None:
            preflight.load_start(self.model, start / ("model" if recipe.method == "sft" else "adapter_model"))
        preflight.check_fit(self.model, data.train + data.held)
        self.notes = preflight.stop_at_end_of_turn(self.model, tokenizer, chat=data.chat)
        self.machine = machine.facts()
        self._fit_memory()
        self._watched = (data.held or data.train)[:8]
        self._before = self._scores()
        self._noise = float((self._scores(tokens=1) - self._before).abs().max())  # row by row: other sums, the same numbers

    def _load(self, base: Path) -> Any:
        recipe = self.recipe
        whole = recipe.method == "sft"  # all weights learn, in steps too small for bfloat16
        dtype = torch.float32 if whole else self.dtype
        model = load_base(base, dtype=dtype, quantized=recipe.quantization, nested=recipe.use_bnb_nested_quant)
        self.base_dtype = json.loads((base / "config.json").read_text(encoding="utf-8")).get("dtype") or "float32"
        if whole:
            return model.requires_grad_(True)
        preflight.check_targets(model, recipe.lora_target_modules, recipe.target_parameters)
        every = recipe.lora_target_modules == ("all-linear",)
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=recipe.lora_r,
            lora_alpha=recipe.lora_alpha,
            lora_dropout=recipe.lora_dropout,
            target_modules="all-linear" if every else list(recipe.lora_target_modules),
            exclude_modules=(preflight.beside_all_linear(model) or None) if every else None,
            use_rslora=recipe.use_rslora,
            use_dora=recipe.use_dora,
            target_parameters=list(recipe.target_parameters) or None,
        )
        try:
            wrapped = get_peft_model(model, config)
        except (NotImplementedError, ValueError) as error:  # what PEFT cannot do to this kind of model
            raise TrainingError(
                f"PEFT cannot put such an adapter on this base: {first_line(error)}",
                hint="Name other modules in lora_target_modules, or leave out use_dora and lora_dropout.",
            ) from None
        if self.dtype != torch.float32:
            # PEFT would cast every input to the adapter's float32, and autocast at once back again
            for module in wrapped.modules():
                if hasattr(module, "cast_input_dtype_enabled"):
                    module.cast_input_dtype_enabled = False
        return wrapped

    def _fit_memory(self) -> None:
        """Decide how many tokens go through the model at once, and whether layers are computed twice to save memory."""
        weights = sum(p.numel() * p.element_size() for p in self.model.parameters())
        learning = 12 * sum(p.numel() for p in self.model.parameters() if p.requires_grad)  # gradient and Adam's two moments
        with possible(f"take a first pass with method {self.recipe.method}"):
            proof = prove(self.model, self.data.train)
            fixed, per_token = preflight.kept_for_backward(self.model, self.data.train, self.dtype, packs=not proof.why_not)
        fixed += weights + learning
        longest = max(len(ids) for ids, _ in self.data.train)
        self.random = proof.random
        self.packs = not proof.why_not and not self.recipe.neftune_noise_alpha  # its noise is scaled by the length of a row
        self.checkpointing = self.recipe.gradient_checkpointing
        if self.checkpointing is None:
            self.checkpointing = fixed + longest * per_token > 0.8 * self.machine.memory_bytes
        kept = per_token
        if self.checkpointing:  # one layer's activations and every layer's input
            kept = max(1, 3 * per_token // max(1, self.model.config.get_text_config().num_hidden_layers))
        needed = fixed + longest * kept
        if needed > self.machine.memory_bytes:
            raise TrainingError(
                f"This run needs at least {needed / 1e9:.1f} GB of memory, and this machine has {self.machine.memory_bytes / 1e9:.1f} GB.",
                hint="Use method qlora, a smaller max_length, or a smaller base.",
            )
        self.tokens_at_once = max(1, machine.activation_room(self.machine, fixed) // kept)
        self.report: dict[str, Any] = {
            "dtype": str(self.dtype).removeprefix("torch."),
            "gradient_checkpointing": self.checkpointing,
            "packed": self.packs,
            "packing_proof": {"layers": proof.layers, "seconds": round(proof.seconds, 2)},
            "tokens_at_once": self.tokens_at_once,
            "bytes_per_token": per_token,
            "machine": asdict(self.machine),
            "libraries": {name: metadata.version(name) for name in ("torch", "transformers", "trl", "peft", "bitsandbytes")},
            "notes": self.notes
            + ([] if self.packs else [f"Rows are padded, not packed: {proof.why_not or 'NEFTune scales its noise by their length'}."]),
        }

    def trainer(self, report: Report, stopping: Callable[[], bool]) -> tuple[AnswerTrainer, Follower]:
        recipe, data = self.recipe, self.data
        examples = Dataset.from_dict({"input_ids": [ids for ids, _ in data.train], "labels": [labels for _, labels in data.train]})
        if recipe.packing:
            examples = pack_dataset(examples, recipe.max_length, "bfd")
        held = Dataset.from_dict({"input_ids": [ids for ids, _ in data.held], "labels": [labels for _, labels in data.held]})
        batch = recipe.per_device_train_batch_size
        steps = recipe.steps(len(examples))
        args = _arguments(self, steps, evaluates=bool(data.held))
        lengths = None if self.packs else [len(ids) for ids in examples["input_ids"]]
        trainer = AnswerTrainer(
            model=self.model,
            args=args,
            train_dataset=examples,
            eval_dataset=held if data.held else None,
            processing_class=self.tokenizer,
            data_collator=Collator(pad_token_id=self.tokenizer.pad_token_id),
            packs=self.packs,
            random=self.random,
            tokens_at_once=self.tokens_at_once,
            order=Shuffled(len(examples), recipe.seed, lengths=lengths, batch=batch),
            of=self.of,
        )
        trainer.remove_callback(PrinterCallback)
        if recipe.early_stopping_patience and data.held:
            trainer.add_callback(EarlyStoppingCallback(recipe.early_stopping_patience))
        follower = Follower(
            report,
            stopping,
            evaluates=bool(data.held),
            tokenizer=self.tokenizer,
            shown=data.shown,
            save_steps=recipe.save_steps,
        )
        trainer.add_callback(follower)
        return trainer, follower

    def _scores(self, tokens: int = 1024) -> torch.Tensor:
        self.model.eval()
        with torch.autocast(self.machine.device, dtype=self.dtype, enabled=self.dtype != torch.float32):
            return torch.cat(log_probs(self.model, self._watched, packs=self.packs, tokens=tokens))

    def result(self, state: TrainerState, tokens_per_second: float, began: float) -> TrainResult:
        """Save what was learned, once it is sure that it is something."""
        change = self._change()
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry][-10:]
        return TrainResult(
            folder=self.save(),
            steps=state.global_step,
            tokens=state.num_input_tokens_seen,
            seconds=time.perf_counter() - began,
            tokens_per_second=tokens_per_second,
            peak_bytes=machine.peak_bytes(),
            final_loss=sum(losses) / len(losses) if losses else math.nan,
            best_eval_loss=state.best_metric,
            report={
                **self.data.report,
                **self.report,
                "best_step": state.best_global_step if state.best_metric is not None else state.global_step,
                "stopped_early": state.global_step < state.max_steps,
                "largest_change": change,
            },
        )

    def _change(self) -> float:
        """How far training moved the answers of what is saved; raises `TrainingError` when it did not, or not to numbers."""
        learned = self._scores()
        change = preflight.check_change(self._before, learned, self._noise)
        return change if self.recipe.method != "sft" else preflight.check_change(self._before, self._round(learned), self._noise)

    def _round(self, learned: torch.Tensor) -> torch.Tensor:
        """Round all weights to the dtype they are saved in, and return the scores they have then.

        With dtype auto the float32 weights are kept where rounding moves the answers by more than `_ROUNDED_AWAY` of
        what training did: a low learning rate moves weights by less than a bfloat16 can tell.
        """
        auto = self.recipe.dtype == "auto"
        dtype: torch.dtype = getattr(torch, self.base_dtype if auto else self.recipe.dtype)
        weights = list(self.model.parameters())
        masters = [weight.detach().clone() for weight in weights]  # takes the place that the gradients had
        for weight in weights:
            weight.data = weight.data.to(dtype).float()
        rounded = self._scores()
        share = float((rounded - learned).abs().mean() / (learned - self._before).abs().mean())
        if auto and not share <= _ROUNDED_AWAY:  # nor where it is not a number
            for weight, master in zip(weights, masters, strict=True):
                weight.data = master
            told = f"{100 * share:.0f} % of what was learned, so the weights are saved in float32, twice the size."
            self.report["notes"].append(f"Rounding to {self.base_dtype} would cost {told}")
            dtype, share, rounded = torch.float32, 0.0, learned
        self.saved = dtype
        self.report |= {"saved_dtype": str(dtype).removeprefix("torch."), "rounded_away": share}
        return rounded

    def rehearse(self, trainer: AnswerTrainer, check: Callable[[Path], object]) -> float:
        """Try everything the job will do on two rows; full weights, which transformers saves as it read them, are not written twice."""

        def save() -> Path:
            check(folder := self.save("rehearsal"))
            return folder

        return rehearse(trainer, self.tokenizer, self.data.train, dtype=self.dtype, save=None if self.recipe.method == "sft" else save)

    def save(self, name: str = "result") -> Path:
        """Write the result under `out` and return its folder: safetensors, tokenizer, generation config."""
        folder = self.out / name
        model = self.model.eval()
        if self.recipe.method == "sft":
            model.config.use_cache = True  # the trainer had switched it off
            model.to(self.saved).save_pretrained(folder)
        else:
            model.peft_config["default"].base_model_name_or_path = self.recipe.base
            model.save_pretrained(folder, save_embedding_layers=False)
            (folder / "README.md").unlink(missing_ok=True)
        model.generation_config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        return folder


def schedule(recipe: Recipe, steps: int) -> dict[str, Any]:
    """What of the recipe decides each of `steps` optimiser steps, under transformers' names."""
    same = "num_train_epochs max_steps per_device_train_batch_size gradient_accumulation_steps learning_rate lr_scheduler_type"
    same += " lr_scheduler_kwargs optim neftune_noise_alpha weight_decay max_grad_norm seed"
    warmup = min(math.ceil(recipe.warmup_ratio * steps), steps - 1)
    return {name: getattr(recipe, name) for name in same.split()} | {"warmup_steps": warmup}


def _arguments(run: _Run, steps: int, *, evaluates: bool) -> SFTConfig:
    """The recipe as TRL's configuration."""
    recipe = run.recipe
    every = recipe.evaluate_every(steps)
    args = SFTConfig(
        output_dir=str(run.out / "checkpoints"),
        **schedule(recipe, steps),
        per_device_eval_batch_size=32,
        bf16=run.dtype == torch.bfloat16,
        gradient_checkpointing=run.checkpointing,
        use_cpu=run.machine.device == "cpu",
        logging_steps=max(1, steps // 1000),
        logging_nan_inf_filter=False,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=recipe.save_total_limit,
        load_best_model_at_end=evaluates,
        metric_for_best_model="eval_loss" if evaluates else None,
        greater_is_better=False,
        restore_callback_states_from_checkpoint=True,
        include_num_input_tokens_seen="non_padding",
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_pin_memory=run.machine.device == "cuda",
        disable_tqdm=True,
        report_to=list(recipe.report_to) or "none",
        run_name=recipe.adapter_name,
    )
    args._n_gpu = min(1, args.n_gpu)  # one process, one GPU; TRL refuses DataParallel
    return args


def _fit(trainer: AnswerTrainer, follower: Follower, checkpoint: Path | None) -> None:
    """Train, or go on from `checkpoint`; one taken after the last step only has its best weights loaded."""
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json")) if checkpoint else trainer.state
    if checkpoint and state.global_step >= state.max_steps:
        best = Path(state.best_model_checkpoint) if state.best_model_checkpoint else checkpoint
        trainer._load_from_checkpoint(str(best if best.is_dir() else checkpoint))
        trainer.state = state
        return
    with machine.enough_memory():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if follower.stopped:
        raise JobError(
            f"Stopped at step {trainer.state.global_step} of {trainer.state.max_steps}, as asked; a checkpoint is saved.",
            hint="Go on: workbench jobs resume",
        )


def _fingerprint(recipe: Recipe, base: Path, data: Prepared) -> str:
    """Differs when anything that decides the weights of a run differs: recipe, base, rows."""
    digest = hashlib.sha256(recipe.to_yaml().encode())
    digest.update((base / "config.json").read_bytes())
    digest.update(json.dumps([data.train, data.held]).encode())
    return digest.hexdigest()[:16]


def _preparing(message: str) -> Progress:
    return Progress(t=time.time(), phase="preparing", message=message)
