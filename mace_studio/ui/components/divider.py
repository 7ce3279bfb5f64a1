"""Before and after under one divider that works by mouse, keyboard and screen reader; gr.ImageSlider is mouse only."""

from __future__ import annotations

from typing import Any

import gradio as gr
from PIL import Image

from mace_studio.ui.components.files import png_url, script

TEMPLATE = """<figure class="divider is-empty"><div class="divider-stage"><img class="before" alt="">
<img class="after" alt=""><span class="divider-line" aria-hidden="true"></span>
<input type="range" min="0" max="100" value="50" aria-label="Divider between before and after"></div>
<p class="divider-empty">Generate a prompt to see it here before and after the erasure.</p></figure>"""


def divider() -> gr.HTML:
    """Two images with a movable divider; its value is made by `divided`."""
    return gr.HTML(
        {},
        label="Before and after",
        html_template=TEMPLATE,
        js_on_load=script(__file__),
        apply_default_css=False,
        elem_id="divider",
    )


def divided(before: Image.Image, after: Image.Image, prompt: str) -> dict[str, Any]:
    """The divider's value for two images of the same size."""
    return {"before": png_url(before), "after": png_url(after), "prompt": prompt}
