"""The one linear solve: refinement (stage 1, Eq. 2) and fusion (stage 3, Eq. 7) of projection weights.

All solves are in float64 on the CPU, by one Cholesky factorisation whatever the number of layers or concepts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mace_studio.core.moments import Moments
from mace_studio.errors import StudioError

if TYPE_CHECKING:
    from mace_studio.settings import KeepWeights

Delta = tuple[Tensor, Tensor, Tensor]  # up_PR, down_RD, context_ND
LoraPairs = Mapping[str, tuple[Tensor, Tensor]]  # projection name -> (up_PR, down_RD)
RANKS = 64  # of the LoRAs that are fused in one product; more need more memory


class SingularGram(StudioError, ValueError):
    """The sums do not determine a solution: too little is kept."""


@dataclass(frozen=True)
class Keep:
    """What a solve must not change, in two parts, which pull to different weights in the fusion.

    Attributes:
        gram_DD: lambda * general Gram + lambda3 * preserve Gram, float64; pulls to the original weights.
        identity: weight of the plain prior ||W' - W||^2; in the fusion it pulls to the refined weights.
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
    # Of M - I, not of M: it is exactly 0 where nothing moves, and its digits are not lost beside the ones.
    shift_DD = torch.cholesky_solve((moments.cross_DD - moments.gram_DD).T, factor_DD).T
    return Refinement(torch.eye(len(shift_DD)).double() + shift_DD, condition)


def refine(weight_PD: Tensor, refinement: Refinement) -> Tensor:
    """W' = W M.

    Args:
        weight_PD: W, any dtype and device.
        refinement: from `refinement`.

    Returns:
        W'_PD in the dtype and on the device of `weight_PD`; computed in float64 on the CPU.
    """
    return (weight_PD.double().cpu() @ refinement.matrix_DD).to(weight_PD)


def pulls(context_ND: Tensor, deltas: LoraPairs) -> dict[str, Tensor]:
    """A_i G_i of Eq. 7: what the fusion reads of one concept beside its LoRA.

    Args:
        context_ND: E_i^T, the embeddings of all positions of its prompts.
        deltas: its LoRA.

    Returns:
        Projection name -> pull_RD, float64 on the CPU.
    """
    if not deltas:
        return {}
    context_ND = context_ND.cpu().double()
    # In the order of their names: a LoRA that comes from a file must give the bits of the one that was trained.
    downs = {name: down_RD.cpu().double() for name, (_, down_RD) in sorted(deltas.items())}
    # A_i G_i = (A_i E_i) E_i^T for all projections in two products, without G_i = E_i E_i^T
    pulls_KD = (torch.cat([*downs.values()]) @ context_ND.T) @ context_ND
    return dict(zip(downs, pulls_KD.split([len(down_RD) for down_RD in downs.values()]), strict=True))


class Fusion:
    """Stage 3 (Eq. 7): takes in the LoRAs of one concept at a time; one factorisation serves all projections.

    Memory does not grow with the number of concepts: one (P, D) sum per projection.

    Args:
        gram_DD: S, the sum of e e^T over all positions of the prompts of all concepts that will be added.
        keep: R and the identity weight.

    Attributes:
        condition: condition number of the matrix that was factorised.

    Raises:
        SingularGram: S + R + identity I is not positive definite.
    """

    def __init__(self, gram_DD: Tensor, keep: Keep) -> None:
        self._factor_DD, self.condition = _factorise(gram_DD.double() + keep.total_DD)
        # Z = R (S + R + identity I)^-1, or None where it is 0
        self._kept_DD = self._divided(keep.gram_DD) if keep.gram_DD.any() else None
        self._crossed_DD: Tensor | None = None
        self._change_PD: dict[str, Tensor] = {}
        self._waiting: dict[str, list[tuple[Tensor, Tensor]]] = {}  # name -> B_i and A_i G_i
        self._ranks = 0

    def add(self, context_ND: Tensor, deltas: LoraPairs) -> None:
        """Take in one concept.

        Args:
            context_ND: E_i^T, the embeddings of all positions of its prompts.
            deltas: projection name -> (up_PR, down_RD), the LoRA that was trained on that projection.
        """
        self.add_pulls(deltas, pulls(context_ND, deltas))

    def add_pulls(self, deltas: LoraPairs, pulls: Mapping[str, Tensor]) -> None:
        """Take in one concept whose products with its prompts are there already.

        Args:
            deltas: as in `add`.
            pulls: from the function `pulls`.
        """
        if not deltas:
            return
        for name, (up_PR, _) in sorted(deltas.items()):
            self._waiting.setdefault(name, []).append((up_PR, pulls[name]))
        self._ranks += max(len(pull_RD) for pull_RD in pulls.values())
        if self._ranks >= RANKS:
            self._flush()

    def add_pairs(self, moments: Moments) -> None:
        """Take in concepts without a LoRA: at each context e the target is W' g instead of (W' + B A) e.

        Args:
            moments: over their pairs of a guide g and a context e.
        """
        # Eq. 7 in correction form: W' g - W' e is what is missing at e, so C - F takes the place of C.
        crossed_DD = self._divided(moments.cross_DD - moments.gram_DD)
        self._crossed_DD = crossed_DD if self._crossed_DD is None else self._crossed_DD + crossed_DD

    def fused(self, name: str, original_PD: Tensor, refined_PD: Tensor) -> Tensor:
        """W* = W' + [sum_i B_i (A_i G_i) + (W - W') R] (S + R + identity I)^-1, for what has been added.

        This is Eq. 7 in correction form: general and preserve Grams pull back to the original weights W, the
        identity term to the refined weights W', because pulling that to W would undo stage 1.

        Args:
            name: of the projection.
            original_PD: W.
            refined_PD: W'. The solve can multiply its rounding by hundreds, so give it in float64.

        Returns:
            In the dtype and on the device of W.
        """
        self._flush()
        refined_PD = refined_PD.cpu().double()
        fused_PD = refined_PD.clone()
        if self._kept_DD is not None:
            fused_PD.addmm_(original_PD.cpu().double() - refined_PD, self._kept_DD)
        if self._crossed_DD is not None:
            fused_PD.addmm_(refined_PD, self._crossed_DD)
        if name in self._change_PD:
            fused_PD += self._change_PD[name]
        return fused_PD.to(original_PD)

    def _flush(self) -> None:
        """Solve for the LoRAs that wait and add them to the weights' change, one product per projection."""
        if not self._waiting:
            return
        pulled = [torch.cat([pull_RD for _, pull_RD in pairs]) for pairs in self._waiting.values()]
        solved = self._divided(torch.cat(pulled)).split([len(pull_KD) for pull_KD in pulled])
        for (name, pairs), solved_KD in zip(self._waiting.items(), solved, strict=True):
            up_PK = torch.cat([up_PR.cpu().double() for up_PR, _ in pairs], dim=1)
            if name not in self._change_PD:
                self._change_PD[name] = torch.zeros(len(up_PK), solved_KD.shape[1]).double()
            self._change_PD[name].addmm_(up_PK, solved_KD)
        self._waiting, self._ranks = {}, 0

    def _divided(self, rows_KD: Tensor) -> Tensor:
        """rows (S + R + identity I)^-1."""
        return torch.cholesky_solve(rows_KD.T, self._factor_DD).T


def fuse(
    original_PD: Tensor, refined_PD: Tensor, deltas: Sequence[Delta], keep_gram_DD: Tensor, identity: float = 0.0
) -> Tensor:
    """Stage 3 (Eq. 7) for one projection.

    Args:
        original_PD: W.
        refined_PD: W'.
        deltas: for each concept (up_PR, down_RD, context_ND): B_i, A_i and E_i^T.
        keep_gram_DD: R without the identity term.
        identity: weight of the identity term.

    Returns:
        W*, weight_PD.

    Raises:
        SingularGram: S + R + identity I is not positive definite.
    """
    gram_DD = sum((Moments.of(context_ND).gram_DD for _, _, context_ND in deltas), torch.zeros_like(keep_gram_DD))
    fusion = Fusion(gram_DD, Keep(keep_gram_DD.double(), identity))
    for up_PR, down_RD, context_ND in deltas:
        fusion.add(context_ND, {"": (up_PR, down_RD)})
    return fusion.fused("", original_PD, refined_PD)


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
        fused_PD = weight_PD.cpu().double()
        if pairs:
            ups, downs = zip(*pairs, strict=True)
            fused_PD = fused_PD + torch.cat(ups, dim=1).cpu().double() @ torch.cat(downs).cpu().double() / len(loras)
        fused[name] = fused_PD.to(weight_PD)
    return fused


def _factorise(matrix_DD: Tensor) -> tuple[Tensor, float]:
    """The lower Cholesky factor of the symmetrised matrix, and its condition number."""
    # Sums in another order differ in their last digits, and the factorisation reads one half alone.
    matrix_DD = (matrix_DD + matrix_DD.T) / 2
    values_D = torch.linalg.eigvalsh(matrix_DD)
    smallest, largest = values_D[0].item(), values_D[-1].item()
    factor_DD, info = torch.linalg.cholesky_ex(matrix_DD)
    # Where the smallest eigenvalue is a rounding error of the largest, it may get through by chance: the rest is noise.
    if info.item() or smallest <= len(values_D) * torch.finfo(torch.float64).eps * largest:
        raise SingularGram(
            "There is too little to keep, so the weights are not determined. Add phrases to the preserve list, or "
            "raise the weight of the general captions (λ1 in the refinement, λ2 in the fusion) or the identity weight."
        )
    return factor_DD, largest / smallest
