"""MACE without training: the fusion (Eq. 7) with targets from the mapping instead of LoRAs. Ours, not published."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mace_studio import prompts
from mace_studio.core.moments import Moments
from mace_studio.core.ridge import Fusion, Keep, keep_gram
from mace_studio.erasure import Erasure
from mace_studio.methods import inputs
from mace_studio.methods.mace import refine
from mace_studio.progress import Progress, Report, always, silent, timed
from mace_studio.recipe import Concept, Recipe
from mace_studio.sd import projections, text
from mace_studio.sd.model import Model


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
        original: name -> W. refined: name -> W', after stage 1, not rounded.
        concepts: for each concept `Moments.of(E_i, E^_i)`, see `targets`.
        keep: R and the identity weight; as in `ridge.Fusion` the first pulls to W, the second to W'.

    Raises:
        SingularGram: the sums do not determine W*.
    """
    moments = sum(concepts, start=Moments.zero(len(keep.gram_DD)))
    fusion = Fusion(moments.gram_DD, keep)
    # In place of the LoRAs: sum_i (W' E^_i) E_i^T as the target of Eq. 7.
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


def erase(model: Model, recipe: Recipe, progress: Report = silent, cache: Path | None = None) -> Erasure:
    """Run a recipe with MACE without training; the model stays as it is.

    Args:
        model: from `sd.model.load`.
        recipe: its concepts, mappings and preserve list are read, in MACE's templates.
        progress: told of stage "refine": phrases encoded of all.
        cache: folder that keeps the Gram of the general captions.

    Raises:
        StudioError: with a sentence for the user.
    """
    recipe.check()
    settings, count = recipe.settings, len(recipe.concepts)
    progress = timed(progress, {"refine": 1.0, "fuse": 1.0 * settings.fusion})
    sums = refine.gather(model, recipe, cache, progress)
    solved = refine.solve(sums, settings.refine)
    weights, conditions = refine.weights(model, solved, progress), {"refine": solved.condition}
    if settings.fusion:
        keep = keep_gram(settings.fuse, sums.general, sums.preserve, model.width)

        def moments() -> Iterator[Moments]:
            for i, concept in enumerate(recipe.concepts):
                at = Progress("fuse", concept.phrase, i, count)
                yield _targeted(model, concept, always(progress, at))

        # W' in float64 and not as `refine.weights` rounded it: the fusion pulls to it.
        original = projections.read(model.unet)
        refined = {key: weight_PD.cpu().double() @ solved.matrix_DD for key, weight_PD in original.items()}
        fused = edit(original, refined, moments(), keep)
        weights, conditions = fused.weights, conditions | {"fuse": fused.condition}
        progress(Progress("fuse", step=count, total=count))
    return inputs.result(model, recipe, weights, conditions=conditions)


def _targeted(model: Model, concept: Concept, on_batch: Report) -> Moments:
    """The pairs of E and E^ over all positions of a concept's prompts."""
    about, mapped = prompts.about(concept), prompts.mapped(concept)
    concept_ids, mapping_ids = text.ids(model, about), text.ids(model, mapped)
    concept_NTD, mapping_NTD = text.embed(model, about, on_batch), text.embed(model, mapped, on_batch)
    hats = [
        targets(
            concept_NTD[n],
            mapping_NTD[n],
            text.positions(model, about[n], concept.phrase),
            text.positions(model, mapped[n], concept.mapping),
            len(concept_ids[n]) - 1,
            len(mapping_ids[n]) - 1,
        )
        for n in range(len(about))
    ]
    return Moments.of(concept_NTD.flatten(0, 1), torch.stack(hats).flatten(0, 1))
