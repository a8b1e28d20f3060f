"""What the frozen test part says: the scores of its rows arm by arm, the files that hold them, and what is told of an adapter's gain.

The two arms of an adapter at home are the bare base and the base with the adapter; a rebase check has four. They see the same rows,
so everything is paired (stats.py). Positive gains always mean that the adapter is better.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench import stats
from workbench.errors import IntegrityError, UsageError
from workbench.records import ItemScore, as_json, from_json
from workbench.stats import LEVEL, RESAMPLES, SEED, Interval, Metric

__all__ = [
    "SUCCESS",
    "Arm",
    "Evidence",
    "Flips",
    "Summary",
    "check_paired",
    "metrics_of",
    "read_scores",
    "scores_of",
    "summary",
    "write_scores",
]

SUCCESS = ("right", "exact_match")  # 0/1 scores, in the order of preference: by the dataset's scorer where there is one


@dataclass(frozen=True)
class Evidence:
    """Per-row scores of both arms, in the same order, and how they were made."""

    base: list[ItemScore]
    adapter: list[ItemScore]
    groups: list[str | None] | None = None  # rows of one group are resampled together
    report: dict[str, Any] = field(default_factory=dict)  # seconds, tokens, agreement with real generation, ...
    samples: list[dict[str, str]] = field(default_factory=list)  # [{"id", "prompt", "expected", "base", "adapter"}]


@dataclass(frozen=True)
class Flips:
    """Rows whose 0/1 score differs between the arms, both ways, with the exact McNemar p."""

    up: int  # wrong with the base, right with the adapter
    down: int  # right with the base, wrong with the adapter
    p_value: float


@dataclass(frozen=True)
class Arm:
    """One arm over all test rows."""

    exact_match: float  # share of rows that greedy decoding reproduces exactly
    right: float | None  # share right by the dataset's scorer; None without one
    nll_per_token: float  # nats; total over total, so long answers weigh more
    bits_per_byte: float | None  # comparable between tokenizers
    tokens: int


@dataclass(frozen=True)
class Summary:
    """The scores of an adapter. `as_dict` is what the registry stores and every `--json` shows."""

    n: int  # test rows
    groups: int | None  # units resampled, where rows come in groups
    scorer: str | None
    base: Arm
    adapter: Arm
    gain: dict[str, Interval]  # exact_match, right, nll_per_token, bits_per_byte: positive = adapter better
    flips: dict[str, Flips]  # exact_match, right
    level: float = LEVEL
    resamples: int = RESAMPLES
    seed: int = SEED

    def as_dict(self) -> dict[str, Any]:
        data: dict[str, Any] = as_json(self)
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Summary:
        """The inverse of `as_dict`; keys that this version does not know are left out."""
        summary: Summary = from_json(cls, data)
        return summary


# ---------------------------------------------------------------- files


def write_scores(path: Path, evidence: Evidence) -> None:
    """Write one line per row: its id, its group if any, and the scores of both arms."""
    check_paired([evidence.base, evidence.adapter], evidence.groups)
    groups = evidence.groups or [None] * len(evidence.base)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for base, adapter, group in zip(evidence.base, evidence.adapter, groups, strict=True):
            line: dict[str, Any] = {"id": base.id, "base": _without_id(base), "adapter": _without_id(adapter)}
            if group is not None:
                line["group"] = group
            file.write(json.dumps(line, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def _without_id(score: ItemScore) -> dict[str, Any]:
    return {key: value for key, value in dataclasses.asdict(score).items() if key != "id" and value is not None}


def read_scores(path: Path) -> Evidence:
    """Read what `write_scores` wrote. Raises `IntegrityError` naming the line at fault."""
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # not splitlines: an answer may hold U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise IntegrityError(f"The scores in {path.name} cannot be read: {error}.", hint=_RESTORE) from None
    base, adapter, groups = [], [], []
    for number, text in enumerate(lines, start=1):
        try:
            line = json.loads(text)
            base.append(_item(line["id"], line["base"]))
            adapter.append(_item(line["id"], line["adapter"]))
            groups.append(line.get("group"))
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"Line {number} of {path.name} is not a pair of scores: {error!r}.", hint=_RESTORE) from None
    return Evidence(base, adapter, groups if any(group is not None for group in groups) else None)


_RESTORE = "The file was changed after it was published; import the adapter again or evaluate it anew."


def _item(row_id: str, data: dict[str, Any]) -> ItemScore:
    score: ItemScore = from_json(ItemScore, {**data, "id": row_id})
    if not (math.isfinite(score.nll) and score.tokens > 0 and score.bytes >= 0 and isinstance(score.exact, bool)):
        raise ValueError(f"impossible values {data}")
    return score


# ---------------------------------------------------------------- scores


def check_paired(arms: Sequence[Sequence[ItemScore]], groups: Sequence[str | None] | None) -> None:
    """Raises `UsageError` for no rows, and for arms that do not hold the same rows in the same order."""
    ids = [s.id for s in arms[0]]
    if not ids:
        raise UsageError("There are no test rows to compare.", hint="Give the dataset a test part: workbench data add … --test-share 0.1")
    if any([s.id for s in arm] != ids for arm in arms) or (groups is not None and len(groups) != len(ids)):
        raise UsageError(
            "The arms do not hold the same test rows in the same order.",
            hint="Score every arm on the same rows; those of an adapter are frozen in its folder evidence/.",
        )


def metrics_of(arms: Sequence[Sequence[ItemScore]]) -> dict[str, Metric]:
    """The metrics that all arms have, row by row: wrong answers (0/1) and nats per token; bits per byte where lengths are known."""
    import numpy as np

    def column(field: str) -> stats.Floats:
        return np.array([[getattr(s, field) for s in arm] for arm in arms], dtype=np.float64).T

    metrics = {"right": Metric(1 - column("right"))} if _scored(*arms) else {}
    losses, sizes = column("nll"), column("bytes")
    metrics["exact_match"] = Metric(1 - column("exact"))
    metrics["nll_per_token"] = Metric(losses, column("tokens"))
    if (sizes.sum(axis=0) > 0).all():
        metrics["bits_per_byte"] = Metric(losses * (1 / math.log(2)), sizes)
    return metrics


def scores_of(arm: Sequence[ItemScore]) -> dict[str, float]:
    """One arm over all rows: shares of right answers, nats per token, bits per byte (where lengths are known)."""
    nll, size = math.fsum(s.nll for s in arm), sum(s.bytes for s in arm)
    scores = {"exact_match": sum(s.exact for s in arm) / len(arm), "nll_per_token": nll / sum(s.tokens for s in arm)}
    if _scored(arm):
        scores["right"] = sum(bool(s.right) for s in arm) / len(arm)
    if size:
        scores["bits_per_byte"] = nll / math.log(2) / size
    return scores


def _scored(*arms: Sequence[ItemScore]) -> bool:
    return all(s.right is not None for arm in arms for s in arm)


def summary(
    base: Sequence[ItemScore],
    adapter: Sequence[ItemScore],
    scorer: str | None = None,
    *,
    groups: Sequence[str | None] | None = None,
) -> Summary:
    """Compare the arms. `groups[i]` names rows that belong together (one document, one template) and are resampled as one.

    Raises `UsageError` when the arms do not hold the same rows in the same order.
    """
    arms = [base, adapter]
    check_paired(arms, groups)
    metrics, unit = metrics_of(arms), stats.units_of(len(base), groups)
    compared = stats.compare(metrics, {"gain": {(0, 1): 1.0}}, unit)
    gains = {name: estimates["gain"] for name, estimates in compared.items()}
    return Summary(
        n=len(base),
        groups=int(unit.max()) + 1 if groups is not None and any(g is not None for g in groups) else None,
        scorer=scorer,
        base=_arm(base, "right" in metrics),
        adapter=_arm(adapter, "right" in metrics),
        gain={name: gain.interval for name, gain in gains.items()},
        flips={name: Flips(*gain.flips, stats.mcnemar(*gain.flips)) for name, gain in gains.items() if gain.flips is not None},
    )


def _arm(scores: Sequence[ItemScore], scored: bool) -> Arm:
    known = scores_of(scores)
    return Arm(
        exact_match=known["exact_match"],
        right=known["right"] if scored else None,
        nll_per_token=known["nll_per_token"],
        bits_per_byte=known.get("bits_per_byte"),
        tokens=sum(s.tokens for s in scores),
    )
