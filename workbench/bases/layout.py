"""Under which names and in which shapes a base lies in memory: what adapters name. Known here and nowhere else.

The names in a checkpoint are often those in memory, and then nothing has to be asked. Where they are not, `hf.layout` builds the
model without its weights in a child process, once per base: what it says is kept beside the home's other caches.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeVar

from workbench import foreign
from workbench.cache import remembered
from workbench.errors import IntegrityError, LayoutMissing
from workbench.foreign import GIB, Limits

if TYPE_CHECKING:
    from workbench.bases.lock import Lock

__all__ = ["Layout", "Parameter", "Part"]

T = TypeVar("T")
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Parameter:
    """One parameter of the model in memory."""

    name: str  # model.layers.0.mlp.experts.gate_up_proj
    shape: Shape
    turned: bool = False  # a product of LoRA factors (out, in) is added transposed: Conv1D, embeddings, experts as (in, out)
    tensors: tuple[str, ...] = ()  # the tensors on disk that it is made of

    @property
    def experts(self) -> int:
        """How many matrices stand in it, one behind the other."""
        return self.shape[0] if len(self.shape) == 3 else 1

    @property
    def added(self) -> tuple[int, int]:
        """(out, in) of the product of LoRA factors that is added to each of its matrices."""
        rows, columns = self.shape[-2:]
        return (columns, rows) if self.turned else (rows, columns)


@dataclass(frozen=True)
class Part:
    """One tensor on disk of a parameter that holds all experts: rows `start` to `end` of the matrix of `expert`."""

    name: str  # model.layers.0.mlp.experts.gate_up_proj.3.0: the parameter, the expert, the first row
    tensor: str
    expert: int
    start: int
    end: int


class Layout:
    """What adapters find on the base of `lock`."""

    def __init__(self, lock: Lock) -> None:
        self.lock = lock

    def weight(self, module: str, *, like: Shape | None = None) -> Parameter | None:
        """The matrix of the module at that path; None where the base has none there.

        A matrix stored under the module's own name, in the shape `like` where one is given, is taken as it is stored. Any other
        is looked up in memory, where it is also known which way round it stands.
        """
        name = f"{module}.weight"
        stored = self.lock.tensors.get(name)
        if stored is not None and len(stored.shape) == 2 and like in (None, stored.shape):
            return Parameter(name, stored.shape, tensors=(name,))
        parameter = self.parameters.get(name) or (Parameter(name, stored.shape, tensors=(name,)) if stored is not None else None)
        return parameter if parameter is not None and len(parameter.shape) == 2 else None

    def norm(self, parameter: Parameter) -> float:
        """Frobenius norm of a parameter; 0 where the lock knows none, as of a quantised one."""
        return float(sum((self.lock.tensors[name].norm or 0.0) ** 2 for name in parameter.tensors) ** 0.5)

    def stored(self, name: str) -> str:
        """The tensor on disk that the parameter `name` is, where it is one; else the name itself."""
        if name in self.lock.tensors:
            return name
        parameter = self.parameters.get(name)
        return parameter.tensors[0] if parameter is not None and len(parameter.tensors) == 1 else name

    def named(self, tensors: Mapping[str, T]) -> dict[str, T]:
        """What is known by names on disk, by those in memory and of `parts`. What is neither keeps its name."""
        known: dict[str, str] = {}
        for parameter in reversed(self.parameters.values()):
            if len(parameter.tensors) == 1:
                known[parameter.tensors[0]] = parameter.name
            elif parameter.experts > 1:
                known |= {part.tensor: part.name for part in self.parts(parameter)}
        return {known.get(name, name): value for name, value in tensors.items()}

    def parts(self, parameter: Parameter) -> list[Part]:
        """The tensors that a parameter of experts is made of: its experts one by one, in each the matrices that stand below each
        other in it. [] where they do not stand so, or are one tensor on disk."""
        parts: list[Part] = []
        ends: dict[int, int] = {}
        for name in sorted(parameter.tensors, key=lambda name: [int(n) if n.isdigit() else n for n in re.split(r"(\d+)", name)]):
            expert, shape = re.findall(r"\.(\d+)\.", name)[-1:], self.lock.tensors[name].shape
            if len(shape) != 2 or not expert or shape[1] != parameter.added[1]:
                return []
            start = ends.get(int(expert[0]), 0)
            ends[int(expert[0])] = start + shape[0]
            parts.append(Part(f"{parameter.name}.{expert[0]}.{start}", name, int(expert[0]), start, start + shape[0]))
        return parts if ends == dict.fromkeys(range(parameter.experts), parameter.added[0]) and not parameter.turned else []

    def modules(self) -> set[str]:
        """Paths of the modules with a matrix for a weight; as they are stored, where transformers does not know the model."""
        return _with_matrix(self.parameters) or self.stored_modules()

    def stored_modules(self) -> set[str]:
        """The same by the names of the checkpoint."""
        return _with_matrix(self.lock.tensors)

    def ask(self) -> None:
        """Have transformers say it now, so that a child that may not ask finds it."""
        _ = self._known

    @property
    def padded_because(self) -> str:
        """Why rows for this model are padded instead of packed, as far as its kind tells; empty where it speaks for packing.

        What is done in the end, `hf.proof` decides on the rows and the weights of each run.
        """
        if not self._known:
            return "transformers does not know this kind of model"
        if self._known["carries"]:
            return "some of its layers hand a state on from token to token, which would run on from row to row"
        return "" if self._known["attends"] else "its attention does not go through transformers' attention interface"

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """Every parameter by its name in memory; {} for a model that transformers does not know."""
        rows = self._known.get("parameters", [])
        return {r["name"]: Parameter(r["name"], self._shape(r), r["turned"], tuple(r["tensors"])) for r in rows}

    @cached_property
    def _known(self) -> dict[str, Any]:
        """What `hf.layout` says, kept for the next time."""

        def ask() -> dict[str, Any]:
            if foreign.inside():
                raise LayoutMissing("It is not known how this base lies in memory.", hint="That is asked from outside: try again.")
            return _CHILD.run(_lay_out, self.lock.config, sorted(self.lock.tensors))

        known: dict[str, Any] = remembered("layouts", self.lock.weights_sha256, self.lock.config_sha256, version("transformers"), make=ask)
        return known

    def _shape(self, row: dict[str, Any]) -> Shape:
        """Of what is one tensor on disk, the size it has there, whatever the configuration says."""
        stored = self.lock.tensors[row["tensors"][0]].shape if len(row["tensors"]) == 1 else ()
        return stored if len(stored) == len(row["shape"]) else tuple(row["shape"])


def _with_matrix(tensors: Mapping[str, Any]) -> set[str]:
    return {name.removesuffix(".weight") for name, tensor in tensors.items() if name.endswith(".weight") and len(tensor.shape) == 2}


_CHILD = Limits(
    "config.json",
    memory=4 * GIB,
    seconds=120,
    preload=("workbench.hf.layout",),
    error=IntegrityError,
    hint="Look at it: no model of these sizes is known.",
)


def _lay_out(config: dict[str, Any], tensors: list[str]) -> dict[str, Any]:
    from workbench.hf.layout import lay_out

    return lay_out(config, tensors)
