"""Read safetensors files without torch: headers checked by us, values streamed in small pieces.

The format: 8 bytes little-endian length, that many bytes of JSON, then the data
(https://huggingface.co/docs/safetensors). The reference parser accepts duplicate names and names such as
`../../x`; both are refused here.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import IntegrityError
from workbench.foreign import read_regular

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = [
    "DTYPE_NAMES",
    "FLOAT_DTYPES",
    "TensorInfo",
    "comparable",
    "floats",
    "folder_tensors",
    "not_finite",
    "raw_pieces",
    "read_header",
    "shard_names",
    "weight_files",
]

_AHEAD = 8 << 20  # bytes asked of the disk before they are needed, so that it works while the processor does
_MAX_HEADER = 16_000_000  # bytes; 100,000 tensors need less
_MAX_TENSORS = 100_000
_MAX_AXES = 16  # of a tensor: the product of a million sizes takes minutes
_MAX_BRACKETS = 400_000  # a tensor has one brace and two brackets; an empty list costs twenty times its two bytes in memory
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,511}")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,200}\.safetensors")
_SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
FLOAT_DTYPES = frozenset({"F8_E4M3", "F8_E5M2", "F16", "BF16", "F32", "F64"})
DTYPE_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3", "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0", "I8": "int8", "U8": "uint8", "I16": "int16", "U16": "uint16", "I32": "int32", "U32": "uint32",
    "I64": "int64", "U64": "uint64", "BOOL": "bool",
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies: `file` bytes [start, start + nbytes), row-major values of `dtype`."""

    name: str
    file: Path
    dtype: str  # as safetensors spells it, such as "BF16"
    shape: tuple[int, ...]
    start: int
    nbytes: int

    @property
    def elements(self) -> int:
        return prod(self.shape)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("it names a tensor twice")
    return entries


def _parse(text: bytes, **how: Any) -> Any:
    if text.count(b"{") + text.count(b"[") > _MAX_BRACKETS:
        raise ValueError("it holds more than a list of tensors")
    return json.loads(text.decode("utf-8"), **how)


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of one .safetensors file, in the order of their data. Raises `IntegrityError`."""
    try:
        return _read_header(path)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        what = str(error) or type(error).__name__
        raise IntegrityError(
            f"{path.name} is not a whole safetensors file: {what}.", hint="Fetch it again; if it stays so, ask whoever published it."
        ) from None


def _read_header(path: Path) -> dict[str, TensorInfo]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or 8 + length > size:
            raise ValueError(f"its header should be {length:,} bytes long but the file has {size:,}")
        if length > _MAX_HEADER:
            raise ValueError(f"its header has {length:,} bytes; {_MAX_HEADER:,} are the most that are read")
        text = file.read(length)
    header = _parse(text, object_pairs_hook=_no_duplicates)
    if not isinstance(header, dict):
        raise ValueError("its header is not a list of tensors")
    header.pop("__metadata__", None)
    if not header or len(header) > _MAX_TENSORS:
        raise ValueError(f"it lists {len(header):,} tensors")
    infos = sorted((_tensor(path, name, entry, 8 + length) for name, entry in header.items()), key=lambda t: (t.start, t.nbytes))
    end = 8 + length
    for info in infos:
        if info.start != end:
            raise ValueError(f"tensor {info.name} starts at byte {info.start:,}, where {end:,} was expected")
        end += info.nbytes
    if end != size:
        raise ValueError(f"its tensors end at byte {end:,} but the file has {size:,}")
    return {info.name: info for info in infos}


def _tensor(path: Path, name: str, entry: Any, data_start: int) -> TensorInfo:
    if not _NAME.fullmatch(name) or ".." in name:
        raise ValueError(f"{name[:80]!r} cannot be the name of a tensor")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in _SIZES:
        raise ValueError(f"tensor {name} has the unknown type {dtype!r}")
    if len(shape) > _MAX_AXES:
        raise ValueError(f"tensor {name} has {len(shape):,} axes")
    numbers = [*shape, *offsets]
    if len(offsets) != 2 or any(type(n) is not int or n < 0 for n in numbers):
        raise ValueError(f"tensor {name} has a shape or place that is no list of whole numbers")
    nbytes = prod(shape) * _SIZES[dtype]
    if offsets[1] - offsets[0] != nbytes:
        raise ValueError(f"tensor {name} of shape {tuple(shape)} needs {nbytes:,} bytes and has {offsets[1] - offsets[0]:,}")
    return TensorInfo(name, path, dtype, tuple(shape), data_start + offsets[0], nbytes)


def shard_names(index: Path) -> list[str]:
    """The weight files that a model.safetensors.index.json names, all beside it. Raises `IntegrityError`."""
    try:
        data = _parse(read_regular(index.resolve(), most=_MAX_HEADER, error=IntegrityError))
        names = sorted(set(data["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise IntegrityError(f"{index.name} is not a weight index.", hint="Fetch the model again.") from None
    for name in names:
        # transformers reads a folder with a file of the second form as a checkpoint of many machines, without its index
        if not isinstance(name, str) or not _FILE.fullmatch(name) or name.startswith("shard-"):
            raise IntegrityError(f"{index.name} points to {str(name)[:80]!r}, which is not a weight file beside it.")
    if not isinstance(data.get("metadata"), dict):
        raise IntegrityError(f"{index.name} has no metadata, without which transformers cannot read it.", hint="Fetch the model again.")
    return names


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a model folder, chosen as transformers does: model.safetensors, else what the index names.

    Raises `IntegrityError` when there are none or some are missing.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        files = [folder / name for name in shard_names(index)]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise IntegrityError(f"Weight files named by {index.name} are missing: {', '.join(missing)}.", hint="Fetch the model again.")
        return files
    hint = "Pickled weights (.bin, .pt) are never loaded; convert them to safetensors first."
    raise IntegrityError(f"{folder.name} has no .safetensors weights.", hint=hint)


def folder_tensors(folder: Path) -> dict[str, TensorInfo]:
    """Every tensor of a model folder by name, over all its weight files. Raises `IntegrityError`."""
    tensors: dict[str, TensorInfo] = {}
    for file in weight_files(folder):
        for name, info in read_header(file).items():
            if name in tensors:
                raise IntegrityError(f"Tensor {name} is in {tensors[name].file.name} and again in {file.name}.")
            tensors[name] = info
    return tensors


def comparable(a: TensorInfo, b: TensorInfo) -> bool:
    """Whether two tensors can be subtracted: of one shape, and floats."""
    return a.shape == b.shape and {a.dtype, b.dtype} <= FLOAT_DTYPES


def not_finite(info: TensorInfo) -> IntegrityError:
    """What is said of a tensor that holds NaN or infinity."""
    what = f"Tensor {info.name} of {info.file.name} holds values that are not finite."
    return IntegrityError(what, hint="These weights are broken; fetch another copy.")


def raw_pieces(info: TensorInfo, elements: int, *, reuse: bool = False) -> Iterator[npt.NDArray[np.uint8]]:
    """The tensor's bytes in pieces of at most `elements` values, copied out of the file; with `reuse` all into the same memory.

    Raises `IntegrityError` for a short file.
    """
    import numpy as np

    step = min(info.nbytes, elements * _SIZES[info.dtype])
    memory, asked, end = np.empty(step, np.uint8), info.start, info.start + info.nbytes
    with info.file.open("rb", buffering=0) as file:
        file.seek(info.start)
        for at in range(info.start, end, step or 1):
            piece = memory[: end - at] if reuse else np.empty(min(step, end - at), np.uint8)
            if at + step + _AHEAD // 2 > asked and hasattr(os, "posix_fadvise"):
                asked = max(asked, at)  # past the tensor's own end too: the next one mostly lies there
                os.posix_fadvise(file.fileno(), asked, _AHEAD, os.POSIX_FADV_WILLNEED)
                asked += _AHEAD
            view, got = piece.data, 0
            while got < piece.size:
                part = file.readinto(view[got:])
                if not part:
                    raise IntegrityError(f"{info.file.name} ended inside tensor {info.name}.", hint="Fetch the model again.")
                got += part
            yield piece


def floats(piece: npt.NDArray[np.uint8], dtype: str, out: npt.NDArray[np.float32] | None = None) -> npt.NDArray[np.float32]:
    """Raw bytes of a float dtype as float32 values (float64 is rounded); in the memory `out`, if given, in half the time."""
    import numpy as np

    size = piece.size // _SIZES[dtype]
    out = np.empty(size, np.float32) if out is None else out[:size]
    if dtype == "BF16":
        bits = out.view(np.uint32)
        np.copyto(bits, piece.view("<u2"))
        np.left_shift(bits, 16, out=bits)
    elif dtype in {"F16", "F32", "F64"}:
        np.copyto(out, piece.view({"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]), casting="same_kind")
    elif dtype in {"F8_E4M3", "F8_E5M2"}:
        np.take(_float8_table(dtype), piece, out=out, mode="clip")
    else:
        raise ValueError(f"{dtype} holds no floats")
    return out


@lru_cache(maxsize=2)
def _float8_table(dtype: str) -> npt.NDArray[np.float32]:
    """All 256 values of an 8-bit float (Micikevicius et al. 2022, arXiv 2209.05433, table 1; E4M3 without infinities)."""
    import numpy as np

    exponent_bits, mantissa_bits, bias = (4, 3, 7) if dtype == "F8_E4M3" else (5, 2, 15)
    code = np.arange(256)
    exponent = (code >> mantissa_bits) & ((1 << exponent_bits) - 1)
    mantissa = (code & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    value = np.where(exponent == 0, mantissa * 2.0 ** (1 - bias), (1 + mantissa) * 2.0 ** (exponent - bias))
    if dtype == "F8_E4M3":
        value[(code & 0x7F) == 0x7F] = np.nan
    else:
        top = exponent == 31
        value[top] = np.where(mantissa[top] == 0, np.inf, np.nan)
    return np.where(code & 0x80, -value, value).astype(np.float32)
