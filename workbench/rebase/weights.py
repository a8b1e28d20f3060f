"""Stage 1: what happened to the weights between A and B, and how much of it the adapter sees. Explains; never decides.

Exact where A's weights are on disk: one pass over the adapted matrices, the embeddings and the norms of both bases. Where only A's
lock is left, its sketches estimate |D| with a known error (bases/sketch.py) and nothing is said about directions.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

from workbench.bases.layout import Layout
from workbench.bases.lock import Lock
from workbench.bases.stream import distance, in_file_order
from workbench.bases.tensors import TensorInfo, comparable, folder_tensors
from workbench.rebase import change, lineage
from workbench.rebase.factors import Module, Sums, modules, pair_sums, total, unmoved
from workbench.rebase.result import Lineage, ModuleDrift, Weights
from workbench.rebase.roles import OUTPUTS, embeddings, group_of

__all__ = ["examine"]

_WORST = 3
_READINGS = {"same": "continuation", "permuted": "permuted", "independent": "independent"}


@dataclass
class _Gathered:
    """What the pass over the weights gathered."""

    modules: dict[str, Sums] = field(default_factory=dict)  # by path
    others: dict[str, Sums] = field(default_factory=dict)  # by tensor: embeddings and norms
    bytes_read: int = 0

    def drift_of(self, group: str) -> float | None:
        """Relative drift of the tensors of a group beside the adapted modules."""
        sums = [s for name, s in self.others.items() if group_of(name) == group]
        return total(sums).relative if sums else None


def examine(adapter: Path, home: Lock, new: Lock, *, home_folder: Path | None, new_folder: Path) -> Weights:
    """Compare the weights of base `new` with those the adapter was trained on. `home_folder` None: A is gone, its lock speaks.

    Raises `IntegrityError` naming a tensor of B (or a factor) that is not finite, and for an adapter without LoRA factors.
    """
    started = time.perf_counter()
    pair = _Pair.of(adapter, home, new)
    if not pair.adapted or not all(_fits(module, pair.home, pair.new) for module in pair.adapted):
        kind = "other_shape" if pair.adapted else "identical" if pair.same else "unknown"
        record = Weights(kind, home_folder is not None and bool(pair.adapted), notes=pair.notes if not pair.adapted else ())
    elif home_folder is None:
        gathered = _estimate(pair.adapted, pair.home, pair.new)
        record = _record(pair, _kind_from_locks(pair), None, gathered, error=_error(gathered))
    else:
        first, second = pair.tensors(home_folder, new_folder)
        gathered = _read(pair, first, second)
        kind, relatives = "identical", None
        if not pair.same:
            relatives = _relatives(home_folder, new_folder, home.weights_sha256, new.weights_sha256)
            kind = _kind(relatives, pair, first, second, gathered)
        record = _record(pair, kind, relatives, gathered)
    return dataclasses.replace(record, seconds=time.perf_counter() - started)


@dataclass
class _Pair:
    """Both bases under the names that the adapter uses, and what it adds to them."""

    home: Lock
    new: Lock
    adapted: list[Module]
    layouts: list[Layout]  # of both; none where the names on disk are those in memory
    fused: bool  # the adapter changes experts that are one tensor on disk, which `adapted` leaves out

    @classmethod
    def of(cls, adapter: Path, home: Lock, new: Lock) -> _Pair:
        stored = modules(adapter)
        if home.tensors.keys() == new.tensors.keys() and all(_fits(module, home, new) for module in stored):
            return cls(home, new, stored, [], False)
        layouts = [Layout(home), Layout(new)]
        adapted = modules(adapter, layouts[0])
        fused = len(adapted) < len(stored) and not any(module.part for module in adapted)
        first, second = (dataclasses.replace(layout.lock, tensors=layout.named(layout.lock.tensors)) for layout in layouts)
        return cls(first, second, adapted, layouts, fused)

    def tensors(self, *folders: Path) -> list[dict[str, TensorInfo]]:
        """Those of both folders."""
        stored = [folder_tensors(folder) for folder in folders]
        return [layout.named(tensors) for layout, tensors in zip(self.layouts, stored, strict=True)] if self.layouts else stored

    @cached_property
    def moved(self) -> list[str]:
        """The tensors of both whose bytes or dtype differ."""
        pairs = ((n, t, self.new.tensors[n]) for n, t in self.home.tensors.items() if n in self.new.tensors)
        return [name for name, before, after in pairs if (before.sha256, before.dtype) != (after.sha256, after.dtype)]

    @property
    def same(self) -> bool:
        return not self.moved and self.home.tensors.keys() == self.new.tensors.keys()

    @property
    def notes(self) -> tuple[str, ...]:
        return ("fused_experts",) if self.fused and not self.same else ()


def _record(pair: _Pair, kind: str, relatives: Lineage | None, gathered: _Gathered, *, error: float | None = None) -> Weights:
    unlike = relatives is not None and relatives.reading == "not looked at" and kind in {"continuation", "unknown"}
    each = [(module, gathered.modules[module.name]) for module in pair.adapted]
    return Weights(
        change=kind,
        exact=error is None,
        error=error,
        **total(gathered.modules.values()).figures,
        embeddings=gathered.drift_of("embeddings"),
        norms=gathered.drift_of("norms"),
        lineage=relatives,
        modules=tuple(ModuleDrift(m.name, m.group, m.layer, weight=sums.weight**0.5, **sums.figures) for m, sums in each),
        worst=_worst(pair.adapted, gathered),
        notes=(*(("order_unknown",) if unlike else ()), *pair.notes),
        bytes_read=gathered.bytes_read,
    )


@lru_cache(maxsize=8)
def _relatives(a: Path, b: Path, *weights_sha256: str) -> Lineage:
    """The lineage test of two bases; adapters that are checked one after the other on the same pair share it."""
    return lineage.compare(a, b)


def _same_shape(name: str, home: Lock, new: Lock) -> bool:
    return name in home.tensors and name in new.tensors and home.tensors[name].shape == new.tensors[name].shape


def _tensor(module: Module, home: Lock) -> str:
    """The matrix a module adds to; an output layer that is tied to the embeddings has none of its own."""
    tied = module.weight not in home.tensors and module.name.rpartition(".")[2] in OUTPUTS
    return (embeddings(home.tensors) if tied else None) or module.weight


def _fits(module: Module, home: Lock, new: Lock) -> bool:
    """Both bases hold the module's matrix, in the adapter's shape and as floats."""
    tensor = _tensor(module, home)
    return (
        _same_shape(module.weight, home, new)
        and home.tensors[module.weight].shape == module.shape
        and all(lock.tensors[tensor].norm is not None for lock in (home, new))
    )


def _read(pair: _Pair, first: dict[str, TensorInfo], second: dict[str, TensorInfo]) -> _Gathered:
    """One pass over both bases, in the order of the files; tensors whose bytes did not change are not read."""
    by_tensor: dict[str, list[Module]] = {}
    for module in pair.adapted:
        by_tensor.setdefault(_tensor(module, pair.home), []).append(module)
    changed, gathered = set(pair.moved), _Gathered()
    wanted = [
        n for n in first if n in by_tensor or (group_of(n) in {"embeddings", "norms"} and n in second and comparable(first[n], second[n]))
    ]
    for name in in_file_order(wanted, first):
        size, both = pair.home.tensors[name].norm or 0.0, (first[name], second[name])
        for module in by_tensor.get(name, ()):
            factors = module.read()
            gathered.modules[module.name] = pair_sums(*both, factors) if name in changed else unmoved(factors.norm, size)
        if group_of(name) in {"embeddings", "norms"}:
            drift, weight = distance(*both) if name in changed else (0.0, size**2)
            gathered.others[name] = Sums(weight=weight, drift=drift)
        if name in changed:
            gathered.bytes_read += sum(info.nbytes for info in both)
    return gathered


def _kind(relatives: Lineage, pair: _Pair, first: dict[str, TensorInfo], second: dict[str, TensorInfo], gathered: _Gathered) -> str:
    """The class of change, from samples of what moved and from the lineage."""
    seen = change.sampled(first, second, [n for n in in_file_order(pair.moved, first) if _same_shape(n, pair.home, pair.new)])
    if change.is_recast(seen):
        return "recast"
    if relatives.reading not in {"permuted", "independent"}:
        if change.is_requantised(seen):
            return "requantised"
        if change.is_low_rank(seen):
            return "low_rank"
    if relatives.reading in _READINGS:
        return _READINGS[relatives.reading]
    # A kind of model that is not known, or too little to tell: half of the weights' own size is far from the sqrt(2) of two strangers.
    return "continuation" if total(gathered.modules.values()).relative < 0.5 else "unknown"


def _estimate(adapted: Sequence[Module], home: Lock, new: Lock) -> _Gathered:
    """|D| from sketches; an equal hash is exactly no drift."""
    gathered = _Gathered()
    for module in adapted:
        sums = _sketched(_tensor(module, home), home, new)
        gathered.modules[module.name] = Sums(sums.weight, sums.drift, module.read().norm ** 2, None, None, None, None, None)
    for name in home.tensors:
        if group_of(name) in {"embeddings", "norms"} and _has_sketches(name, home, new):
            gathered.others[name] = _sketched(name, home, new)
    return gathered


def _has_sketches(name: str, home: Lock, new: Lock) -> bool:
    return _same_shape(name, home, new) and home.tensors[name].sketch is not None and new.tensors[name].sketch is not None


def _sketched(name: str, home: Lock, new: Lock) -> Sums:
    from workbench.bases.sketch import drift

    old, now = home.tensors[name], new.tensors[name]
    moved = 0.0 if old.sha256 == now.sha256 and old.dtype == now.dtype else drift(old.numbers(), now.numbers())
    return Sums(weight=(old.norm or 0.0) ** 2, drift=moved**2)


def _kind_from_locks(pair: _Pair) -> str:
    """Identical, or re-cast (another dtype and a drift that rounding explains); anything else needs the weights."""
    if pair.same:
        return "identical"
    home, new = pair.home, pair.new
    sketched = [n for n in pair.moved if _has_sketches(n, home, new)]
    step = max(_ROUNDING.get(lock.tensors[n].dtype, 0.0) for lock in (home, new) for n in sketched) if sketched else 0.0
    recast = bool(sketched) and all(home.tensors[n].dtype != new.tensors[n].dtype for n in sketched)
    return "recast" if recast and total(_sketched(n, home, new) for n in sketched).relative <= step else "unknown"


# Relative size of one rounding to the dtype, at most: half a step of the fraction.
_ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8, "float8_e4m3": 2.0**-4, "float8_e5m2": 2.0**-3}


def _error(gathered: _Gathered) -> float:
    """Relative standard error of the total drift: each sketch's |D|^2 has a variance of (2 / 64) |D|^4 (bases/sketch.py)."""
    from workbench.bases.sketch import NUMBERS

    squares = [sums.drift for sums in gathered.modules.values()]
    whole = sum(squares)
    return 0.5 * (2 / NUMBERS * sum(s * s for s in squares)) ** 0.5 / whole if whole else 0.0


def _worst(adapted: Iterable[Module], gathered: _Gathered) -> tuple[str, ...]:
    """The layers that moved most."""
    layers: dict[int, list[Sums]] = {}
    for module in adapted:
        if module.layer is not None:
            layers.setdefault(module.layer, []).append(gathered.modules[module.name])
    drifts = sorted(((total(sums).relative, -layer) for layer, sums in layers.items()), reverse=True)
    return tuple(f"layer {-layer}" for drift, layer in drifts[:_WORST] if drift > 0)
