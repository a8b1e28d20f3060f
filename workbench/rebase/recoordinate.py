"""The same model in other coordinates: same configuration, same shapes, same function, other weights.

A Llama-like model computes the same thing after (Ainsworth, Hayase and Srinivasa 2023, arXiv 2209.04836, for permutations; the
signs are possible because RMSNorm takes no mean):

    residual stream   a signed permutation shared by all layers; RMSNorm weights move without sign
    MLP               any order of the neurons of a layer
    key-value heads   any order of the groups, their query heads with them, and of the query heads inside a group
    values            a signed permutation inside each value head, shared by the query heads that read it

Query and key dimensions stay: rotary positions tie each to its frequency. Every step is a move or a flipped sign bit, so the stored
numbers are the same ones; a forward pass differs by the rounding of sums in another order. A LoRA update follows by P_out B and
A P_in^T.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.bases.files import read_json
from workbench.bases.tensors import FLOAT_DTYPES, TensorInfo, folder_tensors, raw_pieces
from workbench.errors import UsageError
from workbench.rebase.writing import rewrite_adapter, rewrite_base

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Coordinates", "Heads", "Move"]

# Models with RMSNorm, gated MLP and rotary positions under these names. Cohere's names are the same and its norm takes the mean.
_KNOWN = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3"})
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_PEFT = "base_model.model."
_SIGN = {1: 0x80, 2: 0x8000, 4: 0x8000_0000, 8: 0x8000_0000_0000_0000}


@dataclass(frozen=True)
class Move:
    """new[i] = old[take[i]], negated where flip[i]; both of the length of the axis."""

    take: npt.NDArray[np.intp]
    flip: npt.NDArray[np.bool_]

    @property
    def unsigned(self) -> Move:
        """The same move without its signs, for norm weights."""
        return Move(self.take, self.flip & False)


@dataclass(frozen=True)
class Heads:
    """How attention is cut up."""

    query: int
    groups: int  # key-value heads
    size: int  # of one head

    @classmethod
    def of(cls, folder: Path) -> Heads:
        config = read_json(folder / "config.json")
        if config.get("model_type") not in _KNOWN:
            raise UsageError(
                f"A model of type {config.get('model_type')!r} cannot be written in other coordinates.",
                hint=f"Known: {', '.join(sorted(_KNOWN))}.",
            )
        query = int(config["num_attention_heads"])
        return cls(query, int(config.get("num_key_value_heads") or query), int(config.get("head_dim") or config["hidden_size"] // query))


@dataclass(frozen=True)
class _Layer:
    """The moves inside one layer, by the axis they act on."""

    neurons: Move
    queries: Move
    keys: Move
    values: Move
    mixed: Move  # columns of o_proj: values as the query heads read them


class Coordinates:
    """One seeded choice of new coordinates for the model in a folder."""

    def __init__(self, residual: Move, layers: dict[int, _Layer], heads: Heads) -> None:
        self.residual = residual
        self.heads = heads
        self._layers = layers

    @classmethod
    def draw(cls, folder: Path, seed: int) -> Coordinates:
        """New coordinates for the model in `folder`. Raises `UsageError` naming what it does not know: the kind of model or a tensor."""
        import numpy as np

        heads, tensors = Heads.of(folder), folder_tensors(folder)
        rng = np.random.default_rng(seed)
        width = tensors["model.embed_tokens.weight"].shape[1] if "model.embed_tokens.weight" in tensors else 0
        gates = {int(m[1]): t.shape[0] for n, t in tensors.items() if (m := _LAYER.fullmatch(n)) and m[2] == "mlp.gate_proj.weight"}
        drawn = cls(_signed(rng, width), {n: _layer(rng, gates[n], heads) for n in sorted(gates)}, heads)
        for info in tensors.values():
            drawn._moves(info.name, info.shape)
        return drawn

    def write_base(self, source: Path, out: Path) -> Path:
        """The base in these coordinates, as a plain model folder with one weight file."""
        return rewrite_base(source, out, lambda info: _moved(info, *self._moves(info.name, info.shape)))

    def write_adapter(self, source: Path, out: Path) -> Path:
        """A PEFT adapter of the base, as it must be on the base in these coordinates."""
        return rewrite_adapter(source, out, lambda info: _moved(info, *self._factor_moves(info)))

    def _moves(self, name: str, shape: tuple[int, ...]) -> tuple[Move | None, Move | None]:
        """What happens to the first and the second axis of a base's tensor."""
        moves = self._known(name, shape)
        if moves is not None and all(m is None or (axis < len(shape) and m.take.size == shape[axis]) for axis, m in enumerate(moves)):
            return moves
        what = "is not known here" if moves is None else f"has the unexpected shape {shape}"
        raise UsageError(
            f"Tensor {name} {what}, so this model cannot be written in other coordinates.", hint="Only Llama-like models can be."
        )

    def _known(self, name: str, shape: tuple[int, ...]) -> tuple[Move | None, Move | None] | None:
        if name in {"model.embed_tokens.weight", "lm_head.weight"}:
            return None, self.residual
        if name == "model.norm.weight":
            return self.residual.unsigned, None
        found = _LAYER.fullmatch(name)
        layer = self._layers.get(int(found[1])) if found else None
        if not found or layer is None:
            return None
        module, _, part = found[2].rpartition(".")
        if module in {"input_layernorm", "post_attention_layernorm"}:
            return (self.residual.unsigned, None) if part == "weight" else None
        if module in {"self_attn.q_norm", "self_attn.k_norm"}:  # shared by all heads, along dimensions that stay
            return (None, None) if shape == (self.heads.size,) and part == "weight" else None
        ends = self._ends(layer).get(module)
        if ends is None or part not in {"weight", "bias"}:
            return None
        return ends if part == "weight" else (ends[0], None)

    def _ends(self, layer: _Layer) -> dict[str, tuple[Move, Move]]:
        """Output and input coordinates of each linear module."""
        flow = self.residual
        return {
            "self_attn.q_proj": (layer.queries, flow),
            "self_attn.k_proj": (layer.keys, flow),
            "self_attn.v_proj": (layer.values, flow),
            "self_attn.o_proj": (flow, layer.mixed),
            "mlp.gate_proj": (layer.neurons, flow),
            "mlp.up_proj": (layer.neurons, flow),
            "mlp.down_proj": (flow, layer.neurons),
        }

    def _factor_moves(self, info: TensorInfo) -> tuple[Move | None, Move | None]:
        name = info.name.removeprefix(_PEFT)
        for ending in (".lora_A.weight", ".lora_B.weight", ".lora_B.bias", ".lora_magnitude_vector"):
            if name.endswith(ending):
                layer = _LAYER.fullmatch(name.removesuffix(ending))
                known = self._ends(self._layers[int(layer[1])]).get(layer[2]) if layer and int(layer[1]) in self._layers else None
                if known is None:
                    raise UsageError(f"Tensor {info.name} belongs to no module that is known here.", hint="Only Llama-like models can be.")
                if ending == ".lora_magnitude_vector":
                    return known[0].unsigned, None
                return (None, known[1]) if "lora_A" in ending else (known[0], None)
        return self._moves(name, info.shape)  # modules_to_save hold weights of the base in full


def _signed(rng: np.random.Generator, size: int) -> Move:
    return Move(rng.permutation(size), rng.random(size) < 0.5)


def _layer(rng: np.random.Generator, neurons: int, heads: Heads) -> _Layer:
    import numpy as np

    size, share = heads.size, heads.query // heads.groups
    order = rng.permutation(heads.groups)
    query = np.concatenate([g * share + rng.permutation(share) for g in order])  # old query head at each new place
    inner = [_signed(rng, size) for _ in order]
    steady = np.arange(size)
    return _Layer(
        neurons=Move(rng.permutation(neurons), np.zeros(neurons, bool)),
        queries=_plain(np.concatenate([h * size + steady for h in query])),
        keys=_plain(np.concatenate([g * size + steady for g in order])),
        values=Move(
            np.concatenate([g * size + v.take for g, v in zip(order, inner, strict=True)]), np.concatenate([v.flip for v in inner])
        ),
        mixed=Move(
            np.concatenate([h * size + inner[place // share].take for place, h in enumerate(query)]),
            np.concatenate([inner[place // share].flip for place in range(heads.query)]),
        ),
    )


def _plain(take: npt.NDArray[np.intp]) -> Move:
    import numpy as np

    return Move(take, np.zeros(take.size, bool))


def _moved(info: TensorInfo, rows: Move | None, columns: Move | None) -> npt.NDArray[np.generic]:
    """The tensor's own numbers in new places, as unsigned integers of their width; sign bits flipped where a move says so."""
    import numpy as np

    if info.dtype not in FLOAT_DTYPES:
        raise UsageError(f"Tensor {info.name} holds {info.dtype}, not floats.", hint="Convert the base to bfloat16 first.")
    width = info.nbytes // max(info.elements, 1)
    kind = np.dtype(f"<u{width}")
    values = np.concatenate(list(raw_pieces(info, 1 << 24))).view(kind).reshape(info.shape)
    top = kind.type(_SIGN[width])
    if rows is not None:
        values = values[rows.take]
        values ^= (rows.flip * top).astype(kind).reshape(-1, *[1] * (values.ndim - 1))
    if columns is not None:
        values = values[:, columns.take]
        values ^= (columns.flip * top).astype(kind)
    return values
