"""Stage 1 of a recipe: the sums over its prompts, and the matrix M that refines every projection (Eq. 2)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mace_studio import prompts
from mace_studio.core import ridge, tokens
from mace_studio.core.moments import Moments
from mace_studio.progress import Progress, Report, silent, within
from mace_studio.recipe import Concept, Recipe
from mace_studio.sd import grams, projections, text
from mace_studio.sd.model import Model
from mace_studio.settings import KeepWeights


@dataclass(frozen=True)
class Sums:
    """All that the closed forms need to know of a recipe's prompts, whatever the keep weights are.

    Attributes:
        concepts: F and C over the pairs of all concepts.
        general: over the general captions, scaled to the paper's number; None if no weight asks for them.
        preserve: over the prompts about the preserve list; None if it is empty.
    """

    concepts: Moments
    general: Moments | None
    preserve: Moments | None


def gather(model: Model, recipe: Recipe, cache: Path | None, progress: Report = silent) -> Sums:
    """Encode the recipe's prompts and sum over their embeddings.

    Args:
        model: its text encoder is read.
        recipe: concepts, preserve list, and whether a weight asks for the general captions.
        cache: folder that keeps the Gram of the general captions, or None.
        progress: told of stage "refine" at every batch of sentences: sentences done of all.
    """
    preserved, captions = list(prompts.preserved(recipe)), 0
    rest = prompts.count(recipe)  # sentences beside the captions

    def on_captions(at: Progress) -> None:
        nonlocal captions
        captions = at.total
        progress(Progress("refine", "general captions", at.step, captions + rest))

    general, preserve = None, None
    if recipe.settings.refine.general or recipe.settings.fuse.general:
        general = grams.general(model, cache, on_captions)
    done, total = captions, captions + rest
    if preserved:
        preserve = grams.gram(model, preserved, within(progress, "refine", "preserve list", done, total))
        done += len(preserved)
    moments, mapped, guide_NTD = Moments.zero(model.width), None, None
    for concept in recipe.concepts:
        if prompts.mapped(concept) != mapped:  # concepts often share their mapping: its prompts are encoded once
            mapped = prompts.mapped(concept)
            guide_NTD = text.embed(model, mapped, within(progress, "refine", concept.phrase, done, total))
        done += len(mapped)
        report = within(progress, "refine", concept.phrase, done, total)
        context_NTD = text.embed(model, prompts.about(concept), report)
        done += len(context_NTD)
        moments = moments + _pairs(model, concept, context_NTD, guide_NTD)
    progress(Progress("refine", step=done, total=total))
    return Sums(moments, general, preserve)


def solve(sums: Sums, weights: KeepWeights) -> ridge.Refinement:
    """M and its condition number.

    Args:
        sums: from `gather`.
        weights: lambda1, lambda3 and the identity weight.

    Raises:
        SingularGram: too little is kept.
    """
    keep = ridge.keep_gram(weights, sums.general, sums.preserve, len(sums.concepts.gram_DD))
    return ridge.refinement(sums.concepts, keep.total_DD)


def weights(model: Model, solved: ridge.Refinement, progress: Report = silent) -> dict[str, Tensor]:
    """W' = W M: state-dict key -> weight_PD of every projection of the model.

    Args:
        model: with its own weights in place.
        solved: from `solve`.
        progress: told after every projection, as of the end of stage "refine".
    """
    refined = {}
    for key, weight_PD in projections.read(model.unet).items():
        refined[key] = ridge.refine(weight_PD, solved)
        progress(Progress("refine", step=1, total=1))
    return refined


def _pairs(model: Model, concept: Concept, context_NTD: Tensor, guide_NTD: Tensor) -> Moments:
    """F and C of one concept: the embeddings at co-existing positions of its prompts and of its mapping's."""
    contexts, guides = [], []
    concept_ids, mapping_ids = text.ids(model, prompts.about(concept)), text.ids(model, prompts.mapped(concept))
    for n, (ids, other) in enumerate(zip(concept_ids, mapping_ids, strict=True)):
        here, there = tokens.pair_positions(ids, other, model.length)
        contexts.append(context_NTD[n, here])
        guides.append(guide_NTD[n, there])
    return Moments.of(torch.cat(contexts), torch.cat(guides))
