"""From maps of attention to masks: where the concept is."""

from __future__ import annotations

from torch import Tensor

from mace_studio.core import attention


def mask(heat_IJ: Tensor) -> Tensor | None:
    """Where attention to the concept is above Otsu's threshold, a boolean mask_IJ; None where nothing stands out."""
    mask_IJ = heat_IJ > attention.otsu(heat_IJ)
    return mask_IJ if mask_IJ.any() else None


def contrast(heat_IJ: Tensor, mask_IJ: Tensor | None) -> float:
    """How many times as much attention a pixel gets inside a mask as outside; 1 without a mask or an outside."""
    if mask_IJ is None or mask_IJ.all():
        return 1.0
    return (heat_IJ[mask_IJ].mean() / heat_IJ[~mask_IJ].mean().clamp(min=1e-12)).item()
