"""How large a lab is: every number that decides what it computes, and how finished pieces are kept.

A piece is a folder made in a temporary place and renamed when it is complete, so a folder that exists is finished.
Its name ends in a digest of everything that went into it, so other settings make other pieces and a changed setting
never meets an old result.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.bases.lock import canonical

__all__ = ["FULL", "QUICK", "TINY", "Adapters", "Bases", "Piece", "Say", "Sizes", "piece", "seconds_of"]


@dataclass(frozen=True)
class Sizes:
    """The settings of a lab; everything that changes a result is here."""

    # the models: Llama-shaped, embeddings tied
    hidden: int = 192
    layers: int = 5
    heads: int = 6
    kv_heads: int = 2
    intermediate: int = 512
    vocabulary: int = 1024
    # pre-training: AdamW on blocks packed from real text
    context: int = 128  # tokens a block
    batch: int = 8  # blocks a step
    steps: int = 1500  # of the whole run; the independent seed gets as many
    # Share of the steps at which a base is released: spaced by their distance from the end (1500, 300, 60, 12 steps). A rate that
    # suits so small a model moves the weights by 7 % in ten steps and by 87 % in 480, so doublings would be strangers to each other.
    marks: tuple[float, ...] = (0.5, 0.9, 0.98, 0.996, 1.0)
    lr: float = 2e-3
    warmup: int = 100  # steps
    schedule: str = "constant"  # or "cosine", down to a tenth
    weight_decay: float = 0.1
    max_text: int = 16_000_000  # characters
    # the adapters
    adapters: tuple[str, ...] = ("orders", "orders-attention", "recall", "words")
    train_rows: int = 1400
    test_rows: int = 400
    adapter_steps: int = 120
    adapter_batch: int = 24
    adapter_lr: float = 5e-3
    rank: int = 8
    # the check
    prompts: int = 32  # of stage 2
    seed: int = 20240

    @property
    def bases(self) -> tuple[str, ...]:
        """c1 … of one run, and s1 of another seed, as long as the last."""
        return (*(f"c{i}" for i in range(1, len(self.marks) + 1)), "s1")

    def key(self, *names: str) -> dict[str, Any]:
        """The named settings, for the digest of a piece."""
        return {name: getattr(self, name) for name in names}


FULL = Sizes()
QUICK = dataclasses.replace(FULL, steps=480, train_rows=1200, test_rows=100, adapter_steps=80, prompts=8)
TINY = dataclasses.replace(
    FULL, hidden=64, layers=2, heads=4, intermediate=128, vocabulary=400, context=32, batch=4, steps=24, marks=(1 / 4, 1.0), warmup=4,
    max_text=200_000, adapters=("orders", "recall"), train_rows=64, test_rows=24, adapter_steps=12, adapter_batch=8, prompts=4,
)  # fmt: skip


@dataclass(frozen=True)
class Piece:
    """A finished piece: its folder, the digest of all that went into it, and the seconds it took when it was made."""

    path: Path
    digest: str
    seconds: float
    facts: dict[str, Any]


Bases = dict[str, Piece]  # by name
Adapters = dict[tuple[str, str], Piece]  # by base and adapter name
Say = Callable[[str], None]  # a line of progress


def piece(root: Path, name: str, key: dict[str, Any], make: Callable[[Path], dict[str, Any] | None]) -> Piece:
    """The piece `name` made of `key`: found under `root`, or made by `make(folder)` and then renamed into place.

    What `make` returns is kept with the piece as its facts. A run that was stopped leaves only a temporary folder behind.
    """
    digest = hashlib.sha256(canonical({"name": name, **key}).encode()).hexdigest()[:10]
    folder = root / f"{name}-{digest}"
    if not (folder / "piece.json").is_file():
        temporary = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        started = time.monotonic()
        facts = make(temporary) or {}
        done = {"seconds": facts.pop("seconds", time.monotonic() - started), "facts": facts, "key": key}
        (temporary / "piece.json").write_text(json.dumps(done, sort_keys=True, indent=1), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    done = json.loads((folder / "piece.json").read_text(encoding="utf-8"))
    return Piece(folder, digest, float(done["seconds"]), done["facts"])


def seconds_of(pieces: list[Piece]) -> float:
    """What the pieces took when they were made: the lab's time, however often it was interrupted."""
    return sum(one.seconds for one in pieces)
