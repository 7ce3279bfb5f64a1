"""A number with a slider beside it. The number is text, so any value can be typed and none is rounded."""

from __future__ import annotations

import html

import gradio as gr

from mace_studio.ui.components.files import script
from mace_studio.ui.form_fields import Field, Span

TEMPLATE = """<div class="slider-field"><label for="{id}-number">{label}</label>
<input type="text" inputmode="decimal" autocomplete="off" id="{id}-number" aria-describedby="{id}-hint">
<input type="range" tabindex="-1" aria-label="{label} slider"><p id="{id}-hint">{hint}</p></div>"""


def slider_field(field: Field, span: Span, value: str) -> gr.HTML:
    """A labelled number and slider for a field of the form; the value is the number's text."""
    return gr.HTML(
        value,
        label=field.label,
        html_template=TEMPLATE.format(id=field.elem_id, label=html.escape(field.label), hint=html.escape(field.hint)),
        js_on_load=script(__file__),
        apply_default_css=False,
        elem_id=field.elem_id,
        min_width=120,
        low=span.low,
        high=span.high,
        step=span.step,
        log=span.log,
        off=span.off,
    )
