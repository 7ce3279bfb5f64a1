"""The glossary in the page: what `docs/glossary.md` says, and a “?” beside whatever on the page has an entry there."""

from __future__ import annotations

import html
import json
import re

import gradio as gr

from mace_studio.paths import GLOSSARY
from mace_studio.ui.components.files import script

ROW = re.compile(r"^\| (.+?) \| (.+) \|$")
MARKUP = re.compile(r"\[([^\]]*)\]\([^)]*\)|[`*]")
TEMPLATE = """<dialog class="glossary" aria-labelledby="glossary-title"><div class="glossary-head">
<h2 id="glossary-title">Glossary</h2><button type="button" class="chip glossary-close">Close</button></div>
<p class="hint">In a field with a “?” the key F1 opens its entry.</p>
<dl tabindex="0" aria-label="Words and their meanings">{entries}</dl></dialog>
<p id="glossary-key" hidden>F1 says what this is.</p>"""


def entries() -> list[tuple[str, str]]:
    """(words, meaning) of each row of the glossary as plain text; several words are parted by commas."""
    lines = GLOSSARY.read_text(encoding="utf-8").splitlines()
    rows = [found for line in lines if (found := ROW.match(line)) and not line.startswith(("| word |", "| ---"))]
    return [(_plain(row[1]), _plain(row[2])) for row in rows]


def glossary() -> gr.HTML:
    """A dialog of all entries; it opens at a word when the “?” beside that word is pressed."""
    listed = entries()
    rows = "".join(
        f'<div data-entry="{i}"><dt>{html.escape(words)}</dt><dd>{html.escape(meaning)}</dd></div>'
        for i, (words, meaning) in enumerate(listed)
    )
    return gr.HTML(
        "",
        label="Glossary",
        html_template=TEMPLATE.replace("{entries}", rows),
        js_on_load=script(__file__),
        apply_default_css=False,
        elem_id="glossary",
        entries=json.dumps(listed, ensure_ascii=False),
    )


def _plain(cell: str) -> str:
    return MARKUP.sub(r"\1", cell).replace("&#124;", "|")
