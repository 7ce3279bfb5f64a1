"""A grid of pairs: a row for each prompt, a column for each seed; each cell shows before and after side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr
from PIL import Image

from mace_studio.recipe import ImageRequest
from mace_studio.ui.components.files import jpeg_url, png_url, script

if TYPE_CHECKING:
    from mace_studio.analysis.compare import Pair

LARGEST, SMALLEST = 256, 96  # pixels of the longer side of an image in a cell


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


def cells(job_id: str, request: ImageRequest, pairs: Sequence[Pair]) -> dict[str, Any]:
    """The grid's value, with an empty place for every pair that is not generated yet.

    Args:
        job_id: another one lets the grid choose its first cell again.
        request: which pairs there will be.
        pairs: those that are there, in the order of `request.pairs()`.
    """
    images: Mapping[int, str] = {i: _thumbnail(pair) for i, pair in enumerate(pairs)}
    width = len(request.seeds)
    return {
        "job": job_id,
        "seeds": list(request.seeds),
        "rows": [
            {"prompt": prompt, "images": [images.get(row * width + column, "") for column in range(width)]}
            for row, prompt in enumerate(request.prompts)
        ],
    }


def _thumbnail(pair: Pair) -> str:
    width, height = pair.before.size
    both = Image.new("RGB", (2 * width, height))
    both.paste(pair.before, (0, 0))
    both.paste(pair.after, (width, 0))
    if max(width, height) <= SMALLEST:
        return png_url(both)
    scale = min(1.0, LARGEST / max(width, height))
    return jpeg_url(both.resize((round(2 * width * scale), round(height * scale))))
