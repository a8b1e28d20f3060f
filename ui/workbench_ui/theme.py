"""Gradio's own parts in the workbench's clothes. Colours of our own markup are in `assets/workbench.css`."""

from __future__ import annotations

import gradio as gr

__all__ = ["theme"]

_SANS = (
    "Inter",
    "system-ui",
    "Segoe UI",
    "Helvetica Neue",
    "Noto Sans",
    "Noto Sans CJK SC",
    "PingFang SC",
    "Microsoft YaHei",
    "sans-serif",
)
_MONO = ("ui-monospace", "SF Mono", "Cascadia Mono", "DejaVu Sans Mono", "monospace")


_STYLE = {
    "body_background_fill": "#f6f7fb",
    "body_background_fill_dark": "#0a0f1e",
    "body_text_color": "#1e293b",
    "body_text_color_dark": "#e2e8f0",
    "body_text_color_subdued": "#475569",
    "body_text_color_subdued_dark": "#a3b1c6",
    "background_fill_primary": "#ffffff",
    "background_fill_primary_dark": "#121a2e",
    "background_fill_secondary": "#f6f7fb",
    "background_fill_secondary_dark": "#0a0f1e",
    "border_color_primary": "#d8dee9",
    "border_color_primary_dark": "#2a3550",
    "block_background_fill": "transparent",
    "block_background_fill_dark": "transparent",
    "block_border_width": "0px",
    "block_border_width_dark": "0px",
    "block_padding": "0px",
    "block_shadow": "none",
    "block_shadow_dark": "none",
    "block_label_text_color": "*neutral_700",
    "block_label_text_color_dark": "*neutral_200",
    "block_title_text_color": "#1e293b",
    "block_title_text_color_dark": "#e2e8f0",
    "block_title_text_weight": "600",
    "block_title_text_size": "14px",
    "block_info_text_color": "#475569",
    "block_info_text_color_dark": "#a3b1c6",
    "block_info_text_size": "13px",
    "form_gap_width": "18px",
    "layout_gap": "18px",
    "input_background_fill": "#ffffff",
    "input_background_fill_dark": "#0d1424",
    "input_border_color": "#94a3b8",
    "input_border_color_dark": "#5b6b87",
    "input_border_width": "1px",
    "input_radius": "9px",
    "input_text_size": "15px",
    "input_placeholder_color": "#64748b",
    "input_placeholder_color_dark": "#93a2b8",
    "button_large_radius": "10px",
    "button_large_text_size": "15px",
    "button_large_text_weight": "600",
    "button_medium_radius": "9px",
    "button_small_radius": "8px",
    "button_primary_background_fill": "#4f46e5",
    "button_primary_background_fill_hover": "#4338ca",
    "button_primary_background_fill_dark": "#4f46e5",
    "button_primary_background_fill_hover_dark": "#6058ea",
    "button_primary_text_color": "white",
    "button_primary_border_color": "#4f46e5",
    "button_secondary_background_fill": "#ffffff",
    "button_secondary_background_fill_hover": "#eef1f7",
    "button_secondary_background_fill_dark": "#1a2440",
    "button_secondary_background_fill_hover_dark": "#243152",
    "button_secondary_border_color": "#c3ccda",
    "button_secondary_border_color_dark": "#3b4a6b",
    "button_secondary_text_color": "#1e293b",
    "button_secondary_text_color_dark": "#e2e8f0",
    "checkbox_label_background_fill": "transparent",
    "checkbox_label_background_fill_dark": "transparent",
    "checkbox_label_border_width": "0px",
    "accordion_text_color": "#1e293b",
    "accordion_text_color_dark": "#e2e8f0",
}


def theme() -> gr.themes.Base:
    """Flat fields on cards; every text colour reaches WCAG AA on its ground in light and dark."""
    base = gr.themes.Default(
        primary_hue="indigo", neutral_hue="slate", radius_size="md", spacing_size="md", font=list(_SANS), font_mono=list(_MONO)
    )
    return base.set(**_STYLE)
