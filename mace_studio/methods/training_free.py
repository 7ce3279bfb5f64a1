"""MACE without training: the fusion (Eq. 7) with targets from the mapping instead of LoRAs. Ours, not published."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from mace_studio.core.moments import Moments
from mace_studio.core.ridge import Fusion, Keep


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The weights of refinement and fusion are MACE's own; there is nothing else to set.

    Attributes:
        fuse: solve the fusion after the refinement; without, the refinement alone is the result.
    """

    fuse: bool = True


@dataclass(frozen=True)
class FusedWeights:
    """The fusion solved.

    Attributes:
        weights: name -> W*, weight_PD, in the dtype and on the device of W.
        condition: condition number of the matrix that was factorised.
    """

    weights: dict[str, Tensor]
    condition: float


def edit(
    original: Mapping[str, Tensor], refined: Mapping[str, Tensor], concepts: Iterable[Moments], keep: Keep
) -> FusedWeights:
    """W* that minimises sum_i || W* E_i - W' E^_i ||^2 + || (W* - W_keep) R^(1/2) ||^2 (Eq. 7 with other targets).

    Args:
        original: name -> W. refined: name -> W', after stage 1.
        concepts: for each concept `Moments.of(E_i, E^_i)`, see `targets`.
        keep: R and the identity weight; as in `ridge.Fusion` the first pulls to W, the second to W'.

    Raises:
        SingularGram: the sums do not determine W*.
    """
    moments = sum(concepts, start=Moments.zero(len(keep.gram_DD)))
    fusion = Fusion(moments.gram_DD, keep)
    fusion.add_pairs(moments)
    weights = {name: fusion.fused(name, weight_PD, refined[name]) for name, weight_PD in original.items()}
    return FusedWeights(weights, fusion.condition)


def targets(
    concept_TD: Tensor,
    mapping_TD: Tensor,
    concept: Sequence[int],
    mapping: Sequence[int],
    concept_end: int,
    mapping_end: int,
) -> Tensor:
    """E^: the context of a prompt with the mapping's embeddings at the concept's, end and padding positions.

    Tokens are matched from the last one backwards, because the last carries the most; a longer concept repeats the
    mapping's first token. End and padding positions are matched one to one; where the mapping's run out, its last one
    is repeated. All other words keep their own embeddings.

    Args:
        concept_TD: E, context of the prompt about the concept.
        mapping_TD: context of the same prompt about the mapping.
        concept, mapping: positions of the phrase in each.
        concept_end, mapping_end: position of the end token in each.

    Returns:
        E^, (T, D), a new tensor.
    """
    length = len(concept_TD)
    hat_TD = concept_TD.clone()
    sources = [mapping[max(i, -len(mapping))] for i in range(-len(concept), 0)]
    hat_TD[list(concept)] = mapping_TD[sources]
    closing = range(concept_end, length)
    hat_TD[list(closing)] = mapping_TD[[min(mapping_end + i, length - 1) for i in range(len(closing))]]
    return hat_TD
