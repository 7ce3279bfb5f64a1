"""Cross-attention probabilities, the loss that presses them down (Eq. 3), and maps to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

BINS = 256
STANDS_OUT = 1.5  # times the attention of the other pixels, from which a map says where something is


def probabilities(query_BQC: Tensor, key_BTC: Tensor, heads: int, scale: float) -> Tensor:
    """softmax(scale q k^T) over tokens, in float32.

    Args:
        query_BQC: output of `to_q`: batch, pixels (row by row), heads side by side.
        key_BTC: output of `to_k`: batch, tokens, heads side by side.
        heads: number of heads, H.
        scale: the layer's own factor, usually 1 / sqrt(C / H).

    Returns:
        (B, H, Q, T), summing to 1 over the last axis.
    """
    query_BHQc = query_BQC.unflatten(-1, (heads, -1)).transpose(1, 2).float()
    key_BHTc = key_BTC.unflatten(-1, (heads, -1)).transpose(1, 2).float()
    return (query_BHQc @ key_BHTc.transpose(-1, -2) * scale).softmax(dim=-1)


def masked_loss(
    probabilities: Sequence[Tensor], mask_IJ: Tensor | None, positions: Sequence[int], squared: bool = False
) -> Tensor:
    """sum over layers of || A (.) M ||_F on the given token positions (Eq. 3).

    Args:
        probabilities: one (heads, pixels, T) tensor per cross-attention layer, of one sample.
        mask_IJ: where the concept is, rows and columns of any size with the image's proportions; resized to each
            layer by nearest neighbour and thresholded at 0.5. None: everywhere.
        positions: token positions whose attention is pressed down.
        squared: the squared norm, as Eq. 3 is printed.

    Returns:
        A scalar that can be differentiated, also where it is 0.
    """
    total = probabilities[0].new_zeros(())
    for layer_HQT in probabilities:
        chosen_HQn = layer_HQT[..., list(positions)]
        if mask_IJ is not None:
            chosen_HQn = chosen_HQn * resize_mask(mask_IJ, layer_HQT.shape[1]).to(chosen_HQn).flatten()[:, None]
        total = total + (chosen_HQn.square().sum() if squared else torch.linalg.vector_norm(chosen_HQn))
    return total


def map_size(pixels: int, rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns of a layer that has `pixels` pixels of an image with the proportions rows : columns.

    Raises:
        ValueError: no whole numbers fit.
    """
    height = round(math.sqrt(pixels * rows / columns))
    for candidate in (height, height - 1, height + 1):
        if candidate > 0 and pixels % candidate == 0:
            return candidate, pixels // candidate
    raise ValueError(f"{pixels} pixels do not make a map with the proportions {rows} x {columns}")


def resize_mask(mask_IJ: Tensor, pixels: int) -> Tensor:
    """The mask at a layer's size by nearest neighbour, True where it is at least 0.5."""
    size = map_size(pixels, *mask_IJ.shape)
    return functional.interpolate(mask_IJ[None, None].float(), size, mode="nearest-exact")[0, 0] >= 0.5


def upsample(maps_BIJ: Tensor, rows: int, columns: int) -> Tensor:
    """Maps at another size, bilinear, each with the mean that it had."""
    resized_BIJ = functional.interpolate(maps_BIJ[:, None], (rows, columns), mode="bilinear")[:, 0]
    before_B, after_B = maps_BIJ.mean(dim=(1, 2)), resized_BIJ.mean(dim=(1, 2))
    ratio_B = torch.where(after_B > 0, before_B / after_B, torch.ones_like(after_B))
    return resized_BIJ * ratio_B[:, None, None]


def otsu(values: Tensor) -> float:
    """The threshold that splits values into two classes with the largest variance between them (Otsu, 1979).

    Returns:
        A value between the classes; those above it are the upper class. The largest value where all are equal, so
        that nothing lies above.
    """
    flat = values.detach().double().flatten().cpu()
    low, high = flat.min().item(), flat.max().item()
    if not high > low:
        return high
    counts = torch.histc(flat, BINS, low, high)
    edges = torch.linspace(low, high, BINS + 1, dtype=torch.float64)
    centres = (edges[:-1] + edges[1:]) / 2
    below, total = counts.cumsum(0)[:-1], counts.sum()
    sums = (counts * centres).cumsum(0)
    mean_below = sums[:-1] / below
    mean_above = (sums[-1] - sums[:-1]) / (total - below).clamp(min=1)
    between = below * (total - below) * (mean_below - mean_above).square()
    best = (between >= between.max() * (1 - 1e-12)).nonzero().flatten()
    return edges[1:][int(best[len(best) // 2])].item()


def mask(map_IJ: Tensor) -> Tensor | None:
    """Where a map is above Otsu's threshold, a boolean mask_IJ; None where that part does not stand out."""
    mask_IJ = map_IJ > otsu(map_IJ)
    return mask_IJ if _contrast(map_IJ, mask_IJ) >= STANDS_OUT else None


def clearest(maps_NIJ: Tensor) -> int | None:
    """Which of some maps stands out most from its own surroundings; None where none does."""
    contrasts = [_contrast(map_IJ, map_IJ > otsu(map_IJ)) for map_IJ in maps_NIJ]
    best = max(range(len(contrasts)), key=contrasts.__getitem__, default=None)
    return None if best is None or contrasts[best] < STANDS_OUT else best


def _contrast(map_IJ: Tensor, mask_IJ: Tensor) -> float:
    """How many times as much attention a pixel gets inside a mask as outside; 1 where all or nothing is inside."""
    if mask_IJ.all() or not mask_IJ.any():
        return 1.0
    return (map_IJ[mask_IJ].mean() / map_IJ[~mask_IJ].mean().clamp(min=1e-12)).item()
