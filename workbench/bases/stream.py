"""Two tensors read side by side as float32, in pieces that stay in the processor's cache: the loop behind every exact drift.

The disk works while the processor does: the next pieces are asked for ahead of time. Memory is a few megabytes whatever the tensor.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from functools import lru_cache
from typing import TYPE_CHECKING, BinaryIO

from workbench.bases.tensors import TensorInfo, floats
from workbench.errors import IntegrityError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["distance", "in_file_order", "pairs", "refuse_not_finite"]

_PIECE = 1 << 17  # values: 512 KB as float32, three such arrays stay in a second-level cache
_AHEAD = 8 << 20  # bytes asked of the disk before they are needed


def in_file_order(names: list[str], tensors: dict[str, TensorInfo]) -> list[str]:
    """The names as their data lie in the files, so that disks read forwards."""
    return sorted(names, key=lambda name: (str(tensors[name].file), tensors[name].start))


def pairs(one: TensorInfo, two: TensorInfo) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """Matching pieces of two float tensors of equal shape, whole rows each: (rows, width) of a matrix, else (values,).

    The arrays are used again for the next piece, and the caller may write into them. Raises `IntegrityError` for a short file.
    """
    import numpy as np

    width = one.shape[-1] if len(one.shape) == 2 else 1
    step = max(1, _PIECE // max(width, 1)) * width
    buffers = [np.empty(min(step, one.elements), np.float32) for _ in range(2)]
    with ExitStack() as stack:
        readers = [_Reader(stack.enter_context(t.file.open("rb", buffering=0)), t, min(step, t.elements)) for t in (one, two)]
        for at in range(0, one.elements, max(step, 1)):
            size = min(step, one.elements - at)
            x, y = (reader.read(buffer[:size]) for reader, buffer in zip(readers, buffers, strict=True))
            yield (x.reshape(-1, width), y.reshape(-1, width)) if len(one.shape) == 2 else (x, y)


class _Reader:
    """One tensor read forwards into the caller's memory."""

    def __init__(self, file: BinaryIO, info: TensorInfo, step: int) -> None:
        import numpy as np

        self._file, self._info, self._at = file, info, info.start
        self._width = info.nbytes // max(info.elements, 1)
        self._raw = np.empty(step * self._width, np.uint8)
        self._asked = info.start
        file.seek(info.start)

    def read(self, out: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Fill `out` with the next values and return it."""
        raw = self._raw[: out.size * self._width]
        self._ask(self._at + raw.size)
        view, got = raw.data, 0
        while got < raw.size:
            part = self._file.readinto(view[got:])  # type: ignore[attr-defined]
            if not part:
                raise IntegrityError(f"{self._info.file.name} ended inside tensor {self._info.name}.", hint="Fetch the model again.")
            got += part
        self._at += raw.size
        _decode(raw, self._info.dtype, out)
        return out

    def _ask(self, needed: int) -> None:
        # Past the tensor's own end too: the next one mostly lies there.
        if needed + _AHEAD // 2 > self._asked and hasattr(os, "posix_fadvise"):
            start = max(self._asked, self._at)
            os.posix_fadvise(self._file.fileno(), start, _AHEAD, os.POSIX_FADV_WILLNEED)
            self._asked = start + _AHEAD


def _decode(raw: npt.NDArray[np.uint8], dtype: str, out: npt.NDArray[np.float32]) -> None:
    """`tensors.floats` into memory that is there already: half the time for bfloat16."""
    import numpy as np

    if dtype == "BF16":
        bits = out.view(np.uint32)
        np.copyto(bits, raw.view("<u2"))
        np.left_shift(bits, 16, out=bits)
    elif dtype in {"F16", "F32", "F64"}:
        np.copyto(out, raw.view({"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]), casting="same_kind")
    else:
        np.take(_table(dtype), raw, out=out, mode="clip")


@lru_cache(maxsize=2)
def _table(dtype: str) -> npt.NDArray[np.float32]:
    import numpy as np

    return floats(np.arange(256, dtype=np.uint8), dtype)


def distance(one: TensorInfo, two: TensorInfo) -> tuple[float, float]:
    """|B - A|^2 and |A|^2 (Frobenius) of two float tensors of equal shape. Raises `IntegrityError` naming a tensor that is not finite."""
    import numpy as np

    moved = size = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for x, y in pairs(one, two):
            x, y = x.reshape(-1), y.reshape(-1)
            np.subtract(y, x, out=y)
            moved += float(np.dot(y, y))
            size += float(np.dot(x, x))
    if np.isfinite(moved) and np.isfinite(size):
        return moved, size
    refuse_not_finite(one, two)
    moved = size = 0.0  # finite, but squares do not fit into float32
    for x, y in pairs(one, two):
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
                raise IntegrityError(
                    f"Tensor {info.name} of {info.file.name} holds values that are not finite.",
                    hint="These weights are broken; fetch another copy.",
                )
