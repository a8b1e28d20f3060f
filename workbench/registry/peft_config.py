"""The rules for an `adapter_config.json` from outside: what is read, what is dropped, what is refused.

PEFT reads several of its keys as regular expressions or as names of modules to import. Nothing of that kind survives here:
names are names, and the file that is published holds only keys written by us (`Declared.published`). The keys are those of
`LoraConfig` in PEFT 0.10 to 0.21 (https://huggingface.co/docs/peft/package_reference/lora).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from workbench.errors import ImportRefused
from workbench.peft_layout import CONFIG, COUPLED, Scaling, plain_name

__all__ = ["Declared", "parse", "strict_json"]

MAX_BYTES = 512 * 1024
T = TypeVar("T", int, float)

# A dotted name. Rust's regex engine runs in linear time and its `$` does not match before a final newline.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$", max_length=256)]
Text = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*$", max_length=1024)]
Pattern = Annotated[str, StringConstraints(max_length=8192)]  # never evaluated
Rank = Annotated[int, Field(ge=1, le=4096)]
Alpha = Annotated[float, Field(gt=0, le=1_000_000)]
Index = Annotated[int, Field(ge=0, lt=100_000_000)]


# Keys that must be off, each with the values that say so: kinds of LoRA whose weights mean something else.
_OFF: dict[str, tuple[bool | None, ...]] = {"use_qalora": (None, False), "use_bdlora": (None, False)} | dict.fromkeys(
    ("layer_replication", "alora_invocation_tokens", "arrow_config", "kasa_config", "velora_config", "monteclora_config"), (None,)
)


class Declared(BaseModel):
    """What an adapter says about itself, after the rules were applied."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    # kept
    peft_type: Literal["LORA"]
    task_type: Literal["CAUSAL_LM"] | None = None
    r: Rank = 8
    lora_alpha: Alpha = 8
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    fan_in_fan_out: bool = False
    use_rslora: bool = False
    use_dora: bool = False
    lora_bias: bool = False
    ensure_weight_tying: bool = False
    rank_pattern: dict[Name, Rank] | None = None
    alpha_pattern: dict[Name, Alpha] | None = None
    modules_to_save: Annotated[list[Name], Field(max_length=64)] | None = None
    target_parameters: Annotated[list[Name], Field(max_length=20_000)] | None = None
    trainable_token_indices: list[Index] | dict[Name, list[Index]] | None = None
    bias: Literal["none"] = "none"

    # read for their meaning, then replaced: the base by the one that was matched, the targets by the modules in the weights
    base_model_name_or_path: Text | None = None
    revision: Text | None = None
    target_modules: Annotated[list[Name], Field(max_length=20_000)] | Pattern | None = None
    init_lora_weights: bool | Text | None = True

    # dropped: they decide how training went, or which modules were chosen, and the weights show that
    exclude_modules: list[Pattern] | Pattern | None = None
    layers_to_transform: list[Index] | Index | None = None
    layers_pattern: list[Pattern] | Pattern | None = None
    inference_mode: bool = True
    auto_mapping: dict[str, Any] | None = None
    megatron_config: dict[str, Any] | None = None
    megatron_core: Text | None = None
    loftq_config: dict[str, Any] | None = None
    eva_config: dict[str, Any] | None = None
    corda_config: dict[str, Any] | None = None
    lora_ga_config: dict[str, Any] | None = None
    runtime_config: dict[str, Any] | None = None
    qalora_group_size: int | None = None
    peft_version: Text | None = None

    @field_validator("rank_pattern", "alpha_pattern", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        plain = {plain_name(str(key)): entry for key, entry in value.items()}
        if len(plain) != len(value):
            raise ValueError("two of its keys mean the same name")
        return plain

    @field_validator("init_lora_weights")
    @classmethod
    def _not_coupled(cls, value: bool | str | None) -> bool | str | None:
        if isinstance(value, str) and value.lower().startswith(tuple(COUPLED)):
            raise ValueError(
                f"{value} changes the base as well as adding to it. Save the adapter again with path_initial_model_for_weight_conversion"
            )
        return value

    @property
    def names(self) -> list[str]:
        """The target modules where they are given by name; [] where they are a pattern or left to PEFT."""
        return list(self.target_modules) if isinstance(self.target_modules, list) else []

    @property
    def pattern(self) -> str | None:
        """The pattern that stood in place of names, for the report. It is never evaluated."""
        return self.target_modules if isinstance(self.target_modules, str) and self.target_modules != "all-linear" else None

    @cached_property
    def scaling(self) -> Scaling:
        return Scaling(self.r, self.lora_alpha, self.use_rslora, self.rank_pattern or {}, self.alpha_pattern or {})

    def published(self, modules: list[str], target_modules: list[str], target_parameters: Sequence[str] = ()) -> dict[str, Any]:
        """The adapter_config.json to publish for an adapter of `modules`, but for its base: plain values under keys that every
        PEFT since 0.10 knows. Ranks and alphas are resolved to names that mean the same whatever their order."""
        values: dict[str, Any] = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "inference_mode": True,
            "target_modules": target_modules,
            "rank_pattern": _by_name({module: self.scaling.rank_of(module) for module in modules}, self.r),
            "alpha_pattern": _by_name({module: _whole(self.scaling.alpha_of(module)) for module in modules}, _whole(self.lora_alpha)),
            "init_lora_weights": True,
            "lora_alpha": _whole(self.lora_alpha),
            **{key: getattr(self, key) for key in ("r", "lora_dropout", "bias", "fan_in_fan_out", "use_rslora", "use_dora")},
        }
        values |= {
            key: getattr(self, key) for key in ("modules_to_save", "target_parameters", "trainable_token_indices") if getattr(self, key)
        }
        values |= {key: True for key in ("lora_bias", "ensure_weight_tying") if getattr(self, key)}
        return values


def _by_name(values: Mapping[str, T], default: T) -> dict[str, T]:
    """{name: value} for the modules whose value is not the default: by last name where all of that name share it, else by full path."""
    shared: dict[str, set[T]] = {}
    for module, value in values.items():
        shared.setdefault(module.rpartition(".")[2], set()).add(value)
    named = {m: m.rpartition(".")[2] if len(shared[m.rpartition(".")[2]]) == 1 else m for m in values}
    return {named[module]: value for module, value in values.items() if value != default}


def parse(data: bytes) -> Declared:
    """Read an adapter_config.json from outside. Raises `ImportRefused` listing every rule it breaks."""
    if len(data) > MAX_BYTES:
        hint = "A few kilobytes are usual; check where it comes from."
        raise ImportRefused(f"{CONFIG} is larger than {MAX_BYTES:,} bytes.", hint=hint)
    values = strict_json(data, CONFIG)
    if not isinstance(values, dict):
        raise ImportRefused("adapter_config.json is not a JSON object.", hint="Save the adapter again with PEFT's save_pretrained.")
    kind = values.get("peft_type")
    if kind != "LORA":
        raise ImportRefused(
            f"This is no LoRA adapter: peft_type is {_short(kind)}.", hint="Only LoRA adapters (also rsLoRA and DoRA) can be imported."
        )
    # A key that a later PEFT added and left empty says nothing; with a value it could change what the weights mean.
    known = {key: value for key, value in values.items() if key in Declared.model_fields or not _says_nothing(key, value)}
    try:
        return Declared.model_validate(known)
    except ValidationError as error:
        first = {str(e["loc"][0]): e for e in reversed(error.errors())}  # a union reports once per member: one line per key
        listed = "".join(f"\n  - {_plain(e, known)}" for e in list(reversed(first.values()))[:20])
        raise ImportRefused(
            f"adapter_config.json breaks the import rules:{listed}",
            hint="\nSave the adapter again as plain LoRA with PEFT's save_pretrained, or remove what is not needed.",
        ) from None


def _says_nothing(key: str, value: Any) -> bool:
    return any(value is off for off in _OFF.get(key, (None,)))


def strict_json(data: bytes, name: str) -> Any:
    """JSON in UTF-8 with every key once, finite numbers and bounded nesting. Raises `ImportRefused`."""
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_every_key_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        what = str(error)
        if isinstance(error, UnicodeDecodeError):
            what = "it is not text in UTF-8"
        elif isinstance(error, RecursionError):
            what = "it is nested too deeply"
        raise ImportRefused(f"{name} cannot be read: {what}.", hint="Save the adapter again with PEFT's save_pretrained.") from None


def _whole(value: float) -> float | int:
    """16.0 as 16: PEFT's own type for alpha is a whole number."""
    return int(value) if value == int(value) else value


def _every_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {_short(twice)} stands in it twice")
    return values


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number in JSON")


def _plain(error: Any, values: dict[str, Any]) -> str:
    key = str(error["loc"][0])
    given = _short(values.get(key))
    if key in _OFF:
        return f"{key}: a kind of LoRA that this workbench does not know (found {given})."
    if error["type"] == "extra_forbidden":
        return f"{_short(key)}: no PEFT version up to 0.21 writes this key (found {given})."
    if key == "bias":
        return f"bias: {given} replaces biases of the base; only 'none' can be imported."
    if key == "task_type":
        return f"task_type: {given} is no language model that continues text (CAUSAL_LM)."
    if key in {"target_modules", "rank_pattern", "alpha_pattern", "modules_to_save", "target_parameters"} and "pattern" in error["type"]:
        return f"{key}: names only, no patterns (found {given})."
    return f"{key}: {error['msg'].removeprefix('Value error, ')} (found {given})."


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
