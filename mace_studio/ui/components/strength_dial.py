"""One dial for the strength of an erasure, for those who do not want to know its settings."""

from __future__ import annotations

import gradio as gr

from mace_studio.ui.components.files import script

TEMPLATE = """<div class="dial"><input type="range" min="-2" max="2" step="1" value="0" aria-label="Strength"
list="dial-marks"><p class="pair"><span>Gentle: others keep more</span><span>Thorough: less is left</span></p></div>"""


def strength_dial() -> gr.HTML:
    """The dial. Its value is -2 for gentle to 2 for thorough; 0 is as the recipe has it."""
    return gr.HTML(
        0,
        label="Strength",
        html_template=TEMPLATE,
        js_on_load=script(__file__),
        apply_default_css=False,
        elem_id="strength",
    )
