"""Cross-attention probabilities, the loss that lowers them (Eq. 3), and maps and masks made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

BINS = 256
STANDS_OUT = 1.5  # times as much attention inside a mask as outside, from which on the mask counts


def probabilities(query_BQC: Tensor, key_BTC: Tensor, heads: int, scale: float) -> Tensor:
    """softmax(scale q k^T) over tokens, in float32.

    Args:
        query_BQC: output of `to_q`: samples, pixels row by row, channels of all heads side by side.
        key_BTC: output of `to_k`: samples, tokens, channels of all heads side by side.
        heads: number of heads, H.
        scale: the layer's own factor, usually 1 / sqrt(C / H).

    Returns:
        probabilities_BHQT, which sum to 1 over T.
    """
    # In float32 before the product: in float16 its sums can leave the range, and small shares are rounded to 0.
    query_BHQc = query_BQC.unflatten(-1, (heads, -1)).transpose(1, 2).float()
    key_BHTc = key_BTC.unflatten(-1, (heads, -1)).transpose(1, 2).float()
    return (query_BHQc @ key_BHTc.transpose(-1, -2) * scale).softmax(dim=-1)


def masked_loss(
    probabilities: Sequence[Tensor], mask_IJ: Tensor | None, positions: Sequence[int], squared: bool = False
) -> Tensor:
    """sum over layers of || A (.) M ||_F on the given token positions (Eq. 3).

    Args:
        probabilities: one tensor probabilities_HQT for each cross-attention layer, of one sample.
        mask_IJ: where the concept is, rows and columns of any size with the image's proportions; resized to each
            layer by nearest neighbour and thresholded at 0.5. None: everywhere.
        positions: token positions whose attention is lowered, within 0 .. T - 1.
        squared: the squared norm, as Eq. 3 is printed, instead of the norm.

    Returns:
        A scalar that can be differentiated, also where it is 0.
    """
    total = probabilities[0].new_zeros(())
    for layer_HQT in probabilities:
        chosen_HQn = layer_HQT[..., list(positions)]
        if mask_IJ is not None:
            chosen_HQn = chosen_HQn * resize_mask(mask_IJ, layer_HQT.shape[1]).to(chosen_HQn).flatten()[:, None]
        # `vector_norm` has a gradient of 0 where all is 0; the root of a sum of squares has none.
        total = total + (chosen_HQn.square().sum() if squared else torch.linalg.vector_norm(chosen_HQn))
    return total


def map_size(pixels: int, rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns of a layer, of which only the number of pixels is known.

    A UNet halves both sides from level to level and rounds up, so that layers of very narrow images have other
    proportions than these; only where no halving fits do the proportions decide.

    Args:
        pixels: Q, of the layer.
        rows: of the image or its latent.
        columns: of the same.

    Raises:
        ValueError: no whole numbers fit.
    """
    level = rows, columns
    while level[0] * level[1] > pixels and level != (1, 1):
        level = -(-level[0] // 2), -(-level[1] // 2)
    if level[0] * level[1] == pixels:
        return level
    height = round(math.sqrt(pixels * rows / columns))
    # Its neighbours too: the root is of rounded proportions.
    for candidate in (height, height - 1, height + 1):
        if candidate > 0 and pixels % candidate == 0:
            return candidate, pixels // candidate
    raise ValueError(f"{pixels} pixels do not make a map with the proportions {rows} x {columns}")


def resize_mask(mask_IJ: Tensor, pixels: int) -> Tensor:
    """The mask at a layer's size: cell i of n takes row floor(i * rows / n), and columns alike.

    That is torch's `nearest`, with which the paper's runs trained; `nearest-exact`, whose cells take the row at their
    middle, gives other losses and gradients.

    Args:
        mask_IJ: boolean or 0..1, of the image's proportions and any size.
        pixels: Q, of the layer.

    Returns:
        A boolean mask of the layer's rows and columns: True where the value taken is at least 0.5.
    """
    size = map_size(pixels, *mask_IJ.shape)
    return functional.interpolate(mask_IJ[None, None].float(), size, mode="nearest")[0, 0] >= 0.5


def upsample(maps_BIJ: Tensor, rows: int, columns: int) -> Tensor:
    """Maps at another size, bilinear, each with the mean that it had.

    Args:
        maps_BIJ: any number of maps of one size.
        rows: of the result.
        columns: of the result.
    """
    resized_BIJ = functional.interpolate(maps_BIJ[:, None], (rows, columns), mode="bilinear")[:, 0]
    # Bilinear values at other places have another mean, and layers are added up with equal weights.
    before_B, after_B = maps_BIJ.mean(dim=(1, 2)), resized_BIJ.mean(dim=(1, 2))
    ratio_B = torch.where(after_B > 0, before_B / after_B, torch.ones_like(after_B))
    return resized_BIJ * ratio_B[:, None, None]


def otsu(values: Tensor) -> float:
    """The threshold that splits values into two classes with the largest variance between them.

    Args:
        values: of any shape and unit, at least one.

    Returns:
        A value between the classes; those above it are the upper class. The largest value where all are equal, so
        that nothing lies above.

    Source: Otsu, "A Threshold Selection Method from Gray-Level Histograms", IEEE Trans. SMC 9, 1979.
    """
    flat = values.detach().double().flatten().cpu()
    low, high = flat.min().item(), flat.max().item()
    # All values are equal: bins would have no width.
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
    # Every bin edge in an empty gap between the classes is as good; the middle one is the same for a mirrored map.
    best = (between >= between.max() * (1 - 1e-12)).nonzero().flatten()
    return edges[1:][int(best[len(best) // 2])].item()


def mask(map_IJ: Tensor) -> Tensor | None:
    """Where a map shows its phrase.

    Args:
        map_IJ: attention to a phrase, 0 or more.

    Returns:
        A boolean mask_IJ, True above Otsu's threshold; None where that part gets less than `STANDS_OUT` times the
        attention of the rest.
    """
    mask_IJ = map_IJ > otsu(map_IJ)
    return mask_IJ if _contrast(map_IJ, mask_IJ) >= STANDS_OUT else None


def clearest(maps_NIJ: Tensor) -> int | None:
    """Which of some maps has the largest contrast between its mask and the rest.

    Args:
        maps_NIJ: attention to N tokens.

    Returns:
        An index into N, or None where no map reaches `STANDS_OUT`.
    """
    contrasts = [_contrast(map_IJ, map_IJ > otsu(map_IJ)) for map_IJ in maps_NIJ]
    best = max(range(len(contrasts)), key=contrasts.__getitem__, default=None)
    return None if best is None or contrasts[best] < STANDS_OUT else best


def _contrast(map_IJ: Tensor, mask_IJ: Tensor) -> float:
    """How many times as much attention a pixel gets inside a mask as outside; 1 where all or nothing is inside."""
    if mask_IJ.all() or not mask_IJ.any():
        return 1.0
    return (map_IJ[mask_IJ].mean() / map_IJ[~mask_IJ].mean().clamp(min=1e-12)).item()
