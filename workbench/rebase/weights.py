"""Stage 1: what happened to the weights between A and B, and how much of it the adapter sees. Explains; never decides.

Exact where A's weights are on disk: one pass over the adapted matrices, the embeddings and the norms of both bases. Where only A's
lock is left, its sketches estimate |D| with a known error (bases/sketch.py) and nothing is said about directions.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from workbench.bases.diff import group_of
from workbench.bases.layout import Layout
from workbench.bases.lock import Lock
from workbench.bases.stream import distance, in_file_order
from workbench.bases.tensors import FLOAT_DTYPES, TensorInfo, folder_tensors
from workbench.rebase import change, lineage
from workbench.rebase.drift import Sums, measure_pair, module_drift, total, unmoved
from workbench.rebase.factors import Module, modules
from workbench.rebase.result import Lineage, Weights
from workbench.rebase.roles import OUTPUTS, embeddings

__all__ = ["measure"]

_WORST = 3
_READINGS = {"same": "continuation", "permuted": "permuted", "independent": "independent"}
_WORDS = {
    "identical": "the same weights, byte for byte",
    "recast": "the same weights in another dtype",
    "requantised": "the same weights rounded to fewer levels",
    "low_rank": "same lineage, a patch of low rank merged in",
    "continuation": "same lineage",
    "permuted": "the same model in permuted coordinates",
    "independent": "another training run of the same shapes",
    "other_shape": "other shapes: the weights cannot be compared one by one",
    "unknown": "the old weights are gone and their sketches do not tell what kind of change it is",
}


_TOO_FAR = "the weights moved so far that they do not tell what kind of change it is"
_NOT_LOOKED_AT = "whether its neurons stand in another order was not looked at: how is not known for this kind of model"
_EXPERTS = "the adapter changes experts that are one tensor on disk: how far they moved was not looked at"
T = TypeVar("T")


@dataclass
class _Found:
    """What the pass over the weights gathered."""

    sums: dict[str, Sums] = field(default_factory=dict)  # by module
    others: dict[str, Sums] = field(default_factory=dict)  # by tensor: embeddings and norms
    bytes_read: int = 0


def measure(
    adapter: Path, home: Lock, new: Lock, *, home_folder: Path | None, new_folder: Path, report: Callable[[str], None] | None = None
) -> Weights:
    """Compare the weights of base `new` with those the adapter was trained on. `home_folder` None: A is gone, its lock speaks.

    Raises `IntegrityError` naming a tensor of B (or a factor) that is not finite, and for an adapter without LoRA factors.
    """
    started = time.perf_counter()
    say = report or (lambda text: None)
    adapted, names = modules(adapter), _as_they_are
    if home.tensors.keys() != new.tensors.keys() or not all(_fits(module, home, new) for module in adapted):
        # stored under other names than those in memory, which adapters use
        layouts = {id(lock): Layout(lock) for lock in (home, new)}
        adapted, names = modules(adapter, layouts[id(home)]), lambda tensors, lock: layouts[id(lock)].named(tensors)
    stored = home, new
    home, new = (dataclasses.replace(lock, tensors=names(lock.tensors, lock)) for lock in stored)
    moved = [
        n for n, t in home.tensors.items() if n in new.tensors and (t.sha256, t.dtype) != (new.tensors[n].sha256, new.tensors[n].dtype)
    ]
    same = not moved and home.tensors.keys() == new.tensors.keys()
    if not adapted:
        kind, sentence = ("identical", _WORDS["identical"]) if same else ("unknown", _EXPERTS)
        return _finish(dataclasses.replace(_other_shape(exact=False), change=kind, sentence=sentence), started)
    if not all(_fits(module, home, new) for module in adapted):
        return _finish(_other_shape(exact=home_folder is not None), started)
    if home_folder is None:
        found, kind, relatives = _estimate(adapted, home, new), _kind_from_locks(home, new, moved), None
    else:
        first, second = names(folder_tensors(home_folder), stored[0]), names(folder_tensors(new_folder), stored[1])
        found = _read(adapted, home, moved, first, second, say)
        kind, relatives = "identical", None
        if not same:
            say("Weights: comparing neurons")
            relatives = _relatives(home_folder, new_folder, home.weights_sha256, new.weights_sha256)
            kind = _kind(relatives, first, second, [n for n in in_file_order(moved, first) if _same_shape(n, home, new)], found)
    record = _record(kind, home_folder is not None, relatives, adapted, found)
    left_out = not same and len(adapted) < len(modules(adapter)) and not any(module.part for module in adapted)
    unknown = relatives is not None and relatives.reading == "not looked at" and kind in {"continuation", "unknown"}
    more = [text for text, holds in ((_NOT_LOOKED_AT, unknown), (_EXPERTS, left_out)) if holds]
    return _finish(dataclasses.replace(record, sentence="; ".join([record.sentence, *more])), started)


def _as_they_are(tensors: dict[str, T], lock: Lock) -> dict[str, T]:
    return tensors


@lru_cache(maxsize=8)
def _relatives(a: Path, b: Path, *weights_sha256: str) -> Lineage:
    """The lineage test of two bases; adapters that are checked one after the other on the same pair share it."""
    return lineage.compare(a, b)


def _other_shape(*, exact: bool) -> Weights:
    return Weights("other_shape", exact, None, None, None, None, None, None, None, None, None, sentence=_WORDS["other_shape"])


def _finish(weights: Weights, started: float) -> Weights:
    """The last step of every record: how long it took. Its colour is for the caller to add (calibration.py)."""
    return dataclasses.replace(weights, seconds=time.perf_counter() - started)


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


def _read(
    adapted: Sequence[Module], home: Lock, moved: Sequence[str], first: dict[str, TensorInfo], second: dict[str, TensorInfo],
    say: Callable[[str], None],
) -> _Found:  # fmt: skip
    """One pass over both bases, in the order of the files; tensors whose bytes did not change are not read."""
    by_tensor: dict[str, list[Module]] = {}
    for module in adapted:
        by_tensor.setdefault(_tensor(module, home), []).append(module)
    changed, found = set(moved), _Found()
    wanted = [n for n in first if n in by_tensor or (group_of(n) in {"embeddings", "norms"} and _readable(n, first, second))]
    for place, name in enumerate(in_file_order(wanted, first)):
        if place % 50 == 0:
            say(f"Weights: tensor {place + 1} of {len(wanted)}")
        size, pair = home.tensors[name].norm or 0.0, (first[name], second[name])
        for module in by_tensor.get(name, ()):
            factors = module.read()
            found.sums[module.name] = measure_pair(*pair, factors) if name in changed else unmoved(factors.norm, size)
        if group_of(name) in {"embeddings", "norms"}:
            drift, weight = distance(*pair) if name in changed else (0.0, size**2)
            found.others[name] = Sums(weight=weight, drift=drift)
        if name in changed:
            found.bytes_read += sum(info.nbytes for info in pair)
    return found


def _readable(name: str, first: dict[str, TensorInfo], second: dict[str, TensorInfo]) -> bool:
    return name in second and first[name].shape == second[name].shape and {first[name].dtype, second[name].dtype} <= FLOAT_DTYPES


def _kind(relatives: Lineage, first: dict[str, TensorInfo], second: dict[str, TensorInfo], moved: Sequence[str], found: _Found) -> str:
    """The class of change, from samples of what moved and from the lineage."""
    seen = change.samples(first, second, moved)
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
    return "continuation" if total(found.sums.values()).relative < 0.5 else "unknown"


def _estimate(adapted: Sequence[Module], home: Lock, new: Lock) -> _Found:
    """|D| from sketches; an equal hash is exactly no drift."""
    found = _Found()
    for module in adapted:
        factors, sums = module.read(), _sketched(_tensor(module, home), home, new)
        found.sums[module.name] = Sums(sums.weight, sums.drift, factors.norm**2, None, None, None, None, None)
    for name in home.tensors:
        if (
            group_of(name) in {"embeddings", "norms"}
            and _same_shape(name, home, new)
            and home.tensors[name].sketch
            and new.tensors[name].sketch
        ):
            found.others[name] = _sketched(name, home, new)
    return found


def _has_sketches(name: str, home: Lock, new: Lock) -> bool:
    return _same_shape(name, home, new) and home.tensors[name].sketch is not None and new.tensors[name].sketch is not None


def _sketched(name: str, home: Lock, new: Lock) -> Sums:
    from workbench.bases.sketch import drift

    old, now = home.tensors[name], new.tensors[name]
    moved = 0.0 if old.sha256 == now.sha256 and old.dtype == now.dtype else drift(old.numbers(), now.numbers())
    return Sums(weight=(old.norm or 0.0) ** 2, drift=moved**2)


def _kind_from_locks(home: Lock, new: Lock, moved: Sequence[str]) -> str:
    """Identical, or re-cast (another dtype and a drift that rounding explains); anything else needs the weights."""
    if not moved and home.tensors.keys() == new.tensors.keys():
        return "identical"
    sketched = [n for n in moved if _has_sketches(n, home, new)]
    step = max(_ROUNDING.get(lock.tensors[n].dtype, 0.0) for lock in (home, new) for n in sketched) if sketched else 0.0
    recast = bool(sketched) and all(home.tensors[n].dtype != new.tensors[n].dtype for n in sketched)
    return "recast" if recast and total(_sketched(n, home, new) for n in sketched).relative <= step else "unknown"


# Relative size of one rounding to the dtype, at most: half a step of the fraction.
_ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8, "float8_e4m3": 2.0**-4, "float8_e5m2": 2.0**-3}


def _error(found: _Found) -> float:
    """Relative standard error of the total drift: each sketch's |D|^2 has a variance of (2 / 64) |D|^4 (bases/sketch.py)."""
    from workbench.bases.sketch import NUMBERS

    squares = [sums.drift for sums in found.sums.values()]
    whole = sum(squares)
    return 0.5 * (2 / NUMBERS * sum(s * s for s in squares)) ** 0.5 / whole if whole else 0.0


def _record(kind: str, exact: bool, relatives: Lineage | None, adapted: Sequence[Module], found: _Found) -> Weights:
    everything = total(found.sums.values())
    drifts = tuple(module_drift(m, found.sums[m.name]) for m in adapted)
    return Weights(
        change=kind,
        exact=exact,
        error=None if exact else _error(found),
        drift=everything.relative,
        ratio=everything.ratio,
        input=everything.input,
        output=everything.output,
        alignment=everything.alignment,
        embeddings=_of_group(found, "embeddings"),
        norms=_of_group(found, "norms"),
        lineage=relatives,
        modules=drifts,
        worst=_worst(adapted, found),
        sentence=_sentence(kind, exact, everything, adapted, found),
        bytes_read=found.bytes_read,
    )


def _of_group(found: _Found, group: str) -> float | None:
    sums = [s for name, s in found.others.items() if group_of(name) == group]
    return total(sums).relative if sums else None


def _by(adapted: Iterable[Module], found: _Found, key: Callable[[Module], str | None]) -> dict[str, float]:
    """Relative drift of the modules that share a key."""
    parts: dict[str, list[Sums]] = {}
    for module in adapted:
        name = key(module)
        if name is not None:
            parts.setdefault(name, []).append(found.sums[module.name])
    return {name: total(sums).relative for name, sums in parts.items()}


def _worst(adapted: Iterable[Module], found: _Found) -> tuple[str, ...]:
    layers = _by(adapted, found, lambda m: None if m.layer is None else f"layer {m.layer}")
    return tuple(name for name, size in sorted(layers.items(), key=lambda item: -item[1])[:_WORST] if size > 0)


def _sentence(kind: str, exact: bool, everything: Sums, adapted: Sequence[Module], found: _Found) -> str:
    """ "same lineage, drift 2.1 % (mlp 2.6 %, attention 1.4 %), 3.8 times the adapter's own size, most in layers 24, 29 and 25" """
    if kind == "identical":
        return _WORDS[kind]
    error = "" if exact else f" ± {_share(1.96 * _error(found) * everything.relative)}"
    groups = _by(adapted, found, lambda m: m.group)
    parts = ", ".join(f"{name} {_share(size)}" for name, size in sorted(groups.items(), key=lambda item: -item[1]))
    words = [
        _TOO_FAR if kind == "unknown" and exact else _WORDS[kind],
        f"drift {'' if exact else 'about '}{_share(everything.relative)}{error}" + (f" ({parts})" if len(groups) > 1 else ""),
    ]
    if everything.ratio is not None:
        words.append(f"{everything.ratio:.2g} times the adapter's own size")
    layers = [name.removeprefix("layer ") for name in _worst(adapted, found)]
    if len(layers) > 1:
        words.append(f"most in layers {', '.join(layers[:-1])} and {layers[-1]}")
    return ", ".join(words)


def _share(value: float) -> str:
    """Two digits that say something: 2.1 %, 0.016 %."""
    return f"{100 * value:.1f} %" if value >= 0.01 or not value else f"{100 * value:.2g} %"
