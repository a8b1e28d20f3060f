"""Bases and adapters whose verdict is known beforehand: what any check of "does it still work?" must get right.

Each writes a plain model folder (configuration, tokenizer and template copied) or a plain PEFT folder, one tensor in memory at a time.
The one control that needs a plan of its own, the same model in other coordinates, is in `workbench.rebase.recoordinate`.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.bases.files import read_json
from workbench.bases.tensors import TensorInfo, folder_tensors
from workbench.errors import IntegrityError, UsageError
from workbench.peft_layout import FACTORS
from workbench.rebase.factors import product_norm
from workbench.rebase.writing import adapter_tensors, encode, load, rewrite_adapter, rewrite_base

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

from workbench.rebase.roles import group_of

__all__ = ["add_noise", "independent", "random_adapter", "requantise"]

_LINEAR = re.compile(r".*\.(layers|h)\.\d+\..+\.weight")
_ROUNDS = 6  # of matching the noise's size after rounding to the stored type
_CLOSE = 0.002


def requantise(source: Path, out: Path, *, bits: int, group: int = 64) -> Path:
    """Round every linear weight of the layers (not embeddings, norms, output layer or biases) to 2^bits - 1 levels and back.

    Round to nearest, symmetric, one scale (largest absolute value / (2^(bits-1) - 1)) per `group` consecutive input values of a row;
    a row whose width is no multiple ends in a shorter group. Written in the source's own dtype.
    """
    if not 2 <= bits <= 8 or group < 1:
        raise UsageError(f"Cannot round to {bits} bits in groups of {group}.", hint="bits: 2 to 8; group: 1 or more.")

    def change(info: TensorInfo) -> npt.NDArray[np.generic]:
        values = load(info)
        return encode(_rounded(values, bits, group) if _is_linear(info) else values, info.dtype)

    return rewrite_base(source, out, change)


def _is_linear(info: TensorInfo) -> bool:
    return len(info.shape) == 2 and bool(_LINEAR.fullmatch(info.name))


def _rounded(values: npt.NDArray[np.float32], bits: int, group: int) -> npt.NDArray[np.float32]:
    import numpy as np

    rows, width = values.shape
    group = min(group, width)
    padded = np.pad(values, ((0, 0), (0, -width % group))).reshape(rows, -1, group)
    top = 2 ** (bits - 1) - 1
    scale = np.abs(padded).max(axis=2, keepdims=True) / np.float32(top)
    scale[scale == 0] = 1
    rounded: npt.NDArray[np.float32] = np.rint(padded / scale) * scale
    return rounded.reshape(rows, -1)[:, :width]


def add_noise(source: Path, out: Path, *, like: Path | None = None, relative: float | None = None, seed: int = 0) -> Path:
    """Add Gaussian noise to every tensor. Its Frobenius norm, per tensor, is |like - source| (the size of a real update, in no
    direction at all) or `relative` times |source|; met within a percent or so after rounding to the source's dtype, unless the norm
    asked for is smaller than one step of that dtype."""
    if (like is None) == (relative is None):
        raise UsageError("Give the noise one size: `like` (a later version of the base) or `relative` (a share of each tensor's norm).")
    others = folder_tensors(like) if like is not None else {}
    wrong = [n for n, t in folder_tensors(source).items() if like is not None and (n not in others or others[n].shape != t.shape)]
    if wrong:
        raise UsageError(f"The noise cannot be as large as a change of {wrong[0]}: the two models do not both hold it in one shape.")

    def change(info: TensorInfo) -> npt.NDArray[np.generic]:
        import numpy as np

        values = load(info)
        size = float(np.linalg.norm(load(others[info.name]) - values) if like is not None else (relative or 0.0) * np.linalg.norm(values))
        noise = _random(info.name, seed).standard_normal(info.shape, dtype=np.float32)
        return _with_noise(values, noise, size, info)

    return rewrite_base(source, out, change)


def _with_noise(values: npt.NDArray[np.float32], noise: npt.NDArray[np.float32], size: float, info: TensorInfo) -> npt.NDArray[np.generic]:
    """Rounding to the stored dtype swallows small steps and adds its own; so the noise is scaled until what remains has the size."""
    import numpy as np

    from workbench.bases.tensors import floats

    drawn = float(np.linalg.norm(noise))
    if not size or not drawn:
        return encode(values, info.dtype)
    factor = size / drawn
    for _ in range(_ROUNDS):
        stored = encode(values + np.float32(factor) * noise, info.dtype)
        seen = float(np.linalg.norm(floats(stored.reshape(-1).view(np.uint8), info.dtype).reshape(values.shape) - values))
        if not seen or abs(seen / size - 1) < _CLOSE:
            break
        factor *= size / seen
    return stored


def random_adapter(source_adapter: Path, out: Path, *, seed: int = 0) -> Path:
    """An adapter with random factors whose updates are as large as the source's: |s B' A'| = |s B A| for every module."""
    tensors = adapter_tensors(source_adapter)
    made: dict[str, npt.NDArray[np.float32]] = {}

    def change(info: TensorInfo) -> npt.NDArray[np.generic]:
        if info.name not in made:
            made.update(_random_pair(info, tensors, seed))
        return encode(made.pop(info.name), info.dtype)

    return rewrite_adapter(source_adapter, out, change)


def _random_pair(info: TensorInfo, tensors: dict[str, TensorInfo], seed: int) -> dict[str, npt.NDArray[np.float32]]:
    """Both factors of the module that `info` belongs to, by the names of their tensors."""
    import numpy as np

    for first, second in ((f".{a}", f".{b}") for a, b in FACTORS):
        stem = info.name.removesuffix(first).removesuffix(second)
        if stem == info.name:
            continue
        if not {stem + first, stem + second} <= tensors.keys():
            raise IntegrityError(f"{stem} has only one of its two factors.", hint="Save the adapter again with PEFT.")
        a, b = (load(tensors[stem + end]) for end in (first, second))
        new_a, new_b = (_random(stem + end, seed).standard_normal(v.shape, dtype=np.float32) for end, v in ((first, a), (second, b)))
        new_a *= np.float32(np.linalg.norm(a) / np.linalg.norm(new_a))
        return {stem + first: new_a, stem + second: new_b * np.float32(product_norm(a, b) / product_norm(new_a, new_b))}
    raise UsageError(
        f"{info.name} is no factor of plain LoRA, so no random adapter can be as large.",
        hint="Use an adapter without DoRA or modules_to_save.",
    )


def independent(source: Path, out: Path, *, seed: int = 0) -> Path:
    """A freshly initialised model of the same shapes: normal weights of the configuration's `initializer_range` (0.02 without one),
    norms that do nothing, biases of zero."""
    import numpy as np

    config = read_json(source / "config.json")
    spread = np.float32(config.get("initializer_range") or 0.02)
    neutral = 0.0 if str(config.get("model_type")).startswith("gemma") else 1.0  # Gemma's norms multiply by 1 + weight

    def change(info: TensorInfo) -> npt.NDArray[np.generic]:
        if len(info.shape) < 2:
            value = neutral if group_of(info.name) == "norms" and info.name.endswith(".weight") else 0.0
            return encode(np.full(info.shape, value, np.float32), info.dtype)
        return encode(_random(info.name, seed).standard_normal(info.shape, dtype=np.float32) * spread, info.dtype)

    return rewrite_base(source, out, change)


def _random(name: str, seed: int) -> np.random.Generator:
    """One stream per tensor, so that the values do not depend on the order of the file."""
    import numpy as np

    return np.random.default_rng([seed, zlib.crc32(name.encode())])
