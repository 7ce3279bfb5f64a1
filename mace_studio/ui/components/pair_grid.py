"""A grid of images, a column for each seed: a row for each prompt, or for the original and each of several models."""

from __future__ import annotations

from collections.abc import Sequence
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


def cells(job_id: str, request: ImageRequest, pairs: Sequence[Pair], names: Sequence[str] = ("",)) -> dict[str, Any]:
    """The grid's value, with an empty place for every pair that is not generated yet.

    Of one erased model each cell shows before and after side by side; of several, each has a row below the original's.

    Args:
        job_id: another one lets the grid choose its first cell again.
        request: which pairs there will be.
        pairs: those that are there, in the order of `request.pairs()`, for each of them one of every model.
        names: of the erased models.
    """
    width, models = len(request.seeds), len(names)
    rows: list[dict[str, Any]] = []
    for row, prompt in enumerate(request.prompts):
        places = [models * (row * width + column) for column in range(width)]
        if models == 1:
            urls = [_url([pairs[i].before, pairs[i].after]) if i < len(pairs) else "" for i in places]
            rows.append({"prompt": prompt, "model": "", "images": urls, "picks": places})
            continue
        urls = [_url([pairs[i].before]) if i < len(pairs) else "" for i in places]
        rows.append({"prompt": prompt, "model": "original", "images": urls, "picks": places})
        for number, name in enumerate(names):
            own = [place + number for place in places]
            urls = [_url([pairs[i].after]) if i < len(pairs) else "" for i in own]
            rows.append({"prompt": prompt, "model": name, "images": urls, "picks": own})
    return {"job": job_id, "seeds": list(request.seeds), "rows": rows}


def _url(images: Sequence[Image.Image]) -> str:
    """Images side by side as a data URL."""
    width, height = images[0].size
    strip = Image.new("RGB", (len(images) * width, height))
    for i, image in enumerate(images):
        strip.paste(image, (i * width, 0))
    if max(width, height) <= SMALLEST:
        return png_url(strip)
    scale = min(1.0, LARGEST / max(width, height))
    return jpeg_url(strip.resize((round(strip.width * scale), round(height * scale))))
