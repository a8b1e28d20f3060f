"""What kind of change lies between two bases, told from a few of the matrices that moved.

    recast       every |D| is within one step of a coarser float type that holds one of the two models exactly
    requantised  B lies on a lattice whose step fits the size of D (uniform rounding: |D| = step / sqrt(12)), or takes fewer values
                 per 64 weights than A did (codebooks such as NF4)
    low_rank     past the first quarter of its singular directions, D holds no more than rounding to B's type puts there

Continued training is none of the three: its D is no rounding error and its singular values fall off slowly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from workbench.bases.tensors import FLOAT_DTYPES, TensorInfo
from workbench.rebase.writing import encode, load

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

from workbench.rebase.roles import group_of

__all__ = ["Sample", "is_low_rank", "is_recast", "is_requantised", "sampled"]

# Bits of the fraction, and the smallest step near zero.
_STEPS = {
    "F64": (52, 0.0), "F32": (23, 0.0), "F16": (10, 2.0**-24), "BF16": (7, 0.0), "F8_E4M3": (3, 2.0**-9), "F8_E5M2": (2, 2.0**-16),
}  # fmt: skip
_TENSORS, _ROWS, _COLUMNS = 6, 768, 1024
_BLOCK = 32  # consecutive weights of a row that share a scale in every common scheme
_BLOCKS = 96  # looked at per matrix
_COHERENT = 0.8


class Sample(NamedTuple):
    """A part of one matrix in both bases, float32."""

    before: npt.NDArray[np.float32]
    after: npt.NDArray[np.float32]
    dtypes: tuple[str, str]


def sampled(first: Mapping[str, TensorInfo], second: Mapping[str, TensorInfo], moved: Sequence[str]) -> list[Sample]:
    """Up to six of the `moved` linear weights, evenly spread, at most 768 x 1024 values of each."""
    names = [n for n in moved if len(first[n].shape) == 2 and group_of(n) in {"attention", "mlp"}]
    names = [n for n in names if {first[n].dtype, second[n].dtype} <= FLOAT_DTYPES]
    wanted = min(_TENSORS, len(names))
    chosen = [names[int((k + 0.5) * len(names) / wanted)] for k in range(wanted)]
    return [Sample(_part(first[n]), _part(second[n]), (first[n].dtype, second[n].dtype)) for n in chosen]


def _part(info: TensorInfo) -> npt.NDArray[np.float32]:
    rows, width = info.shape
    count, size = min(rows, _ROWS), info.nbytes // max(rows, 1)
    start = (rows - count) // 2
    return load(dataclasses.replace(info, shape=(count, width), start=info.start + start * size, nbytes=count * size))[:, :_COLUMNS]


def is_recast(samples: Sequence[Sample]) -> bool:
    """The same numbers, in another dtype or squeezed through one."""
    return bool(samples) and all(map(_recast, samples))


def _recast(sample: Sample) -> bool:
    import numpy as np

    x, y = sample.before, sample.after
    if sample.dtypes[0] != sample.dtypes[1]:
        bits, floor = min(_STEPS[dtype] for dtype in sample.dtypes)
        return bool(np.all(np.abs(y - x) <= np.maximum(np.abs(x), np.abs(y)) * 2.0**-bits + floor))
    for dtype in ("BF16", "F16"):
        bits, floor = _STEPS[dtype]
        if _STEPS[sample.dtypes[0]][0] > bits and _on_grid(x, dtype) != _on_grid(y, dtype):
            return bool(np.all(np.abs(y - x) <= np.maximum(np.abs(x), np.abs(y)) * 2.0**-bits + floor))
    return False


def _on_grid(values: npt.NDArray[np.float32], dtype: str) -> bool:
    import numpy as np

    bits = encode(values, dtype)
    back = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32) if dtype == "BF16" else bits.astype(np.float32)
    return bool(np.array_equal(back, values))


def is_requantised(samples: Sequence[Sample]) -> bool:
    """B was rounded to fewer levels: so in more than half of the matrices looked at."""
    votes = [_on_lattice(sample) or _fewer_values(sample) for sample in samples]
    return sum(votes) * 2 > len(votes)


def _on_lattice(sample: Sample) -> bool:
    """Whether the weights of B, 32 at a time, are whole multiples of a step (plus an offset) that explains the size of D.

    The mean of exp(2 pi i w / step) has length 1 on a lattice and about 1 / sqrt(32) off it; the largest over the steps that are
    tried is about .4. Trained weights are off any lattice of this step: D itself blurs them by a third of it.
    """
    import numpy as np

    x, y = (_blocks(v, _BLOCK, _BLOCKS) for v in (sample.before, sample.after))
    moved = np.abs(y - x)
    size = np.sqrt(np.mean(moved**2, axis=1))
    # Rounding errors are bounded by half a step, sqrt(3) times their size, and not all alike; and B must take several steps, since
    # weights that are all near zero lie on any lattice.
    spread = moved.max(axis=1, initial=0.0) / np.where(size > 0, size, 1)
    usable = (size > 0) & (spread > 1.2) & (spread < 2.6) & (np.ptp(y, axis=1) > 3.5 * size)
    if usable.sum() < 0.5 * len(x) or not usable.any():
        return False
    step = np.sqrt(12.0) * size[usable, None] * np.arange(0.7, 1.3, 0.002)
    turns = (y[usable, None, :] / step[:, :, None]).astype(np.float32)
    angle = np.float32(2 * np.pi) * (turns - np.rint(turns))
    coherence = np.hypot(np.cos(angle).mean(axis=2), np.sin(angle).mean(axis=2)).max(axis=1)
    return bool(np.median(coherence) > _COHERENT)


def _fewer_values(sample: Sample) -> bool:
    """Whether 64 consecutive weights take markedly fewer values than they did: 16 for a 4-bit codebook, some 60 in bfloat16."""
    import numpy as np

    counts = []
    for values in (sample.before, sample.after):
        ordered = np.sort(_blocks(values, 2 * _BLOCK, _BLOCKS), axis=1)
        counts.append(1 + np.mean((np.diff(ordered, axis=1) != 0).sum(axis=1)))
    return bool(counts[1] < 0.8 * counts[0])


def _blocks(values: npt.NDArray[np.float32], size: int, wanted: int) -> npt.NDArray[np.float32]:
    """Runs of `size` consecutive values of a row, evenly spread over the matrix: (blocks, size)."""
    import numpy as np

    size = min(size, values.shape[1])
    runs = values[:, : values.shape[1] // size * size].reshape(-1, size)
    return runs[np.linspace(0, len(runs) - 1, min(wanted, len(runs))).astype(np.intp)]


def is_low_rank(samples: Sequence[Sample]) -> bool:
    """A patch of low rank was merged: so in more than half of the matrices looked at."""
    votes = [_low_rank(sample) for sample in samples]
    return sum(votes) * 2 > len(votes)


def _low_rank(sample: Sample) -> bool:
    """Beyond a quarter of its directions D must be what rounding leaves; a part of a matrix has no higher rank than the whole."""
    import numpy as np

    moved = sample.after - sample.before
    kept = min(moved.shape) // 4
    bits = min(_STEPS[dtype][0] for dtype in sample.dtypes)
    step = np.exp2(np.floor(np.log2(np.maximum(np.abs(sample.after), np.float32(1e-30)))) - bits).astype(np.float32)
    noise = step * np.random.default_rng(0).uniform(-0.5, 0.5, moved.shape).astype(np.float32)
    ours, theirs = _energies(moved), _energies(noise)
    head, tail = float(ours[:kept].sum()), float(ours[kept:].sum())
    return tail <= 1.15 * float(theirs[kept:].sum()) + 1e-5 * head and head > 2 * float(theirs[:kept].sum())


def _energies(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Squared singular values, largest first."""
    import numpy as np

    wide = values.astype(np.float64) if values.shape[0] <= values.shape[1] else values.T.astype(np.float64)
    squares: npt.NDArray[np.float64] = np.maximum(np.linalg.eigvalsh(wide @ wide.T)[::-1], 0.0)
    return squares
