"""The advanced settings as Gradio controls, one per field of the recipe model."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

import gradio as gr

from workbench.recipe import Key
from workbench.words import Words
from workbench_ui.views.recipe_form import FIELDS, help_text, preset_values, to_form
from workbench_ui.widgets.view import Shown, view

__all__ = ["Controls", "recipe_controls", "show_values"]

Controls = dict[str, gr.components.Component]  # by the name of the field


def recipe_controls(t: Words, preset: str) -> Controls:
    """A control for each of `FIELDS`, under the headings of their groups, holding the preset's values."""
    values = preset_values(preset)
    controls: Controls = {}
    for group, fields in groupby(FIELDS.values(), key=lambda field: field.group):
        view(f'<h3 class="wb-group">{t(f"group.{group}")}</h3>')
        with gr.Row(elem_classes="wb-fields"):
            controls |= {field.name: _control(field, to_form(field, values[field.name]), t) for field in fields}
    return controls


def show_values(controls: Controls, values: Mapping[str, Any]) -> Shown:
    """What makes the controls show these values of a recipe."""
    return {controls[name]: gr.update(value=to_form(FIELDS[name], value)) for name, value in values.items()}


def _control(field: Key, value: Any, t: Words) -> gr.components.Component:
    common: dict[str, Any] = {"label": field.name, "info": help_text(field, t), "value": value, "interactive": True, "min_width": 240}
    if field.kind == "number":
        return gr.Number(precision=0 if field.whole else None, placeholder=t("form.auto") if field.optional else None, **common)
    if field.kind == "flag":
        return gr.Checkbox(**common)
    if field.kind == "choice":
        labels = {"auto": t("form.auto"), "true": t("form.yes"), "false": t("form.no")}
        return gr.Dropdown([(labels.get(choice, choice), choice) for choice in field.choices], filterable=False, **common)
    if field.kind == "choices":
        return gr.Dropdown(list(field.choices), multiselect=True, **common)
    return gr.Textbox(placeholder=t("form.auto") if field.optional else None, **common)
