"""Training images under their masks, with captions, and what has become of the masks that the user made."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import gradio as gr

from mace_studio import masks
from mace_studio.masks import MaskedImage, MaskSheet
from mace_studio.recipe import Recipe
from mace_studio.runtime.estimate import counted_as
from mace_studio.ui.components.files import jpeg_url, script

NOTHING_CHOSEN = "<h2>Draw a mask</h2><p>Press an image to draw its mask yourself.</p>"


def grid() -> gr.HTML:
    """The images under their masks; "pick" says which was pressed. Its value is made by `tiles`."""
    return gr.HTML(
        [],
        label="Training images and masks",
        html_template='<div class="mask-grid"></div>',
        js_on_load=script(__file__),
        apply_default_css=False,
        elem_id="mask-grid",
    )


def tiles(sheet: MaskSheet, listed: Sequence[MaskedImage], closed: bool = False) -> list[dict[str, Any]]:
    """Each image under its mask, with its name and what is known of its mask; one that is closed cannot be pressed."""
    return [
        {
            "key": list(one.key),
            "closed": closed,
            "url": jpeg_url(masks.overlay(one.image, sheet.mask(one))),
            "name": f"{one.phrase} {one.number}",
            "note": _note(sheet, one),
        }
        for one in listed
    ]


def title(sheet: MaskSheet, one: MaskedImage) -> str:
    """The heading of the editor."""
    return f"<h2>{html.escape(one.phrase)} {one.number}</h2><p>{_note(sheet, one)}</p>"


def status(sheet: MaskSheet, recipe: Recipe) -> str:
    """What the images show too little of, what has become of the user's masks, and whether they are those of a recipe.

    Args:
        sheet: what is shown.
        recipe: what the form asks for now.
    """
    sentences = list(sheet.warnings)
    if sheet.dropped:
        were = "was" if sheet.dropped == 1 else "were"
        sentences.append(f"{_by_hand(sheet.dropped)} no longer fitted the images and {were} dropped.")
    made, fit = len(sheet.user_masks), len(sheet.fitting(recipe))
    if fit:
        sentences.append(f"{_by_hand(fit)}: the next erasure uses {'it' if fit == 1 else 'them'}.")
    if made > fit:
        sentences.append(
            f"{_by_hand(made - fit)} no longer {'fits' if made - fit == 1 else 'fit'}, because concepts, seed or image "
            "settings have changed, and will be left out."
        )
    if not _same(sheet.recipe, recipe):
        sentences.append("The form has changed: show the masks again to see its images.")
    return "".join(f'<p class="hint" role="status">{html.escape(sentence)}</p>' for sentence in sentences)


def _note(sheet: MaskSheet, one: MaskedImage) -> str:
    """Seed, whose mask it is and how much it covers, such as "seed 0 · attention · 23 %"."""
    mask, source = sheet.mask(one), "by hand" if one.key in sheet.user_masks else sheet.recipe.settings.masks
    if mask is None:
        source = f"{source} · no part stood out" if one.searched else "no mask"
    share = masks.coverage(mask)
    return f"seed {one.seed} · {source} · {'whole image' if share == 1 else f'{100 * share:.0f} %'}"


def _by_hand(count: int) -> str:
    return f"{counted_as(count, 'mask')} drawn by hand"


def _same(one: Recipe, other: Recipe) -> bool:
    """Whether two recipes have the same training images and the same source of masks."""
    if one.method != other.method:
        return False
    return masks.image_settings(one) == masks.image_settings(other) and one.settings.masks == other.settings.masks
