"""A text that the browser saves as a file, without a file on the server."""

from __future__ import annotations

import gradio as gr

from mace_studio.ui.components.files import script


def text_download(elem_id: str) -> gr.HTML:
    """An invisible component that saves its value: {name, text, count}; another count saves the same text again."""
    return gr.HTML({}, label="Saved file", html_template="", js_on_load=script(__file__), elem_id=elem_id)
