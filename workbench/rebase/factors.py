"""The update of a LoRA adapter, module by module, without ever building it: dW = scale * B A as the two factors and small products.

Names and scales follow PEFT (https://huggingface.co/docs/peft/package_reference/lora): scale = alpha / r, or alpha / sqrt(r) with
`use_rslora`; `alpha_pattern` gives single modules another alpha, and a module's rank is that of its factors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.bases.diff import group_of
from workbench.bases.files import read_json
from workbench.bases.tensors import TensorInfo
from workbench.errors import IntegrityError
from workbench.rebase.controls import product_norm
from workbench.rebase.writing import ADAPTER_CONFIG, adapter_tensors, load

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from workbench.bases.layout import Layout, Part

__all__ = ["Factors", "Module", "modules"]

_PREFIX = "base_model.model."
_PAIRS = {".lora_A.weight": ".lora_B.weight", ".lora_embedding_A": ".lora_embedding_B"}
_LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class Factors:
    """The update of one stored matrix W (rows x columns): dW = left @ right, scale included."""

    left: npt.NDArray[np.float32]  # (rows, r)
    right: npt.NDArray[np.float32]  # (r, columns)
    left_basis: npt.NDArray[np.float32]  # (rows, rank): orthonormal, the directions that left spans
    right_basis: npt.NDArray[np.float32]  # (columns, rank)
    back: npt.NDArray[np.float32]  # (rank, r) with left = left_basis @ back
    norm: float  # |dW|


@dataclass(frozen=True)
class Module:
    """One adapted module; its factors are read when they are needed."""

    name: str  # model.layers.3.mlp.up_proj
    scale: float
    first: TensorInfo  # lora_A (r, in)
    second: TensorInfo  # lora_B (out, r)
    transposed: bool  # W is stored as (in, out): Conv1D and embeddings
    part: Part | None = None  # of an expert's matrix; lora_A is then (experts * r, in), lora_B (out, r * experts)
    experts: int = 1

    @property
    def weight(self) -> str:
        """The tensor of the base it adds to."""
        return self.part.name if self.part else f"{self.name}.weight"

    @property
    def group(self) -> str:
        found = group_of(self.name)
        return found if found in {"attention", "mlp", "embeddings"} else "other"

    @property
    def layer(self) -> int | None:
        found = _LAYER.search(self.name)
        return int(found[1]) if found else None

    @property
    def shape(self) -> tuple[int, int]:
        """Of the base's tensor."""
        sizes = self.part.end - self.part.start if self.part else self.second.shape[0], self.first.shape[1]
        return sizes[::-1] if self.transposed else sizes

    def read(self) -> Factors:
        """Load both factors, at most a few megabytes. Raises `IntegrityError` for values that are not finite."""
        import numpy as np

        a, b = load(self.first), load(self.second)
        for info, values in ((self.first, a), (self.second, b)):
            if not np.isfinite(values).all():
                raise IntegrityError(f"Tensor {info.name} of {info.file.name} holds values that are not finite.", hint="Train it again.")
        if self.part:
            a = a.reshape(self.experts, -1, a.shape[1])[self.part.expert]
            b = b.reshape(len(b), -1, self.experts)[self.part.start : self.part.end, :, self.part.expert]
        left, right = (a.T, b.T) if self.transposed else (b, a)
        left = np.ascontiguousarray(left * np.float32(self.scale))
        left_basis, right_basis = _basis(left), _basis(right.T)
        return Factors(left, right, left_basis, right_basis, left_basis.T @ left, product_norm(right, left))


def modules(adapter: Path, layout: Layout | None = None) -> list[Module]:
    """Every module that a PEFT folder adapts, in the order of its file. Raises `IntegrityError` for none, or one with half its factors.

    With the layout of its base the experts of `target_parameters` are taken apart into the tensors they are made of; those that are
    one tensor on disk are left out.
    """
    tensors, config = adapter_tensors(adapter), read_json(adapter / ADAPTER_CONFIG)
    experts = layout.targeted(config.get("target_parameters") or []) if layout else {}
    found = []
    for key, info in tensors.items():
        ending = next((e for e in _PAIRS if key.endswith(e)), None)
        if ending is None:
            continue
        name = key.removesuffix(ending).removeprefix(_PREFIX)
        second = tensors.get(key.removesuffix(ending) + _PAIRS[ending])
        if second is None or len(info.shape) != 2 or len(second.shape) != 2 or info.shape[0] != second.shape[1]:
            raise IntegrityError(f"The LoRA factors of {name} do not multiply.", hint="Save the adapter again with PEFT's save_pretrained.")
        parameter = experts.get(name)
        if layout and parameter and parameter.experts > 1:
            scale = _scale(config, parameter.name, info.shape[0] // parameter.experts)
            found += [Module(part.name, scale, info, second, False, part, parameter.experts) for part in layout.parts(parameter)]
            continue
        transposed = bool(config.get("fan_in_fan_out")) or ending == ".lora_embedding_A"
        known = layout.parameters.get(f"{name}.weight") if layout else None
        found.append(Module(name, _scale(config, name, info.shape[0]), info, second, transposed or bool(known and known.turned)))
    if not found and not experts:
        raise IntegrityError(f"{adapter.name} holds no LoRA factors.", hint="Only LoRA adapters can be compared with what a base did.")
    return found


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    alphas = config.get("alpha_pattern") or {}
    # Keys are names, as the workbench publishes them; PEFT takes the first that is the end of the module's path.
    matching = [alphas[key] for key in alphas if module == key or module.endswith(f".{key}")]
    alpha = float(matching[0] if matching else config.get("lora_alpha", 8))
    return alpha / rank**0.5 if config.get("use_rslora") else alpha / rank


def _basis(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Orthonormal columns that span those of `values` (size, r); none for a matrix of zeros."""
    import numpy as np

    # From the r x r Gram matrix in double precision: a tenth of the time of a singular value decomposition.
    wide = values.astype(np.float64)
    squares, vectors = np.linalg.eigh(wide.T @ wide)
    kept = squares > 1e-10 * max(float(squares[-1]), 1e-60)
    basis: npt.NDArray[np.float32] = np.ascontiguousarray(wide @ (vectors[:, kept] / np.sqrt(squares[kept])), np.float32)
    return basis
