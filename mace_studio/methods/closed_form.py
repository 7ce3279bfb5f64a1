"""What all closed-form methods share: how they take weights and vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
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
        # Rounded once, at the end: a solve multiplies the rounding of what goes in by its condition number.
        return edit(weights.detach().cpu().double()).to(weights)
    return {name: each_weight(weight_PD, edit) for name, weight_PD in weights.items()}


def width_of(weights: Tensor | Mapping[str, Tensor]) -> int:
    """D, which all weights share; 0 for no weights.

    Args:
        weights: as in `each_weight`.

    Raises:
        ValueError: a weight is not (P, D), or one has another D.
    """
    shapes = [tuple(weight.shape) for weight in ([weights] if isinstance(weights, Tensor) else weights.values())]
    if any(len(shape) != 2 for shape in shapes) or len({shape[1] for shape in shapes}) > 1:
        raise ValueError(f"weights have shapes {sorted(set(shapes))}; each must be (P, D), with the same D")
    return shapes[0][1] if shapes else 0


def rows(what: str, vectors_ND: Tensor | None, width: int) -> Tensor:
    """Vectors in float64 on the CPU, (N, D); None is none.

    Args:
        what: their name in a message, in the plural.
        vectors_ND: of the width that the weights read; N may be 0.
        width: D.

    Raises:
        ValueError: they are not (N, D).
    """
    if vectors_ND is None or not len(vectors_ND):
        return torch.zeros(0, width).double()
    if vectors_ND.ndim != 2 or vectors_ND.shape[1] != width:
        shape = tuple(vectors_ND.shape)
        raise ValueError(f"{what} have shape {shape}; it must be (N, {width}), as wide as the weights")
    return vectors_ND.detach().cpu().double()


def pairs(concepts: Vectors, anchors: Vectors, width: int) -> list[tuple[Tensor, Tensor]]:
    """Concept and anchor entry by entry, each (n, D), float64 on the CPU.

    Args:
        concepts: each (D,) or (n, D).
        anchors: what takes the place of each, in the order of the concepts.
        width: D, which the weights read.

    Raises:
        ValueError: not one anchor for every concept, one of another shape, or a width that is not the weights'.
    """
    if len(concepts) != len(anchors):
        raise ValueError(f"{len(concepts)} concepts have {len(anchors)} anchors; every concept needs its own")
    for number, both in enumerate(zip(concepts, anchors, strict=True)):
        shapes = [tuple(entry.shape) for entry in both]
        # (n, D) each; one vector may also come as (D,).
        full = {shape if len(shape) != 1 else (1, *shape) for shape in shapes}
        if len(full) != 1 or any(len(shape) != 2 or shape[-1] != width for shape in full):
            raise ValueError(
                f"concept {number} has shape {shapes[0]}, its anchor {shapes[1]}; both must be ({width},) or "
                f"(n, {width}), as wide as the weights"
            )
    flat = ([entry.detach().cpu().double().reshape(-1, width) for entry in side] for side in (concepts, anchors))
    return list(zip(*flat, strict=True))
