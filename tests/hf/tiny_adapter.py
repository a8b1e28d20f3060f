"""A LoRA adapter trained on the tiny base for real, by PEFT and a plain loop.

The adapter gets the rows it was trained on mostly right and others mostly wrong, so both kinds can be tested.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

COLOURS = ["red", "green", "black", "white", "blue", "brown"]
PLACES = ["Cairo", "Quito", "Oslo", "Lima"]


def order_rows(n: int = 48) -> list[dict[str, Any]]:
    """Orders and their codes, as canonical rows; every third question is longer."""
    rows = []
    for i in range(n):
        colour, place = COLOURS[i % 6], PLACES[(i // 6) % 4]
        more = " by Friday, and the quick brown fox jumps over it" if i % 3 == 0 else ""
        messages = [
            {"role": "system", "content": "order and code"},
            {"role": "user", "content": f"ship {1 + i % 9} {colour} lamps to {place}{more}"},
            {"role": "assistant", "content": f"{place}/{colour}/{1 + i % 9}"},
        ]
        rows.append({"id": f"row{i}", "form": "messages", "messages": messages})
    return rows


@lru_cache
def tiny_adapter(base: Path, *, steps: int = 60, seed: int = 0, quantized: str | None = None, **config: Any) -> Path:
    """Train on the first half of `order_rows` and save as any PEFT user would. The same call trains once a session."""
    import torch
    from peft import LoraConfig, get_peft_model

    from workbench.hf.load import load_base, load_tokenizer
    from workbench.hf.render import render

    torch.manual_seed(seed)
    tokenizer = load_tokenizer(base)
    settings = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **config}
    model = get_peft_model(load_base(base, dtype=torch.float32, quantized=quantized), LoraConfig(**settings)).train()
    rows = [render(tokenizer, row, max_length=512) for row in order_rows(24)]
    width = max(len(row.input_ids) for row in rows)
    ids = torch.tensor([row.input_ids + [0] * (width - len(row.input_ids)) for row in rows])
    labels = torch.tensor([row.labels + [-100] * (width - len(row.labels)) for row in rows])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    out = base.parent / "-".join(map(str, ["adapter", base.name, steps, seed, quantized, *config.values()]))
    model.save_pretrained(out)
    return out
