"""Before and after: under a divider, side by side or in turn, and enlarged.

The divider works by mouse, keyboard and screen reader; gr.ImageSlider is mouse only.
"""

from __future__ import annotations

from typing import Any

import gradio as gr
from PIL import Image

from mace_studio.ui.components.files import png_url, script

TEMPLATE = """<figure class="divider is-empty"><div class="divider-bar">
<div class="mode-switch" role="group" aria-label="How to compare">
<button type="button" data-view="divider">Divider</button><button type="button" data-view="sides">Side by side</button>
<button type="button" data-view="flicker">Flicker</button></div>
<div class="mode-switch" role="group" aria-label="Zoom"><button type="button" data-zoom="1">Fit</button>
<button type="button" data-zoom="2">2 ×</button><button type="button" data-zoom="4">4 ×</button></div></div>
<div class="divider-scroll"><div class="divider-stage">
<div class="pane" tabindex="0" role="group" aria-label="Before"><img class="before" alt=""></div>
<div class="pane" tabindex="0" role="group" aria-label="After"><img class="after" alt=""></div>
<span class="divider-line" aria-hidden="true"></span>
<input type="range" min="0" max="100" value="50" aria-label="Divider between before and after"></div></div>
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
