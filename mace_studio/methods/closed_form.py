"""What all closed-form methods share: how they take weights and vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from torch import Tensor

Weights = TypeVar("Weights", Tensor, Mapping[str, Tensor])
Vectors = Tensor | Sequence[Tensor]
"""One entry per concept: (D,) for one vector, or (n, D) for several positions. A tensor (N, D) or (N, T, D), or a list
of entries that may differ in n."""


def each_weight(weights: Weights, edit: Callable[[Tensor], Tensor]) -> Weights:
    """`edit` applied to one weight_PD, or to every one of a mapping; float64 inside, the own dtype outside.

    Args:
        weights: one weight_PD, or name -> weight_PD, in any dtype and on any device.
        edit: weight_PD in float64 on the CPU -> the new weight_PD, of the same shape.

    Returns:
        The same as it got: one weight_PD or a mapping.
    """
    if isinstance(weights, Tensor):
        return edit(weights.detach().cpu().double()).to(weights)
    return {name: each_weight(weight_PD, edit) for name, weight_PD in weights.items()}


def entries(vectors: Vectors) -> list[Tensor]:
    """Each entry as (n, D), float64 on the CPU.

    Args:
        vectors: each a vector (D) or the rows (n, D) of a sentence's positions.
    """
    return [entry.detach().cpu().double().reshape(-1, entry.shape[-1]) for entry in vectors]


def pairs(concepts: Vectors, anchors: Vectors) -> list[tuple[Tensor, Tensor]]:
    """Concept and anchor entry by entry, each (n, D), float64.

    Args:
        concepts: each (D) or (n, D), as in `entries`.
        anchors: what takes the place of each, in the order of the concepts.

    Raises:
        ValueError: not one anchor for every concept, or one of another shape.
    """
    sources, targets = entries(concepts), entries(anchors)
    if [entry.shape for entry in sources] != [entry.shape for entry in targets]:
        raise ValueError(
            f"every concept needs an anchor of its own shape; concepts have {[tuple(e.shape) for e in sources]}, "
            f"anchors {[tuple(e.shape) for e in targets]}"
        )
    return list(zip(sources, targets, strict=True))
