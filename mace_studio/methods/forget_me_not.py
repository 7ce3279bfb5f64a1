"""FMN, Forget-Me-Not: press down the attention that a concept's tokens get (arXiv 2303.17591)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from mace_studio.core.tokens import occurrences


def loss(probabilities: Sequence[Tensor], positions: Sequence[int]) -> Tensor:
    """|| concatenation over layers, heads and queries of A[:, S] ||_F: one norm over everything, not squared.

    MACE's loss (`core.attention.masked_loss`) is the sum of one such norm for each layer.

    Args:
        probabilities: one tensor (..., Q, T) for each cross-attention layer, for instance (H, Q, T) of one sample.
        positions: S, token positions whose attention is pressed down, see `pressed`.

    Returns:
        A scalar that can be differentiated.

    Source: arXiv 2303.17591, attention re-steering; no denoising term.
    """
    return torch.linalg.vector_norm(torch.cat([layer[..., list(positions)].flatten() for layer in probabilities]))


def pressed(ids: Sequence[int], phrases: Iterable[Sequence[int]], end: int | None) -> list[int]:
    """S: positions of the concept's tokens and, with `end`, of every end token.

    Args:
        ids: padded token ids of "a photo of ..."; SD 1.x pads with end tokens, which then count as well.
        phrases: spellings of the concept, as in `core.tokens.occurrences`.
        end: id of the end token; None presses the concept's own tokens alone.
    """
    own = [position for run in occurrences(ids, phrases) for position in run]
    return [*own, *(position for position, token in enumerate(ids) if token == end)]
