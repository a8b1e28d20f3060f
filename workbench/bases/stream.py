"""Two tensors read side by side as float32, in pieces that stay in the processor's cache: the loop behind every exact drift."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from workbench.bases.tensors import TensorInfo, floats, not_finite, raw_pieces

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["distance", "in_file_order", "pairs", "refuse_not_finite"]

_PIECE = 1 << 17  # values: 512 KB as float32, three such arrays stay in a second-level cache


def in_file_order(names: list[str], tensors: dict[str, TensorInfo]) -> list[str]:
    """The names as their data lie in the files, so that disks read forwards."""
    return sorted(names, key=lambda name: (str(tensors[name].file), tensors[name].start))


def pairs(first: TensorInfo, second: TensorInfo) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """Matching pieces of two float tensors of equal shape, whole rows each: (rows, width) of a matrix, else (values,).

    The arrays are used again for the next piece, and the caller may write into them. Raises `IntegrityError` for a short file.
    """
    import numpy as np

    width = first.shape[-1] if len(first.shape) == 2 else 1
    step = max(1, _PIECE // max(width, 1)) * width
    outs = [np.empty(min(step, first.elements), np.float32) for _ in range(2)]
    for raws in zip(*(raw_pieces(info, step, reuse=True) for info in (first, second)), strict=True):
        x, y = (floats(raw, info.dtype, out) for raw, info, out in zip(raws, (first, second), outs, strict=True))
        yield (x.reshape(-1, width), y.reshape(-1, width)) if len(first.shape) == 2 else (x, y)


def distance(first: TensorInfo, second: TensorInfo) -> tuple[float, float]:
    """|B - A|^2 and |A|^2 (Frobenius) of two float tensors of equal shape. Raises `IntegrityError` naming a tensor that is not finite."""
    import numpy as np

    moved = size = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for x, y in pairs(first, second):
            x, y = x.reshape(-1), y.reshape(-1)
            np.subtract(y, x, out=y)
            moved += float(np.dot(y, y))
            size += float(np.dot(x, x))
    if np.isfinite(moved) and np.isfinite(size):
        return moved, size
    refuse_not_finite(first, second)
    moved = size = 0.0  # finite, but squares do not fit into float32
    for x, y in pairs(first, second):
        wide = x.astype(np.float64)
        size += float(np.sum(wide * wide))
        moved += float(np.sum(np.square(y - wide)))
    return moved, size


def refuse_not_finite(*infos: TensorInfo) -> None:
    """Raise `IntegrityError` naming the first tensor that holds NaN or infinity."""
    import numpy as np

    for info in infos:
        for x, _ in pairs(info, info):
            if not np.isfinite(x).all():
                raise not_finite(info)
