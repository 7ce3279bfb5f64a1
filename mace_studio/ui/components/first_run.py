"""Three steps for new users, in the Simple view; once dismissed they never come back."""

from __future__ import annotations

import gradio as gr

from mace_studio.ui.components.files import script

TEMPLATE = """<section class="first-run simple" aria-label="First steps" hidden><b>New here?</b><ol>
<li>1. <button type="button" data-to="#concepts .concept-cell input">Name what to erase</button></li>
<li>2. <button type="button" data-to="#preserve input">Say what must stay</button></li>
<li>3. <button type="button" data-to="#erase">Press Erase, then Compare</button></li></ol>
<button type="button" class="chip first-close">Got it</button></section>"""


def first_run() -> gr.HTML:
    """The steps, each a button that leads to the field."""
    return gr.HTML(
        "",
        label="First steps",
        html_template=TEMPLATE,
        js_on_load=script(__file__),
        apply_default_css=False,
        elem_id="first-run",
    )
