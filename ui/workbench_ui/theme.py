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
    "block_padding": "0px",
    "block_title_text_weight": "600",
    "block_title_text_size": "14px",
    "block_info_text_size": "13px",
    "form_gap_width": "18px",
    "layout_gap": "18px",
    "input_border_width": "1px",
    "input_radius": "9px",
    "input_text_size": "15px",
    "button_large_radius": "10px",
    "button_large_text_size": "15px",
    "button_large_text_weight": "600",
    "button_medium_radius": "9px",
    "button_small_radius": "8px",
    "button_primary_text_color": "white",
    "button_primary_border_color": "#4f46e5",
    "checkbox_label_border_width": "0px",
}
# in light and in dark
_COLOURS = {
    "checkbox_label_background_fill": ("transparent", "transparent"),
    "button_primary_background_fill": ("#4f46e5", "#4f46e5"),
    "block_shadow": ("none", "none"),
    "block_border_width": ("0px", "0px"),
    "block_background_fill": ("transparent", "transparent"),
    "body_background_fill": ("#f6f7fb", "#0a0f1e"),
    "body_text_color": ("#1e293b", "#e2e8f0"),
    "body_text_color_subdued": ("#475569", "#a3b1c6"),
    "background_fill_primary": ("#ffffff", "#121a2e"),
    "background_fill_secondary": ("#f6f7fb", "#0a0f1e"),
    "border_color_primary": ("#d8dee9", "#2a3550"),
    "block_label_text_color": ("*neutral_700", "*neutral_200"),
    "block_title_text_color": ("#1e293b", "#e2e8f0"),
    "block_info_text_color": ("#475569", "#a3b1c6"),
    "input_background_fill": ("#ffffff", "#0d1424"),
    "input_border_color": ("#94a3b8", "#5b6b87"),
    "input_placeholder_color": ("#64748b", "#93a2b8"),
    "button_primary_background_fill_hover": ("#4338ca", "#6058ea"),
    "button_secondary_background_fill": ("#ffffff", "#1a2440"),
    "button_secondary_background_fill_hover": ("#eef1f7", "#243152"),
    "button_secondary_border_color": ("#c3ccda", "#3b4a6b"),
    "button_secondary_text_color": ("#1e293b", "#e2e8f0"),
    "accordion_text_color": ("#1e293b", "#e2e8f0"),
}


def theme() -> gr.themes.Base:
    """Flat fields on cards; every text colour reaches WCAG AA on its ground in light and dark."""
    base = gr.themes.Default(
        primary_hue="indigo", neutral_hue="slate", radius_size="md", spacing_size="md", font=list(_SANS), font_mono=list(_MONO)
    )
    dark = {f"{name}_dark": colour for name, (_, colour) in _COLOURS.items()}
    return base.set(**_STYLE, **{name: colour for name, (colour, _) in _COLOURS.items()}, **dark)
