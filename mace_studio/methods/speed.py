"""SPEED: erase within the null space of what is retained (arXiv 2503.07392).

Three parts beside the solve: IPF keeps the retained vectors that erasure would move most, DPA adds vectors around them
that the projection hardly sees, IEC holds the start token and the centres of the empty prompt exactly.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from unicodedata import normalize

import torch
from torch import Tensor

from mace_studio.core.moments import Moments
from mace_studio.erasure import Erasure
from mace_studio.methods import inputs
from mace_studio.methods.closed_form import Vectors, Weights, each_weight, pairs, rows, width_of
from mace_studio.phrases import spans
from mace_studio.progress import Progress, Report, silent, timed
from mace_studio.recipe import Recipe
from mace_studio.sd import projections
from mace_studio.sd.model import Model

CHUNK = 128  # retained vectors that are augmented together; the filter's mean runs over one such chunk
CENTRES = 3


def edit(
    weights: Weights,
    concepts: Vectors,
    anchors: Vectors,
    retain_ND: Tensor | None = None,
    invariants_MD: Tensor | None = None,
    *,
    tau: float = 0.1,
    prior: float = 1.0,
    ridge: float = 0.0,
    augmentations: int = 10,
    filtered: bool = True,
    generator: torch.Generator | None = None,
) -> Weights:
    """W' = W + W (S*1 - S11) P Q M, with the projector P of each weight's own filtered and augmented vectors.

    Args:
        weights: W, one weight_PD or name -> weight_PD.
        concepts: c, N entries (D,) or (n, D). Moments are summed over the n positions of an entry, as the authors do
            for explicit content, and averaged over the N concepts.
        anchors: a, of the same shapes.
        retain_ND: c0, vectors to keep; None keeps none, and P is the identity.
        invariants_MD: C2, rows that are held exactly, see `invariants`; None for none.
        tau, prior, ridge, augmentations, filtered: as in `SpeedSettings`.
        generator: of the augmentation's noise; seed 0 when left out.

    Returns:
        W' in the shapes, dtypes and devices of `weights`; `weights` itself without concepts.

    Raises:
        ValueError: prior is not above 0, or shapes that do not go together.

    Source: arXiv 2503.07392; P Q M in the order of the paper.
    """
    if not prior > 0:
        raise ValueError(f"prior is {prior}; it must be above 0")
    if not len(weights) or not len(concepts):
        return weights
    width = width_of(weights)
    paired = pairs(concepts, anchors, width)
    retained_ND, held_MD = rows("retained vectors", retain_ND, width), rows("invariants", invariants_MD, width)
    contexts_ND, targets_ND = (torch.cat(side) for side in zip(*paired, strict=True))
    # The mean over the concepts, not the sum: `prior` stands beside it, and weighs the same whatever their number.
    moments = Moments.of(contexts_ND, targets_ND) * (1 / len(paired))
    gram_DD, pull_DD = moments.gram_DD, moments.cross_DD - moments.gram_DD
    eye_DD = torch.eye(len(gram_DD)).double()
    # D_er = W (S*1 - S11)(S11 + I)^-1 is the edit that nothing constrains; it tells which vectors an edit would move.
    erase_DD = torch.linalg.solve(eye_DD + gram_DD, pull_DD, left=False)
    generator = generator or torch.Generator().manual_seed(0)

    def one(weight_PD: Tensor) -> Tensor:
        delta_PD, kept_ND = weight_PD @ erase_DD, retained_ND
        if filtered and augmentations:
            kept_ND = influential(delta_PD, kept_ND)
        added_KD = augmented(weight_PD, delta_PD, kept_ND, augmentations, generator)
        projector_DD = null_projector(torch.cat([kept_ND, added_KD]), tau)
        return weight_PD + weight_PD @ pull_DD @ constrained(gram_DD, projector_DD, held_MD, prior, ridge)

    return each_weight(weights, one)


def influential(delta_PD: Tensor, vectors_ND: Tensor) -> Tensor:
    """The vectors c with ||D_er c|| above the mean over all of them (IPF); none of a single one.

    Args:
        delta_PD: the change of a weight by which they are erased.
        vectors_ND: embeddings of what is kept, a row each.
    """
    moved_N = (vectors_ND @ delta_PD.T).norm(dim=1)
    return vectors_ND[moved_N > moved_N.mean()] if len(vectors_ND) else vectors_ND


def augmented(
    weight_PD: Tensor, delta_PD: Tensor, kept_ND: Tensor, augmentations: int, generator: torch.Generator
) -> Tensor:
    """The influential ones of c0 + z u u^T, z ~ N(0, I), u the last right singular vector of W (DPA), (K, D).

    Args:
        weight_PD: W. The reduced SVD counts: for P < D u belongs to the smallest of P values, it is no null vector.
        delta_PD: D_er of this weight.
        kept_ND: retained vectors; the mean of the filter runs over `CHUNK` of them with all their samples.
        augmentations: samples for each.
        generator: of z.
    """
    if not augmentations:
        return kept_ND[:0]
    last_D = torch.linalg.svd(weight_PD, full_matrices=False).Vh[-1]
    found = []
    for chunk_ND in kept_ND.split(CHUNK):
        noise_NAD = torch.randn(len(chunk_ND), augmentations, len(last_D), generator=generator, dtype=torch.float64)
        # (z . u) u: noise along the direction that W passes on the least, so that the outputs hardly change.
        around_NAD = chunk_ND[:, None] + (noise_NAD @ last_D)[..., None] * last_D
        found.append(influential(delta_PD, around_NAD.flatten(0, 1)))
    return torch.cat(found)


def null_projector(vectors_ND: Tensor, tau: float) -> Tensor:
    """P, the projector on the eigenvectors of mean(c c^T) with an eigenvalue below tau; the identity for no vectors.

    Args:
        vectors_ND: c, embeddings of phrases to keep, float64.
        tau: bound on eigenvalues, in units of a squared embedding.

    Returns:
        projector_DD, float64.
    """
    if not len(vectors_ND):
        return torch.eye(vectors_ND.shape[1]).double()
    values_D, vectors_DD = torch.linalg.eigh(vectors_ND.T @ vectors_ND / len(vectors_ND))
    null_DK = vectors_DD[:, values_D < tau]
    return null_DK @ null_DK.T


def constrained(gram_DD: Tensor, projector_DD: Tensor, invariants_MD: Tensor, prior: float, ridge: float) -> Tensor:
    """P Q M, with M = (S11 P + r I)^-1 and Q = I - M C2 (C2^T P M C2 + lambda I)^-1 C2^T P.

    It maps the invariants (with lambda = 0) and all that P removes to 0. An invariant that P removes needs no
    constraint, so with lambda = 0 the inner matrix is inverted on its range only.

    Args:
        gram_DD: S11. projector_DD: P. invariants_MD: C2, in rows. prior: r, above 0. ridge: lambda.
    """
    eye_DD = torch.eye(len(gram_DD)).double()
    solved_DD = torch.linalg.solve(gram_DD @ projector_DD + prior * eye_DD, projector_DD, left=False)  # P M
    moved_DM = solved_DD @ invariants_MD.T
    inner_MM = invariants_MD @ moved_DM + ridge * torch.eye(len(invariants_MD)).double()
    # With lambda = 0 the inner matrix has no inverse where P removes an invariant.
    return solved_DD - moved_DM @ torch.linalg.pinv(inner_MM) @ invariants_MD @ solved_DD


def invariants(empty_TD: Tensor, centres: int = CENTRES) -> Tensor:
    """C2: the start token of the empty prompt and k-means centres of its other positions, (1 + centres, D), float64.

    Lloyd's iterations from far-apart positions, the same in every run; the authors start at random.

    Args:
        empty_TD: context of "".
        centres: how many; fewer where there are fewer positions.
    """
    empty_TD = empty_TD.detach().cpu().double()
    points_ND = empty_TD[1:]
    centres_KD = points_ND[:1]
    while len(centres_KD) < min(centres, len(points_ND)):
        # The next centre starts at the point that is farthest from all others.
        farthest = torch.cdist(points_ND, centres_KD).min(dim=1).values.argmax()
        centres_KD = torch.cat([centres_KD, points_ND[farthest, None]])
    for _ in range(100):
        nearest_N = torch.cdist(points_ND, centres_KD).argmin(dim=1)
        groups = [points_ND[nearest_N == k] for k in range(len(centres_KD))]
        means = [group_nD.mean(dim=0) if len(group_nD) else c for group_nD, c in zip(groups, centres_KD, strict=True)]
        moved_KD, centres_KD = centres_KD, torch.stack(means) if means else centres_KD
        if torch.equal(moved_KD, centres_KD):
            break
    return torch.cat([empty_TD[:1], centres_KD])


def retainable(phrases: Iterable[str], targets: Iterable[str]) -> list[str]:
    """The phrases that contain no target as a whole word, in their order.

    Args:
        phrases: candidates to keep.
        targets: phrases of the concepts; case does not count.
    """
    sought = list(targets)
    return [phrase for phrase in phrases if not any(spans(normalize("NFC", phrase), target) for target in sought)]


def erase(model: Model, recipe: Recipe, progress: Report = silent, cache: Path | None = None) -> Erasure:
    """Run a recipe with SPEED; the model stays as it is.

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
    phrases = inputs.phrases(recipe)
    anchors = [inputs.anchor(concept, settings.anchor, inputs.UCE_ANCHORS) for concept in recipe.concepts]
    kept = retainable(recipe.kept, phrases)
    encode = inputs.Encoder(model, progress, 2 * len(phrases) + len(kept) + 1)
    concept, target, retained, empty = encode(phrases), encode(anchors), encode(kept), encode([""])
    vectors: tuple[Vectors, Vectors] = concept.vectors_ND, target.vectors_ND
    if all(one.kind == "explicit" for one in recipe.concepts):  # all positions, summed, as the authors do there
        vectors = concept.context_NTD[:, 1:], target.context_NTD[:, 1:]
    weights = edit(
        projections.read(model.unet, tune=settings.tune),
        *vectors,
        retained.vectors_ND if kept else empty.context_NTD[0, 1:],
        invariants(empty.context_NTD[0]),
        tau=settings.tau,
        prior=settings.prior,
        ridge=settings.ridge,
        augmentations=settings.augmentations,
        filtered=settings.filtered and len(kept) != 1,  # a phrase alone is never above its own mean
        generator=torch.Generator().manual_seed(recipe.seed),
    )
    progress(Progress("refine", step=1, total=1))
    return inputs.result(model, recipe, dict(weights))
