"""The advanced settings, derived from the recipe model: which field gets which control, and values both ways.

Nothing here knows a field by name. A new field in the model appears in the form with its group, help and choices.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from workbench.recipe import KEYS, PRESETS, Key, Recipe, typed
from workbench.words import Words

__all__ = [
    "FIELDS",
    "changed",
    "command_line",
    "from_form",
    "help_text",
    "nearest_preset",
    "preset_values",
    "to_form",
]

ON_THE_PAGE = ("base", "dataset", "name")  # asked for in plain words above the advanced settings
AUTO = "auto"  # a choice that stands for None: the workbench decides


def _field(key: Key) -> Key:
    """A key as a control: a mapping is written as text, and a yes or no that may be left open is a choice."""
    if key.kind == "flag" and key.optional:
        return replace(key, kind="choice", choices=(AUTO, "true", "false"))
    return replace(key, kind="text") if key.kind == "mapping" else key


# By name, in the model's order; what is asked for elsewhere on the page is left out.
FIELDS = {name: _field(key) for name, key in KEYS.items() if name not in ON_THE_PAGE}


def to_form(field: Key, value: Any) -> Any:
    """A recipe's value as the control shows it."""
    if field.kind == "list":
        return ", ".join(value)
    if field.kind == "choices":
        return list(value)
    if field.kind == "choice" and field.optional:
        return AUTO if value is None else str(value).lower()
    if field.kind == "text" and not isinstance(value, str):
        return "" if value is None else json.dumps(value)
    return value


def from_form(field: Key, raw: Any) -> Any:
    """What the control holds as a recipe's value. Nonsense is passed on: the recipe model names it with all other problems."""
    if field.kind == "list":
        return [part.strip() for part in str(raw or "").split(",") if part.strip()]
    if field.kind == "choices":
        return list(raw or [])
    if field.kind == "choice" and field.optional:
        return {AUTO: None, "true": True, "false": False}.get(raw, raw)
    if field.kind == "text":
        return str(raw).strip() or None if raw is not None else None
    if field.kind == "number" and isinstance(raw, float) and field.whole and raw.is_integer():
        return int(raw)
    return raw


def preset_values(preset: str) -> dict[str, Any]:
    """Every advanced field's value under a preset, as plain JSON values."""
    values = {name: info.default for name, info in Recipe.model_fields.items()} | PRESETS[preset].values
    return {name: list(values[name]) if isinstance(values[name], tuple) else values[name] for name in FIELDS}


def changed(raw: Mapping[str, Any], preset: str) -> dict[str, Any]:
    """The fields whose control differs from the preset. An emptied control that must not be empty counts as left alone."""
    basis = preset_values(preset)
    values = {name: from_form(FIELDS[name], value) for name, value in raw.items()}
    must = {name for name, field in FIELDS.items() if not field.optional and field.kind == "number"}
    return {name: value for name, value in values.items() if value != basis[name] and not (value is None and name in must)}


def nearest_preset(recipe: Mapping[str, Any]) -> str:
    """The preset from which a recipe differs in the fewest fields; the first of them in their order."""
    return min(PRESETS, key=lambda preset: sum(recipe.get(name, value) != value for name, value in preset_values(preset).items()))


def help_text(field: Key, t: Words) -> str:
    """The model's own description; another language may have its own words for it under `field.<name>`."""
    return t.table.get(f"field.{field.name}") or str(Recipe.model_fields[field.name].description)


def command_line(given: Mapping[str, Any], preset: str) -> str:
    """The shell command that starts the same job."""
    words = ["workbench", "train"]
    for name, value in {"base": given.get("base"), "dataset": given.get("dataset"), "preset": preset, **given}.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no_{name}")
        elif value is not None or name not in ON_THE_PAGE:
            words += [f"--{name}", shlex.quote(typed(value))]
    return " ".join(words)
