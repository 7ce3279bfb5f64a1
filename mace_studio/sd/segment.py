"""Where a concept is in its training images, by attention or in the eyes of another model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mace_studio.core import attention
from mace_studio.sd import pixels
from mace_studio.sd.model import Model
from mace_studio.sd.sampling import GeneratedImage

if TYPE_CHECKING:
    from mace_studio.sd.segmenters import Segmenter

# Training images and what they show -> for each a boolean mask_IJ of the image's proportions, or None where nothing is
# found.
Source = Callable[[Sequence[GeneratedImage], str], list[Tensor | None]]


def source(model: Model, name: str) -> Source:
    """A source of masks. Another model is loaded when it is first asked, and is gone when the source is let go.

    Args:
        model: drew the images; its VAE decodes them, on its device.
        name: one of `methods.mace.MASKS`.

    Raises:
        ModelError: when asked, if another model cannot be loaded.
    """
    if name == "none":
        return lambda drawn, phrase: [None] * len(drawn)
    if name == "attention":
        return lambda drawn, phrase: [attention.mask(d.heat_HW) for d in drawn]

    @cache
    def segmenter() -> Segmenter:
        from mace_studio.sd import segmenters  # noqa: PLC0415 - seconds, and most runs never need it

        kind = {"clipseg": segmenters.ClipSeg, "grounded-sam": segmenters.GroundedSam}[name]
        return kind(segmenters.folder(), model.device, model.dtype)

    def find(drawn: Sequence[GeneratedImage], phrase: str) -> list[Tensor | None]:
        return segmenter()(pixels.decoded(model, torch.stack([d.latent_CHW for d in drawn])), phrase)

    return find
