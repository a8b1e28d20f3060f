"""The rules for the weights of a LoRA adapter: every name is a LoRA name, every shape fits the base and the rank, every
value is finite, and what they add changes the base. Without torch; nothing here trusts a size before it was checked.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.bases.layout import Layout, Parameter
from workbench.bases.tensors import TensorInfo, floats, raw_pieces, read_header
from workbench.errors import ImportRefused, IntegrityError, LayoutMissing
from workbench.rebase.controls import product_norm
from workbench.rebase.roles import EMBEDDINGS, OUTPUTS
from workbench.rebase.writing import load
from workbench.registry.peft_config import endings

if TYPE_CHECKING:
    from workbench.bases.lock import Lock, TensorLock
    from workbench.registry.peft_config import Declared

__all__ = ["Fit", "Values", "fit", "read_weights", "values", "without_copies"]

MAX_HEADER = 16 * 1024 * 1024  # bytes: a hundred thousand tensors
MAX_TENSORS = 100_000
_PREFIX = "base_model.model."
_KINDS = ("lora_A.weight", "lora_B.weight", "lora_B.bias", "lora_embedding_A", "lora_embedding_B", "token_adapter.trainable_tokens_delta")
_LORA = re.compile(rf"(?P<module>.+?)\.(?P<kind>{'|'.join(re.escape(k) for k in _KINDS)}|lora_magnitude_vector)(?P<tail>\.weight)?")
Shape = tuple[int, ...]
_TABLES = (*EMBEDDINGS, *OUTPUTS)
_ADD_TOKENS = (
    "Make a base that has them (add them to its tokenizer, resize_token_embeddings, save both) and add it: "
    "workbench base add NAME@VERSION --source folder:PATH"
)
_COPY = re.compile(r"(?P<module>.+)\.(?P<kind>modules_to_save|original_module|token_adapter\.base_layer)\.weight")
_PIECE = 1_000_000  # values looked at together
_ROUNDED = 2.0**-24  # the share of a number that float32 may round away
_SAME_MAGNITUDE = 2.0**-8  # half precision rounds each magnitude by less
_LARGEST = 1e18  # of a factor or an update: beyond it products in float32 overflow to infinity, then to NaN


@dataclass(frozen=True)
class Fit:
    """How a file of weights fits a base: what is wrong with it, and which modules it adds to."""

    problems: list[str]
    modules: list[str]  # full paths, such as model.layers.0.self_attn.q_proj; of experts the parameter's
    targets: list[str]  # the shortest list of names that means exactly these modules on this base
    parameters: list[str]  # those of target_parameters that mean something on this base


@dataclass(frozen=True)
class Values:
    """What the numbers themselves say."""

    problems: list[str]  # what no adapter should hold: NaN, infinity, products that overflow, or nothing at all
    change: tuple[float, float] | None  # |scale B A| / |W| (Frobenius), the smallest and the largest module; None without the base's


@dataclass
class _Module:
    """The tensors of one module, by kind."""

    parts: dict[str, tuple[int, ...]] = field(default_factory=dict)


class _Places:
    """Where the weights of an adapter belong in a base."""

    def __init__(self, lock: Lock, declared: Declared) -> None:
        self.layout = Layout(lock)
        self.experts = self.layout.targeted(declared.target_parameters) if declared.target_parameters else {}

    def of(self, path: str, *, like: Shape | None = None) -> tuple[str, Parameter | None]:
        """What PEFT looks up in rank_pattern and alpha_pattern for the factors at `path`, and what they are added to."""
        expert = self.experts.get(path)
        return (expert.name, expert) if expert else (path, self.layout.weight(path, like=like))


def read_weights(file: Path) -> dict[str, TensorInfo]:
    """The tensors of a .safetensors file. Raises `ImportRefused` for a file that is not whole, plain and of floats."""
    hint = "Save the adapter again with PEFT's save_pretrained, or fetch it again."
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
    if length > MAX_HEADER:
        raise ImportRefused(f"{file.name} is not a safetensors file of an adapter: its header claims {length:,} bytes.", hint=hint)
    try:
        tensors = read_header(file)
    except (IntegrityError, OverflowError) as error:
        raise ImportRefused(error.message if isinstance(error, IntegrityError) else f"{file.name} is broken.", hint=hint) from None
    if len(tensors) > MAX_TENSORS:
        raise ImportRefused(f"{file.name} lists {len(tensors):,} tensors; an adapter has at most {MAX_TENSORS:,}.", hint=hint)
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
        rest = name.removeprefix(_PREFIX)
        copy = _COPY.fullmatch(rest)
        if copy and copy["kind"] != "token_adapter.base_layer" and f"{_PREFIX}{copy['module']}.weight" in tensors:
            continue
        if copy and copy["kind"] == "token_adapter.base_layer" and not _differs(tensor, _stored(lock, copy["module"])):
            continue
        if tied and rest == "lm_head.token_adapter.trainable_tokens_delta":
            continue  # the same rows as those of the embedding
        kept[name] = tensor
        module = rest.removesuffix(".weight")
        if module != rest and module.endswith(_TABLES) and set(saved).isdisjoint(endings(module)):
            saved.append(module.rpartition(".")[2])
    return kept, saved


def _stored(lock: Lock, module: str) -> TensorLock | None:
    """The tensor of a module, as far as that is known without asking transformers."""
    try:
        return lock.tensors.get(Layout(lock).stored(f"{module}.weight"))
    except LayoutMissing:
        return None


def _differs(tensor: TensorInfo, base: TensorLock | None) -> bool:
    digest = hashlib.sha256()
    for raw in raw_pieces(tensor, _PIECE):
        digest.update(raw.data)
    return base is None or digest.hexdigest() != base.sha256


def fit(tensors: Mapping[str, TensorInfo], declared: Declared, lock: Lock) -> Fit:
    """Compare names and shapes with what the configuration declares and with the base's lock. Never raises: see `problems`."""
    found = _Places(lock, declared)
    modules, full, problems = _sort(tensors, declared)
    quantized = lock.quantization is not None
    for path, module in modules.items():
        key, base = found.of(path, like=_as_stored(module.parts, declared))
        if base is None and not quantized:
            problems.append(f"{path}: the base has no such module")
        elif problem := _misfit(module.parts, base, declared, key, quantized=quantized and path not in found.experts):
            problems.append(f"{path}: {problem}")
    for name, shape in full.items():
        own = lock.tensors.get(found.layout.stored(name))
        if own is None or shape != own.shape:
            more = shape[0] - own.shape[0] if own and name.rpartition(".")[0].endswith(_TABLES) else 0
            lacks = f": it lacks {more} tokens that were added. {_ADD_TOKENS}" if more > 0 else ""
            problems.append(f"{name} is {_size(shape)}, the base has {_size(own.shape) if own else 'no such tensor'}{lacks}")
    lora = {path for path, module in modules.items() if "token_adapter.trainable_tokens_delta" not in module.parts}
    if not lora and not problems:
        problems.append("there is no lora_A and lora_B in it")
    wanted = declared.target_parameters or []
    parameters = [name for name in wanted if any(name in endings(p.name) for p in found.experts.values())]
    if wanted and not parameters:  # PEFT itself adds names that only some bases have, and passes over those that mean nothing
        problems.append(f"target_parameters names what the base does not have: {_some(wanted)}")
    if left := [parameter.name for path, parameter in found.experts.items() if path not in lora]:
        problems.append(f"target_parameters names parameters that have no weights here: {_some(left)}")
    plain = lora - found.experts.keys()
    problems += _coverage(plain, set(full), declared, found.layout)
    return Fit(problems, sorted(found.of(path)[0] for path in lora), _shortest(sorted(plain), found.layout), parameters)


def values(tensors: Mapping[str, TensorInfo], declared: Declared, lock: Lock) -> Values:
    """Read every number once, one module in memory at a time. The tensors must fit (see `fit`)."""
    problems = [f"{name} holds NaN or infinity" for name, tensor in tensors.items() if not _is_finite(tensor)]
    if problems:
        return Values(problems, None)
    changes: list[float] = []
    silent = True
    found = _Places(lock, declared)
    for a, b in _pairs(tensors):
        path = a.name.removeprefix(_PREFIX).removesuffix(".weight").rpartition(".")[0]
        key, base = found.of(path)
        sizes, update = _sizes(a, b, declared.scale_of(key), base.experts if base else 1)
        if not max(*sizes, update) < _LARGEST:
            problems.append(f"{path}: its numbers are so large ({max(*sizes, update):.0e}) that their product is infinite or NaN")
        weight = found.layout.norm(base) if base else 0.0
        silent = silent and update <= _ROUNDED * weight
        if weight:
            changes.append(update / weight)
    if silent and not problems and not any(_changes(tensor, found) for tensor in tensors.values()):
        most = max(changes, default=0.0)
        problems.append(f"what it adds to the weights (at most {most:.0e} of them) is less than float32 rounds away: it changes nothing")
    return Values(problems, (min(changes), max(changes)) if changes else None)


def _pairs(tensors: Mapping[str, TensorInfo]) -> Iterator[tuple[TensorInfo, TensorInfo]]:
    for name, tensor in tensors.items():
        if name.endswith((".lora_A.weight", ".lora_embedding_A")):
            stem, a, tail = name.rpartition("_A")
            yield tensor, tensors[f"{stem}_B{tail}"]


def _sizes(a: TensorInfo, b: TensorInfo, scale: float, experts: int) -> tuple[tuple[float, float], float]:
    """|A|, |B| and |scale B A|, exact from Gram matrices in double precision. Factors that cancel to within rounding give 0.

    Those of several experts stand in one matrix each: A [experts * r, in], B [out, r * experts], as `peft.tuners.lora.ParamWrapper`
    takes them apart.
    """
    import numpy as np

    first, second = load(a), load(b)
    sizes = float(np.linalg.norm(first.astype(np.float64))), float(np.linalg.norm(second.astype(np.float64)))
    each = first.reshape(experts, -1, first.shape[1]), second.reshape(len(second), -1, experts)
    product = float(np.sqrt(sum(product_norm(each[0][n], each[1][:, :, n]) ** 2 for n in range(experts))))
    return sizes, scale * (0.0 if product <= 2 * _ROUNDED * sizes[0] * sizes[1] else product)


def _is_finite(tensor: TensorInfo) -> bool:
    import numpy as np

    return all(bool(np.isfinite(floats(raw, tensor.dtype)).all()) for raw in raw_pieces(tensor, _PIECE))


def _changes(tensor: TensorInfo, found: _Places) -> bool:
    """Whether a tensor beside the factors changes the base: trained tokens do, a bias of zeros or a copy of the base's does not,
    and the magnitudes of DoRA are at rest while they are the norms of the base's own rows (arXiv 2402.09353)."""
    import numpy as np

    name = tensor.name.removeprefix(_PREFIX)
    match = _LORA.fullmatch(name)
    if match and match["kind"] == "lora_magnitude_vector":
        _, base = found.of(match["module"])
        weight = found.layout.norm(base) if base else 0.0
        return not weight or abs(float(np.linalg.norm(load(tensor))) / weight - 1) > _SAME_MAGNITUDE
    if match:
        return match["kind"] in {"lora_B.bias", "token_adapter.trainable_tokens_delta"} and bool(load(tensor).any())
    return _differs(tensor, found.layout.lock.tensors.get(found.layout.stored(name)))


def _sort(tensors: Mapping[str, TensorInfo], declared: Declared) -> tuple[dict[str, _Module], dict[str, tuple[int, ...]], list[str]]:
    """LoRA weights by module, weights trained in full by the base's name for them, and names that are neither."""
    modules: dict[str, _Module] = {}
    full: dict[str, tuple[int, ...]] = {}
    problems: list[str] = []
    saved = set(declared.modules_to_save or [])
    for name, tensor in tensors.items():
        rest = name.removeprefix(_PREFIX)
        match = _LORA.fullmatch(rest)
        if rest == name or ".." in name or name.endswith("."):
            problems.append(f"{name}: the name does not start with {_PREFIX}, as PEFT writes it" if rest == name else f"{name} is no name")
        elif match and not (match["tail"] and match["kind"] != "lora_magnitude_vector"):
            modules.setdefault(match["module"], _Module()).parts[match["kind"]] = tensor.shape
        elif rest.endswith(".base_layer.weight"):
            problems.append(f"{name}: a copy of the base's own weights; save again with save_embedding_layers=False")
        elif not saved.isdisjoint(endings(rest.rpartition(".")[0])) and rest.endswith((".weight", ".bias")):
            full[rest] = tensor.shape
        else:
            problems.append(f"{name}: neither a LoRA weight nor in modules_to_save")
    return modules, full, problems


def _misfit(parts: dict[str, Shape], base: Parameter | None, declared: Declared, key: str, *, quantized: bool) -> str | None:
    """What is wrong with one module's weights; None when they fit. `base` is what they add to (the shape of a quantised one says
    nothing), `key` what PEFT looks up in rank_pattern."""
    if "token_adapter.trainable_tokens_delta" in parts:
        return _misfit_tokens(parts, None if quantized or base is None else base.shape, declared, key)
    embedding = "lora_embedding_A" in parts or "lora_embedding_B" in parts
    names = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A.weight", "lora_B.weight")
    if not set(names) <= parts.keys():
        return f"{names[0]} and {names[1]} come in pairs, found {', '.join(sorted(parts))}"
    a, b = parts[names[0]], parts[names[1]]
    experts = base.experts if base else 1
    rank = declared.rank_of(key) * experts
    if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
        return f"{_size(a)} and {_size(b)} do not multiply"
    if a[0] != rank:
        return f"its rank is {a[0]}, adapter_config.json says {rank}" + (f" for {experts} experts" if experts > 1 else "")
    if declared.use_dora != ("lora_magnitude_vector" in parts):
        return "it has a magnitude vector but use_dora is off" if not declared.use_dora else "use_dora is on but it has no magnitude vector"
    if declared.lora_bias != ("lora_B.bias" in parts):
        return "lora_bias and the weights disagree"
    added = (b[0], a[1])
    if any(part in parts and max(parts[part]) != _elements(parts[part]) for part in ("lora_magnitude_vector", "lora_B.bias")):
        return "its vectors are no vectors"
    if any(part in parts and _elements(parts[part]) != b[0] for part in ("lora_magnitude_vector", "lora_B.bias")):
        return f"its vectors should have {b[0]:,} numbers"
    if base is None or quantized:
        return None
    fits = added == base.added or _as_stored(parts, declared) == base.shape
    return None if fits else f"it adds {_size(added)}, the base has {_size(base.added)}"


def _as_stored(parts: Mapping[str, Shape], declared: Declared) -> Shape | None:
    """Shape of the matrix that the pair of factors adds to, as the configuration says it is stored."""
    a = parts.get("lora_A.weight") or parts.get("lora_embedding_A") or ()
    b = parts.get("lora_B.weight") or parts.get("lora_embedding_B") or ()
    turned = declared.fan_in_fan_out or "lora_embedding_A" in parts
    return ((a[1], b[0]) if turned else (b[0], a[1])) if len(a) == len(b) == 2 else None


def _misfit_tokens(parts: dict[str, tuple[int, ...]], base: tuple[int, ...] | None, declared: Declared, path: str) -> str | None:
    """Rows of the embedding that were trained one by one (trainable_token_indices)."""
    given = declared.trainable_token_indices
    if isinstance(given, dict):
        given = next((ids for name, ids in given.items() if name in endings(path)), None)
    shape = parts["token_adapter.trainable_tokens_delta"]
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


def _elements(shape: Iterable[int]) -> int:
    n = 1
    for size in shape:
        n *= size
    return n


def _size(shape: Iterable[int]) -> str:
    return " x ".join(str(n) for n in shape)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
