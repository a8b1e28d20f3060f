"""Write a model or adapter folder again with other values in the same tensors: one tensor in memory at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.bases.files import place, wanted
from workbench.bases.tensors import FLOAT_DTYPES, TensorInfo, floats, folder_tensors, raw_pieces, read_header
from workbench.errors import Conflict, NotFound, UsageError
from workbench.peft_layout import WEIGHTS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = [
    "adapter_tensors",
    "encode",
    "exact",
    "load",
    "rewrite_adapter",
    "rewrite_base",
    "write_tensors",
]

# What an adapter folder holds about its own base or its own results: untrue of an adapter with other weights.
_ABOUT_ITSELF = frozenset({"manifest.json", "base.lock.json", "README.md", "recipe.yaml"})

Change = Callable[[TensorInfo], "npt.NDArray[np.generic]"]


def adapter_tensors(adapter: Path) -> dict[str, TensorInfo]:
    """The tensors of a PEFT folder by name. Raises `NotFound` without weights, `IntegrityError` for a broken file."""
    file = adapter / WEIGHTS
    if not file.is_file():
        raise NotFound(f"{adapter.name} holds no {WEIGHTS}.", hint="An adapter is a folder that PEFT's save_pretrained wrote.")
    return read_header(file)


def load(info: TensorInfo) -> npt.NDArray[np.float32]:
    """A whole float tensor in its shape as float32."""
    import numpy as np

    values = np.empty(info.elements, np.float32)
    at = 0
    for raw in raw_pieces(info, 1 << 20):
        piece = floats(raw, info.dtype)
        values[at : at + piece.size] = piece
        at += piece.size
    return values.reshape(info.shape)


def encode(values: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[np.generic]:
    """Float32 values in a safetensors dtype, rounded to nearest, ties to even. Raises `UsageError` for 8-bit floats and integers."""
    import numpy as np

    if dtype == "BF16":
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype("<u2")
    kind = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}.get(dtype)
    if kind is None:
        raise UsageError(f"Weights of type {dtype} cannot be written.", hint="Controls are made of models in bfloat16, float16 or float32.")
    return values.astype(kind)


def rewrite_base(source: Path, out: Path, change: Change) -> Path:
    """Write the base `source` to `out` as one weight file, every float tensor replaced by `change`'s values (in its dtype and shape);
    configuration, tokenizer and template are copied. Raises `Conflict` when `out` holds weights already."""
    out.mkdir(parents=True, exist_ok=True)
    write_tensors(folder_tensors(source), out / "model.safetensors", change)
    for file in sorted(source.iterdir()):
        if file.is_file() and wanted(file.name) and not file.name.endswith((".safetensors", ".safetensors.index.json")):
            place(file, out / file.name, link=False)
    return out


def rewrite_adapter(source: Path, out: Path, change: Change) -> Path:
    """The same for a PEFT folder. Its manifest, lock and evidence stay behind: they speak of other weights."""
    tensors = adapter_tensors(source)
    out.mkdir(parents=True, exist_ok=True)
    write_tensors(tensors, out / WEIGHTS, change)
    for file in sorted(source.iterdir()):
        if file.is_file() and file.name != WEIGHTS and file.name not in _ABOUT_ITSELF:
            place(file, out / file.name, link=False)
    return out


def exact(info: TensorInfo) -> npt.NDArray[np.generic]:
    """The `Change` that changes nothing."""
    return encode(load(info), info.dtype)


def write_tensors(tensors: Mapping[str, TensorInfo], target: Path, change: Change) -> None:
    """Write those tensors, each with `change`'s values, as the new .safetensors file `target`. Raises `Conflict` when it exists."""
    if target.exists():
        raise Conflict(f"{target} exists already.", hint="Choose an empty folder.")
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, info in tensors.items():
        header[name] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": [at, at + info.nbytes]}
        at += info.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data start on a multiple of eight, as the format's own writer has it
    partial = target.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for info in tensors.values():
            if info.dtype in FLOAT_DTYPES:
                file.write(_bytes(change(info), info).data)
            else:
                for raw in raw_pieces(info, 1 << 20):
                    file.write(raw.data)
    os.replace(partial, target)


def _bytes(values: npt.NDArray[np.generic], info: TensorInfo) -> npt.NDArray[np.uint8]:
    import numpy as np

    if values.nbytes != info.nbytes:
        raise AssertionError(f"{info.name}: {values.nbytes} bytes instead of {info.nbytes}")
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)
