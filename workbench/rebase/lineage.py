"""Whose child is B? Neurons of two models are matched twice, by gate rows and by up rows; only relatives match the same way.

Where the MLP has no gate, the second time is by what the neurons write. Of a layer of experts the first is looked at, beside the one
of B whose row of the router is nearest. Where these stand in each family of models, `roles` knows; of others nothing is said.

After Zhu et al., "Independence tests for language models" (ICML 2025, arXiv 2502.12292), with one step before it: the residual
stream is aligned from the input embeddings of shared tokens, so that a model in permuted coordinates is recognised as well.

    1. correlate the embedding columns of A and B over shared tokens (d x d), match them (Hungarian, on absolute values), signs with them
    2. in a few layers, cosines of all gate rows of A against all of B in those coordinates, matched (Hungarian): pi_g; of up rows: pi_u
    3. agreement = share of neurons with pi_g = pi_u; identity = share with pi_g(i) = i

Independent runs agree by chance only, one neuron in n. Relatives agree; those in the same coordinates agree in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from workbench.bases.lock import token_ids
from workbench.bases.tensors import FLOAT_DTYPES, TensorInfo, comparable, floats, folder_tensors, not_finite, raw_pieces
from workbench.rebase.result import Lineage
from workbench.rebase.roles import Family, Place, embeddings, family_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["compare"]

_LAYERS = 3  # that are looked at
_TOKENS = 8192  # rows of the embeddings looked at: chance correlations stay near 1 / sqrt(8192) = .011
_NEURONS = 2048  # of A, per layer: a wider layer is sampled
_RELATED = 0.05  # share of agreeing neurons from which two models are called related
_SURE = 1e-6  # and the chance of so many in independent models


class _Alignment(NamedTuple):
    """Residual dimension i of B is sign[i] times dimension take[i] of A."""

    take: npt.NDArray[np.intp]
    sign: npt.NDArray[np.float32]
    cosine: float
    identity: float


class _Neurons(NamedTuple):
    """Neurons along one axis of a matrix whose other axis is the residual stream."""

    info: TensorInfo
    rows: bool  # they are the first axis
    places: range


_Layer = dict[tuple[str, int | None], tuple[TensorInfo, Place]]  # by name and by the number of the expert


class _Counts(NamedTuple):
    """Neurons of one layer, out of `looked` of `total`."""

    looked: int
    total: int
    in_place: int
    agree: int
    agree_in_place: int


def compare(a: Path, b: Path) -> Lineage:
    """Match the neurons of a few evenly spaced layers of two model folders. Reading "unclear" with nothing looked at where the
    models' shapes differ, "not looked at" where a kind of model is not known. Raises `IntegrityError` for weights that are not finite."""
    families = family_of(a), family_of(b)
    if families[0] is None or families[1] is None:
        return Lineage(0.0, 0.0, 0.0, 0.0, (), "not looked at", 1.0)
    first, second = folder_tensors(a), folder_tensors(b)
    pair = _embeddings(first, second)
    chosen = _layers(_by_layer(first, families[0]), _by_layer(second, families[1]), pair[0].shape[1]) if pair else {}
    if not chosen or pair is None:
        return Lineage(0.0, 0.0, 0.0, 0.0, (), "unclear", 1.0)
    alignment = _align(*pair, *_shared(a, b, pair[0].shape[0], pair[1].shape[0]))
    numbers = sorted(chosen)
    counts = [_match(*chosen[numbers[0]], alignment)]
    if alignment.identity < 0.9:  # the embeddings may have been replaced while the layers stayed where they were
        unmoved = _unmoved(alignment)
        plain = _match(*chosen[numbers[0]], unmoved)
        if plain.agree > counts[0].agree:
            alignment, counts = unmoved, [plain]
    counts += [_match(*chosen[n], alignment) for n in numbers[1:]]
    return _judged(alignment, counts, numbers)


def _by_layer(tensors: Mapping[str, TensorInfo], family: Family) -> dict[int, _Layer]:
    """What the layers' MLPs are made of."""
    layers: dict[int, _Layer] = {}
    for info in tensors.values():
        place = family.place(info.name)
        if place is None or place.layer is None or not len(place.roles) == len(info.shape) > 1:
            continue
        if set("neNEx") & set("".join(place.roles)):
            layers.setdefault(place.layer, {})[place.key, place.expert] = info, place
    return layers


def _layers(first: Mapping[int, _Layer], second: Mapping[int, _Layer], width: int) -> dict[int, tuple[_Layer, _Layer]]:
    """Evenly spaced layers that both models hold in equal shapes."""
    numbers = sorted(
        n for n, layer in first.items()
        if layer.keys() == second.get(n, {}).keys() and all(comparable(layer[k][0], second[n][k][0]) for k in layer)
        and _whole(layer, width) and _whole(second[n], width)
    )  # fmt: skip
    wanted = min(_LAYERS, len(numbers))
    return {n: (first[n], second[n]) for n in (numbers[int((place + 0.5) * len(numbers) / wanted)] for place in range(wanted))}


def _whole(layer: _Layer, width: int) -> bool:
    """Whether its neurons can be seen twice, in a residual stream of that width."""
    sets = _neurons(layer, 0)
    return len(sets) == 2 and all(len(of.places) == len(sets[0].places) > 0 and of.info.shape[of.rows] == width for of in sets)


def _embeddings(first: Mapping[str, TensorInfo], second: Mapping[str, TensorInfo]) -> tuple[TensorInfo, TensorInfo] | None:
    a, b = (side.get(embeddings(side) or "") for side in (first, second))
    if a is None or b is None or len(a.shape) != 2 or a.shape[1:] != b.shape[1:] or not {a.dtype, b.dtype} <= FLOAT_DTYPES:
        return None
    return a, b


def _shared(a: Path, b: Path, rows_a: int, rows_b: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Rows of the same tokens in both embeddings, at most `_TOKENS`, spread evenly."""
    import numpy as np

    files = [folder / "tokenizer.json" for folder in (a, b)]
    if all(f.is_file() for f in files) and files[0].read_bytes() != files[1].read_bytes():
        old, new = token_ids(a) or {}, token_ids(b) or {}
        pairs = sorted((n, new[token]) for token, n in old.items() if token in new and n < rows_a and new[token] < rows_b)
    else:
        pairs = [(n, n) for n in range(min(rows_a, rows_b))]
    if len(pairs) < 2:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    every = np.asarray(pairs, np.intp)[np.linspace(0, len(pairs) - 1, min(_TOKENS, len(pairs))).astype(np.intp)]
    return every[:, 0], every[:, 1]


def _rows(info: TensorInfo, rows: npt.NDArray[np.intp] | None = None) -> npt.NDArray[np.float32]:
    """Some rows of a matrix, in the order of `rows` (all without), read without holding the rest."""
    import numpy as np

    width, at = info.shape[1], 0
    rows = np.arange(info.shape[0]) if rows is None else rows
    values = np.empty((rows.size, width), np.float32)
    for raw in raw_pieces(info, max(1, (1 << 20) // width) * width, reuse=True):
        piece = floats(raw, info.dtype).reshape(-1, width)
        here = (rows >= at) & (rows < at + len(piece))
        values[here] = piece[rows[here] - at]
        at += len(piece)
    if not np.isfinite(values).all():
        raise not_finite(info)
    return values


def _unit(values: npt.NDArray[np.float32], axis: int) -> npt.NDArray[np.float32]:
    import numpy as np

    size = np.linalg.norm(values, axis=axis, keepdims=True)
    size[size == 0] = 1
    unit: npt.NDArray[np.float32] = values / size
    return unit


def _align(a: TensorInfo, b: TensorInfo, rows_a: npt.NDArray[np.intp], rows_b: npt.NDArray[np.intp]) -> _Alignment:
    import numpy as np

    width = a.shape[1]
    if rows_a.size < 2:
        return _Alignment(np.arange(width), np.ones(width, np.float32), 0.0, 0.0)
    x, y = _rows(a, rows_a), _rows(b, rows_b)
    x, y = (_unit(v - v.mean(axis=0), 0) for v in (x, y))  # centred: a mean that all dimensions share says nothing
    correlation = y.T @ x
    take = _assign(np.abs(correlation))
    matched = correlation[np.arange(width), take]
    sign = np.where(matched < 0, np.float32(-1), np.float32(1))
    return _Alignment(take, sign, min(1.0, float(np.abs(matched).mean())), float(np.mean((take == np.arange(width)) & (sign > 0))))


def _unmoved(alignment: _Alignment) -> _Alignment:
    import numpy as np

    width = alignment.take.size
    return alignment._replace(take=np.arange(width), sign=np.ones(width, np.float32))


def _assign(score: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """For each row the column that a matching of greatest total score gives it."""
    import numpy as np

    best: npt.NDArray[np.intp] = score.argmax(axis=1)
    if np.unique(best).size == best.size:  # every row can have its favourite: nothing can beat that
        return best
    from scipy.optimize import linear_sum_assignment

    columns: npt.NDArray[np.intp] = linear_sum_assignment(score, maximize=True)[1]
    return columns


def _match(first: _Layer, second: _Layer, alignment: _Alignment) -> _Counts:
    """Match one layer's neurons twice; of experts A's first with B's first and with the one that B's router has in its place."""
    matched = [_match_sets(_neurons(first, 0), _neurons(second, 0), alignment)]
    other = _namesake(first, second, alignment)
    if other and len(_neurons(second, other)) == 2:
        matched.append(_match_sets(_neurons(first, 0), _neurons(second, other), alignment)._replace(in_place=0, agree_in_place=0))
    return max(matched, key=lambda counts: counts.agree)


def _namesake(first: _Layer, second: _Layer, alignment: _Alignment) -> int:
    """The expert of B whose row of the router is nearest to that of A's first; 0 for a layer without experts."""
    for key, (info, place) in first.items():
        if place.roles == ("x", "r") and key[0].endswith(".weight") and info.shape[0] and info.shape[1] == alignment.take.size:
            x, y = _unit(_rows(info), 1), _unit(_rows(second[key][0]), 1)
            return int((y @ (x[0, alignment.take] * alignment.sign)).argmax())
    return 0


def _neurons(layer: _Layer, expert: int) -> list[_Neurons]:
    """Two ways in which the layer's neurons (those of one expert) show: what they read, and where there is no gate what they write."""
    reads, writes = list[_Neurons](), list[_Neurons]()
    for (_, number), (info, place) in layer.items():
        roles = place.roles
        if roles[0] == "x" and len(roles) == 3 and expert < info.shape[0]:  # all experts in one tensor
            size = info.nbytes // info.shape[0]
            info, roles = replace(info, shape=info.shape[1:], start=info.start + expert * size, nbytes=size), roles[1:]
        role = next((role for role in roles if role[0] in "neNE"), None)
        if role is None or "r" not in roles or len(roles) != 2 or number not in (None, expert):
            continue
        axis, parts = roles.index(role), len(role[::2])
        every = range(info.shape[axis])
        share = len(every) // parts
        sets = [every[n::parts] if "~" in role else every[n * share : (n + 1) * share] for n in range(parts)]
        (writes if role.isupper() else reads).extend(_Neurons(info, axis == 0, places) for places in sets)
    return (reads + writes)[:2]


def _vectors(of: _Neurons, some: npt.NDArray[np.intp] | None = None) -> npt.NDArray[np.float32]:
    """One row for each neuron, or for some of them."""
    import numpy as np

    places = np.asarray(of.places) if some is None else np.asarray(of.places)[some]
    return _rows(of.info, places) if of.rows else np.ascontiguousarray(_rows(of.info)[:, places].T)


def _match_sets(first: list[_Neurons], second: list[_Neurons], alignment: _Alignment) -> _Counts:
    import numpy as np

    total = len(first[0].places)
    rows = np.linspace(0, total - 1, min(total, _NEURONS)).astype(np.intp)
    by_first, by_second = (
        _assign(_unit(_vectors(a, rows)[:, alignment.take] * alignment.sign, 1) @ _unit(_vectors(b), 1).T)
        for a, b in zip(first, second, strict=True)
    )
    agree, place = by_first == by_second, by_first == rows
    return _Counts(rows.size, total, int(place.sum()), int(agree.sum()), int((agree & place).sum()))


def _judged(alignment: _Alignment, counts: list[_Counts], layers: list[int]) -> Lineage:
    import numpy as np
    from scipy.special import bdtrc  # the binomial's upper tail; scipy.stats takes a second to import

    looked, agree, in_place = (sum(c[n] for c in counts) for n in (0, 3, 2))
    agreement, identity = agree / looked, in_place / looked
    # Under independence each neuron agrees with chance 1 / n. Four times: two alignments, with two experts, may have been tried.
    p_value = min(1.0, 4.0 * float(bdtrc(agree - 1, looked, 1.0 / min(c.total for c in counts)) if agree else 1.0))
    place = sum(c.agree_in_place for c in counts) / max(agree, 1)
    if p_value < _SURE and agreement >= _RELATED:
        steady = place >= 0.5 and float(np.mean((alignment.take == np.arange(alignment.take.size)) & (alignment.sign > 0))) >= 0.5
        reading = "same" if steady else "permuted"
    else:
        reading = "independent" if p_value > 1e-3 else "unclear"
    return Lineage(alignment.cosine, alignment.identity, identity, agreement, tuple(layers), reading, p_value)
