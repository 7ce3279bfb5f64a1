"""Suggestions, each a button that a list or table of the form takes in the browser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from mace_studio.ui.components.files import script


def chips(label: str, elem_id: str, taker: str) -> gr.HTML:
    """No suggestion yet; its value is made by `listed`. It takes no place while there is none.

    Args:
        label, elem_id: as of any component.
        taker: CSS selector of the component whose script listens to `suggested`, the event of a press.
    """
    return gr.HTML(
        {},
        label=label,
        html_template='<div class="chips"></div>',
        js_on_load=script(__file__),
        apply_default_css=False,
        elem_id=elem_id,
        taker=taker,
    )


def listed(title: str, texts: Sequence[str], picks: Sequence[Any]) -> dict[str, Any]:
    """The value: a title, what the buttons say, and what each of them stands for."""
    return {"title": title, "texts": list(texts), "picks": list(picks)}
