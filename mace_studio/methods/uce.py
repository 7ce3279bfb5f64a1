"""UCE, unified concept editing: one closed-form solve for keys and values (arXiv 2308.14761)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from mace_studio.core.moments import Moments
from mace_studio.core.ridge import Refinement, SingularGram, refine, refinement
from mace_studio.erasure import Erasure
from mace_studio.methods import inputs
from mace_studio.methods.closed_form import Vectors, Weights, each_weight, pairs, rows, width_of
from mace_studio.progress import Progress, Report, silent, timed
from mace_studio.recipe import Recipe
from mace_studio.sd import projections
from mace_studio.sd.model import Model


def edit(
    weights: Weights,
    concepts: Vectors,
    anchors: Vectors,
    preserve_MD: Tensor | None = None,
    *,
    erase_scale: float = 1.0,
    preserve_scale: float = 1.0,
    ridge: float = 0.5,
    technique: str = "replace",
) -> Weights:
    """W' = (s_e sum v_i c_i^T + s_p sum W p_j p_j^T + lambda W)(s_e sum c_i c_i^T + s_p sum p_j p_j^T + lambda I)^-1.

    The target v_i is W a_i ("replace"), or W a_i - <u, W a_i> u with u = W c_i / ||W c_i|| ("tensor"). There one norm
    and one product run over all positions of an entry at once, as in the authors' first code. With "replace" this is
    W M with one M for all weights, `ridge.refinement` with R = s_p P + lambda I.

    Args:
        weights: W, one weight_PD or name -> weight_PD.
        concepts: c, N entries (D,) or (n, D): a tensor (N, D), (N, T, D) or a list.
        anchors: a, of the same shapes as the concepts.
        preserve_MD: p, M vectors whose outputs stay, of several sentences all positions in a row; None for none.
        erase_scale, preserve_scale, ridge: s_e, s_p, lambda; all 0 or more.
        technique: "replace" or "tensor".

    Returns:
        W' in the shapes, dtypes and devices of `weights`; `weights` itself without concepts or with s_e = 0.

    Raises:
        ValueError: shapes that do not go together, or an unknown technique.
        SingularGram: ridge and preserved vectors are too few to determine W'.

    Source: arXiv 2308.14761; solved by Cholesky in float64 where the authors invert in float32.
    """
    if technique not in ("replace", "tensor"):
        raise ValueError(f"technique is {technique!r}; it must be 'replace' or 'tensor'")
    if not len(weights) or not len(concepts) or not erase_scale:
        return weights
    width = width_of(weights)
    paired, preserve_MD = pairs(concepts, anchors, width), rows("preserved vectors", preserve_MD, width)
    contexts_ND, targets_ND = (torch.cat(side) for side in zip(*paired, strict=True))
    keep_DD = preserve_scale * Moments.of(preserve_MD).gram_DD + ridge * torch.eye(width).double()
    # As W' = W M, with (s_e sum a_i c_i^T + R)(s_e sum c_i c_i^T + R)^-1 for M and R = s_p P + lambda I.
    solved = _refinement(erase_scale * Moments.of(contexts_ND, targets_ND), keep_DD)
    if technique == "replace":
        return each_weight(weights, lambda weight_PD: refine(weight_PD, solved))
    total_DD = erase_scale * Moments.of(contexts_ND).gram_DD + keep_DD  # no one M here: targets depend on the weight

    def suppressed(weight_PD: Tensor) -> Tensor:
        pull_PD = torch.zeros_like(weight_PD)
        for context_nD, target_nD in paired:
            own_nP, output_nP = context_nD @ weight_PD.T, target_nD @ weight_PD.T
            unit_nP = functional.normalize(own_nP.flatten(), dim=0).view_as(own_nP)  # 0 where W c is 0
            # The anchor's output without its part along the concept's own output: v_i of "tensor".
            wanted_nP = output_nP - (unit_nP * output_nP).sum() * unit_nP
            pull_PD += (wanted_nP - own_nP).T @ context_nD
        return weight_PD + erase_scale * torch.linalg.solve(total_DD, pull_PD.T).T

    return each_weight(weights, suppressed)


def _refinement(moments: Moments, keep_DD: Tensor) -> Refinement:
    """As of `core.ridge`, whose sentence about sums that are too small names MACE's settings."""
    try:
        return refinement(moments, keep_DD)
    except SingularGram as error:
        raise SingularGram(
            "Too little leaves the projections as they are, so the weights are not determined. Use a larger ridge "
            "(RECE: start_ridge too), or smaller scales."
        ) from error


def subjects(context_NTD: Tensor, last_N: list[int]) -> Tensor:
    """The vectors of the current form: position `last_N[i]` of each context, (N, D).

    Args:
        context_NTD: context of every phrase alone.
        last_N: pos*, the last subject token of each phrase: number of ids without padding, less 2.
    """
    return context_NTD[range(len(context_NTD)), list(last_N)]


def tails(concept_TD: Tensor, anchor_TD: Tensor, concept_last: int, anchor_last: int) -> tuple[Tensor, Tensor]:
    """The vectors of the first code's form: both contexts from their own pos* on, cut to T - max(pos*) positions.

    Args:
        concept_TD, anchor_TD: contexts of the two phrases alone, padded.
        concept_last, anchor_last: pos* of each; 0, the start token, for "" and " ".

    Returns:
        Two tensors (n, D), n = T - max(concept_last, anchor_last).
    """
    length = len(concept_TD) - max(concept_last, anchor_last)
    return concept_TD[concept_last : concept_last + length], anchor_TD[anchor_last : anchor_last + length]


def preserve_scale(phrases: int) -> float:
    """s_p of the first code for so many preserved phrases, the empty prompt counted: max(0.1, 1 / phrases).

    Args:
        phrases: at least 1.
    """
    return round(max(0.1, 1 / phrases), 3)


def erase(model: Model, recipe: Recipe, progress: Report = silent, cache: Path | None = None) -> Erasure:
    """Run a recipe with UCE; the model stays as it is.

    Args:
        model: from `sd.model.load`.
        recipe: its concepts, mappings (where the settings say so) and preserve list are read.
        progress: told of stage "refine": phrases encoded of all.
        cache: not needed: this takes seconds.

    Raises:
        StudioError: with a sentence for the user.
    """
    recipe.check()
    settings, progress = recipe.settings, timed(progress, {"refine": 1.0})
    pairs = []
    for concept in recipe.concepts:
        anchor = inputs.anchor(concept, settings.anchor, inputs.UCE_ANCHORS)
        whole = inputs.expanded(concept, anchor) if settings.expand else [(concept.phrase.strip(), anchor)]
        pairs += whole
    first_form = settings.form == "tail"
    # The first code keeps the empty prompt too, which is half of every image with guidance.
    kept = ["", *recipe.kept] if first_form else list(recipe.kept)
    encode = inputs.Encoder(model, progress, 2 * len(pairs) + len(kept))
    concepts, anchors = encode([concept for concept, _ in pairs]), encode([anchor for _, anchor in pairs])
    preserved = encode(kept)
    vectors: tuple[Vectors, Vectors] = concepts.vectors_ND, anchors.vectors_ND
    if first_form:
        each = zip(concepts.context_NTD, anchors.context_NTD, concepts.last_N, anchors.last_N, strict=True)
        both = [tails(*one) for one in each]
        vectors = [concept_nD for concept_nD, _ in both], [anchor_nD for _, anchor_nD in both]
    weights = edit(
        projections.read(model.unet),
        *vectors,
        preserved.context_NTD.flatten(0, 1) if first_form else preserved.vectors_ND,
        erase_scale=settings.erase_scale,
        preserve_scale=preserve_scale(len(kept)) if first_form else settings.preserve_scale,
        ridge=settings.ridge,
        technique=settings.technique,
    )
    progress(Progress("refine", step=1, total=1))
    return inputs.result(model, recipe, weights)
