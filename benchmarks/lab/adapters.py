"""One LoRA adapter per base and task, by PEFT and a plain loop: a run of the real trainer costs more to set up than to do."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.lab.sizes import Adapters, Bases, Piece, Say, Sizes, piece
from benchmarks.lab.tasks import rows_of, task_of
from workbench.bases.lock import LOCK_FILE
from workbench.hf.load import device, load_base, load_tokenizer
from workbench.hf.render import IGNORED, Rendered, render

__all__ = ["MAX_LENGTH", "make_adapters"]

MAX_LENGTH = 128
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ADAPTER = ("train_rows", "test_rows", "adapter_steps", "adapter_batch", "adapter_lr", "rank", "seed")


def make_adapters(root: Path, sizes: Sizes, text: Piece, bases: Bases, say: Say) -> Adapters:
    """(base, adapter name) -> a PEFT folder with the lock of its base inside."""
    found: Adapters = {}
    for name in sizes.adapters:
        for base, home in bases.items():
            key = {"base": home.digest, "text": text.digest, "modules": "attention" if name.endswith("-attention") else "all"}

            def make(out: Path, home: Piece = home, name: str = name) -> dict[str, Any]:
                facts = _train(home.path, out, name, sizes, text)
                shutil.copy(home.path / LOCK_FILE, out / "base.lock.json")
                say(f"  {name} on {out.name.split('-')[-2]}: loss {facts['first_loss']:.2f} -> {facts['last_loss']:.3f}, "
                    f"{facts['seconds_per_step']:.3f} s a step")  # fmt: skip
                return facts

            found[base, name] = piece(root / "adapters", f"{name}-{base}", {**key, **sizes.key(*ADAPTER)}, make)
    return found


def _train(base: Path, out: Path, name: str, sizes: Sizes, text: Piece) -> dict[str, Any]:
    """Train and save; its facts are the loss at the start and at the end, and the seconds a step."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(sizes.seed)
    modules = ATTENTION if name.endswith("-attention") else "all-linear"
    config = LoraConfig(r=sizes.rank, lora_alpha=2 * sizes.rank, target_modules=modules, lora_dropout=0.0, task_type="CAUSAL_LM")
    tokenizer = load_tokenizer(base)
    rows = [render(tokenizer, row, max_length=MAX_LENGTH) for row in rows_of(task_of(name), sizes, text)[0]]
    model = get_peft_model(load_base(base, dtype=torch.float32), config).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=sizes.adapter_lr, weight_decay=0.0, fused=True)
    rng = np.random.Generator(np.random.Philox(sizes.seed))
    losses, started = [], time.monotonic()
    for step in range(sizes.adapter_steps):
        chosen = rng.choice(len(rows), size=min(sizes.adapter_batch, len(rows)), replace=False)
        for group in optimizer.param_groups:
            group["lr"] = sizes.adapter_lr * min(1.0, (step + 1) / 10) * (1 - step / sizes.adapter_steps)
        loss = _loss(model, [rows[i] for i in chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    seconds = time.monotonic() - started
    model.peft_config["default"].base_model_name_or_path = base.name  # not the path of this machine
    model.save_pretrained(out, save_embedding_layers=False)  # "auto" would ask the hub about the base
    return {"first_loss": losses[0], "last_loss": float(np.mean(losses[-10:])), "seconds_per_step": seconds / len(losses)}


def _loss(model: Any, rows: list[Rendered]) -> torch.Tensor:
    """Mean nats per learned token of a batch padded on the right, where causal attention never looks."""
    width = max(len(row.input_ids) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), IGNORED)
    for i, row in enumerate(rows):
        ids[i, : len(row.input_ids)] = torch.tensor(row.input_ids)
        labels[i, : len(row.labels)] = torch.tensor(row.labels)
    logits = model(input_ids=ids.to(device()), use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten().to(device()), ignore_index=IGNORED)
