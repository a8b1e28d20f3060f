"""The advanced settings as Gradio controls, one per field of the recipe model."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

import gradio as gr

from workbench.words import Words
from workbench_ui.views.recipe_form import FIELDS, Field, help_text, preset_values, to_form

__all__ = ["recipe_controls", "show_values"]


def recipe_controls(t: Words, preset: str) -> list[gr.components.Component]:
    """A control for each of `FIELDS`, under the headings of their groups, holding the preset's values."""
    values = preset_values(preset)
    controls: list[gr.components.Component] = []
    for group, fields in groupby(FIELDS, key=lambda field: field.group):
        gr.HTML(f'<h3 class="wb-group">{t(f"group.{group}")}</h3>', js_on_load=None, apply_default_css=False)
        with gr.Row(elem_classes="wb-fields"):
            controls += [_control(field, to_form(field, values[field.name]), t) for field in fields]
    return controls


def show_values(values: Mapping[str, Any]) -> list[Any]:
    """Updates that make the controls show these recipe values, in the order of `FIELDS`."""
    return [gr.update(value=to_form(field, values[field.name])) for field in FIELDS]


def _control(field: Field, value: Any, t: Words) -> gr.components.Component:
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
