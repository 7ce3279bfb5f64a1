"""Sums of outer products of token embeddings: all that a closed-form solve needs to know of any number of prompts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 8192


@dataclass(frozen=True)
class Moments:
    """The sums F and C of the closed form (Eq. 2, 16).

    Attributes:
        gram_DD: F, the sum of e e^T over context embeddings e, float64.
        cross_DD: C, the sum of g e^T over pairs of a guide embedding g and a context embedding e, float64.
        count: how many pairs are in the sums; scaled with them.
    """

    gram_DD: Tensor
    cross_DD: Tensor
    count: float

    @staticmethod
    def zero(width: int) -> Moments:
        """The sums over no pairs, of embeddings with D = `width`."""
        return Moments(torch.zeros(width, width).double(), torch.zeros(width, width).double(), 0)

    @staticmethod
    def of(context_ND: Tensor, guide_ND: Tensor | None = None) -> Moments:
        """Sum over N pairs, in chunks, so that no more than O(D^2) numbers are in float64.

        Args:
            context_ND: embeddings e of the tokens as they are.
            guide_ND: embeddings g that should take their place; the context itself when left out, so that C = F.

        Raises:
            ValueError: the two differ in shape.
        """
        guide_ND = context_ND if guide_ND is None else guide_ND
        if context_ND.ndim != 2 or context_ND.shape != guide_ND.shape:
            raise ValueError(f"context {tuple(context_ND.shape)} and guide {tuple(guide_ND.shape)} must both be (N, D)")
        same = guide_ND is context_ND
        width = context_ND.shape[1]
        gram_DD = torch.zeros(width, width).double()
        cross_DD = gram_DD if same else torch.zeros_like(gram_DD)
        for context_nD, guide_nD in zip(context_ND.split(CHUNK), guide_ND.split(CHUNK), strict=True):
            context_nD = context_nD.detach().cpu().double()
            gram_DD += context_nD.T @ context_nD
            if not same:
                cross_DD += guide_nD.detach().cpu().double().T @ context_nD
        return Moments(gram_DD, cross_DD, len(context_ND))

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.gram_DD + other.gram_DD, self.cross_DD + other.cross_DD, self.count + other.count)

    def __sub__(self, other: Moments) -> Moments:
        return self + -1 * other

    def __mul__(self, weight: float) -> Moments:
        return Moments(weight * self.gram_DD, weight * self.cross_DD, weight * self.count)

    __rmul__ = __mul__
