"""OCE: an orthogonal instead of an additive edit of the values, by one SVD per weight (arXiv 2605.28902)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mace_studio.core.subspace import projector
from mace_studio.erasure import Erasure
from mace_studio.methods import inputs
from mace_studio.methods.closed_form import Weights, each_weight, rows, width_of
from mace_studio.progress import Progress, Report, silent, timed
from mace_studio.recipe import Recipe
from mace_studio.sd import projections
from mace_studio.sd.model import Model


def edit(
    weights: Weights,
    concepts_ND: Tensor,
    anchors_ND: Tensor,
    preserve_MD: Tensor | None = None,
    general_DD: Tensor | None = None,
    *,
    erase_scale: float = 2000.0,
    keep_scale: float = 0.0,
    general_scale: float = 10.0,
    ridge: float = 10.0,
) -> Weights:
    """W' = Q W with the rotation Q of `rotation`, so the singular values of W stay.

    Args:
        weights: W, one weight_PD or name -> weight_PD; published: values only.
        concepts_ND, anchors_ND: c and a, one vector each; only what they span counts, so their numbers may differ.
        preserve_MD: p, M vectors; None for none.
        general_DD: K0, mean of the outer products of the tokens of general captions, padding left out; None for none.
        erase_scale, keep_scale, general_scale, ridge: s_e, s_k, s_0, lambda, 0 or more.

    Returns:
        W' in the shapes, dtypes and devices of `weights`; `weights` itself without concepts or with s_e = 0.

    Raises:
        ValueError: shapes that do not go together.
    """
    if not len(weights) or not len(concepts_ND) or not erase_scale:
        return weights
    width = width_of(weights)
    concepts_ND, anchors_ND = rows("concepts", concepts_ND, width), rows("anchors", anchors_ND, width)
    preserve_MD = rows("preserved vectors", preserve_MD, width)
    if general_DD is not None and tuple(general_DD.shape) != (width, width):
        raise ValueError(f"general_DD has shape {tuple(general_DD.shape)}; it must be ({width}, {width})")

    def one(weight_PD: Tensor) -> Tensor:
        # K of the objective, in the space of the values: lambda W W^T + s_k W P W^T + s_0 W K0 W^T.
        values_MP = preserve_MD @ weight_PD.T
        kept_PP = ridge * weight_PD @ weight_PD.T + keep_scale * values_MP.T @ values_MP
        if general_DD is not None:
            kept_PP += general_scale * weight_PD @ general_DD.detach().cpu().double() @ weight_PD.T
        concept_PP, anchor_PP = _span(weight_PD, concepts_ND), _span(weight_PD, anchors_ND)
        return rotation(concept_PP, anchor_PP, kept_PP, erase_scale) @ weight_PD

    return each_weight(weights, one)


def rotation(concept_PP: Tensor, anchor_PP: Tensor, kept_PP: Tensor, erase_scale: float) -> Tensor:
    """The rotation Q that minimises -s_e ||Q G - (I - G*)||^2 + tr((Q - I) K (Q - I)^T).

    Q = U V^T with U S V^T = -s_e (I - G*) G + K; the last column of U changes its sign where det Q would be -1.
    The paper prints G (I - G*), the transpose, which solves this problem only where G and G* commute: for others its
    objective is larger (tests/unit/test_methods_oce.py compares both), so this is the form in use. The printed form
    gives the transpose of this Q.

    Args:
        concept_PP: G, projector on the concepts' values. anchor_PP: G*, projector on the anchors' values.
        kept_PP: K, weighted sum of outer products of the values to keep; symmetric.
        erase_scale: s_e.

    Returns:
        Q, (P, P) in float64, with a determinant of 1.

    Source: arXiv 2605.28902, the orthogonal Procrustes problem.
    """
    eye_PP = torch.eye(len(kept_PP)).double()
    left_PP, _, right_PP = torch.linalg.svd(kept_PP - erase_scale * (eye_PP - anchor_PP) @ concept_PP)
    # A reflection has the same objective or a lower one, but is no rotation.
    if torch.linalg.det(left_PP @ right_PP) < 0:
        left_PP[:, -1] *= -1
    return left_PP @ right_PP


def _span(weight_PD: Tensor, vectors_ND: Tensor) -> Tensor:
    """The projector (P, P) on the values W v, each at length 1 so that long ones do not set the tolerance."""
    return projector(torch.nn.functional.normalize(vectors_ND @ weight_PD.T, dim=1))


def erase(model: Model, recipe: Recipe, progress: Report = silent, cache: Path | None = None) -> Erasure:
    """Run a recipe with OCE; the model stays as it is.

    Args:
        model: from `sd.model.load`.
        recipe: its concepts, mappings (where the settings say so) and preserve list are read.
        progress: told of the stages "captions" and "refine": sentences encoded of all.
        cache: folder that keeps the sum over the general captions.

    Raises:
        StudioError: with a sentence for the user.
    """
    recipe.check()
    settings = recipe.settings
    progress = timed(progress, {"captions": 5.0 * bool(settings.general_scale), "refine": 1.0})
    general_DD = inputs.general_words(model, cache, progress) if settings.general_scale else None
    published = inputs.OCE_ANCHORS
    if len(recipe.concepts) >= inputs.OCE_MANY:
        published = published | {"celebrity": "tree"}
    phrases = inputs.phrases(recipe)
    anchors = list(dict.fromkeys(inputs.anchor(concept, settings.anchor, published) for concept in recipe.concepts))
    encode = inputs.Encoder(model, progress, len(phrases) + len(anchors) + len(recipe.kept))
    concept, anchor, preserved = encode(phrases), encode(anchors), encode(recipe.kept)
    weights = edit(
        projections.read(model.unet, tune="value"),
        concept.vectors_ND,
        anchor.vectors_ND,
        preserved.vectors_ND,
        general_DD,
        erase_scale=settings.erase_scale,
        general_scale=settings.general_scale,
        keep_scale=settings.keep_scale,
        ridge=settings.ridge,
    )
    progress(Progress("refine", step=1, total=1))
    return inputs.result(model, recipe, dict(weights))
