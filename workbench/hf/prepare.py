"""The rows of a run as token ids and labels: rendered, judged, and some of them held back to watch the loss."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workbench.errors import TrainingError
from workbench.hf.packed import Row
from workbench.hf.render import render, supervised
from workbench.planning import judge_lengths, sum_lengths
from workbench.recipe import Recipe

__all__ = ["Prepared", "prepare"]

_SAMPLES = 3  # rows whose answers are shown at each evaluation


@dataclass(frozen=True)
class Prepared:
    """The rows of a run, rendered."""

    train: list[Row]
    held: list[Row]  # training rows that only watch the loss
    shown: list[dict[str, Any]]  # rows whose answers are sampled
    chat: bool
    report: dict[str, Any]


def prepare(recipe: Recipe, tokenizer: Any, rows: Sequence[dict[str, Any]]) -> Prepared:
    """Render every row, leave out those with nothing to learn, and hold some back to watch the loss."""
    only = {"assistant_only": recipe.assistant_only_loss, "completion_only": recipe.completion_only_loss}
    found: list[tuple[dict[str, Any], Row]] = []
    lengths = []
    for row in rows:
        one = render(tokenizer, row, max_length=recipe.max_length, **only)
        lengths.append(one.length)
        if one.length.supervised:
            found.append((row, (one.input_ids, one.labels)))
    problems, _ = judge_lengths(lengths, recipe)
    if problems:
        raise TrainingError(" ".join(problems), hint="Look at the rows: workbench data preview")
    total = sum_lengths(lengths)
    # by their ids, so that the same rows are held back however the file is ordered
    ranked = sorted(range(len(found)), key=lambda i: hashlib.sha256(f"{recipe.seed}:{found[i][0].get('id', i)}".encode()).digest())
    held = set(ranked[: recipe.held_back(len(found))])
    trained = [row for i, (_, row) in enumerate(found) if i not in held]
    watched = [found[i] for i in sorted(held)]
    # where the text is the answer, there is nothing to ask
    shown = [row for row, _ in (watched or found)[:_SAMPLES] if "text" not in row]
    return Prepared(
        train=trained,
        held=[row for _, row in watched],
        shown=shown,
        chat="messages" in found[0][0],
        report={
            "rows": len(rows),
            "train_rows": len(trained),
            "eval_rows": len(held),
            "rows_cut": total["cut"],
            "rows_answer_lost": total["answer_lost"],
            "rows_left_out": total["unlearnable"],
            "tokens_per_epoch": sum(len(ids) for ids, _ in trained),
            "supervised_tokens": sum(supervised(labels) for _, labels in trained),
        },
    )
