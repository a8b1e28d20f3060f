"""Everything that decides a training run, in one model.

The YAML file, the command-line options, the browser form and the docs table are derived from its fields.
Names are upstream's: TRL's `SFTConfig` and `ModelConfig`, PEFT's `LoraConfig`, transformers' `TrainingArguments`.
"""

from __future__ import annotations

import json
import math
import reprlib
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from workbench.errors import RecipeError, UsageError
from workbench.records import MAX_LENGTH, BaseRef, check_name

__all__ = ["GROUPS", "KEYS", "Key", "PRESETS", "RECIPE", "Preset", "Recipe", "Resolved", "read_yaml", "resolve", "typed"]

_SHORT = reprlib.Repr()  # YAML's aliases can make a value of a few lines endless when written out
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 200, 200
EVALUATIONS = 5  # in a run, unless the recipe says otherwise
FULL_TUNING = 0.05  # where all weights learn, each step is a twentieth of an adapter's
# What each schedule takes in lr_scheduler_kwargs; of those in _NEEDED it takes at least one.
_SCHEDULES: dict[str, tuple[str, ...]] = {
    "linear": (),
    "cosine": ("num_cycles",),
    "cosine_with_restarts": ("num_cycles",),
    "cosine_with_min_lr": ("num_cycles", "min_lr", "min_lr_rate"),
    "polynomial": ("lr_end", "power"),
    "constant": (),
    "constant_with_warmup": (),
    "inverse_sqrt": ("timescale",),
    "warmup_stable_decay": ("num_decay_steps", "num_stable_steps", "min_lr_ratio", "num_cycles"),
}
_NEEDED = {"cosine_with_min_lr": {"min_lr", "min_lr_rate"}, "warmup_stable_decay": {"num_decay_steps"}}
RECIPE = "recipe.yaml"  # in the folder of an adapter
GROUPS = ("What", "Training", "Adapter", "Base precision", "Evaluation", "Machine")


def _f(default: Any, group: str, help: str, **kw: Any) -> Any:
    return Field(default, description=help, json_schema_extra={"group": group}, **kw)


class Recipe(BaseModel):
    """A training run. Unknown keys are errors; every problem is reported at once."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    base: str = _f(..., "What", "The base to start from, family@version.")
    dataset: str = _f(..., "What", "The dataset to learn from, by name.")
    name: str | None = _f(None, "What", "The adapter's name. Default: the dataset's name.")
    method: Literal["lora", "qlora", "sft"] = _f(
        "lora",
        "What",
        "lora and qlora train an adapter; sft trains all weights and publishes a new version of the base.",
    )
    publish_as: str | None = _f(
        None,
        "What",
        "With method sft: family@version of the new base. Default: the next free version of the family.",
    )

    num_train_epochs: float = _f(1.0, "Training", "Passes over the training rows.", gt=0, le=1000)
    max_steps: int = _f(
        -1, "Training", "Stop after this many optimiser steps, 1 or more, whatever num_train_epochs says; -1 means: by epochs.", ge=-1
    )
    learning_rate: float = _f(
        1e-3, "Training", "Peak learning rate. A twentieth of this (and of a preset's) with method sft, unless given.", gt=0, le=1
    )
    lr_scheduler_type: Literal[
        "linear",
        "cosine",
        "cosine_with_restarts",
        "cosine_with_min_lr",
        "polynomial",
        "constant",
        "constant_with_warmup",
        "inverse_sqrt",
        "warmup_stable_decay",
    ] = _f("cosine", "Training", "How the learning rate falls.")
    lr_scheduler_kwargs: dict[str, float] | None = _f(
        None, "Training", 'What the schedule takes beside its steps, such as {"min_lr_rate": 0.1} of cosine_with_min_lr.'
    )
    optim: Literal["adamw_torch_fused", "adamw_torch", "adafactor", "sgd"] = _f("adamw_torch_fused", "Training", "The optimiser.")
    warmup_ratio: float = _f(
        0.05, "Training", "Share of the steps over which the learning rate rises (constant has no such steps).", ge=0, lt=1
    )
    per_device_train_batch_size: int = _f(8, "Training", "Rows per forward pass.", ge=1, le=4096)
    gradient_accumulation_steps: int = _f(1, "Training", "Forward passes per optimiser step.", ge=1, le=4096)
    max_length: int = _f(
        MAX_LENGTH,
        "Training",
        "Longest row, in tokens; longer rows are cut at the end and counted in the report.",
        ge=8,
        le=1_048_576,
    )
    packing: bool = _f(False, "Training", "Put several rows into one sequence, kept apart by the attention mask.")
    assistant_only_loss: bool = _f(True, "Training", "Learn from the assistant's turns only (conversations).")
    completion_only_loss: bool = _f(True, "Training", "Learn from the completion only (raw prompt and completion rows).")
    neftune_noise_alpha: float | None = _f(
        None, "Training", "Add noise of this size to the embeddings while training (NEFTune). Rows are then padded, which is slower.", gt=0
    )
    weight_decay: float = _f(0.0, "Training", "Decoupled weight decay.", ge=0, le=1)
    max_grad_norm: float = _f(1.0, "Training", "Gradients are clipped to this norm.", gt=0)
    resume_from_checkpoint: str | None = _f(
        None,
        "Training",
        "Begin with the weights of this checkpoint folder of a Trainer, made on the same base. Only its safetensors are read: "
        "steps, schedule and optimiser begin anew. (An interrupted job goes on by itself.)",
    )
    seed: int = _f(42, "Training", "Seed of initialisation, order and dropout.", ge=0, lt=2**32)

    lora_r: int = _f(16, "Adapter", "Rank of the update.", ge=1, le=1024)
    lora_alpha: int = _f(32, "Adapter", "Scale of the update: alpha / r.", ge=1, le=65536)
    lora_dropout: float = _f(0.0, "Adapter", "Dropout before the update.", ge=0, lt=1)
    lora_target_modules: tuple[str, ...] = _f(
        ("all-linear",),
        "Adapter",
        "Modules that get an update, by name, or all-linear.",
    )
    target_parameters: tuple[str, ...] = _f(
        (),
        "Adapter",
        "Parameters that get an update of their own in each expert, such as experts.gate_up_proj, for models that hold all experts of a "
        "layer in one.",
    )
    use_rslora: bool = _f(False, "Adapter", "Scale by alpha / sqrt(r) (rank-stabilised LoRA).")
    use_dora: bool = _f(
        False,
        "Adapter",
        "Weight-decomposed update (DoRA). It re-imposes the base's column norms: harder to carry to a new base.",
    )

    load_in_4bit: bool = _f(False, "Base precision", "Hold the frozen base in 4 bits. Implied by qlora.")
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = _f("nf4", "Base precision", "4-bit data type.")
    use_bnb_nested_quant: bool = _f(False, "Base precision", "Quantise the quantisation constants too.")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = _f(
        "auto",
        "Base precision",
        "With method sft: how the weights are saved. auto: as the base's are, or float32 where rounding would lose what was learned.",
    )
    bf16: bool | None = _f(None, "Base precision", "Compute in bfloat16. Default: where the CPU or GPU has bf16 matrix units.")

    eval_steps: int | None = _f(None, "Evaluation", "Evaluate every so many steps. Default: about five times in a run.", ge=1)
    early_stopping_patience: int | None = _f(None, "Evaluation", "Stop after this many evaluations without a better loss.", ge=1)
    save_steps: int | None = _f(None, "Evaluation", "Save a checkpoint every so many steps. Default: with each evaluation.", ge=1)
    save_total_limit: int = _f(2, "Evaluation", "Checkpoints kept.", ge=2, le=1000)
    eval_rows: int = _f(
        32,
        "Evaluation",
        "Training rows held back to watch the loss; the frozen test part is never used for this.",
        ge=0,
        le=10_000,
    )

    gradient_checkpointing: bool | None = _f(None, "Machine", "Trade time for memory. Default: only where memory needs it.")
    threads: int | None = _f(None, "Machine", "CPU threads. Default: every core, or OMP_NUM_THREADS.", ge=1, le=1024)
    report_to: tuple[Literal["trackio", "wandb", "mlflow", "tensorboard"], ...] = _f(
        (),
        "Machine",
        "Loggers of transformers to report to as well.",
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_yes_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and bool not in (get_args(annotation) or (annotation,)):
            raise PydanticCustomError("yes_or_no", "Input should not be yes or no")
        return value

    @field_validator("report_to", "lora_target_modules", mode="before")
    @classmethod
    def _one_word_for_a_list(cls, value: Any, info: ValidationInfo) -> Any:
        """`none`, a single logger and `all-linear`, as upstream takes them; upstream takes another single word as a pattern."""
        if info.field_name == "report_to":
            return () if value in (None, "none", ["none"]) else (value,) if isinstance(value, str) else value
        return (value,) if value == "all-linear" else value

    @field_validator("lr_scheduler_kwargs", mode="before")
    @classmethod
    def _from_json(cls, value: Any) -> Any:
        """A mapping, or its JSON where only text can be given: on the command line and in the form."""
        try:
            value = json.loads(value) if isinstance(value, str) else value
        except ValueError:
            raise PydanticCustomError("json", 'Input should be JSON such as {{"min_lr_rate": 0.1}}') from None
        if isinstance(value, dict) and any(isinstance(v, bool) for v in value.values()):
            raise PydanticCustomError("yes_or_no", "A value should not be yes or no")
        return value

    @property
    def adapter_name(self) -> str:
        return self.name or self.dataset

    @property
    def quantization(self) -> Literal["nf4", "fp4"] | None:
        """The 4-bit type that the frozen base is held in; None when it is held as it is."""
        return self.bnb_4bit_quant_type if self.method == "qlora" or self.load_in_4bit else None

    def held_back(self, rows: int) -> int:
        """Of so many training rows, those that only watch the loss: `eval_rows`, but never more than a fifth."""
        return min(self.eval_rows, rows // 5)

    def steps(self, examples: int) -> int:
        """Optimiser steps of a run over so many rows (with packing: packed sequences)."""
        if self.max_steps > 0:
            return self.max_steps
        batches = math.ceil(examples / self.per_device_train_batch_size)
        return max(1, math.ceil(self.num_train_epochs * max(1, math.ceil(batches / self.gradient_accumulation_steps))))

    def evaluate_every(self, steps: int) -> int:
        """Steps between two evaluations in a run of `steps`."""
        return self.eval_steps or math.ceil(steps / EVALUATIONS)

    @classmethod
    def load(cls, data: dict[str, Any]) -> Recipe:
        """Check `data` against the model; raises `RecipeError` with every problem at once."""
        problems: list[str] = []
        recipe: Recipe | None = None
        if data.get("method") == "sft":
            data = {"learning_rate": cls.model_fields["learning_rate"].default * FULL_TUNING, **data}
        try:
            recipe = cls.model_validate(data)
        except ValidationError as error:
            problems += [_plain(e) for e in error.errors()]
        problems += _cross_checks(data, recipe)
        if problems or recipe is None:
            raise RecipeError("This recipe cannot be run:", problems, hint="See every key: workbench train --help")
        return recipe

    @classmethod
    def from_yaml(cls, text: str | Path) -> Recipe:
        """From text, or the file of a path."""
        return cls.load(read_yaml(text))

    @classmethod
    def beside(cls, adapter: Path) -> Recipe | None:
        """What the adapter in a folder was trained by; None for one that was made elsewhere."""
        file = adapter / RECIPE
        return cls.from_yaml(file) if file.is_file() else None

    def to_yaml(self) -> str:
        """The whole recipe, every key written out, in the order of the docs table."""
        return str(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


@dataclass(frozen=True)
class Key:
    """What a key of the recipe takes: text, number, flag (yes/no), mapping, list, choice (one of `choices`) or choices (any of them)."""

    name: str
    group: str  # one of `GROUPS`
    kind: str
    choices: tuple[str, ...] = ()
    whole: bool = False  # numbers without a fraction
    optional: bool = False  # None is a value: the workbench decides

    @classmethod
    def of(cls, name: str, field: FieldInfo) -> Key:
        group = str(field.json_schema_extra["group"]) if isinstance(field.json_schema_extra, dict) else GROUPS[0]
        union = get_origin(field.annotation) in (Union, types.UnionType)
        parts = get_args(field.annotation) if union else (field.annotation,)
        optional, taken = type(None) in parts, next(part for part in parts if part is not type(None))
        if get_origin(taken) is tuple:
            choices = get_args(get_args(taken)[0])
            return cls(name, group, "choices" if choices else "list", choices)
        if get_origin(taken) is Literal:
            return cls(name, group, "choice", get_args(taken), optional=optional)
        kind = {int: "number", float: "number", bool: "flag", dict: "mapping"}.get(get_origin(taken) or taken, "text")
        return cls(name, group, kind, whole=taken is int, optional=optional)


KEYS = {name: Key.of(name, field) for name, field in Recipe.model_fields.items()}  # in the model's order


def typed(value: Any) -> str:
    """A field's value as it is typed on the command line."""
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, float):
        return str(value).removesuffix(".0")
    return value if isinstance(value, str) else json.dumps(value)


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML keeps the last without a word."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        places: dict[str, Any] = {}
        for key, _ in node.value:
            first = places.setdefault(str(key.value), key.start_mark)
            if first is not key.start_mark:
                lines = f"on lines {first.line + 1} and {key.start_mark.line + 1}"
                raise RecipeError(f"The recipe gives {key.value} twice, {lines}.", hint="Keep one.")
        return super().construct_mapping(node, deep)


def read_yaml(text: str | Path) -> dict[str, Any]:
    """Read a recipe file; raises `RecipeError` when it is not a mapping."""
    if isinstance(text, Path):
        try:
            text = text.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"The recipe file cannot be read: {error}.") from None
    try:
        data = yaml.load(text, _Loader)  # a SafeLoader
    except (yaml.YAMLError, ValueError, AttributeError, RecursionError) as error:  # PyYAML lets a date of no calendar through as it is
        raise RecipeError(f"The recipe is not YAML: {error}") from None
    if not isinstance(data, dict) or not all(isinstance(k, str) for k in data):
        raise RecipeError("A recipe is a list of `key: value` lines.", hint="Start from one: workbench train … --dry-run")
    return data


def _plain(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        import difflib

        close = difflib.get_close_matches(key, Recipe.model_fields, n=1)
        return f"{key}: no such key." + (f" Did you mean {close[0]}?" if close else "")
    if error["type"] == "missing":
        return f"{key}: must be given."
    found = _SHORT.repr(error.get("input"))
    if error["type"] == "tuple_type":
        return f"{key}: Input should be a list, such as [{found}]."
    return f"{key}: {error['msg']} (found {found})."


def _cross_checks(data: dict[str, Any], recipe: Recipe | None) -> list[str]:
    problems = []
    for key, parse in (("base", BaseRef.parse), ("publish_as", BaseRef.parse), ("name", check_name), ("dataset", check_name)):
        value = data.get(key)
        if isinstance(value, str):
            try:
                parse(value)
            except UsageError as error:
                problems.append(f"{key}: {error}")
    if recipe is None:
        return problems
    if recipe.method == "sft":
        if recipe.load_in_4bit:
            problems.append("load_in_4bit: sft trains all weights, which cannot be held in 4 bits. Use method qlora.")
        unused = ("use_rslora", "use_dora", "lora_dropout", "lora_target_modules")
        given = [key for key in unused if getattr(recipe, key) != Recipe.model_fields[key].default]
        problems += [f"{key}: method sft has no adapter; leave it out." for key in given]
    else:
        if recipe.publish_as:
            problems.append("publish_as: only method sft publishes a base; lora and qlora publish an adapter.")
        if recipe.dtype != "auto":
            problems.append("dtype: only method sft saves the base's weights; an adapter is always saved in float32.")
    if not recipe.quantization:
        ignored = {"use_bnb_nested_quant": recipe.use_bnb_nested_quant, "bnb_4bit_quant_type": recipe.bnb_4bit_quant_type != "nf4"}
        problems += [f"{key}: nothing is held in 4 bits; use method qlora or load_in_4bit." for key, on in ignored.items() if on]
    if recipe.max_steps == 0:
        problems.append("max_steps: 0 steps train nothing. Give 1 or more, or -1 to go by num_train_epochs.")
    schedule, kwargs = recipe.lr_scheduler_type, recipe.lr_scheduler_kwargs or {}
    if unknown := kwargs.keys() - set(_SCHEDULES[schedule]):
        takes = ", ".join(_SCHEDULES[schedule]) or "nothing"
        problems.append(f"lr_scheduler_kwargs: {schedule} takes {takes}, not {', '.join(sorted(unknown))}.")
    if schedule in _NEEDED and not kwargs.keys() & _NEEDED[schedule]:
        problems.append(f"lr_scheduler_kwargs: {schedule} needs {' or '.join(sorted(_NEEDED[schedule]))}.")
    if recipe.early_stopping_patience and not recipe.eval_rows:
        problems.append("early_stopping_patience: needs eval_rows above 0.")
    if "all-linear" in recipe.lora_target_modules and len(recipe.lora_target_modules) > 1:
        problems.append("lora_target_modules: all-linear stands alone.")
    for key, names in (("lora_target_modules", recipe.lora_target_modules), ("target_parameters", recipe.target_parameters)):
        if any(not name.replace("_", "").replace(".", "").replace("-", "").isalnum() for name in names):
            problems.append(f"{key}: names only, no patterns.")
    if not recipe.lora_target_modules and not recipe.target_parameters:
        problems.append("lora_target_modules: none are named, and no target_parameters: there is nothing to train.")
    if recipe.target_parameters and recipe.method != "sft":
        wrong = {"lora_dropout": recipe.lora_dropout > 0, "use_dora": recipe.use_dora}
        problems += [f"{key}: PEFT cannot do that to target_parameters." for key, given in wrong.items() if given]
    return problems


class Preset(BaseModel):
    """A named set of values, with the sentence that says when to use it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    title: str
    when: str
    values: dict[str, Any]


PRESETS: dict[str, Preset] = {
    "quick": Preset(
        title="Quick try",
        when="To see whether the data works.",
        values={"max_steps": 60, "learning_rate": 2e-3, "lora_r": 16, "lora_alpha": 32},
    ),
    "standard": Preset(
        title="Standard",
        when="The usual choice.",
        values={"num_train_epochs": 2.0, "learning_rate": 1e-3, "lora_r": 16, "lora_alpha": 32, "early_stopping_patience": 3},
    ),
    "thorough": Preset(
        title="Thorough",
        when="When Standard was close.",
        values={"num_train_epochs": 5.0, "learning_rate": 5e-4, "lora_r": 32, "lora_alpha": 64, "early_stopping_patience": 4},
    ),
}


class Resolved(BaseModel):
    """A recipe together with where each of its values came from: default, preset, file or given."""

    model_config = ConfigDict(frozen=True)
    recipe: Recipe
    origin: dict[str, str]

    @classmethod
    def of(cls, given: Recipe | Mapping[str, Any]) -> Resolved:
        """A recipe whose values were all given at once. Raises `RecipeError`."""
        recipe = given if isinstance(given, Recipe) else Recipe.load(dict(given))
        return cls(recipe=recipe, origin={key: "given" if key in recipe.model_fields_set else "default" for key in Recipe.model_fields})


def resolve(given: dict[str, Any], *, preset: str | None = None, file: dict[str, Any] | None = None) -> Resolved:
    """Lay `given` over `file` over the preset over the defaults. Raises `RecipeError`."""
    if preset is not None and preset not in PRESETS:
        raise RecipeError(f"No preset named '{preset}'.", hint=f"There are: {', '.join(PRESETS)}.")
    chosen = dict(PRESETS[preset].values) if preset else {}
    if {**(file or {}), **given}.get("method") == "sft" and "learning_rate" in chosen:
        chosen["learning_rate"] *= FULL_TUNING
    layers = [(f"preset {preset}", chosen), ("file", file or {}), ("given", given)]
    data: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for label, values in layers:
        data.update(values)
        origin.update(dict.fromkeys(values, label))
    recipe = Recipe.load(data)
    return Resolved(recipe=recipe, origin={key: origin.get(key, "default") for key in Recipe.model_fields})
