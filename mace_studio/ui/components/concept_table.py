"""The table of concepts: native inputs in one component, so that a hundred rows stay quick.

The same rows as Gradio components took 2.1 s for each added row at a hundred rows.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

import gradio as gr

from mace_studio.recipe import KINDS
from mace_studio.ui.components.files import script
from mace_studio.ui.concept_text import Row
from mace_studio.ui.kinds import RULES

TEMPLATE = """<div class="concept-bulk" hidden role="group" aria-label="Selected concepts">
<label><input type="checkbox" class="concept-all"> Select all</label><output></output>
<input type="text" data-bulk placeholder="Map them to" aria-label="Map the selected concepts to" autocomplete="off"
list="known-mappings">
<select data-bulk aria-label="Kind of the selected concepts"><option value="">Kind …</option></select>
<button type="button" class="chip">Delete</button></div>
<div class="concept-head" aria-hidden="true"><span></span><span>Concept</span><span>Maps to</span><span>Kind</span>
<span>Synonyms</span><span></span></div><div class="concept-rows"></div>
<datalist id="known-concepts"></datalist><datalist id="known-mappings"></datalist>"""


def concept_table(rows: list[Row], vocabulary: str) -> gr.HTML:
    """An editor whose value is a list of rows of four texts: phrase, mapping, kind, synonyms.

    Args:
        rows: to begin with.
        vocabulary: made by `vocabulary_text`.
    """
    return gr.HTML(
        rows,
        label="Concepts to erase",
        html_template=TEMPLATE,
        js_on_load=script(__file__),
        apply_default_css=False,
        elem_id="concepts",
        kinds=list(KINDS),
        vocabulary=vocabulary,
    )


def vocabulary_text(known: Mapping[str, str], words: Collection[str] | None) -> str:
    """What the editors need of a model's words, as JSON text.

    Gradio 6.31 copies every property at every event, which takes a tenth of a second for a list of hundreds of words
    and no time for a text.

    Args:
        known: phrase -> its kind, which is chosen when the phrase is typed; "" for what can only be mapped to.
        words: all that the model knows, in lower case; None where that is not known.
    """
    return json.dumps(
        {"known": dict(known), "words": None if words is None else sorted(words), "rules": RULES}, ensure_ascii=False
    )
