"""From maps of attention to masks: where the concept is."""

from __future__ import annotations

from torch import Tensor

from mace_studio.core import attention


def mask(heat_IJ: Tensor) -> Tensor | None:
    """Where attention to the concept is above Otsu's threshold, a boolean mask_IJ; None where nothing stands out."""
    mask_IJ = heat_IJ > attention.otsu(heat_IJ)
    return mask_IJ if mask_IJ.any() else None
