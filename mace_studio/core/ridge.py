"""The one linear solve: refinement (stage 1, Eq. 2) and fusion (stage 3, Eq. 7) of projection weights.

All solves are in float64 on the CPU, by one Cholesky factorisation whatever the number of layers or concepts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mace_studio.core.moments import Moments
from mace_studio.errors import StudioError

if TYPE_CHECKING:
    from mace_studio.settings import KeepWeights

Delta = tuple[Tensor, Tensor, Tensor]  # up_PR, down_RD, gram_DD


class SingularGram(StudioError, ValueError):
    """The sums do not determine a solution: too little is kept."""


@dataclass(frozen=True)
class Keep:
    """What holds the weights in place, told apart by what it holds them to.

    Attributes:
        gram_DD: lambda * general Gram + lambda3 * preserve Gram; anchors to the original weights.
        identity: weight of the plain prior ||W' - W||^2; in the fusion it anchors to the refined weights.
    """

    gram_DD: Tensor
    identity: float

    @property
    def total_DD(self) -> Tensor:
        """R, float64: the Gram plus the identity term."""
        return self.gram_DD + self.identity * torch.eye(len(self.gram_DD)).double()


@dataclass(frozen=True)
class Refinement:
    """Stage 1 solved: W' = W M for every key and value projection.

    Attributes:
        matrix_DD: M, float64.
        condition: condition number of the matrix that was factorised.
    """

    matrix_DD: Tensor
    condition: float


def keep_gram(weights: KeepWeights, general: Moments | None, preserve: Moments | None, width: int) -> Keep:
    """R of Eq. 2 and 7: the only place that reads a keep weight.

    Args:
        weights: lambda1 (or lambda2), lambda3 and the identity weight.
        general: sums over general captions, already scaled to the paper's number of captions; None for none.
        preserve: sums over prompts about what must stay; None for none.
        width: D.
    """
    gram_DD = torch.zeros(width, width).double()
    for weight, moments in ((weights.general, general), (weights.preserve, preserve)):
        if weight and moments is not None:
            gram_DD += weight * moments.gram_DD
    return Keep(gram_DD, weights.identity)


def refinement(moments: Moments, keep_gram_DD: Tensor) -> Refinement:
    """M = I + (C - F)(F + R)^-1, which refines every projection at once (Eq. 2 with the weights factored out).

    Args:
        moments: F and C over the pairs of all concepts.
        keep_gram_DD: R, with the identity term in it.

    Raises:
        SingularGram: F + R is not positive definite.
    """
    factor_DD, condition = _factorise(moments.gram_DD + keep_gram_DD.double())
    shift_DD = torch.cholesky_solve((moments.cross_DD - moments.gram_DD).T, factor_DD).T
    return Refinement(torch.eye(len(shift_DD)).double() + shift_DD, condition)


def refine(weight_PD: Tensor, refinement: Refinement) -> Tensor:
    """W' = W M, in the dtype and on the device of `weight_PD`."""
    return (weight_PD.double().cpu() @ refinement.matrix_DD).to(weight_PD)


class Fusion:
    """Stage 3: gathers LoRAs one concept at a time, then solves for all projections with one factorisation.

    Memory does not grow with the number of concepts: one (P, D) sum per projection and one (D, D) sum.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        self._gram_DD = torch.zeros(width, width).double()
        self._pull_PD: dict[str, Tensor] = {}

    def add(self, gram_DD: Tensor, deltas: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Take in one concept.

        Args:
            gram_DD: G_i, the Gram of all positions of its prompts.
            deltas: projection name -> (up_PR, down_RD), the LoRA that was trained on that projection.
        """
        gram_DD = gram_DD.double()
        self._gram_DD += gram_DD
        for name, (up_PR, down_RD) in deltas.items():
            self._add_pull(name, up_PR.double().cpu() @ (down_RD.double().cpu() @ gram_DD))

    def add_pairs(self, moments: Moments, refined: Mapping[str, Tensor]) -> None:
        """Take in one concept without a LoRA: at each context e the target is W' g instead of (W' + B A) e.

        Args:
            moments: over the pairs of a guide g and a context e.
            refined: projection name -> W', weight_PD.
        """
        self._gram_DD += moments.gram_DD
        for name, weight_PD in refined.items():
            self._add_pull(name, weight_PD.double().cpu() @ (moments.cross_DD - moments.gram_DD))

    def _add_pull(self, name: str, pull_PD: Tensor) -> None:
        self._pull_PD[name] = self._pull_PD[name] + pull_PD if name in self._pull_PD else pull_PD

    def solve(
        self,
        original: Mapping[str, Tensor],
        refined: Mapping[str, Tensor],
        keep: Keep,
        on_solved: Callable[[int], None] = lambda done: None,
    ) -> FusedWeights:
        """W* = W' + [sum_i B_i (A_i G_i) + (W - W') R] (S + R + identity I)^-1 for every projection.

        This is Eq. 7 in correction form: general and preserve Grams pull back to the original weights W, the
        identity term to the refined weights W', because pulling that to W would undo stage 1.

        Args:
            original: projection name -> W, weight_PD.
            refined: projection name -> W', weight_PD.
            keep: R and the identity weight.
            on_solved: called after each projection with the number of those solved.

        Raises:
            SingularGram: S + R + identity I is not positive definite.
        """
        factor_DD, condition = _factorise(self._gram_DD + keep.total_DD)
        weights = {}
        for name, weight_PD in original.items():
            refined_PD = refined[name].double().cpu()
            pull_PD = (weight_PD.double().cpu() - refined_PD) @ keep.gram_DD
            if name in self._pull_PD:
                pull_PD += self._pull_PD[name]
            weights[name] = (refined_PD + torch.cholesky_solve(pull_PD.T, factor_DD).T).to(weight_PD)
            on_solved(len(weights))
        return FusedWeights(weights, condition)


@dataclass(frozen=True)
class FusedWeights:
    """Stage 3 solved.

    Attributes:
        weights: projection name -> W*, weight_PD.
        condition: condition number of the matrix that was factorised.
    """

    weights: dict[str, Tensor]
    condition: float


def fuse(
    original_PD: Tensor, refined_PD: Tensor, deltas: Iterable[Delta], keep_gram_DD: Tensor, identity: float = 0.0
) -> Tensor:
    """Stage 3 (Eq. 7) for one projection.

    Args:
        original_PD: W.
        refined_PD: W'.
        deltas: for each concept (up_PR, down_RD, gram_DD): B_i, A_i and G_i.
        keep_gram_DD: R without the identity term.
        identity: weight of the identity term.

    Returns:
        W*, weight_PD.

    Raises:
        SingularGram: S + R + identity I is not positive definite.
    """
    fusion = Fusion(original_PD.shape[1])
    for up_PR, down_RD, gram_DD in deltas:
        fusion.add(gram_DD, {"": (up_PR, down_RD)})
    return fusion.solve({"": original_PD}, {"": refined_PD}, Keep(keep_gram_DD.double(), identity)).weights[""]


def weighted_sum(
    refined: Mapping[str, Tensor], loras: Sequence[Mapping[str, tuple[Tensor, Tensor]]]
) -> dict[str, Tensor]:
    """W* = W' + sum_i B_i A_i / n: the naive fusion (Eq. 6, equal weights), which the closed form is compared with.

    Args:
        refined: projection name -> W', weight_PD.
        loras: for each of n concepts projection name -> (up_PR, down_RD).
    """
    fused = {}
    for name, weight_PD in refined.items():
        pairs = [lora[name] for lora in loras if name in lora]
        total_PD = sum(up_PR.double().cpu() @ down_RD.double().cpu() for up_PR, down_RD in pairs)
        fused[name] = (weight_PD.double().cpu() + total_PD / len(loras)).to(weight_PD)
    return fused


def _factorise(matrix_DD: Tensor) -> tuple[Tensor, float]:
    """The lower Cholesky factor of the symmetrised matrix, and its condition number."""
    matrix_DD = (matrix_DD + matrix_DD.T) / 2
    values_D = torch.linalg.eigvalsh(matrix_DD)
    smallest, largest = values_D[0].item(), values_D[-1].item()
    factor_DD, info = torch.linalg.cholesky_ex(matrix_DD)
    if info.item() or smallest <= len(values_D) * torch.finfo(torch.float64).eps * largest:
        raise SingularGram(
            "There is too little to keep, so the weights are not determined. Add phrases to the preserve list, or "
            "raise the weight of the general captions (λ1 in the refinement, λ2 in the fusion) or the identity weight."
        )
    return factor_DD, largest / smallest
