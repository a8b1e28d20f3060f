"""What a PEFT folder holds: its files, the names of its tensors, the scale of its updates and what a target names. Known here alone.

Names, shapes and scales are PEFT's (https://huggingface.co/docs/peft/package_reference/lora). A linear module gets `lora_A.weight`
(r, in) and `lora_B.weight` (out, r), an embedding `lora_embedding_A` (r, rows) and `lora_embedding_B` (width, r); their product times
`scale_of` the module is added to its weight. Of n experts in one parameter (`target_parameters`) the factors stand in one pair:
(r * n, in), one expert below the other, and (out, r * n), where the experts take turns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from workbench.errors import IntegrityError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from workbench.bases.layout import Layout, Parameter
    from workbench.bases.tensors import TensorInfo

__all__ = [
    "BIAS", "CONFIG", "COPIES", "COUPLED", "EMBEDDING_A", "EMBEDDING_B", "FACTORS", "LORA_A", "LORA_B", "MAGNITUDE", "OTHER", "PREFIX",
    "PROMPTS", "TEMPLATE", "TOKENIZER", "TOKENS", "WEIGHTS", "WHOLE", "Contents", "Key", "Scaling", "Shape", "endings", "factors",
    "of_expert", "plain_name", "shape_of", "sort", "takes_factors", "targeted", "unmatched_targets",
]  # fmt: skip

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TEMPLATE = "chat_template.jinja"
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model", "spiece.model",
    "sentencepiece.bpe.model", "vocab.json", "vocab.txt", "merges.txt", TEMPLATE,
)  # fmt: skip

# Values of init_lora_weights that change the frozen base as well, so that the saved factors mean nothing on the base itself:
# arXiv 2404.02948, 2406.01775, 2406.05223, 2407.05000, 2310.08659.
COUPLED = {"pissa": "PiSSA", "olora": "OLoRA", "corda": "CorDA", "lora_ga": "LoRA-GA", "loftq": "LoftQ"}
# Values of peft_type whose weights are vectors in place of tokens.
PROMPTS = frozenset({"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT", "CARTRIDGE"})

Shape = tuple[int, ...]
T = TypeVar("T")
Number = TypeVar("Number", int, float)


# ---------------------------------------------------------------- names of tensors

PREFIX = "base_model.model."  # before the path of every module of the base
# Parts of a module, as PEFT spells them behind its path.
LORA_A, LORA_B, BIAS, MAGNITUDE = "lora_A.weight", "lora_B.weight", "lora_B.bias", "lora_magnitude_vector"
EMBEDDING_A, EMBEDDING_B = "lora_embedding_A", "lora_embedding_B"
TOKENS = "token_adapter.trainable_tokens_delta"  # rows of an embedding that were trained one by one
FACTORS = ((LORA_A, LORA_B), (EMBEDDING_A, EMBEDDING_B))
WHOLE, OTHER = "", "other"  # a tensor saved in full; one of another method than LoRA
# More copies of a tensor in full, beside what was trained of it; the last, of the embedding under TOKENS, was never trained.
COPIES = ("modules_to_save", "original_module", "base_layer", "token_adapter.base_layer")

# As AdaLoRA, DoRA in memory and the method TRAINABLE_TOKENS spell them.
_LOOSE = {
    "lora_A": LORA_A, "lora_B": LORA_B, f"{MAGNITUDE}.weight": MAGNITUDE, "trainable_tokens_delta": TOKENS,
}  # fmt: skip
_PARTS = "|".join(map(re.escape, (LORA_A, LORA_B, BIAS, MAGNITUDE, EMBEDDING_A, EMBEDDING_B, TOKENS, *_LOOSE)))
_LORA = re.compile(rf"(.+?)\.({_PARTS})")
_COPY = re.compile(rf"(.+?)\.({'|'.join(map(re.escape, COPIES))})\.(weight|bias)")
# What other methods call their tensors, behind the path of the module: ia3_l, oft_r, hada_w1_a, vera_lambda_b, …
_OTHER = re.compile(
    r"(.+?)\.(?:lora|ia3|oft|boft|hra|hada|lokr|vera|vblora|fourierft|randlora|miss|bone|shira|c3a|road|delora|gralora|waveft)_\w+(?:\.\w+)*"
)


class Key(NamedTuple):
    """What the name of a tensor in an adapter's file says."""

    path: str  # of the module in the base; of a tensor in full (WHOLE, COPIES) its own name in the base
    part: str  # LORA_A, …, TOKENS; else WHOLE, OTHER or one of COPIES
    plain: bool  # spelled as PEFT spells it for LoRA: any other LoRA tensor is passed over in silence when PEFT loads it

    @classmethod
    def of(cls, name: str) -> Key:
        rest = name.removeprefix(PREFIX)
        if lora := _LORA.fullmatch(rest):
            part = _LOOSE.get(lora[2], lora[2])
            return cls(lora[1], part, rest != name and (lora[2] == part or part == MAGNITUDE))
        if copy := _COPY.fullmatch(rest):
            return cls(f"{copy[1]}.{copy[3]}", copy[2], False)
        if other := _OTHER.fullmatch(rest):
            return cls(other[1], OTHER, False)
        return cls(rest, WHOLE, rest != name)


@dataclass(frozen=True)
class Contents:
    """The tensors of an adapter's file by what they are, in its order."""

    lora: dict[str, dict[str, TensorInfo]] = field(default_factory=dict)  # path of a module -> part -> tensor
    whole: dict[str, TensorInfo] = field(default_factory=dict)  # the base's name of a tensor -> what replaces it
    other: dict[str, list[TensorInfo]] = field(default_factory=dict)  # path of a module -> what another method has for it

    def pairs(self) -> dict[str, tuple[TensorInfo, TensorInfo]]:
        """Both factors of each module that has any. Raises `IntegrityError` where they are no pair that multiplies."""
        multiplying = {}
        for path, parts in self.lora.items():
            if any(part in parts for pair in FACTORS for part in pair):
                pair = factors(parts)
                if pair is None or shape_of(parts) is None:
                    hint = "Save the adapter again with PEFT's save_pretrained, or fetch it again."
                    raise IntegrityError(f"The LoRA factors of {path} are no pair that multiplies.", hint=hint)
                multiplying[path] = pair
        return multiplying


def sort(tensors: Mapping[str, TensorInfo]) -> Contents:
    """What each tensor of an adapter's file is, by its name alone."""
    contents = Contents()
    for name, tensor in tensors.items():
        path, part, _ = Key.of(name)
        if part == WHOLE:
            contents.whole[path] = tensor
        elif part in COPIES:
            contents.whole.setdefault(path, tensor)
        elif part == OTHER:
            contents.other.setdefault(path, []).append(tensor)
        else:
            contents.lora.setdefault(path, {})[part] = tensor
    return contents


# ---------------------------------------------------------------- shapes


def factors(parts: Mapping[str, T]) -> tuple[T, T] | None:
    """A and B of a module, whichever of the two kinds; None unless both are there."""
    return next(((parts[a], parts[b]) for a, b in FACTORS if a in parts and b in parts), None)


def shape_of(parts: Mapping[str, TensorInfo], *, turned: bool = False) -> Shape | None:
    """Shape of B A as it is added to the stored weight: (out, in), or (in, out) where that is `turned` (`fan_in_fan_out`), as an
    embedding (rows, width) always is. None for factors that do not multiply."""
    pair = factors(parts)
    if pair is None or len(pair[0].shape) != 2 or len(pair[1].shape) != 2 or pair[0].shape[0] != pair[1].shape[1]:
        return None
    out, into = pair[1].shape[0], pair[0].shape[1]
    return (into, out) if turned or EMBEDDING_A in parts else (out, into)


def of_expert(
    a: npt.NDArray[np.float32], b: npt.NDArray[np.float32], expert: int, experts: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The factors (r, in) and (out, r) of one expert, as `peft.tuners.lora.ParamWrapper` takes them out of those of all."""
    return a.reshape(experts, -1, a.shape[1])[expert], b.reshape(len(b), -1, experts)[:, :, expert]


# ---------------------------------------------------------------- scales


@dataclass(frozen=True)
class Scaling:
    """What adapter_config.json says of ranks and alphas; PEFT's defaults where it says nothing."""

    r: int = 8
    lora_alpha: float = 8
    use_rslora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)  # by names, see `plain_name`
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Scaling:
        """Of a configuration as PEFT wrote it. Raises `IntegrityError` for a key that is more of a pattern than a name."""
        patterns = [{plain_name(key): value for key, value in (config.get(k) or {}).items()} for k in ("rank_pattern", "alpha_pattern")]
        for key in (key for pattern in patterns for key in pattern):
            if not _NAME.fullmatch(key):
                raise IntegrityError(f"{CONFIG} gives the rank or alpha of modules by the pattern {key[:80]!r}.", hint="Name the modules.")
        plain = {key: config[key] for key in ("r", "lora_alpha", "use_rslora") if config.get(key) is not None}
        return cls(**plain, rank_pattern=patterns[0], alpha_pattern=patterns[1])

    def rank_of(self, module: str) -> int:
        return _first(self.rank_pattern, module, self.r)

    def alpha_of(self, module: str) -> float:
        return _first(self.alpha_pattern, module, self.lora_alpha)

    def scale_of(self, module: str) -> float:
        """What B A of `module` is multiplied with: alpha / r, with rsLoRA alpha / sqrt(r) (arXiv 2312.03732)."""
        rank = self.rank_of(module)
        return self.alpha_of(module) / (rank**0.5 if self.use_rslora else rank)


_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
# How PEFT itself writes "wherever it stands" before the name of fused experts (`_convert_peft_config_moe`).
_ANYWHERE = re.compile(r"\.\*\\\.(\w+)", re.ASCII)


def plain_name(key: str) -> str:
    r"""`.*\.gate_up_proj` is the name gate_up_proj: PEFT allows any path before a key. Nothing else of a pattern is a name."""
    anywhere = _ANYWHERE.fullmatch(key)
    return anywhere[1] if anywhere else key


@lru_cache(maxsize=100_000)
def _compiled(name: str) -> re.Pattern[str]:
    """As `peft.utils.other.get_pattern_key` does, where a dot in a name stands for any character. Names hold nothing else that a
    regular expression repeats, so each match takes linear time."""
    return re.compile(rf"(.*\.)?({name})$")


def _first(pattern: Mapping[str, Number], module: str, default: Number) -> Number:
    return next((value for name, value in pattern.items() if _compiled(name).match(module)), default)


# ---------------------------------------------------------------- targets


def endings(path: str) -> list[str]:
    """Every name that means the module or parameter at `path`: the whole path and each of its ends."""
    parts = path.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]


def targeted(layout: Layout, names: Iterable[str]) -> dict[str, Parameter]:
    """What `target_parameters` adapts on a base, by the path under which its factors stand.

    PEFT wraps a module once for each of its parameters that a name means, in their order, so all but the last stand deeper,
    each with one more `.base_layer` (`BaseTuner._inject_parameters`).
    """
    wanted = set(names)
    by_module: dict[str, list[Parameter]] = {}
    for parameter in layout.parameters.values() if wanted else ():
        if not wanted.isdisjoint(endings(parameter.name)):
            by_module.setdefault(parameter.name.rpartition(".")[0], []).append(parameter)
    return {
        module + ".base_layer" * (len(held) - 1 - place): parameter
        for module, held in by_module.items()
        for place, parameter in enumerate(held)
    }


def takes_factors(parameter: str, axes: int) -> bool:
    """Whether PEFT can adapt that parameter by name (`target_parameters`): all experts in one, or a router."""
    return axes == 3 or parameter.endswith("gate.weight")


def unmatched_targets(key: str, wanted: Sequence[str], there: Iterable[str]) -> str:
    """One sentence on the names of the recipe's `key` that mean none of the paths `there` are; empty when there are none such."""
    paths = list(there)
    meant = {name for path in paths for name in endings(path)} | {"all-linear"}
    unknown = [name for name in wanted if name not in meant]
    if not unknown:
        return ""
    modules = key == "lora_target_modules"
    names = sorted({".".join(path.split(".")[-1 if modules else -2 :]) for path in paths})
    said = f"{key}: this base has no {' and no '.join(unknown)}; it has {', '.join(names) or 'none'}"
    return said + ("; all-linear takes them all." if modules else ".")
