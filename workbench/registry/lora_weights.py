"""The rules for the weights of a LoRA adapter: every name is a LoRA name, every shape fits the base and the rank, every
value is finite, and what they add changes the base. Without torch; nothing here trusts a size before it was checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from workbench.bases.layout import Layout, Parameter, Shape
from workbench.bases.lock import Lock, read_lock
from workbench.bases.tensors import TensorInfo, floats, raw_pieces, read_header
from workbench.errors import ImportRefused, IntegrityError, LayoutMissing
from workbench.peft_layout import BIAS, COPIES, FACTORS, MAGNITUDE, PREFIX, TOKENS, WHOLE, Key, endings, of_expert, shape_of, sort, targeted
from workbench.rebase.factors import product_norm
from workbench.rebase.roles import EMBEDDINGS, OUTPUTS
from workbench.rebase.writing import load
from workbench.registry.peft_config import Declared, parse

if TYPE_CHECKING:
    from workbench.bases.lock import TensorLock

__all__ = ["Checked", "check_adapter", "read_weights", "without_copies"]

Parts = dict[str, TensorInfo]
Number = TypeVar("Number", int, float)
_TABLES = (*EMBEDDINGS, *OUTPUTS)
_ADD_TOKENS = (
    "Make a base that has them (add them to its tokenizer, resize_token_embeddings, save both) and add it: "
    "workbench base add NAME@VERSION --source folder:PATH"
)
_PIECE = 1_000_000  # values looked at together
_ROUNDED = 2.0**-24  # the share of a number that float32 may round away
_SAME_MAGNITUDE = 2.0**-8  # half precision rounds each magnitude by less
_LARGEST = 1e18  # of a factor or an update: beyond it products in float32 overflow to infinity, then to NaN


@dataclass(frozen=True)
class Checked:
    """What an adapter is, after the rules were applied."""

    config: dict[str, Any]  # the adapter_config.json to publish, but for its base
    ranks: tuple[int, int]  # the smallest and the largest module
    alphas: tuple[float, float]
    scales: tuple[float, float]  # what PEFT multiplies B A with
    change: tuple[float, float] | None  # |scale B A| / |W| (Frobenius); None where the base does not tell its norms


def check_adapter(config: bytes, weights: Path, lock_file: Path, base: str, *, trained: bool = True) -> Checked:
    """The one gate for everything that enters the registry.

    Raises `IntegrityError` naming every weight that has no place on the base of `lock_file`, is not finite, or changes nothing; the
    last two only when it is `trained`.
    """
    try:
        declared, tensors = parse(config), read_weights(weights)
    except ImportRefused as error:
        raise IntegrityError(error.message, hint=error.hint) from None
    places = _Places(read_lock(lock_file), declared)
    modules, misfits = _fit(tensors, places)
    useless, change = _values(tensors, places) if trained and not misfits else ([], None)
    if problems := misfits or useless:
        more = [f"and {len(problems) - 8} more"] if len(problems) > 8 else []
        listed = "".join(f"\n  - {problem[:300]}" for problem in [*problems[:8], *more])
        what = f"do not fit adapter_config.json or the base {base}" if misfits else f"are of no use on {base}"
        raise IntegrityError(f"The weights {what}:{listed}", hint="\nNothing was published.")
    adapted = sorted(places.of(path)[0] for path in modules)
    scaling = declared.scaling
    return Checked(
        declared.published(adapted, _shortest(sorted(modules - places.experts.keys()), places.layout), places.parameters),
        _range(map(scaling.rank_of, adapted)),
        _range(map(scaling.alpha_of, adapted)),
        _range(map(scaling.scale_of, adapted)),
        change,
    )


def _range(values: Iterable[Number]) -> tuple[Number, Number]:
    ordered = sorted(values)
    return ordered[0], ordered[-1]


class _Places:
    """Where the weights of an adapter belong in a base."""

    def __init__(self, lock: Lock, declared: Declared) -> None:
        self.declared = declared
        self.layout = Layout(lock)
        wanted = declared.target_parameters or []
        self.experts = targeted(self.layout, wanted)
        # Those of target_parameters that mean something on this base: PEFT adds names that only some bases have.
        self.parameters = [name for name in wanted if any(name in endings(p.name) for p in self.experts.values())]

    def of(self, path: str, *, like: Shape | None = None) -> tuple[str, Parameter | None]:
        """What PEFT looks up in rank_pattern and alpha_pattern for the factors at `path`, and what they are added to."""
        expert = self.experts.get(path)
        return (expert.name, expert) if expert else (path, self.layout.weight(path, like=like))


def read_weights(file: Path) -> dict[str, TensorInfo]:
    """The tensors of a .safetensors file. Raises `ImportRefused` for a file that is not whole, plain and of floats."""
    try:
        tensors = read_header(file)
    except IntegrityError as error:
        hint = "Save the adapter again with PEFT's save_pretrained, or fetch it again."
        raise ImportRefused(error.message, hint=hint) from None
    odd = [
        f"{t.name} ({t.dtype}, {len(t.shape)} dimensions)"
        for t in tensors.values()
        if t.dtype not in {"F32", "F16", "BF16"} or not 0 < len(t.shape) < 3
    ]
    if odd:
        raise ImportRefused(
            f"{file.name} holds tensors that LoRA does not have: {_some(odd)}.",
            hint="Weights are float32, float16 or bfloat16 with 1 or 2 dimensions.",
        )
    return tensors


def without_copies(tensors: Mapping[str, TensorInfo], declared: Declared, lock: Lock) -> tuple[dict[str, TensorInfo], list[str]]:
    """The tensors that say something, and modules_to_save with every table that was saved whole.

    Once the vocabulary was resized, PEFT saves both embedding tables whole, and again beside what was trained of them.
    """
    tied = bool(lock.config.get("tie_word_embeddings"))
    kept: dict[str, TensorInfo] = {}
    saved = list(declared.modules_to_save or [])
    for name, tensor in tensors.items():
        path, part, _ = Key.of(name)
        if part in {"modules_to_save", "original_module"} and f"{PREFIX}{path}" in tensors:
            continue
        if part == "token_adapter.base_layer" and not _differs(tensor, _stored(lock, path)):
            continue
        if tied and (path, part) == ("lm_head", TOKENS):
            continue  # the same rows as those of the embedding
        kept[name] = tensor
        module = path.removesuffix(".weight")
        if part == WHOLE and module != path and module.endswith(_TABLES) and set(saved).isdisjoint(endings(module)):
            saved.append(module.rpartition(".")[2])
    return kept, saved


def _stored(lock: Lock, name: str) -> TensorLock | None:
    """The tensor of a parameter, as far as that is known without asking transformers."""
    try:
        return lock.tensors.get(Layout(lock).stored(name))
    except LayoutMissing:
        return None


def _differs(tensor: TensorInfo, base: TensorLock | None) -> bool:
    digest = hashlib.sha256()
    for raw in raw_pieces(tensor, _PIECE):
        digest.update(raw.data)
    return base is None or digest.hexdigest() != base.sha256


# ---------------------------------------------------------------- names and shapes


def _fit(tensors: Mapping[str, TensorInfo], places: _Places) -> tuple[set[str], list[str]]:
    """The paths of the modules that have factors, and all that does not fit: names and shapes beside what the configuration declares
    and what the base has."""
    declared, lock = places.declared, places.layout.lock
    strange = {name: why for name in tensors if (why := _strange(name, declared))}
    problems = [f"{name}: {why}" for name, why in strange.items()]
    contents = sort({name: tensor for name, tensor in tensors.items() if name not in strange})
    quantized = lock.quantization is not None
    for path, parts in contents.lora.items():
        key, base = places.of(path, like=shape_of(parts, turned=declared.fan_in_fan_out))
        if base is None and not quantized:
            problems.append(f"{path}: the base has no such module")
        elif problem := _misfit(parts, base, declared, key, quantized=quantized and path not in places.experts):
            problems.append(f"{path}: {problem}")
    for name, tensor in contents.whole.items():
        own = lock.tensors.get(places.layout.stored(name))
        if own is None or tensor.shape != own.shape:
            more = tensor.shape[0] - own.shape[0] if own and name.rpartition(".")[0].endswith(_TABLES) else 0
            lacks = f": it lacks {more} tokens that were added. {_ADD_TOKENS}" if more > 0 else ""
            problems.append(f"{name} is {_size(tensor.shape)}, the base has {_size(own.shape) if own else 'no such tensor'}{lacks}")
    modules = {path for path, parts in contents.lora.items() if TOKENS not in parts}
    if not modules and not problems:
        problems.append("there is no lora_A and lora_B in it")
    if declared.target_parameters and not places.parameters:
        problems.append(f"target_parameters names what the base does not have: {_some(declared.target_parameters)}")
    if left := [parameter.name for path, parameter in places.experts.items() if path not in modules]:
        problems.append(f"target_parameters names parameters that have no weights here: {_some(left)}")
    problems += _coverage(modules - places.experts.keys(), set(contents.whole), declared, places.layout)
    return modules, problems


def _strange(name: str, declared: Declared) -> str | None:
    """Why a tensor of that name is none that PEFT would load; None for a LoRA weight or one of modules_to_save."""
    path, part, plain = Key.of(name)
    if not name.startswith(PREFIX):
        return f"the name does not start with {PREFIX}, as PEFT writes it"
    if part in COPIES:
        return "a copy of the base's own weights; save again with save_embedding_layers=False"
    whole = part == WHOLE and path.endswith((".weight", ".bias"))
    if whole and not set(declared.modules_to_save or []).isdisjoint(endings(path.rpartition(".")[0])):
        return None
    return None if plain and part != WHOLE else "neither a LoRA weight nor in modules_to_save"


def _misfit(parts: Parts, base: Parameter | None, declared: Declared, key: str, *, quantized: bool) -> str | None:
    """What is wrong with one module's weights; None when they fit. `base` is what they add to (the shape of a quantised one says
    nothing), `key` what PEFT looks up in rank_pattern."""
    if TOKENS in parts:
        return _misfit_tokens(parts, None if quantized or base is None else base.shape, declared, key)
    names = FACTORS[1] if not parts.keys().isdisjoint(FACTORS[1]) else FACTORS[0]
    if not set(names) <= parts.keys() <= {*names, MAGNITUDE, BIAS}:
        return f"{names[0]} and {names[1]} come in pairs, found {', '.join(sorted(parts))}"
    a, b = (parts[name].shape for name in names)
    experts = base.experts if base else 1
    rank = declared.scaling.rank_of(key) * experts
    as_stored = shape_of(parts, turned=declared.fan_in_fan_out)
    if as_stored is None:
        return f"{_size(a)} and {_size(b)} do not multiply"
    if a[0] != rank:
        return f"its rank is {a[0]}, adapter_config.json says {rank}" + (f" for {experts} experts" if experts > 1 else "")
    if declared.use_dora != (MAGNITUDE in parts):
        return "it has a magnitude vector but use_dora is off" if not declared.use_dora else "use_dora is on but it has no magnitude vector"
    if declared.lora_bias != (BIAS in parts):
        return "lora_bias and the weights disagree"
    vectors = [parts[part].shape for part in (MAGNITUDE, BIAS) if part in parts]
    if any(max(shape) != prod(shape) for shape in vectors):
        return "its vectors are no vectors"
    if any(prod(shape) != b[0] for shape in vectors):
        return f"its vectors should have {b[0]:,} numbers"
    if base is None or quantized or (b[0], a[1]) == base.added or as_stored == base.shape:
        return None
    return f"it adds {_size((b[0], a[1]))}, the base has {_size(base.added)}"


def _misfit_tokens(parts: Parts, base: Shape | None, declared: Declared, path: str) -> str | None:
    """Rows of the embedding that were trained one by one (trainable_token_indices)."""
    given = declared.trainable_token_indices
    if isinstance(given, dict):
        given = next((ids for name, ids in given.items() if name in endings(path)), None)
    shape = parts[TOKENS].shape
    if given is None or len(parts) > 1:
        return "it has trained tokens that trainable_token_indices does not name"
    if base is None:
        return None
    if shape != (len(given), base[1]) or len(set(given)) != len(given) or max(given, default=0) >= base[0]:
        return f"{len(given)} trained tokens of width {base[1]:,} and ids below {base[0]:,} were expected, found {_size(shape)}." + (
            f" The base lacks these tokens. {_ADD_TOKENS}" if max(given, default=0) >= base[0] else ""
        )
    return None


def _coverage(lora: set[str], full: set[str], declared: Declared, layout: Layout) -> list[str]:
    """Modules that the configuration names and the weights lack, and the reverse. PEFT would pass over both in silence."""
    problems = []
    for module in declared.modules_to_save or []:
        if not any(module in endings(name.rpartition(".")[0]) for name in full):
            problems.append(f"modules_to_save names {module}, but there are no weights for it")
    names = declared.names
    if not names:
        return problems
    named = set(names)
    extra = sorted(path for path in lora if named.isdisjoint(endings(path)))
    if extra:
        problems.append(f"there are weights for modules that target_modules does not name: {_some(extra)}")
    whole = not (declared.layers_to_transform or declared.exclude_modules)
    kept = set(declared.modules_to_save or [])
    missing = sorted(path for path in _meant(named, lora, layout) - lora if kept.isdisjoint(endings(path)))
    if whole and missing:
        problems.append(
            f"target_modules names {len(missing)} modules that have no weights here: {_some(missing)}. Plain PEFT would load it"
            " and leave them as they are in the base, without a word"
        )
    return problems


def _shortest(modules: list[str], layout: Layout) -> list[str]:
    """Last names where they mean exactly `modules` on the base, else full paths. This replaces any pattern."""
    last = {module.rpartition(".")[2] for module in modules}
    if any(name.isdigit() for name in last):  # a place in a list: PEFT would take whole layers of that number for it
        return sorted(modules)
    return sorted(last) if _meant(last, set(modules), layout) == set(modules) else sorted(modules)


def _meant(names: set[str], wanted: set[str], layout: Layout) -> set[str]:
    """Modules of the base that `names` mean. Only where the stored names do not mean `wanted` is transformers asked for its own."""
    for known in (layout.stored_modules, layout.modules):
        meant = {path for path in known() if not names.isdisjoint(endings(path))}
        if meant == wanted:
            break
    return meant


# ---------------------------------------------------------------- values


def _values(tensors: Mapping[str, TensorInfo], places: _Places) -> tuple[list[str], tuple[float, float] | None]:
    """Read every number once, one module in memory at a time: what no adapter should hold (NaN, infinity, products that overflow,
    or nothing at all), and `Checked.change`. The tensors must fit."""
    problems = [f"{name} holds NaN or infinity" for name, tensor in tensors.items() if not _is_finite(tensor)]
    if problems:
        return problems, None
    changes: list[float] = []
    silent = True
    for path, (a, b) in sort(tensors).pairs().items():
        key, base = places.of(path)
        sizes, update = _sizes(a, b, places.declared.scaling.scale_of(key), base.experts if base else 1)
        if not max(*sizes, update) < _LARGEST:
            problems.append(f"{path}: its numbers are so large ({max(*sizes, update):.0e}) that their product is infinite or NaN")
        weight = places.layout.norm(base) if base else 0.0
        silent = silent and update <= _ROUNDED * weight
        if weight:
            changes.append(update / weight)
    if silent and not problems and not any(_changes(tensor, places) for tensor in tensors.values()):
        most = max(changes, default=0.0)
        problems.append(f"what it adds to the weights (at most {most:.0e} of them) is less than float32 rounds away: it changes nothing")
    return problems, _range(changes) if changes else None


def _sizes(a: TensorInfo, b: TensorInfo, scale: float, experts: int) -> tuple[tuple[float, float], float]:
    """|A|, |B| and |scale B A|, exact from Gram matrices in double precision. Factors that cancel to within rounding give 0."""
    import numpy as np

    first, second = load(a), load(b)
    sizes = float(np.linalg.norm(first.astype(np.float64))), float(np.linalg.norm(second.astype(np.float64)))
    product = float(np.sqrt(sum(product_norm(*of_expert(first, second, n, experts)) ** 2 for n in range(experts))))
    return sizes, scale * (0.0 if product <= 2 * _ROUNDED * sizes[0] * sizes[1] else product)


def _is_finite(tensor: TensorInfo) -> bool:
    import numpy as np

    return all(bool(np.isfinite(floats(raw, tensor.dtype)).all()) for raw in raw_pieces(tensor, _PIECE))


def _changes(tensor: TensorInfo, places: _Places) -> bool:
    """Whether a tensor beside the factors changes the base: trained tokens do, a bias of zeros or a copy of the base's does not,
    and the magnitudes of DoRA are at rest while they are the norms of the base's own rows (arXiv 2402.09353)."""
    import numpy as np

    path, part, _ = Key.of(tensor.name)
    if part == MAGNITUDE:
        _, base = places.of(path)
        weight = places.layout.norm(base) if base else 0.0
        return not weight or abs(float(np.linalg.norm(load(tensor))) / weight - 1) > _SAME_MAGNITUDE
    if part == WHOLE:
        return _differs(tensor, places.layout.lock.tensors.get(places.layout.stored(path)))
    return part in {BIAS, TOKENS} and bool(load(tensor).any())


# ---------------------------------------------------------------- words


def _size(shape: Iterable[int]) -> str:
    return " x ".join(str(n) for n in shape)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
