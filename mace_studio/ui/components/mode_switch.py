"""Simple or Expert: which settings are on the page. The choice is the browser's, and hides what CSS marks `expert`."""

from __future__ import annotations

import gradio as gr

from mace_studio.ui.components.files import script

TEMPLATE = """<div class="mode-switch" role="group" aria-label="How much is shown">
<button type="button" data-mode="simple">Simple</button>
<button type="button" data-mode="expert">Expert</button></div>"""


def mode_switch() -> gr.HTML:
    """Two buttons; the body of the page has the class `is-simple` while the first one is pressed."""
    return gr.HTML(
        "",
        label="How much is shown",
        html_template=TEMPLATE,
        js_on_load=script(__file__),
        apply_default_css=False,
        elem_id="mode",
    )
