"""DP, double projections: towards safe concepts, and only where preserved ones have no part (arXiv 2604.10032)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mace_studio.core.subspace import complement, projector
from mace_studio.erasure import Erasure
from mace_studio.methods import inputs
from mace_studio.methods.closed_form import Weights, each_weight, rows, width_of
from mace_studio.progress import Progress, Report, silent, timed
from mace_studio.recipe import Recipe
from mace_studio.sd import projections
from mace_studio.sd.model import Model

OUTSIDE = 1e-6  # share of a concept's length that must lie outside of what is preserved


def edit(
    weights: Weights,
    concepts_ND: Tensor,
    safe_MD: Tensor,
    preserve_KD: Tensor | None = None,
    *,
    directions: int | None = None,
) -> Weights:
    """W' = W + Z U^T, Z = W (A - C) X^+, X = U^T C; preserved vectors move by exactly 0.

    A is the projection of the concepts C on the span of the safe ones, U an orthonormal basis of what is orthogonal
    to the preserved ones. For one concept x this is W (a - c) x^T / ||x||^2.

    Args:
        weights: W, one weight_PD or name -> weight_PD.
        concepts_ND: c, N vectors. safe_MD: M that may take their place. preserve_KD: K to keep; None for none.
        directions: keep only so many of the strongest directions of the preserved ones; None or 0 for all.

    Returns:
        W' in the shapes, dtypes and devices of `weights`; `weights` itself without concepts. A concept that lies
        within the span of the preserved ones stays as it is.

    Raises:
        ValueError: shapes that do not go together.

    Source: arXiv 2604.10032.
    """
    if not len(weights) or not len(concepts_ND):
        return weights
    width = width_of(weights)
    concepts_ND, safe_MD = rows("concepts", concepts_ND, width), rows("safe vectors", safe_MD, width)
    preserve_KD = rows("preserved vectors", preserve_KD, width)
    # Only what lies outside of the span of the kept vectors may move, so these move by exactly nothing.
    outside_RD = complement(preserve_KD, directions or None)
    shift_ND = concepts_ND @ projector(safe_MD) - concepts_ND
    # What hardly sticks out of the kept span is left alone: divided by next to nothing, it would move all else.
    inverse_RN = torch.linalg.pinv(concepts_ND @ outside_RD.T, atol=OUTSIDE * concepts_ND.norm(dim=1).max().item())
    change_DD = shift_ND.T @ inverse_RN.T @ outside_RD
    return each_weight(weights, lambda weight_PD: weight_PD + weight_PD @ change_DD)


def erase(model: Model, recipe: Recipe, progress: Report = silent, cache: Path | None = None) -> Erasure:
    """Run a recipe with DP; the model stays as it is.

    Args:
        model: from `sd.model.load`.
        recipe: its concepts, mappings, which together span what is safe, and preserve list are read.
        progress: told of stage "refine": phrases encoded of all.
        cache: not needed: this takes seconds.

    Raises:
        StudioError: with a sentence for the user.
    """
    recipe.check()
    progress = timed(progress, {"refine": 1.0})
    phrases = inputs.phrases(recipe)
    safe = list(dict.fromkeys(concept.mapping.strip() for concept in recipe.concepts))
    encode = inputs.Encoder(model, progress, len(phrases) + len(safe) + len(recipe.kept))
    weights = edit(
        projections.read(model.unet),
        encode(phrases).vectors_ND,
        encode(safe).vectors_ND,
        encode(recipe.kept).vectors_ND,
        directions=recipe.settings.directions,
    )
    progress(Progress("refine", step=1, total=1))
    return inputs.result(model, recipe, dict(weights))
