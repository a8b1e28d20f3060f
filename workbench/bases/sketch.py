"""Sixty-four numbers that stand for a tensor, so that drift can be measured later without the old weights.

The flattened tensor w is cut into blocks of 4,096 consecutive values (the last one filled with zeros). In block b every
value gets a random sign; the block, seen as 64 rows of 64, is summed over its rows; the 64 sums are shuffled by a random
permutation and added to the 64 numbers. Signs and permutations come from Philox keyed by SEED and b alone, so tensors of
equal shape in different bases share them and sketches can be subtracted: S(w_B) - S(w_A) = S(w_B - w_A).

It is a count sketch (Charikar, Chen and Farach-Colton 2002; as a norm estimate Thorup and Zhang 2004, "tug of war" with 64
counters): E|S(w)|^2 = |w|^2 exactly, and for a tensor without a few giant values the variance of |S(w)|^2 is about
(2/64)|w|^4, so the estimated norm has a relative standard deviation of about sqrt(2/64)/2 = 9 %. Over the 200 tensors of a
model the errors are independent enough that the total is good to about 1 %.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from workbench.bases.tensors import DTYPE_NAMES, FLOAT_DTYPES, TensorInfo, floats, raw_pieces
from workbench.errors import IntegrityError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["BLOCK", "NUMBERS", "SEED", "TensorLock", "drift", "fingerprint"]

SEED = 0x5EED_0F_BA5E  # part of the lock's format: changing it makes old sketches incomparable
NUMBERS = 64
BLOCK = NUMBERS * NUMBERS
_PIECE = 256  # blocks handled at once: 1 M values, 4 MB as float32


@dataclass(frozen=True)
class TensorLock:
    """What the lock records of one tensor."""

    shape: tuple[int, ...]
    dtype: str  # "bfloat16", …
    sha256: str  # of its bytes
    norm: float | None  # Frobenius; None for a tensor that holds no floats, not finite where its values are not
    sketch: str | None  # base64 of 64 little-endian float32

    def numbers(self) -> npt.NDArray[np.float32]:
        """The sketch as an array of shape (64,). Raises `IntegrityError` for a tensor without one."""
        import numpy as np

        if self.sketch is None:
            raise IntegrityError("This tensor holds no floats and has no sketch.")
        return np.frombuffer(base64.b64decode(self.sketch), dtype="<f4").astype(np.float32)


@lru_cache(maxsize=4)
def _randomness(piece: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.intp]]:
    """Sign masks (256, 64, 64) to be XORed into float32 bits, and lane permutations (256, 64), of the given piece."""
    import numpy as np

    raw = np.random.Philox(key=SEED, counter=[0, 0, 0, piece]).random_raw(2 * _PIECE * NUMBERS).astype("<u8")
    bits = np.unpackbits(raw[: _PIECE * NUMBERS].view(np.uint8)).reshape(_PIECE, NUMBERS, NUMBERS)
    lanes = np.argsort(raw[_PIECE * NUMBERS :].reshape(_PIECE, NUMBERS), axis=1, kind="stable")
    return bits.astype(np.uint32) << np.uint32(31), lanes


def _add_piece(values: npt.NDArray[np.float32], piece: int, sketch: npt.NDArray[np.float64]) -> float:
    """Add one piece (up to 256 blocks) to `sketch` in place and return the sum of its squares; `values` are overwritten.

    Rows are summed in double precision: the same to the last stored digit on every machine.
    """
    import numpy as np

    blocks = -(-values.size // BLOCK)
    if values.size != blocks * BLOCK:
        values = np.concatenate([values, np.zeros(blocks * BLOCK - values.size, np.float32)])
    cube = values.reshape(blocks, NUMBERS, NUMBERS)
    signs, lanes = _randomness(piece)
    np.bitwise_xor(cube.view(np.uint32), signs[:blocks], out=cube.view(np.uint32))
    sketch += np.take_along_axis(np.add.reduce(cube, axis=1, dtype=np.float64), lanes[:blocks], axis=1).sum(axis=0)
    return float(np.add.reduce(np.square(cube, out=cube), axis=1, dtype=np.float64).sum())


def fingerprint(info: TensorInfo) -> TensorLock:
    """Hash, norm and sketch of one tensor in a single pass; holds about 20 MB whatever the tensor's size."""
    import hashlib

    import numpy as np

    digest, squares, sketch, values = hashlib.sha256(), 0.0, np.zeros(NUMBERS), np.empty(min(info.elements, _PIECE * BLOCK), np.float32)
    numeric = info.dtype in FLOAT_DTYPES
    with np.errstate(over="ignore", invalid="ignore"):
        for piece, raw in enumerate(raw_pieces(info, _PIECE * BLOCK, reuse=True)):
            digest.update(raw.data)
            if numeric:
                squares += _add_piece(floats(raw, info.dtype, values), piece, sketch)
        norm = float(np.float32(np.sqrt(squares))) if numeric else None
        text = base64.b64encode(sketch.astype("<f4").tobytes()).decode("ascii") if numeric else None
    return TensorLock(info.shape, DTYPE_NAMES[info.dtype], digest.hexdigest(), norm, text)


def drift(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """An estimate of |w_B - w_A| (Frobenius) from the sketches of two tensors of equal shape; see above for its error."""
    import numpy as np

    return float(np.linalg.norm(b.astype(np.float64) - a.astype(np.float64)))
