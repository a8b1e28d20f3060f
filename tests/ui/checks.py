"""Rebase checks as the engine stores them: one per verdict, and the ways in which parts can be missing."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

from tests.ui.samples import NOW
from workbench.rebase.findings import found
from workbench.rebase.result import (
    Check,
    Contrasts,
    Health,
    Lineage,
    ModuleDrift,
    Probes,
    Retrained,
    Structure,
    Verdict,
    Weights,
    Witness,
)  # fmt: skip
from workbench.rebase.verdict import because
from workbench.stats import Interval
from workbench.words import words

HOME, NEW = "tiny@1", "tiny@2"

# word -> exact match of (A, A + adapter, B, B + adapter)
ARMS = {
    "works": (0.31, 0.80, 0.33, 0.79),
    "not needed": (0.31, 0.79, 0.79, 0.80),
    "no gain at home": (0.50, 0.51, 0.52, 0.50),
    "too close to tell": (0.40, 0.60, 0.42, 0.55),
    "weaker": (0.30, 0.78, 0.34, 0.60),
    "lost": (0.31, 0.80, 0.55, 0.56),
    "does harm": (0.40, 0.62, 0.52, 0.46),
    "cannot load": (0.31, 0.80, 0.0, 0.0),
}


# word -> the line of the rule that gives it
LINES = {
    "works": "served",
    "not needed": "alone",
    "no gain at home": "gain",
    "too close to tell": "open",
    "weaker": "weaker",
    "lost": "lost",
    "does harm": "harm",
    "cannot load": "break",
}


def interval(value: float, half: float = 0.05) -> Interval:
    return Interval(value, value - half, value + half, "bootstrap")


def contrasts(arms: tuple[float, float, float, float], half: float = 0.05) -> Contrasts:
    """Of a success score, where a gain is a loss of loss."""
    home, home_adapter, new, new_adapter = arms
    gain, transfer = home_adapter - home, new_adapter - new
    return Contrasts(
        interval(gain, half),
        interval(transfer, half),
        interval(new_adapter - home_adapter, half),
        interval(new - home_adapter, half),
        interval(transfer - 0.9 * gain, half),
    )


def verdict(word: str, **changed: Any) -> Verdict:
    arms = ARMS[word]
    names = ("home", "home_adapter", "new", "new_adapter")
    scores = {name: {"exact_match": share, "nll_per_token": 2.0 - 1.5 * share} for name, share in zip(names, arms, strict=True)}
    nll: tuple[float, float, float, float] = tuple(-1 * (2.0 - 1.5 * share) for share in arms)  # type: ignore[assignment]
    values: dict[str, Any] = {
        "word": word,
        "absorbed": False,
        "metric": "exact_match",
        "because": "",
        "line": LINES[word],
        "n": 200,
        "groups": None,
        "arms": scores,
        "contrasts": {"exact_match": contrasts(arms), "nll_per_token": contrasts(nll, 0.08)},
        "lost_rows": 53,
        "won_rows": 4,
        "lost_share": (0.21, 0.33),
        "flip_p": 1.2e-11,
        "rows_needed": 610 if word == "too close to tell" else None,
    }
    if word == "cannot load":
        gone: dict[str, Any] = dict(arms={}, contrasts={}, n=0, lost_rows=None, won_rows=None, lost_share=None, flip_p=None, metric="")
        values |= gone
    made = Verdict(**{**values, **changed})
    return dataclasses.replace(made, because=made.because or words("en").say(because(made)))


def weights(layers: int = 12, **changed: Any) -> Weights:
    """A continuation that moved its later layers and its MLPs more."""
    modules = []
    for layer in range(layers):
        for name, group, size in (("self_attn.q_proj", "attention", 0.008), ("mlp.up_proj", "mlp", 0.014)):
            drift = size * (1 + 2 * layer / layers)
            modules.append(ModuleDrift(f"model.layers.{layer}.{name}", group, layer, drift, 3.1, drift * 1.2, drift * 1.1, 0.04))
    values: dict[str, Any] = {
        "change": "continuation",
        "exact": True,
        "error": None,
        "drift": 0.0213,
        "ratio": 3.8,
        "input": 0.027,
        "output": 0.024,
        "alignment": 0.041,
        "embeddings": 0.006,
        "norms": 0.001,
        "lineage": Lineage(0.99, 1.0, 1.0, 1.0, (0, 6, 11), "same", 1e-30),
        "modules": tuple(modules),
        "worst": ("layer 10", "layer 11"),
    }
    return Weights(**{**values, **changed})


FINDINGS = (
    found("eos_id_moved", was=2, now=7),
    found("chat_template_changed", count=3, of=5, differ=["system and user", "several turns", "tool call"]),
    found("same_weights", tensors=24),
)
WITNESSES = (
    Witness("row-7", "please ship 2 lamps to Cairo", "2 LA CA", "2 LA CA", "2 lamps CA", 0.01, 1.9),
    Witness("row-9", "please ship 5 pens to Oslo", "5 PE OS", "5 PE OS", None, 0.02, 2.4),
    Witness("row-12", "please ship 2 desks to Rome", "2 DE RO", None, "", 0.02, 1.1),
)
PROBES = Probes(64, {"0": 1.0, "11": 0.93}, 0.962, 0.91, 0.021, 0.71, 0.55, 0.62, {"0": 1.9, "0.5": 1.2, "1": 1.0, "1.25": 1.1}, 1.0)


def check(word: str, adapter: str = "orders@1", **changed: Any) -> Check:
    """A whole check with this verdict."""
    broken = word == "cannot load"
    values: dict[str, Any] = {
        "adapter": adapter,
        "adapter_sha256": "ef" * 32,
        "home": HOME,
        "home_lock_sha256": "ab" * 32,
        "base": NEW,
        "base_lock_sha256": "ac" * 32,
        "dataset": "order-codes",
        "structure": Structure(FINDINGS if broken else FINDINGS[1:], template_diff="- <s>system\n+ <s>developer"),
        "weights": weights(),
        "verdict": verdict(word),
        "witnesses": () if broken else WITNESSES,
        "health": Health(20, 1.10, 1.12, interval(-0.02, 0.04), broken=False),
        "warnings": (found("rows_left_out", rows=40),) if word == "too close to tell" else (),
        "created_at": (NOW - timedelta(hours=1)).isoformat(),
        "job_id": "job9",
    }
    return Check(**{**values, **changed})


RETRAINED = Retrained(0.82, "exact_match", 0.03, -0.08, 0.14, interval(0.26), 700.0)
