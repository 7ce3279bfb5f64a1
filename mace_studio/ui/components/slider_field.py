"""A number with a slider beside it. The number is text, so any value can be typed and none is rounded."""

from __future__ import annotations

import html
from dataclasses import dataclass

import gradio as gr

from mace_studio.ui.files import page_file
from mace_studio.ui.form import BY_KEY

TEMPLATE = """<div class="slider-field"><label for="{id}-number">{label}</label>
<input type="text" inputmode="decimal" autocomplete="off" id="{id}-number" aria-describedby="{id}-hint">
<input type="range" aria-label="{label} slider"><p id="{id}-hint">{hint}</p></div>"""


@dataclass(frozen=True)
class Span:
    """Where a slider begins and ends.

    Attributes:
        low, high: its ends; exponents of ten when `log`.
        step: between two places.
        log: the slider moves in powers of ten.
        off: its left end is 0.
    """

    low: float
    high: float
    step: float
    log: bool = True
    off: bool = False


WEIGHT = Span(-8, 4, 0.1, off=True)


def slider_field(key: str, hint: str, value: str, span: Span) -> gr.HTML:
    """A labelled number and slider for the form's field `key`; the value is the number's text."""
    field = BY_KEY[key]
    return gr.HTML(
        value,
        label=field.label,
        html_template=TEMPLATE.format(id=field.elem_id, label=html.escape(field.label), hint=html.escape(hint)),
        js_on_load=page_file("slider_field.js"),
        apply_default_css=False,
        elem_id=field.elem_id,
        min_width=120,
        low=span.low,
        high=span.high,
        step=span.step,
        log=span.log,
        off=span.off,
    )
