"""The same model in other coordinates: same configuration, same shapes, same function, other weights.

A model whose axes are known (`roles`) computes the same thing after (Ainsworth, Hayase and Srinivasa 2023, arXiv 2209.04836, for
permutations; the signs are possible where the norm takes no mean):

    residual stream   a permutation shared by all layers, signed with RMSNorm; norm weights move without sign
    MLP               any order of the neurons of a layer, or of one expert
    experts           any order of a layer's experts, the rows of its router with them
    key-value heads   any order of the groups, their query heads with them, and of the query heads inside a group
    values            a signed permutation inside each value head, shared by the query heads that read it

Query and key dimensions stay: rotary positions tie each to its frequency. Every step is a move or a flipped sign bit, so the stored
numbers are the same ones; a forward pass differs by the rounding of sums in another order. A LoRA update follows by P_out B and
A P_in^T.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.bases.files import read_json
from workbench.bases.tensors import FLOAT_DTYPES, TensorInfo, folder_tensors, raw_pieces
from workbench.errors import UsageError
from workbench.peft_layout import BIAS, LORA_A, LORA_B, MAGNITUDE, WHOLE, Key
from workbench.rebase.roles import FAMILIES, Family, Place, family_of
from workbench.rebase.writing import rewrite_adapter, rewrite_base

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Coordinates", "Heads", "Move"]

_SIGN = {1: 0x80, 2: 0x8000, 4: 0x8000_0000, 8: 0x8000_0000_0000_0000}
_HINT = "What is known of each family of models is in workbench/rebase/roles.py."
_DRAWN = frozenset("nesx")  # any order will do
_Moves = list["Move | list[Move | None] | None"]  # by axis; of experts in one tensor, one for each


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
    fixed: bool = False  # each keeps its place

    @classmethod
    def of(cls, folder: Path) -> Heads:
        config = read_json(folder / "config.json")
        kind = config.get("model_type")
        family = FAMILIES.get(str(kind))
        if family is None:
            raise UsageError(
                f"A model of type {kind!r} cannot be written in other coordinates.", hint=f"Known: {', '.join(sorted(FAMILIES))}."
            )
        config = config.get("text_config") or config
        query, width = (next((int(config[n]) for n in names if config.get(n)), 0) for names in (_QUERY_HEADS, _WIDTH))
        if not query or not width:
            raise UsageError(f"The config.json of {folder.name} does not say how many heads and dimensions it has.", hint=_HINT)
        groups = int(config.get("num_key_value_heads") or config.get("num_kv_heads") or query)
        if kind == "falcon" and not config.get("new_decoder_architecture"):  # its older two forms, whatever num_kv_heads says
            groups = 1 if config.get("multi_query") else query
        return cls(query, groups, int(config.get("head_dim") or width // query), family.fixed or bool(config.get("alibi")))


_QUERY_HEADS = ("num_attention_heads", "n_head", "num_heads")
_WIDTH = ("hidden_size", "n_embd", "n_embed")


@dataclass(frozen=True)
class Coordinates:
    """One seeded choice of new coordinates for the model in a folder."""

    family: Family
    moves: dict[_Axis, Move]

    @classmethod
    def draw(cls, folder: Path, seed: int) -> Coordinates:
        """New coordinates for the model in `folder`. Raises `UsageError` naming what it does not know: the kind of model or a tensor."""
        import numpy as np

        heads, family, tensors = Heads.of(folder), family_of(folder), folder_tensors(folder)
        assert family is not None
        drawn = cls(family, {})
        places = {name: drawn._place(name) for name in tensors}
        sizes = {axis: size for name, place in places.items() for axis, size in _sizes(place, tensors[name].shape)}
        rng, moves = np.random.default_rng(seed), drawn.moves
        grouped = int(read_json(folder / "config.json").get("n_group") or 1) > 1  # experts are chosen by groups of neighbours
        width = next((size for axis, size in sizes.items() if axis.role == "r"), 0)
        moves[_Axis("r")] = _signed(rng, width) if family.signed else _plain(rng.permutation(width))
        for layer in sorted({place.layer for place in places.values() if place.layer is not None}):
            moves |= {_Axis(role, layer): move for role, move in _attention(rng, heads).items()}
            for axis in sorted(axis for axis in sizes if axis.layer == layer and axis.role in _DRAWN):
                moves[axis] = _plain(np.arange(sizes[axis]) if grouped and axis.role == "x" else rng.permutation(sizes[axis]))
        for info in tensors.values():
            drawn._moves(drawn._source(info, tensors).name, info.shape)
        return drawn

    def write_base(self, source: Path, out: Path) -> Path:
        """The base in these coordinates, as a plain model folder with one weight file."""
        tensors = folder_tensors(source)
        return rewrite_base(source, out, lambda info: _moved(self._source(info, tensors), self._moves(info.name, info.shape)))

    def write_adapter(self, source: Path, out: Path) -> Path:
        """A PEFT adapter of the base, as it must be on the base in these coordinates."""
        return rewrite_adapter(source, out, lambda info: _moved(info, self._factor_moves(info)))

    def _place(self, name: str) -> Place:
        place = self.family.place(name)
        if place is None:
            raise UsageError(f"Tensor {name} is not known here, so this model cannot be written in other coordinates.", hint=_HINT)
        return place

    def _source(self, info: TensorInfo, tensors: Mapping[str, TensorInfo]) -> TensorInfo:
        """The tensor of which this one gets the numbers: that of the expert that takes this one's place."""
        place = self._place(info.name)
        if place.expert is None:
            return info
        order = self._at("x", place).take
        taken = order[place.expert] if place.expert < order.size else place.expert
        source = tensors.get(info.name.replace(f".experts.{place.expert}.", f".experts.{taken}."))
        if source is None or (source.shape, source.dtype) != (info.shape, info.dtype):
            raise UsageError(f"Tensor {info.name} is not one of a row of equal experts.", hint=_HINT)
        return source

    def _moves(self, name: str, shape: tuple[int, ...]) -> _Moves:
        """What happens to each axis of a base's tensor."""
        place, moves = self._place(name), _Moves()
        for role in place.roles if place.roles != (".",) else ():
            stacked = role[0] in "eE" and place.expert is None
            moves.append([self._move(role, place._replace(expert=n)) for n in range(shape[0])] if stacked else self._move(role, place))
        sizes = [{m.take.size for m in (move if isinstance(move, list) else [move]) if m} for move in moves]
        if moves and (len(moves) != len(shape) or any(known - {size} for known, size in zip(sizes, shape, strict=True))):
            raise UsageError(
                f"Tensor {name} has the unexpected shape {shape}, so this model cannot be written in other coordinates.", hint=_HINT
            )
        return moves

    def _move(self, role: str, place: Place) -> Move | None:
        """The move of one axis: of several parts where they share it."""
        if role == ".":
            return None
        moves = [self._at("r", place).unsigned] if role == "w" else [self._at(letter, place) for letter in role[::2]]
        return moves[0] if len(moves) == 1 else _joined(moves, alternating="~" in role)

    def _at(self, letter: str, place: Place) -> Move:
        move = self.moves.get(_axis(letter, place))
        if move is None:
            raise UsageError(f"The model has no {place.key} in layer {place.layer} that is known here.", hint=_HINT)
        return move

    def _factor_moves(self, info: TensorInfo) -> _Moves:
        path, part, _ = Key.of(info.name)
        if part == WHOLE:
            return self._moves(path, info.shape)  # modules_to_save hold weights of the base in full
        ends, place = self.family.ends_of(path), self.family.place(f"{path}.weight")
        if ends is None or place is None or part not in {LORA_A, LORA_B, BIAS, MAGNITUDE}:
            raise UsageError(f"Tensor {info.name} belongs to no module that is known here.", hint=_HINT)
        out, into = (self._move(role, place) for role in ends)
        if part == MAGNITUDE:
            return [out and out.unsigned]
        return [None, into] if part == LORA_A else [out, *[None] * (part == LORA_B)]


@dataclass(frozen=True, order=True)
class _Axis:
    """What shares one move: the residual stream, or a role inside a layer, neurons of an expert by its number."""

    role: str
    layer: int = -1
    expert: int = -1


def _axis(letter: str, place: Place) -> _Axis:
    role = letter.lower()
    if role == "r":
        return _Axis("r")
    return _Axis(role, -1 if place.layer is None else place.layer, -1 if role != "e" or place.expert is None else place.expert)


def _sizes(place: Place, shape: tuple[int, ...]) -> list[tuple[_Axis, int]]:
    """How long the residual stream is and how many neurons and experts there are, as far as this tensor tells."""
    every = [place._replace(expert=n) for n in range(shape[0])] if place.expert is None and place.roles[0] == "x" else [place]
    known = [(role, size) for role, size in zip(place.roles, shape, strict=False) if role[0].lower() in _DRAWN | {"r"}]
    return [(_axis(role[0], each), size // len(role[::2])) for role, size in known for each in every]


def _signed(rng: np.random.Generator, size: int) -> Move:
    return Move(rng.permutation(size), rng.random(size) < 0.5)


def _attention(rng: np.random.Generator, heads: Heads) -> dict[str, Move]:
    """The moves of one layer's attention, by role."""
    import numpy as np

    size, share = heads.size, heads.query // heads.groups
    order = np.arange(heads.groups) if heads.fixed else rng.permutation(heads.groups)
    inside = [np.arange(share) if heads.fixed else rng.permutation(share) for _ in order]
    query = np.concatenate([g * share + own for g, own in zip(order, inside, strict=True)])  # old query head at each new place
    inner = [_signed(rng, size) for _ in order]
    steady = np.arange(size)
    whole = (share + 2) * size  # rows of a group that holds its query, key and value heads
    mixed = [np.concatenate([*(h * size + steady for h in own), share * size + steady, (share + 1) * size + v.take])
             for own, v in zip(inside, inner, strict=True)]  # fmt: skip
    return {
        "a": _plain(query),
        "b": _plain(order),
        "g": Move(
            np.concatenate([g * whole + rows for g, rows in zip(order, mixed, strict=True)]),
            np.concatenate([np.concatenate([np.zeros((share + 1) * size, bool), v.flip]) for v in inner]),
        ),
        "q": _plain(np.concatenate([h * size + steady for h in query])),
        "k": _plain(np.concatenate([g * size + steady for g in order])),
        "v": Move(np.concatenate([g * size + v.take for g, v in zip(order, inner, strict=True)]), np.concatenate([v.flip for v in inner])),
        "o": Move(
            np.concatenate([h * size + inner[place // share].take for place, h in enumerate(query)]),
            np.concatenate([inner[place // share].flip for place in range(heads.query)]),
        ),
    }


def _plain(take: npt.NDArray[np.intp]) -> Move:
    import numpy as np

    return Move(take, np.zeros(take.size, bool))


def _joined(moves: list[Move], *, alternating: bool) -> Move:
    """One axis of several parts, one after the other or taking turns."""
    import numpy as np

    if alternating:
        count = len(moves)
        return _plain(np.stack([move.take * count + place for place, move in enumerate(moves)], axis=1).reshape(-1))
    starts = np.cumsum([0, *(move.take.size for move in moves)])
    takes = [start + move.take for start, move in zip(starts, moves, strict=False)]
    return Move(np.concatenate(takes), np.concatenate([move.flip for move in moves]))


def _moved(info: TensorInfo, moves: _Moves) -> npt.NDArray[np.generic]:
    """The tensor's own numbers in new places, as unsigned integers of their width; sign bits flipped where a move says so."""
    import numpy as np

    if info.dtype not in FLOAT_DTYPES:
        raise UsageError(f"Tensor {info.name} holds {info.dtype}, not floats.", hint="Convert the base to bfloat16 first.")
    width = info.nbytes // max(info.elements, 1)
    kind = np.dtype(f"<u{width}")
    values = np.concatenate(list(raw_pieces(info, 1 << 24))).view(kind).reshape(info.shape)
    top = kind.type(_SIGN[width])
    for axis, move in enumerate(moves):
        if isinstance(move, list):  # the experts stand along the first axis, in their new order already
            values = np.stack([held.take(own.take, axis=axis - 1) if own else held for held, own in zip(values, move, strict=True)])
        elif move is not None:
            values = values.take(move.take, axis=axis)
            values ^= (move.flip * top).astype(kind).reshape(-1, *[1] * (values.ndim - 1 - axis))
    return values
