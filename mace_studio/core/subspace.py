"""Subspaces spanned by vectors: orthonormal bases, projectors and complements, with a tolerance on the rank.

Everything is computed in float64 on the CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCE = 1e-7  # of the largest singular value; embeddings come from float32 networks


def basis(vectors_ND: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """Orthonormal rows that span the same space as `vectors_ND`, (rank, D), strongest direction first.

    Args:
        vectors_ND: N vectors; N may be 0.
        tolerance: singular values up to this share of the largest one count as 0.
    """
    if not len(vectors_ND):
        return vectors_ND.detach().cpu().double()
    # Of the vectors and not of their Gram, whose singular values are squares: a share of 1e-7 would be 1e-14 there.
    _, values, directions = torch.linalg.svd(vectors_ND.detach().cpu().double(), full_matrices=False)
    return directions[values > tolerance * values[0]]


def projector(vectors_ND: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """The orthogonal projector onto the span of some vectors; 0 for no vectors.

    Args:
        vectors_ND: N vectors, independent or not; N may be 0.
        tolerance: singular values up to this share of the largest count as 0, as in `basis`.

    Returns:
        projector_DD, symmetric, float64 on the CPU.
    """
    basis_RD = basis(vectors_ND, tolerance)
    return basis_RD.T @ basis_RD


def complement(vectors_ND: Tensor, directions: int | None = None, tolerance: float = TOLERANCE) -> Tensor:
    """Orthonormal rows (D - rank, D), orthogonal to all of `vectors_ND`.

    Args:
        vectors_ND: N vectors.
        directions: orthogonal to so many of their strongest directions only; None for all of them.
        tolerance: as in `basis`.
    """
    basis_RD = basis(vectors_ND, tolerance)[:directions]
    return torch.linalg.qr(basis_RD.T, mode="complete").Q.T[len(basis_RD) :]


def effective_rank(vectors_ND: Tensor) -> float:
    """How many directions vectors are spread over: e to the entropy of the squared singular values as shares.

    From 1, all along one line, to the rank, all directions alike; 0 where there is nothing but zeros.

    Args:
        vectors_ND: N of them, in any unit; the number does not change if all are scaled.

    Source: Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007; there of the
    singular values, here of their squares, which are the energy that a Gram matrix sees.
    """
    if not len(vectors_ND):
        return 0.0
    energy = torch.linalg.svdvals(vectors_ND.detach().cpu().double()).square()
    if not energy.sum() > 0:
        return 0.0
    shares = energy / energy.sum()
    return torch.special.entr(shares).sum().exp().item()


def share_within(vectors_ND: Tensor, basis_RD: Tensor) -> float:
    """The share of the squared length of vectors that lies in a span, 0 to 1; 0 for no vectors.

    Args:
        vectors_ND: N vectors.
        basis_RD: orthonormal rows.
    """
    vectors_ND = vectors_ND.detach().cpu().double()
    whole = vectors_ND.square().sum()
    return ((vectors_ND @ basis_RD.T).square().sum() / whole).item() if whole > 0 else 0.0


def gram_schmidt(vectors_KP: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """Row k is vector k without its parts along the vectors before it, at length 1; 0 where nothing is left of it.

    Args:
        vectors_KP: K vectors, in the order that counts, or (..., K, P), several such lists.
        tolerance: a rest up to this share of the vector's own length counts as nothing.
    """
    vectors_KP = vectors_KP.detach().cpu().double()
    found_KP = torch.zeros_like(vectors_KP)
    for k in range(vectors_KP.shape[-2]):
        rest_P = vectors_KP[..., k, :]
        before_KP = found_KP[..., :k, :]
        for _ in range(2):  # a second pass removes what rounding left of the first
            rest_P = rest_P - ((before_KP @ rest_P[..., None]) * before_KP).sum(dim=-2)
        length = rest_P.norm(dim=-1, keepdim=True)
        left = length > tolerance * vectors_KP[..., k, :].norm(dim=-1, keepdim=True)
        found_KP[..., k, :] = torch.where(left, rest_P / length, 0)
    return found_KP
