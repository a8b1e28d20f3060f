"""Merge an adapter into full weights, and say by how much the merged model differs from base + adapter.

The sum is taken in float32 and rounded once, to the base's own dtype. The logits are compared against the files that
were written, read again, so that the comparison covers saving too.

An adapter trained on a base in 4 bits (QLoRA) has learned to make up for that base's rounding. Merged onto the full
weights it is another model: the report says how different.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from workbench.data.rows import read_jsonl
from workbench.errors import IntegrityError, UsageError
from workbench.files import beside
from workbench.hf.load import load_adapter, load_base, load_tokenizer
from workbench.hf.render import render
from workbench.peft_layout import TEMPLATE, TOKENIZER
from workbench.recipe import Recipe
from workbench.records import Progress, check_dtype

__all__ = ["LogitGap", "MergeReport", "compare_logits", "merge"]

PROBES = 8  # rows compared
PLACES = 16  # last positions of each, where the answer is
PROBE_TEXTS = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "List three colours.",
    "Translate into Spanish: good morning.",
    "What is 12 plus 30?",
    "Who wrote Hamlet?",
    "Summarise: The meeting was moved from Monday to Friday.",
    "Say hello.",
)


@dataclass(frozen=True)
class LogitGap:
    """How far apart the next-token logits of two models lie, over the same places in the same texts."""

    max_logit_difference: float
    mean_logit_difference: float  # mean of the absolute differences
    kl: float  # nats per place, from the first model to the second
    top1_agreement: float  # share of places with the same most likely token


@dataclass(frozen=True)
class MergeReport:
    """What was merged onto what, and what that changed."""

    dtype: str  # of the written weights
    trained_on: str  # "nf4", "fp4", or the base's dtype
    positions: int  # places compared
    merging: LogitGap  # base + adapter -> the merged files: rounding only
    adapter: LogitGap  # bare base -> base + adapter: what the adapter does, to compare with
    as_trained: LogitGap | None  # 4-bit base + adapter -> the merged files, where it was trained so


def merge(
    base: Path,
    adapter: Path,
    out: Path,
    *,
    dtype: str | None = None,
    rows: Sequence[dict[str, Any]] | None = None,
    job: str | None = None,
    report: Callable[[Progress], None] | None = None,
) -> MergeReport:
    """Write base + adapter as full weights to the new folder `out`, with tokenizer, chat template and `merge.json` (which names `job`).

    `dtype` is "float32", "bfloat16" or "float16", by default the base's own. The logits are compared on `rows`, else on the adapter's
    own test rows, else on a few plain questions. Raises `Conflict` when `out` exists, `UsageError` for an adapter that cannot be merged,
    and `IntegrityError` when the merged model is not base + adapter; then nothing is left on disk.
    """
    recipe = Recipe.beside(adapter)
    kind = recipe.quantization if recipe else None
    own = _own_dtype(base)
    wanted = check_dtype(dtype or own)

    def tell(message: str, step: int) -> None:
        if report is not None:
            report(Progress(t=time.time(), phase="publishing", step=step, total_steps=3, message=message))

    out.parent.mkdir(parents=True, exist_ok=True)
    with beside(out) as staged:
        staged.mkdir()
        tell("Adding the adapter to the weights", 1)
        tokenizer = load_tokenizer(base)
        probes = _probes(tokenizer, adapter, rows)
        bare, before = _write_merged(base, adapter, staged, wanted, probes)
        _copy_beside(base, tokenizer, staged)
        tell("Comparing the merged files with base + adapter", 2)
        after = _logits(load_base(staged, dtype=torch.float32), probes)
        trained = _logits(load_adapter(load_base(base, dtype=torch.float32, quantized=kind), adapter), probes) if kind else None
        done = MergeReport(
            dtype=wanted,
            trained_on=kind or own,
            positions=len(after),
            merging=compare_logits(before, after),
            adapter=compare_logits(bare, before),
            as_trained=compare_logits(trained, after) if trained is not None else None,
        )
        _check(done)
        (staged / "merge.json").write_text(json.dumps({"job": job, **asdict(done)}, indent=1), encoding="utf-8")
        staged.rename(out)
    tell("Merged", 3)
    return done


def _write_merged(base: Path, adapter: Path, out: Path, dtype: str, probes: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Write the merged weights; return the logits of the bare base and of base + adapter, both in float32."""
    model = load_base(base, dtype=torch.float32)
    bare = _logits(model, probes)
    wrapped = load_adapter(model, adapter)
    before = _logits(wrapped, probes)
    if not hasattr(wrapped, "merge_and_unload"):
        kind = next(iter(wrapped.peft_config.values())).peft_type.value
        raise UsageError(f"An adapter of type {kind} has no weights to merge.", hint="Export the adapter's folder instead.")
    try:
        merged = wrapped.merge_and_unload(safe_merge=True)
    except (ValueError, NotImplementedError, RuntimeError) as error:  # the last for lora_bias on layers that have no bias to add it to
        raise IntegrityError(f"The adapter cannot be merged: {error}.", hint="Export the adapter's folder instead.") from None
    merged = merged.to(getattr(torch, dtype))
    broken = [name for name, weight in merged.named_parameters() if not bool(torch.isfinite(weight).all())]
    if broken:
        raise IntegrityError(f"Merged weights do not fit into {dtype}: {', '.join(broken[:4])}.", hint="Merge with --dtype float32.")
    merged.config.dtype = getattr(torch, dtype)
    merged.save_pretrained(out, safe_serialization=True)
    return bare, before


def _check(report: MergeReport) -> None:
    """A merge that moves the model half as far as the adapter itself did has lost the adapter."""
    if not report.merging.kl <= 0.5 * report.adapter.kl + 1e-3:  # also true for NaN
        raise IntegrityError(
            f"The merged weights are not base + adapter: merging moved answers by {report.merging.kl:.2g} nats a token, the adapter "
            f"itself by {report.adapter.kl:.2g}.",
            hint="Merge with --dtype float32, or export the adapter's folder instead.",
        )


# ---------------------------------------------------------------- logits


@torch.inference_mode()
def _logits(model: Any, probes: list[list[int]]) -> torch.Tensor:
    """Next-token logits [places, vocabulary] in float32 at the last places of each probe, one probe at a time."""
    inputs = (torch.tensor([ids], device=model.device) for ids in probes)
    return torch.cat([model(input_ids=ids, use_cache=False, logits_to_keep=PLACES).logits[0].float().cpu() for ids in inputs])


def compare_logits(first: torch.Tensor, second: torch.Tensor) -> LogitGap:
    """Compare logits [places, vocabulary] of two models with the same vocabulary."""
    gap = (first - second).abs()
    p, q = first.log_softmax(-1), second.log_softmax(-1)
    return LogitGap(
        max_logit_difference=float(gap.max()),
        mean_logit_difference=float(gap.mean()),
        kl=max(0.0, float((p.exp() * (p - q)).sum(-1).mean())) if bool(gap.isfinite().all()) else float("nan"),
        top1_agreement=float((first.argmax(-1) == second.argmax(-1)).float().mean()),
    )


def _probes(tokenizer: Any, adapter: Path, rows: Sequence[dict[str, Any]] | None) -> list[list[int]]:
    own = adapter / "evidence" / "test.jsonl"
    if rows is None and own.is_file():
        rows = read_jsonl(own)
    if not rows:
        rows = [{"messages": [{"role": "user", "content": t}, {"role": "assistant", "content": "I"}]} for t in PROBE_TEXTS]
    step = max(1, len(rows) // PROBES)
    return [render(tokenizer, row, max_length=256).input_ids for row in rows[::step][:PROBES]]


# ---------------------------------------------------------------- files


def _own_dtype(base: Path) -> str:
    config = AutoConfig.from_pretrained(str(base), local_files_only=True, trust_remote_code=False)
    if getattr(config, "quantization_config", None):
        raise UsageError(f"The base in {base} is stored quantised; an adapter is merged onto full weights.", hint="Add the full base.")
    return str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")


def _copy_beside(base: Path, tokenizer: Any, out: Path) -> None:
    """The base's tokenizer and generation files as they are; and the chat template that was trained with."""
    for name in (*TOKENIZER, "generation_config.json"):
        if (base / name).is_file():
            shutil.copyfile(base / name, out / name)
    if not (out / TEMPLATE).exists():
        (out / TEMPLATE).write_text(tokenizer.chat_template, encoding="utf-8")
