"""Suggested prompts as buttons, by role."""

from __future__ import annotations

import gradio as gr

from mace_studio.ui.components.files import script


def suggested_prompts(elem_id: str, field: str) -> gr.HTML:
    """The buttons. The value is a list of [role, prompt]; a press adds a line to the text `field`, a CSS selector."""
    return gr.HTML(
        [],
        label="Suggested prompts",
        html_template='<div class="suggestions"></div>',
        js_on_load=script(__file__),
        apply_default_css=False,
        elem_id=elem_id,
        field=field,
    )
