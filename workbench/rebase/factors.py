"""The update of a LoRA adapter, module by module, and how far the base moved under it.

The update is never built: dW = scale * B A is kept as the two factors and small products. How they are named, shaped and scaled is in
`peft_layout`. What the base did is summed up in one pass over both bases' weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.bases.files import read_json
from workbench.bases.stream import pairs, refuse_not_finite
from workbench.bases.tensors import TensorInfo
from workbench.errors import IntegrityError
from workbench.peft_layout import CONFIG, EMBEDDING_A, Scaling, of_expert, sort, targeted
from workbench.rebase.roles import group_of, layer_of
from workbench.rebase.writing import adapter_tensors, load

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from workbench.bases.layout import Layout, Part

__all__ = ["Factors", "Module", "Sums", "modules", "pair_sums", "product_norm", "total", "unmoved"]


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
        group = group_of(self.name)
        return group if group in {"attention", "mlp", "embeddings"} else "other"

    @property
    def layer(self) -> int | None:
        return layer_of(self.name)

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
            a, b = of_expert(a, b, self.part.expert, self.experts)
            b = b[self.part.start : self.part.end]
        left, right = (a.T, b.T) if self.transposed else (b, a)
        left = np.ascontiguousarray(left * np.float32(self.scale))
        left_basis, right_basis = _basis(left), _basis(right.T)
        return Factors(left, right, left_basis, right_basis, left_basis.T @ left, product_norm(right, left))


def modules(adapter: Path, layout: Layout | None = None) -> list[Module]:
    """Every module that a PEFT folder adapts, in the order of its file. Raises `IntegrityError` for none, or one with half its factors.

    With the layout of its base the experts of `target_parameters` are taken apart into the tensors they are made of; those that are
    one tensor on disk are left out.
    """
    config, contents = read_json(adapter / CONFIG), sort(adapter_tensors(adapter))
    scaling, turned = Scaling.of(config), bool(config.get("fan_in_fan_out"))
    experts = targeted(layout, config.get("target_parameters") or []) if layout else {}
    adapted: list[Module] = []
    for path, (a, b) in contents.pairs().items():
        parameter = experts.get(path)
        if layout and parameter and parameter.experts > 1:
            scale = scaling.scale_of(parameter.name)
            adapted += [Module(part.name, scale, a, b, False, part, parameter.experts) for part in layout.parts(parameter)]
            continue
        known = layout.parameters.get(f"{path}.weight") if layout else None
        transposed = turned or EMBEDDING_A in contents.lora[path] or bool(known and known.turned)
        adapted.append(Module(path, scaling.scale_of(path), a, b, transposed))
    if not adapted and not experts:
        raise IntegrityError(f"{adapter.name} holds no LoRA factors.", hint="Only LoRA adapters can be compared with what a base did.")
    return adapted


def product_norm(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> float:
    """|B A| (Frobenius) from the r x r matrices A A^T and B^T B, for a (r, in) and b (out, r)."""
    import numpy as np

    first, second = a.astype(np.float64), b.astype(np.float64)
    return float(np.sqrt(max(np.sum((second.T @ second) * (first @ first.T)), 0.0)))


def _basis(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Orthonormal columns that span those of `values` (size, r); none for a matrix of zeros."""
    import numpy as np

    # From the r x r Gram matrix in double precision: a tenth of the time of a singular value decomposition.
    wide = values.astype(np.float64)
    squares, vectors = np.linalg.eigh(wide.T @ wide)
    kept = squares > 1e-10 * max(float(squares[-1]), 1e-60)
    basis: npt.NDArray[np.float32] = np.ascontiguousarray(wide @ (vectors[:, kept] / np.sqrt(squares[kept])), np.float32)
    return basis


# ---------------------------------------------------------------- what the base did


@dataclass(frozen=True)
class Sums:
    """Sums of squares, with D = W_B - W_A, dW the update, Q the directions its factors span. They add up over modules."""

    weight: float = 0.0  # |W_A|^2
    drift: float = 0.0  # |D|^2
    update: float | None = 0.0  # |dW|^2
    weight_in: float | None = 0.0  # |W_A Q_A|^2
    drift_in: float | None = 0.0
    weight_out: float | None = 0.0  # |Q_B^T W_A|^2
    drift_out: float | None = 0.0
    along: float | None = 0.0  # <D, dW>

    @property
    def relative(self) -> float:
        return _root(self.drift, self.weight) or 0.0

    @property
    def figures(self) -> dict[str, Any]:
        """What the records say of it: `result.Weights` of all modules, `result.ModuleDrift` of one."""
        alignment = None
        if self.along is not None and self.update and self.drift:  # else one of the two is zero and has no direction
            alignment = float(self.along / (self.drift * self.update) ** 0.5)
        return {
            "drift": self.relative,
            "ratio": _root(self.drift, self.update),
            "input": _root(self.drift_in, self.weight_in),
            "output": _root(self.drift_out, self.weight_out),
            "alignment": alignment,
        }


def _root(part: float | None, whole: float | None) -> float | None:
    return float((part / whole) ** 0.5) if part is not None and whole else None


def total(sums: Iterable[Sums]) -> Sums:
    """All modules together; what one of them does not know, the total does not know."""
    every = list(sums)
    added: dict[str, Any] = {}
    for field in dataclasses.fields(Sums):
        values = [getattr(s, field.name) for s in every]
        added[field.name] = None if None in values else sum(values)
    return Sums(**added)


def unmoved(factors_norm: float, weight_norm: float) -> Sums:
    """A module whose bytes did not change: nothing is read."""
    size = weight_norm**2  # stands for every share of the weights as well: zero divided by it stays zero
    return Sums(weight=size, update=factors_norm**2, weight_in=size, weight_out=size)


def pair_sums(before: TensorInfo, after: TensorInfo, factors: Factors) -> Sums:
    """Read one weight matrix of both bases, piece by piece. Raises `IntegrityError` naming a tensor that is not finite."""
    import numpy as np

    weight = drift = weight_in = drift_in = 0.0
    rank, columns = factors.left_basis.shape[1], before.shape[1]
    seen: npt.NDArray[np.float32] = np.zeros((2, rank, columns), np.float32)  # Q_B^T W_A and Q_B^T D
    at = 0
    with np.errstate(over="ignore", invalid="ignore"):
        for x, y in pairs(before, after):
            np.subtract(y, x, out=y)
            weight += _square(x)
            drift += _square(y)
            left = factors.left_basis[at : at + len(x)].T
            seen[0] += left @ x
            seen[1] += left @ y
            weight_in += _square(x @ factors.right_basis)
            drift_in += _square(y @ factors.right_basis)
            at += len(x)
    if not (np.isfinite(drift) and np.isfinite(weight)):
        refuse_not_finite(before, after)
    along = float(np.sum((factors.back.T @ seen[1]) * factors.right, dtype=np.float64))
    return Sums(weight, drift, factors.norm**2, weight_in, drift_in, _square(seen[0]), _square(seen[1]), along)


def _square(values: npt.NDArray[np.float32]) -> float:
    import numpy as np

    flat = values.reshape(-1)
    return float(np.dot(flat, flat))
