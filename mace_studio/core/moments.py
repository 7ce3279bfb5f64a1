"""Sums of outer products of token embeddings: all that a closed-form solve needs to know of any number of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 8192
LEFT_OUT = 2048
TOGETHER = 8  # concepts whose sums are made together; fewer travel more often between machines


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
        """The sums over no pairs, of embeddings with D = `width`.

        Args:
            width: D, at least 1.
        """
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
        same = guide_ND is context_ND or torch.equal(guide_ND, context_ND)
        width = context_ND.shape[1]
        gram_DD = torch.zeros(width, width).double()
        cross_DD = gram_DD if same else torch.zeros_like(gram_DD)
        for context_nD, guide_nD in zip(context_ND.split(CHUNK), guide_ND.split(CHUNK), strict=True):
            context_nD = context_nD.detach().cpu().double()
            gram_DD += gram(context_nD)
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


class PairSums:
    """F, C and S of any number of concepts, added one at a time; memory does not grow with their number.

    C costs one product per mapping instead of one per concept: sum_i g e_i^T = g (sum_i e_i)^T, so the embeddings of
    all concepts with the same mapping are first added up at the mapping's positions. Add such concepts in succession.
    Sums of some concepts each can be made apart, on several machines, and merged in the order of the concepts.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        # F and C of concepts that move, F = C of those that map to themselves, and what belongs to no pair
        self._moved_DD, self._cross_DD, self._unmoved_DD, self._left_out_DD = torch.zeros(4, width, width).double()
        self._left_out: list[Tensor] = []  # a few rows a concept: multiplied together when there are many
        self._count = 0
        self._guide_NTD: Tensor | None = None
        self._aligned_ND = torch.zeros(0, width).double()

    def add(self, context_NTD: Tensor, guide_NTD: Tensor, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> None:
        """Take in one concept.

        Args:
            context_NTD: embeddings of its N prompts, all T positions.
            guide_NTD: of the same prompts about its mapping. Concepts with the same tensor object share a product.
            pairs: for each prompt positions in the context and in the guide that belong together, equally many.

        Raises:
            ValueError: the shapes differ.
        """
        if context_NTD.ndim != 3 or context_NTD.shape != guide_NTD.shape:
            raise ValueError(f"context {tuple(context_NTD.shape)} and guide {tuple(guide_NTD.shape)} must be (N, T, D)")
        length = context_NTD.shape[1]
        here, there = (
            torch.tensor([n * length + p for n, pair in enumerate(pairs) for p in pair[side]], dtype=torch.long)
            for side in (0, 1)
        )
        context_nD = context_NTD.detach().cpu().flatten(0, 1)
        paired_nD = context_nD.index_select(0, here).double()
        left_out = torch.ones(len(context_nD), dtype=torch.bool).index_fill_(0, here, False)
        self._left_out.append(context_nD[left_out])
        if sum(map(len, self._left_out)) > LEFT_OUT:
            self._sum_left_out()
        self._count += len(here)
        if torch.equal(here, there) and torch.equal(context_NTD, guide_NTD):
            self._unmoved_DD += gram(paired_nD)  # the same numbers in F and C, so that M is exactly I
            return
        self._moved_DD += gram(paired_nD)
        if guide_NTD is not self._guide_NTD:
            self._finish_mapping()
            self._guide_NTD, self._aligned_ND = guide_NTD, torch.zeros_like(context_nD, dtype=torch.float64)
        self._aligned_ND.index_add_(0, there, paired_nD)

    def merge(self, other: PairSums) -> None:
        """Take in the concepts of other sums, whose mapping of the last concept may be this one's.

        Args:
            other: of the same width; it is not needed any more.
        """
        other._sum_left_out()
        self._moved_DD += other._moved_DD
        self._cross_DD += other._cross_DD
        self._unmoved_DD += other._unmoved_DD
        self._left_out_DD += other._left_out_DD
        self._count += other._count
        if other._guide_NTD is None:
            return
        if self._guide_NTD is not None and torch.equal(self._guide_NTD, other._guide_NTD):
            self._aligned_ND += other._aligned_ND
            return
        self._finish_mapping()
        self._guide_NTD, self._aligned_ND = other._guide_NTD, other._aligned_ND

    def moments(self) -> Moments:
        """F and C over all pairs so far."""
        self._finish_mapping()
        return Moments(self._moved_DD + self._unmoved_DD, self._cross_DD + self._unmoved_DD, self._count)

    def all_positions(self) -> Tensor:
        """S, the sum of e e^T over all T positions of all concepts' prompts (Eq. 7), float64."""
        self._sum_left_out()
        return self._moved_DD + self._unmoved_DD + self._left_out_DD

    def _sum_left_out(self) -> None:
        if self._left_out:
            self._left_out_DD += gram(torch.cat(self._left_out).double())
            self._left_out = []

    def _finish_mapping(self) -> None:
        # The contexts of all concepts with one mapping are added up first, so that C takes one product for all of them.
        if self._guide_NTD is not None:
            guide_ND = self._guide_NTD.detach().cpu().flatten(0, 1).double()
            self._cross_DD.addmm_(guide_ND.T, self._aligned_ND)
            self._guide_NTD = None


def gram(context_ND: Tensor) -> Tensor:
    """The sum of e e^T over N embeddings on the CPU, in their dtype.

    NumPy multiplies a matrix by its own transpose with half of the products (syrk); torch does all of them.

    Args:
        context_ND: embeddings, one a row; a width D of 768 to 2048 is usual.

    Returns:
        gram_DD, symmetric, in the dtype of the embeddings.
    """
    rows = context_ND.numpy()
    return torch.from_numpy(rows.T @ rows)
