"""The options of `workbench train`, derived from the recipe model: names, types, groups, defaults and help."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from pydantic.fields import FieldInfo

from workbench.recipe import KEYS, Key, Recipe, typed

__all__ = ["RecipeCommand", "default_text", "given_values", "kind_of", "recipe_options"]

# Names other tools use for the same thing, by the recipe's own: to be named in the error.
_ELSEWHERE = {
    "base": "model model-name base-model model-name-or-path model-id",
    "dataset": "dataset-name dataset-path data train-file",
    "name": "output-dir output adapter-name run-name",
    "method": "finetuning-type peft-method",
    "num_train_epochs": "epochs num-epochs",
    "max_steps": "steps iters",
    "learning_rate": "lr",
    "lr_scheduler_type": "scheduler",
    "per_device_train_batch_size": "batch-size micro-batch-size train-batch-size",
    "gradient_accumulation_steps": "gradient-accumulation",
    "max_length": "cutoff-len max-seq-len max-seq-length sequence-len",
    "lora_r": "r rank lora-rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "lora_target_modules": "target-modules lora-target",
    "early_stopping_patience": "patience early-stopping",
    "load_in_4bit": "quantization quantization-bit",
    "report_to": "logger",
    "optim": "optimizer",
    "dtype": "torch-dtype",
    "neftune_noise_alpha": "noise-alpha",
    "resume_from_checkpoint": "resume",
}


class _Value(click.ParamType):  # type: ignore[type-arg]  # older clicks have no parameter there
    """Takes the text as it is: the recipe model judges all values at once. `none` unsets what a preset or file set."""

    def __init__(self, key: Key) -> None:
        self.name = kind_of(key)
        self.listed = key.kind in {"list", "choices"}
        self.optional = key.optional

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return self.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if self.listed:
            return [part.strip() for part in value.split(",") if part.strip() and part.strip().lower() != "none"]
        return _NONE if self.optional and value.lower() == "none" else value


_NONE = object()  # "given as nothing", which click's None ("not given") cannot say


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add one option per field of the recipe, in the model's order, under the field's own name."""
    for name, field in reversed(Recipe.model_fields.items()):
        flag = KEYS[name].kind == "flag"
        option = click.option(
            f"--{name}/--no_{name}" if flag else f"--{name}",
            name,
            default=None,
            type=None if flag else _Value(KEYS[name]),
            help=f"{field.description}{_default_note(field)}",
        )
        command = option(command)
    return command


def given_values(values: dict[str, Any]) -> dict[str, Any]:
    """What was written on the command line, and nothing else: the rest comes from the file, the preset or the model."""
    given = {name: value for name, value in values.items() if name in Recipe.model_fields and value is not None}
    return {name: None if value is _NONE else value for name, value in given.items()}


def kind_of(key: Key) -> str:
    """What a key takes, in words: `INT`, `lora|qlora|sft`, `NAME,NAME`."""
    if key.choices:
        return "|".join(key.choices) + (",…" if key.kind == "choices" else "")
    if key.kind == "number":
        return "INT" if key.whole else "NUMBER"
    return {"flag": "yes/no", "mapping": "JSON", "list": "NAME,NAME"}.get(key.kind, "TEXT")


def default_text(field: FieldInfo) -> str:
    """A field's default as it would be typed; empty where there is none."""
    return "" if field.is_required() or field.default in (None, ()) else typed(field.default)


class RecipeCommand(click.Command):
    """A command whose help groups the recipe's options, and which knows what other tools call them."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own = [p for p in self.params if isinstance(p, click.Option) and p.name not in Recipe.model_fields]
        sections = {"Command": own}
        for param in self.params:
            if param.name in Recipe.model_fields:
                heading = f"Recipe: {KEYS[param.name].group}"
                sections.setdefault(heading, []).append(param)  # type: ignore[arg-type]
        helps = self.get_help_option(ctx)
        sections["Command"] += [helps] if helps and helps not in own else []
        for heading, params in sections.items():
            records = [record for param in params if (record := param.get_help_record(ctx))]
            with formatter.section(heading):
                formatter.write_dl(records)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            word = error.option_name.lstrip("-").replace("_", "-")
            known = {name.replace("_", "-"): name for name in _option_names(self)} | {
                word: key for key, words in _ELSEWHERE.items() for word in words.split()
            }
            close = [word] if word in known else difflib.get_close_matches(word, known, n=2)
            near = list(dict.fromkeys(known[name] for name in close))
            told = f" Did you mean {' or '.join('--' + name for name in near)}?" if near else " See them all: workbench train --help"
            raise click.UsageError(f"There is no option {error.option_name}.{told}", ctx) from None


def surplus(words: tuple[str, ...]) -> Path | None:
    """A recipe file given without `--config`; raises `UsageError` for anything else that stands alone."""
    if len(words) == 1 and (words[0].endswith((".yaml", ".yml")) or Path(words[0]).is_file()):
        return Path(words[0])
    if words and words[0].lower() in {"true", "false", "yes", "no"}:
        raise click.UsageError(f"'{words[0]}' stands alone. A switch is turned on with --packing and off with --no_packing.")
    if words:
        raise click.UsageError(
            f"'{' '.join(words)}' stands alone. Lists are written with commas (--lora_target_modules q_proj,v_proj); "
            "a recipe file ends in .yaml; everything else is an option."
        )
    return None


def _option_names(command: click.Command) -> list[str]:
    return [opt.lstrip("-") for param in command.params for opt in [*param.opts, *param.secondary_opts] if opt.startswith("--")]


def _default_note(field: FieldInfo) -> str:
    if field.is_required():
        return "  [required]"
    text = default_text(field)
    return f"  [default: {text}]" if text and "Default:" not in str(field.description) else ""
