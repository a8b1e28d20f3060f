"""TRL's `SFTTrainer`, made to do only the work that the loss depends on.

What differs from the parent: rows go through the model packed (`workbench.hf.packed`), in groups whose activations
fit the memory set aside for them, and the output layer sees the learned positions only. Everything else, from the
optimiser and its schedule to checkpoints, evaluation and loggers, is transformers' and TRL's own.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from workbench.errors import TrainingError
from workbench.hf import checkpoints
from workbench.hf.packed import Row, pack, pad, scored, split, trim
from workbench.hf.render import IGNORED
from workbench.hf.rope import LONG, length_kind

__all__ = ["AnswerTrainer", "Collator", "Shuffled"]

_WINDOW = 10  # steps over which the loss is averaged when looking whether it rises


class Shuffled(Sampler[int]):
    """A new order for every epoch, decided by `seed` and the epoch alone, so that a resumed run sees the same rows.

    With `lengths`, rows of like length stay together (for models whose rows must be padded): each stretch of fifty
    batches is sorted, and the batches are shuffled again.
    """

    def __init__(self, rows: int, seed: int, *, lengths: Sequence[int] | None = None, batch: int = 1) -> None:
        self.rows, self.seed, self.lengths, self.batch, self.epoch = rows, seed, lengths, batch, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.rows, generator=generator).tolist()
        lengths = self.lengths
        if lengths is None:
            return iter(order)
        stretch = 50 * self.batch
        ordered = [
            i for at in range(0, self.rows, stretch) for i in sorted(order[at : at + stretch], key=lambda i: lengths[i], reverse=True)
        ]
        batches = [ordered[at : at + self.batch] for at in range(0, self.rows, self.batch)]
        last = [batches.pop()] if len(batches[-1]) < self.batch else []  # a short batch may only come last
        shuffled = [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
        return iter([i for batch in [*shuffled, *last] for i in batch])


class Collator(DataCollatorForLanguageModeling):  # type: ignore[misc]
    """TRL's collator, after examples that hold several rows (`seq_lengths`, from packing) are taken apart again."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        rows = []
        for example in examples:
            at = 0
            for length in example.get("seq_lengths") or [len(example["input_ids"])]:
                rows.append({key: example[key][at : at + length] for key in ("input_ids", "labels")})
                at += length
        return dict(super().torch_call(rows))


class AnswerTrainer(SFTTrainer):  # type: ignore[misc]
    """`packs`, `random` and `tokens_at_once` are what was found before the run; `order` is the training rows' sampler.

    Where a mixture of experts has a load-balancing loss, it is added as TRL adds it: over every real token of a batch,
    once for each row that the token is in, and by its share where a batch goes through in parts.
    """

    loss_is_scaled_for_ga = True

    def __init__(self, *args: Any, packs: bool, random: bool, tokens_at_once: int, order: Shuffled, of: str, **kwargs: Any) -> None:
        self._order = order
        config = kwargs["model"].config.get_text_config()
        asks = {key: getattr(config, key) for key in ("output_router_logits",) if hasattr(config, key)}
        super().__init__(*args, **kwargs)
        config.__dict__.update(asks)  # TRL switches it on in the config, which is saved with the weights; `losses` asks by itself
        self.packs, self.tokens_at_once, self.of = packs, tokens_at_once, of
        plain = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        self.balances = self.aux_loss_enabled and "output_router_logits" in inspect.signature(type(plain).forward).parameters
        self._kind = length_kind(self.model)
        # tokens that nothing is learned from count nevertheless: for the experts' balance, and for a row's length
        self.whole = self.balances or self._kind(1) != self._kind(LONG)
        # dropout falls on each row by itself, so a shared beginning would not be the same thing
        self._shares_in_training = not random
        # every label is one of ours, none stands first, and the loss below is divided by their number
        self.model_accepts_loss_kwargs, self._loss_shifts_labels = True, False
        self.step_losses: list[float] = []
        self._step_loss = 0.0
        self._parameters = sum(p.numel() for p in self.model.parameters())
        for parameter in self.model.parameters():  # TRL makes a quantised base's adapter bf16, which Adam's small steps do not survive
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        # the tokenizer is saved once, with the result, not with every checkpoint
        self.processing_class = None

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """One batch, in as many parts as memory asks for. Raises `TrainingError` when the loss is not a number."""
        model.train()
        total = torch.zeros((), device=self.args.device)
        items = num_items_in_batch or int((inputs["labels"] != IGNORED).sum())
        steps = self.current_gradient_accumulation_steps if num_items_in_batch else 1
        for loss in self.losses(model, inputs, self.tokens_at_once, items=items, steps=steps):
            self.accelerator.backward(loss)
            total += loss.detach()
        value = float(total)
        if not math.isfinite(value):
            raise TrainingError(f"The loss became {value} at step {self.state.global_step + 1}.", hint=self._lower)
        self._step_loss += value
        if self.accelerator.gradient_state.sync_gradients:  # the last of gradient_accumulation_steps batches
            self.step_losses.append(self._step_loss)
            self._step_loss = 0.0
            self._check_course()
        return total

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """Mean negative log-likelihood of the learned tokens of a batch (and the load-balancing loss), for evaluation."""
        items = num_items_in_batch or max(1, int((inputs["labels"] != IGNORED).sum()))
        loss = sum(self.losses(model, inputs, 4 * self.tokens_at_once, items=items), torch.zeros((), device=self.args.device))
        return (loss, None) if return_outputs else loss

    def prediction_step(self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None) -> Any:
        """The loss alone: nobody asks for logits."""
        with torch.no_grad():
            return self.compute_loss(model, self._prepare_inputs(inputs)), None, None

    def losses(self, model: Any, inputs: dict[str, Any], tokens: int, *, items: Any, steps: int = 1) -> Iterator[torch.Tensor]:
        """The loss of a batch in parts of at most `tokens` tokens, which add up to it."""
        rows, on = _rows(inputs, whole=self.whole), self.args.device
        share = self._shares_in_training or not model.training
        for part in split(rows, tokens, kind=lambda fed: self._kind(fed + self.whole)):
            batch = pack(part, device=on, share=share, whole=self.whole) if self.packs else pad(part, device=on, whole=self.whole)
            log_probs, balance = scored(model, batch, tiles=True, balance=self.balances)
            loss = -log_probs.sum() / items
            if balance is not None:
                of_batch = sum(len(ids) for ids, _ in part) / sum(len(ids) for ids, _ in rows)
                loss = loss + self.router_aux_loss_coef * balance * of_batch / steps
            yield loss

    def _check_course(self) -> None:
        """Raises `TrainingError` when the loss of the last steps lies well above what it had been."""
        losses = self.step_losses
        if len(losses) < 2 * _WINDOW or len(losses) % _WINDOW:
            return
        means = [sum(losses[i : i + _WINDOW]) / _WINDOW for i in range(0, len(losses), _WINDOW)]
        best, now = min(losses[0], *means), means[-1]
        if now > best + max(2.0, best / 2):
            raise TrainingError(
                f"The loss rose from {best:.2f} to {now:.2f} by step {self.state.global_step + 1}: the run is diverging.", hint=self._lower
            )

    @property
    def _lower(self) -> str:
        return f"Lower learning_rate (now {self.args.learning_rate:g}; try {self.args.learning_rate / 10:g}) and start again."

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)
        if norm is not None and not math.isfinite(float(norm)):
            raise TrainingError(f"The gradient became {float(norm)} at step {self.state.global_step + 1}.", hint=self._lower)
        return norm

    # ---- parts of transformers' trainer that would do work nobody needs, or trust what cannot be trusted

    def _get_train_sampler(self, train_dataset: Any = None) -> Shuffled:
        return self._order

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        checkpoints.commit(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}", of=self.of)

    def _load_best_model(self) -> None:
        if self.state.best_global_step == self.state.global_step:
            return  # the weights in memory are the best
        best = Path(self.state.best_model_checkpoint)
        wrong = checkpoints.fault(best, of=self.of)
        if wrong is not None:
            raise TrainingError(f"The best checkpoint, {best.name}, cannot be used: {wrong}.", hint="Run the job again.")
        super()._load_best_model()

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 6 * self._parameters * int(inputs["attention_mask"].sum())

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The registry writes the card."""

    def _send_telemetry(self) -> None:
        """Nothing leaves this machine."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self._metrics["train"].clear()
        self._metrics["eval"].clear()
        super().log(logs, start_time)


def _rows(inputs: dict[str, Any], *, whole: bool = False) -> list[Row]:
    """A padded batch as rows, trimmed unless `whole`; those without a learned token drop out, since they have no loss."""
    lengths = inputs["attention_mask"].sum(dim=1).tolist()
    ids, labels = inputs["input_ids"].tolist(), inputs["labels"].tolist()
    rows = [(ids[i][:n], labels[i][:n]) for i, n in enumerate(lengths)]
    return [row if whole else trim(row) for row in rows if any(label != IGNORED for label in row[1])]
