"""Pre-training from scratch: one run that releases a base at each mark, and an independent seed.

A plain loop: AdamW, warm-up, then a constant rate (so that every mark is as good a release as the last) or a cosine.
The run's state is kept every few hundred steps, and goes on from there bit for bit.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.lab.sizes import Bases, Piece, Say, Sizes, piece
from benchmarks.lab.text import blocks
from workbench.bases.lock import write_lock
from workbench.hf.load import device

__all__ = ["make_bases"]

KEEP_EVERY = 200  # steps between two states on disk
MODEL = ("hidden", "layers", "heads", "kv_heads", "intermediate", "vocabulary", "context")
LOOP = ("batch", "lr", "warmup", "schedule", "weight_decay", "seed")
BATCH_APART = 64  # blocks at once when a base is measured


def make_bases(root: Path, sizes: Sizes, text: Piece, say: Say) -> Bases:
    """The releases of one run, c1 …, and s1 of another seed: folders as `workbench base add` makes them, with locks."""
    found: Bases = {}
    releases = {f"c{i}": step_of(sizes, mark) for i, mark in enumerate(sizes.marks, start=1)}
    for seed, names in ((0, releases), (1, {"s1": step_of(sizes, sizes.marks[-1])})):
        run = Run(root, sizes, text, seed, say)
        for name, step in names.items():
            found[name] = piece(root / "bases", name, {**run.key, "step": step}, lambda out, run=run, step=step: run.release(out, step))
    return found


def step_of(sizes: Sizes, mark: float) -> int:
    """The step at which a mark's base is released."""
    return max(1, round(sizes.steps * mark))


class Run:
    """One pre-training run. `release` trains up to a step and writes the model; it loads nothing while all releases are there."""

    def __init__(self, root: Path, sizes: Sizes, text: Piece, seed: int, say: Say) -> None:
        self.sizes, self.text, self.seed, self.say = sizes, text, sizes.seed + seed, say
        total = sizes.steps if sizes.schedule != "constant" else 0  # a constant rate does not know where it will end
        self.key = {"text": text.digest, "run": seed, "total": total, **sizes.key(*MODEL, *LOOP)}
        self._state = root / "runs" / f"{seed}-{text.digest}-{_digest(self.key)}"
        self._model: Any = None

    def release(self, out: Path, step: int) -> dict[str, Any]:
        """Train up to `step` and write the base to `out`. Its facts: loss on text held out, and the speed of the training."""
        if self._model is None or self.step > step:
            self._start(step)
        while self.step < step:
            self._one_step()
            if self.step % KEEP_EVERY == 0 or self.step == step:
                self._keep()
        self._model.save_pretrained(out)
        for file in (self.text.path / "tokenizer").iterdir():
            shutil.copy(file, out / file.name)
        lock = write_lock(out, {"kind": "trained", "method": "pre-trained by the lineage lab"})
        tokens = step * self.sizes.batch * self.sizes.context
        loss = self._apart()
        self.say(f"  step {step}: {loss:.3f} nats a token on held-out text, {self.speed:.2f} s a step")
        bits = loss / math.log(2) * self.text.facts["apart_tokens"] / self.text.facts["apart_bytes"]
        facts = {"step": step, "tokens": tokens, "loss": loss, "bits_per_byte": bits, "parameters": lock.parameters}
        return {**facts, "lock_sha256": lock.sha256, "seconds_per_step": self.speed, "seconds": self._spent()}

    @property
    def speed(self) -> float:
        """Seconds a step, over the steps of this run."""
        return self._seconds / max(1, self.step)

    def _spent(self) -> float:
        """Seconds since the last release, in all processes that took part."""
        spent, self._released = self._seconds - self._released, self._seconds
        return spent

    def _start(self, upto: int) -> None:
        """A fresh model, or the newest kept state that is not beyond `upto`."""
        from transformers import LlamaConfig, LlamaForCausalLM

        sizes = self.sizes
        torch.manual_seed(self.seed)
        config = LlamaConfig(
            vocab_size=sizes.vocabulary,
            hidden_size=sizes.hidden,
            intermediate_size=sizes.intermediate,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            num_key_value_heads=sizes.kv_heads,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
        self._model = LlamaForCausalLM(config).to(device())
        self._model.generation_config.pad_token_id, self._model.generation_config.eos_token_id = 0, 2
        self._optimizer = torch.optim.AdamW(self._groups(), lr=sizes.lr, betas=(0.9, 0.95), fused=True)
        self._data = torch.from_numpy(blocks(self.text, "train")).long()
        self.step, self._seconds, self._released = 0, 0.0, 0.0
        state = self._state / "state.pt"
        if state.is_file():
            kept = torch.load(state, map_location=device(), weights_only=True)
            if kept["step"] <= upto:
                self._model.load_state_dict(kept["model"])
                self._optimizer.load_state_dict(kept["optimizer"])
                self.step, self._seconds, self._released = kept["step"], kept["seconds"], kept["released"]
                self.say(f"  goes on from step {self.step}")
        self._model.train()

    def _groups(self) -> list[dict[str, Any]]:
        weights = list(self._model.parameters())
        decayed = {"params": [w for w in weights if w.ndim == 2], "weight_decay": self.sizes.weight_decay}
        return [decayed, {"params": [w for w in weights if w.ndim != 2], "weight_decay": 0.0}]

    def _one_step(self) -> None:
        started = time.monotonic()
        rows = self._data[self._rows()].to(device())
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate()
        logits = self._model(input_ids=rows[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self.step += 1
        self._seconds += time.monotonic() - started
        if self.step % 100 == 0:
            self.say(f"  step {self.step}: loss {loss.item():.3f}, {self.speed:.2f} s a step")

    def _rows(self) -> np.ndarray:
        """Which blocks step `self.step` sees: every block once before any comes twice, in another order each time."""
        first, n = self.step * self.sizes.batch, len(self._data)
        places = np.arange(first, first + self.sizes.batch)
        return np.array([_order(self.seed, int(place // n), n)[place % n] for place in places])

    def _rate(self) -> float:
        sizes = self.sizes
        if self.step < sizes.warmup:
            return sizes.lr * (self.step + 1) / sizes.warmup
        if sizes.schedule == "constant":
            return sizes.lr
        done = (self.step - sizes.warmup) / max(1, sizes.steps - sizes.warmup)
        return sizes.lr * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))

    def _keep(self) -> None:
        self._state.mkdir(parents=True, exist_ok=True)
        state = {"model": self._model.state_dict(), "optimizer": self._optimizer.state_dict(), "step": self.step}
        torch.save({**state, "seconds": self._seconds, "released": self._released}, self._state / "state.part")
        os.replace(self._state / "state.part", self._state / "state.pt")

    @torch.inference_mode()
    def _apart(self) -> float:
        """Nats a token on the text held out."""
        self._model.eval()
        data = torch.from_numpy(blocks(self.text, "apart")).long()[: 8 * BATCH_APART]
        total = 0.0
        for rows in data.split(BATCH_APART):
            rows = rows.to(device())
            logits = self._model(input_ids=rows[:, :-1], use_cache=False).logits
            total += float(torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten(), reduction="sum"))
        self._model.train()
        return total / (len(data) * self.sizes.context)


_orders: dict[tuple[int, int, int], np.ndarray] = {}


def _order(seed: int, epoch: int, n: int) -> np.ndarray:
    key = (seed, epoch, n)
    if key not in _orders:
        if len(_orders) > 1:
            _orders.clear()
        _orders[key] = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(n)
    return _orders[key]


def _digest(key: dict[str, Any]) -> str:
    import hashlib

    from workbench.bases.lock import canonical

    return hashlib.sha256(canonical(key).encode()).hexdigest()[:10]
