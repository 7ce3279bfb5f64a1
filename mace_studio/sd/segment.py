"""Where a concept is in its training images: by the attention to its phrase, or by another model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mace_studio.core import attention
from mace_studio.progress import Report
from mace_studio.sd import pixels
from mace_studio.sd.model import Model
from mace_studio.sd.sampling import GeneratedImage

if TYPE_CHECKING:
    from mace_studio.sd.segmenters import Segmenter

# (training images, what they show, progress) -> for each image a boolean mask_IJ of its proportions, or None where
# nothing is found.
Source = Callable[[Sequence[GeneratedImage], str, Report], list[Tensor | None]]


def source(model: Model, name: str) -> Source:
    """A source of masks, which reports every batch of images that it has looked at.

    Another model is loaded when it is first needed, and freed with the source.

    Args:
        model: generated the images; its VAE decodes them, on its device.
        name: one of `methods.mace.MASKS`.

    Raises:
        ModelError: by the source, if another model cannot be loaded.
    """
    if name == "none":
        return lambda images, phrase, progress: [None] * len(images)
    if name == "attention":
        return lambda images, phrase, progress: [attention.mask(image.heat_HW) for image in images]

    @cache
    def segmenter() -> Segmenter:
        from mace_studio.sd import segmenters  # noqa: PLC0415 - seconds, and most runs never need it

        kinds: dict[str, type[segmenters.ClipSeg | segmenters.GroundedSam]]
        kinds = {"clipseg": segmenters.ClipSeg, "grounded-sam": segmenters.GroundedSam}
        return kinds[name](segmenters.folder(), model.device, model.dtype)

    def find(images: Sequence[GeneratedImage], phrase: str, progress: Report) -> list[Tensor | None]:
        latents_NCHW = torch.stack([image.latent_CHW for image in images])
        decoded = pixels.decoded(model, latents_NCHW, lambda at: progress(replace(at, step=0)))
        return segmenter()(decoded, phrase, progress)

    return find
