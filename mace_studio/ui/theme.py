"""Colours, fonts and sizes of the page that Gradio's theme decides; the rest is in style.css."""

from __future__ import annotations

import gradio as gr
from gradio.themes import Base, Color, LocalFont

INK = Color(
    name="ink",
    c50="#f8f9fb",
    c100="#f1f3f7",
    c200="#e4e7ee",
    c300="#d0d5e0",
    c400="#98a1b3",
    c500="#667085",
    c600="#4a5468",
    c700="#333c4f",
    c800="#1c2333",
    c900="#131926",
    c950="#0b0f19",
)
VIOLET = Color(
    name="violet",
    c50="#f2f1ff",
    c100="#e6e4ff",
    c200="#d0ccff",
    c300="#b0a8ff",
    c400="#8f83fa",
    c500="#6f5ff0",
    c600="#5a48dd",
    c700="#4a39bb",
    c800="#3d3196",
    c900="#342b78",
    c950="#1f1a48",
)
# name -> (light, dark); one entry where both are the same.
COLOURS = {
    "body_background_fill": ("#f4f5f9", "#0b0f19"),
    "body_text_color": ("#1b2230", "#e6e9f2"),
    "body_text_color_subdued": ("#566073", "#9aa4ba"),
    "background_fill_primary": ("#ffffff", "#121826"),
    "background_fill_secondary": ("#f8f9fb", "#0f1420"),
    "border_color_primary": ("#e2e6ee", "#242d40"),
    "block_background_fill": ("transparent", "transparent"),
    "block_border_width": ("0px", "0px"),
    "block_title_text_color": ("#333c4f", "#cfd6e6"),
    "block_info_text_color": ("#566073", "#9aa4ba"),
    "input_border_width": ("1px", "1px"),
    "input_background_fill": ("#ffffff", "#0f1420"),
    "input_border_color": ("#d0d6e2", "#303b52"),
    "input_border_color_focus": ("*primary_500", "*primary_400"),
    "input_shadow_focus": ("0 0 0 3px rgba(111,95,240,.18)", "0 0 0 3px rgba(143,131,250,.25)"),
    "button_primary_background_fill": ("*primary_600", "*primary_500"),
    "button_primary_background_fill_hover": ("*primary_700", "*primary_600"),
    "button_primary_text_color": ("#ffffff", "#ffffff"),
    "button_secondary_background_fill": ("#ffffff", "#1a2233"),
    "button_secondary_background_fill_hover": ("#f1f3f7", "#232d42"),
    "button_secondary_border_color": ("#d0d6e2", "#2e394f"),
    "button_cancel_background_fill": ("#ffffff", "#1a2233"),
    "button_cancel_background_fill_hover": ("#fdecec", "#3a1d24"),
    "button_cancel_text_color": ("#b42318", "#ff8f86"),
    "button_cancel_border_color": ("#f0c4c0", "#5b2a2f"),
    "checkbox_label_background_fill": ("transparent", "transparent"),
}
SIZES = {
    "block_shadow": "none",
    "block_padding": "0px",
    "block_title_text_weight": "700",
    "block_title_text_size": "13px",
    "block_info_text_size": "12px",
    "input_padding": "7px 10px",
    "input_text_size": "13.5px",
    "checkbox_label_text_size": "13px",
    "button_border_width": "1px",
    "button_large_text_size": "14px",
    "button_large_text_weight": "700",
    "button_large_padding": "10px 16px",
    "button_small_text_size": "12.5px",
    "button_small_text_weight": "400",
    "button_small_padding": "6px 12px",
    "button_small_radius": "8px",
}


def theme() -> Base:
    """Light and dark. Only the regular and bold files of these fonts hold every letter in Gradio 6.31."""
    base = Base(
        primary_hue=VIOLET,
        secondary_hue=VIOLET,
        neutral_hue=INK,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_sm,
        text_size=gr.themes.sizes.text_md,
        font=[LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"],
        font_mono=[LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "monospace"],
    )
    dark = {f"{name}_dark": pair[1] for name, pair in COLOURS.items()}
    return base.set(**{name: pair[0] for name, pair in COLOURS.items()}, **dark, **SIZES)
