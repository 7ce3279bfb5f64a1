"""A sentence about what is wrong, shown once more at the control that it is about."""

from __future__ import annotations

import gradio as gr

from mace_studio.ui.components.files import script

CLEAR: dict[str, str] = {}


def notice(elem_id: str) -> gr.HTML:
    """The place of the sentence. Its value is made by `notices.problem`: {text, target}, or `CLEAR`."""
    return gr.HTML(
        CLEAR,
        label="Problem",
        html_template='<p class="notice" role="alert"></p>',
        js_on_load=script(__file__),
        apply_default_css=False,
        elem_id=elem_id,
    )
