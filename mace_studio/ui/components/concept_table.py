"""The table of concepts: native inputs in one component, so that a hundred rows stay quick.

The same rows as Gradio components took 2.1 s for each added row at a hundred rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr

from mace_studio.recipe import KINDS
from mace_studio.ui.components.files import script
from mace_studio.ui.concept_text import Row

TEMPLATE = """<div class="concept-bulk" hidden role="group" aria-label="Selected concepts">
<label><input type="checkbox" class="concept-all"> Select all</label><output></output>
<input type="text" data-bulk placeholder="Map them to" aria-label="Map the selected concepts to" autocomplete="off">
<select data-bulk aria-label="Kind of the selected concepts"><option value="">Kind …</option></select>
<button type="button" class="chip">Delete</button></div>
<div class="concept-head" aria-hidden="true"><span></span><span>Concept</span><span>Maps to</span><span>Kind</span>
<span>Synonyms</span><span></span></div><div class="concept-rows"></div>
<datalist id="known-concepts"></datalist><datalist id="known-mappings"></datalist>"""


def concept_table(rows: list[Row], known: dict[str, str], words: Sequence[str] | None) -> gr.HTML:
    """An editor whose value is a list of rows of four texts: phrase, mapping, kind, synonyms.

    Args:
        rows: to begin with.
        known: phrase -> its kind, which is chosen when the phrase is typed; "" for what can only be mapped to.
        words: all that the model knows, in lower case; None where that is not known.
    """
    return gr.HTML(
        rows,
        label="Concepts to erase",
        html_template=TEMPLATE,
        js_on_load=script(__file__),
        apply_default_css=False,
        elem_id="concepts",
        kinds=list(KINDS),
        known=known,
        words=words,
    )
