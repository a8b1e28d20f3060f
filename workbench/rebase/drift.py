"""How far the base moved under each adapted module, and how much of that the adapter sees: one pass over both bases' weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.bases.stream import pairs, refuse_not_finite
from workbench.bases.tensors import TensorInfo
from workbench.rebase.factors import Factors, Module
from workbench.rebase.result import ModuleDrift

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Sums", "pair_sums", "module_drift", "total", "unmoved"]


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
    def ratio(self) -> float | None:
        return _root(self.drift, self.update)

    @property
    def input(self) -> float | None:
        return _root(self.drift_in, self.weight_in)

    @property
    def output(self) -> float | None:
        return _root(self.drift_out, self.weight_out)

    @property
    def alignment(self) -> float | None:
        """None as well where one of the two is zero and has no direction."""
        if self.along is None or not self.update or not self.drift:
            return None
        return float(self.along / (self.drift * self.update) ** 0.5)


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


def module_drift(module: Module, sums: Sums) -> ModuleDrift:
    """The record of one module."""
    shares = sums.relative, sums.ratio, sums.input, sums.output, sums.alignment
    return ModuleDrift(module.name, module.group, module.layer, *shares, weight=sums.weight**0.5)


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
