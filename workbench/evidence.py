"""What the frozen test part says: the scores of both arms row by row, and the statistics over them.

The two arms are the bare base and the base with the adapter. They see the same rows, so everything here is paired:
one resample of the rows serves both arms, and a gain's interval is that of the paired difference.

Positive gains always mean that the adapter is better. Nothing here imports torch; numpy and scipy load on first use.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import IntegrityError, UsageError
from workbench.records import ItemScore, as_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = [
    "Arm",
    "Evidence",
    "Flips",
    "Interval",
    "Summary",
    "bca_tails",
    "by_unit",
    "clopper_pearson",
    "exact_gain",
    "mcnemar",
    "read_scores",
    "resampled_sums",
    "summary",
    "units_of",
    "write_scores",
]

RESAMPLES = 5000
SEED = 20240
LEVEL = 0.95
FEW = 20  # with fewer rows off the common value, resampling a 0/1 score says too little: use the exact interval
RATES = frozenset({"right", "exact_match"})  # told in points of a percent with one digit; the others with two
SMALL = 100  # with fewer units, correct the bootstrap for bias and skew (BCa)


@dataclass(frozen=True)
class Evidence:
    """Per-row scores of both arms, in the same order, and how they were made."""

    base: list[ItemScore]
    adapter: list[ItemScore]
    groups: list[str | None] | None = None  # rows of one group are resampled together
    report: dict[str, Any] = field(default_factory=dict)  # seconds, tokens, agreement with real generation, ...
    samples: list[dict[str, str]] = field(default_factory=list)  # [{"id", "prompt", "expected", "base", "adapter"}]


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval. `low` and `high` are None when one row is all there is."""

    value: float
    low: float | None
    high: float | None
    method: str  # "bootstrap" | "bootstrap-bca" | "exact" | "none"

    @property
    def above_zero(self) -> bool:
        return self.low is not None and self.low > 0

    @property
    def below_zero(self) -> bool:
        return self.high is not None and self.high < 0


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
        known = _known(cls, data)
        known["base"], known["adapter"] = (Arm(**_known(Arm, data[arm])) for arm in ("base", "adapter"))
        known["gain"] = {key: Interval(**_known(Interval, value)) for key, value in data["gain"].items()}
        known["flips"] = {key: Flips(**_known(Flips, value)) for key, value in data["flips"].items()}
        return cls(**known)


def _known(cls: type[Any], data: dict[str, Any]) -> dict[str, Any]:
    names = {f.name for f in dataclasses.fields(cls)}
    return {key: value for key, value in data.items() if key in names}


# ---------------------------------------------------------------- files


def write_scores(path: Path, evidence: Evidence) -> None:
    """Write one line per row: its id, its group if any, and the scores of both arms."""
    _check_paired(evidence.base, evidence.adapter, evidence.groups)
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
    score = ItemScore(id=row_id, **_known(ItemScore, data))
    if not (math.isfinite(score.nll) and score.tokens > 0 and score.bytes >= 0 and isinstance(score.exact, bool)):
        raise ValueError(f"impossible values {data}")
    return score


# ---------------------------------------------------------------- statistics


def summary(
    base: Sequence[ItemScore],
    adapter: Sequence[ItemScore],
    scorer: str | None = None,
    *,
    groups: Sequence[str | None] | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Summary:
    """Compare the arms. `groups[i]` names rows that belong together (one document, one template) and are resampled as one.

    Raises `UsageError` when the arms do not hold the same rows in the same order.
    """
    import numpy as np

    _check_paired(base, adapter, groups)
    n = len(base)
    unit = units_of(n, groups)
    scored = all(s.right is not None for arm in (base, adapter) for s in arm)
    rates = {"exact_match": [(float(b.exact), float(a.exact)) for b, a in zip(base, adapter, strict=True)]}
    if scored:
        rates["right"] = [(float(bool(b.right)), float(bool(a.right))) for b, a in zip(base, adapter, strict=True)]
    costs = {
        "nll_per_token": [(b.nll, a.nll, b.tokens, a.tokens) for b, a in zip(base, adapter, strict=True)],
        "bits_per_byte": [(b.nll / math.log(2), a.nll / math.log(2), b.bytes, a.bytes) for b, a in zip(base, adapter, strict=True)],
    }
    if not all(s.bytes for s in base):
        del costs["bits_per_byte"]
    gain: dict[str, Interval] = {}
    flips: dict[str, Flips] = {}
    for key, pairs in rates.items():
        score = np.array(pairs)
        up, down = int((score[:, 1] > score[:, 0]).sum()), int((score[:, 0] > score[:, 1]).sum())
        flips[key] = Flips(up, down, mcnemar(up, down))
        # as costs: wrong answers over rows, so that the same paired bootstrap serves both
        columns = np.column_stack([1 - score, np.ones((n, 2))])
        gain[key] = _rate_gain(columns, unit, up, down, resamples, seed)
    for key, quads in costs.items():
        gain[key] = _bootstrap_gain(by_unit(np.array(quads, dtype=np.float64), unit), resamples, seed)
    return Summary(
        n=n,
        groups=int(unit.max()) + 1 if groups is not None and any(g is not None for g in groups) else None,
        scorer=scorer,
        base=_arm(base, scored),
        adapter=_arm(adapter, scored),
        gain=gain,
        flips=flips,
        resamples=resamples,
        seed=seed,
    )


def _check_paired(base: Sequence[ItemScore], adapter: Sequence[ItemScore], groups: Sequence[str | None] | None) -> None:
    if not base:
        raise UsageError("There are no test rows to compare.", hint="Give the dataset a test part: workbench data add … --test-share 0.1")
    if [s.id for s in base] != [s.id for s in adapter] or (groups is not None and len(groups) != len(base)):
        raise UsageError("The two arms do not hold the same rows in the same order.", hint="Score both arms on the same test rows.")


def _arm(scores: Sequence[ItemScore], scored: bool) -> Arm:
    n, nll = len(scores), math.fsum(s.nll for s in scores)
    size = sum(s.bytes for s in scores)
    return Arm(
        exact_match=sum(s.exact for s in scores) / n,
        right=sum(bool(s.right) for s in scores) / n if scored else None,
        nll_per_token=nll / sum(s.tokens for s in scores),
        bits_per_byte=nll / math.log(2) / size if size else None,
        tokens=sum(s.tokens for s in scores),
    )


def units_of(n: int, groups: Sequence[str | None] | None) -> NDArray[np.int64]:
    """The unit of each row, numbered from 0: its group, or itself."""
    import numpy as np

    if groups is None:
        return np.arange(n)
    number: dict[object, int] = {}
    return np.array([number.setdefault(("row", i) if g is None else g, len(number)) for i, g in enumerate(groups)])


def by_unit(columns: Floats, unit: NDArray[np.int64]) -> Floats:
    """Sums over the rows of each unit: [rows, k] -> [units, k]."""
    import numpy as np

    sums = np.zeros((int(unit.max()) + 1, columns.shape[1]))
    np.add.at(sums, unit, columns)
    return sums


def resampled_sums(columns: Floats, *, resamples: int = RESAMPLES, seed: int = SEED) -> Floats:
    """Column sums over `resamples` draws of the units with replacement: [units, k] -> [resamples, k].

    Every column is summed over the same draw, so any number of arms laid side by side stays paired.
    """
    import numpy as np

    units = len(columns)
    rng = np.random.Generator(np.random.Philox(seed))
    block = max(1, 4_000_000 // units)  # bounds the memory of the draw at 32 MB
    sums = []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(0, units, size=(size, units)) + np.arange(size)[:, None] * units
        counts = np.bincount(drawn.ravel(), minlength=size * units).reshape(size, units)
        sums.append(counts @ columns)
    return np.concatenate(sums)


def _bootstrap_gain(units: Floats, resamples: int, seed: int) -> Interval:
    """Interval of cost(base) - cost(adapter), from [units, 4]: cost base, cost adapter, size base, size adapter."""
    import numpy as np

    def gain(sums: Floats) -> Floats:
        return np.asarray(sums[..., 0] / sums[..., 2] - sums[..., 1] / sums[..., 3])

    total = units.sum(axis=0)
    value = float(gain(total))
    if len(units) < 2:
        return Interval(value, None, None, "none")
    draws = gain(resampled_sums(units, resamples=resamples, seed=seed))
    tails = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    method = "bootstrap"
    if len(units) < SMALL:
        tails, method = bca_tails(draws, value, gain(total - units), tails), "bootstrap-bca"
    low, high = np.quantile(draws, tails)
    return Interval(value, float(low), float(high), method)


def bca_tails(draws: Floats, value: float, jackknife: Floats, tails: tuple[float, float]) -> tuple[float, float]:
    """The quantiles to read instead of `tails`: bias-corrected and accelerated (Efron 1987, doi 10.1080/01621459.1987.10478410)."""
    import numpy as np
    from scipy.special import ndtr, ndtri

    off = jackknife.mean() - jackknife
    spread = float((off**2).sum()) ** 1.5
    skew = float((off**3).sum()) / (6 * spread) if spread > 0 else 0.0
    below = float((draws < value).mean() + (draws == value).mean() / 2)
    bias = float(ndtri(np.clip(below, 1 / len(draws), 1 - 1 / len(draws))))
    low, high = (float(ndtr(bias + (bias + z) / (1 - skew * (bias + z)))) for z in ndtri(np.array(tails)))
    return low, high


def _rate_gain(columns: Floats, unit: NDArray[np.int64], up: int, down: int, resamples: int, seed: int) -> Interval:
    """Interval of the gain in a 0/1 score. Where nearly all units agree, a resample sees no variation and would
    claim a certainty that is not there (zero flips: zero width), so the exact interval takes over."""
    import numpy as np

    units = by_unit(columns, unit)
    difference = (units[:, 0] - units[:, 1]) / units[:, 2]
    _, counts = np.unique(difference, return_counts=True)
    if len(units) - counts.max() < FEW:
        return exact_gain(up, down, len(columns), units=len(units))
    return _bootstrap_gain(units, resamples, seed)


def clopper_pearson(count: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """Exact two-sided interval of a rate (Clopper & Pearson 1934, doi 10.1093/biomet/26.4.404).

    `count` and `n` may be fractions, as when a design effect was taken out (Korn & Graubard 1998).
    """
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = float(betaincinv(count, n - count + 1, tail)) if count > 0 else 0.0
    high = float(betaincinv(count + 1, n - count, 1 - tail)) if count < n else 1.0
    return low, high


def exact_gain(up: float, down: float, n: float, *, units: float | None = None, level: float = LEVEL) -> Interval:
    """Interval of (up - down) / n from one Clopper-Pearson interval per direction: [low(up) - high(down), high(up) - low(down)].

    Zero flips in n rows still allow a loss of 3.69 / n. The coverage is at least 95 % for every n and rate that was enumerated
    (tests/test_evidence.py). Rows that come in groups count as so many `units`, as if the rows of a group were copies.
    """
    shrink = 1.0 if units is None else units / n
    rows = n * shrink
    up_low, up_high = clopper_pearson(up * shrink, rows, level)
    down_low, down_high = clopper_pearson(down * shrink, rows, level)
    return Interval((up - down) / n, max(-1.0, up_low - down_high), min(1.0, up_high - down_low), "exact")


def mcnemar(up: int, down: int) -> float:
    """Exact two-sided McNemar p: how likely flips as lopsided as these are when both directions are equally likely."""
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(up, down), up + down, 0.5))) if up + down else 1.0
