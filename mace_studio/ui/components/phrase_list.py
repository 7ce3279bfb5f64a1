"""A list of phrases as chips with one input; gr.Dropdown names its buttons "Remove 0", at 16 pixels (Gradio 6.31)."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr

from mace_studio.ui.components.files import script

TEMPLATE = """<div class="phrase-list"><ul></ul>
<p class="phrase-warning" hidden>Dashed: the loaded model has not learned this, so nothing of it can be shown.</p>
<input type="text" placeholder="Type a phrase and press Enter, or paste a list" autocomplete="off"
list="known-mappings">
<div class="phrase-ask" role="group" aria-label="A comma in what was pasted" hidden><span role="status"></span>
<button type="button" class="chip" value="several">Several phrases</button>
<button type="button" class="chip" value="one">One phrase with a comma in it</button>
<button type="button" class="chip" value="none">Add nothing</button></div></div>"""


def phrase_list(phrases: Sequence[str], label: str, elem_id: str, vocabulary: str) -> gr.HTML:
    """An editor whose value is a list of phrases; `vocabulary` and the suggestions are those of `concept_table`."""
    return gr.HTML(
        list(phrases),
        label=label,
        html_template=TEMPLATE,
        js_on_load=script(__file__),
        apply_default_css=False,
        elem_id=elem_id,
        name=label,
        vocabulary=vocabulary,
    )
