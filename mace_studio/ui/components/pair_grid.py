"""A grid of images, a column for each seed: a row for each prompt, or for the original and each of several models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr

from mace_studio.recipe import ImageRequest
from mace_studio.ui.components.files import script, strip_url

if TYPE_CHECKING:
    from mace_studio.analysis.compare import Pair


def pair_grid() -> gr.HTML:
    """The grid. Its value is made by `cells`; the event `pick` has the `index` of the cell that was pressed."""
    return gr.HTML(
        {},
        label="All pairs",
        html_template='<div class="pair-table" tabindex="0" role="region" aria-label="All pairs"></div>',
        js_on_load=script(__file__),
        apply_default_css=False,
        elem_id="pairs",
    )


def cells(job_id: str, request: ImageRequest, pairs: Sequence[Pair], names: Sequence[str] = ("",)) -> dict[str, Any]:
    """The grid's value, with an empty place for every pair that is not generated yet.

    Of one erased model each cell shows before and after side by side; of several, each has a row below the original's.

    Args:
        job_id: another one lets the grid choose its first cell again.
        request: which pairs there will be.
        pairs: those that are there, in the order of `request.pairs()`, for each of them one of every model.
        names: what the erased models are called.
    """
    width, models = len(request.seeds), len(names)
    rows: list[dict[str, Any]] = []
    for row, prompt in enumerate(request.prompts):
        places = [models * (row * width + column) for column in range(width)]
        if models == 1:
            urls = [strip_url([pairs[i].before, pairs[i].after]) if i < len(pairs) else "" for i in places]
            rows.append({"prompt": prompt, "model": "", "images": urls, "picks": places})
            continue
        urls = [strip_url([pairs[i].before]) if i < len(pairs) else "" for i in places]
        rows.append({"prompt": prompt, "model": "original", "images": urls, "picks": places})
        for number, name in enumerate(names):
            own = [place + number for place in places]
            urls = [strip_url([pairs[i].after]) if i < len(pairs) else "" for i in own]
            rows.append({"prompt": prompt, "model": name, "images": urls, "picks": own})
    return {"job": job_id, "seeds": list(request.seeds), "rows": rows}
