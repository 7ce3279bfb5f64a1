"""Stage 1 of a recipe: what its prompts sum to, and the matrix M that refines every projection (Eq. 2)."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from mace_studio import prompts
from mace_studio.core import ridge, tokens
from mace_studio.core.moments import Moments
from mace_studio.progress import Progress, relay
from mace_studio.recipe import Concept, Recipe
from mace_studio.sd import grams, projections, text
from mace_studio.sd.model import Model
from mace_studio.settings import KeepWeights


@dataclass(frozen=True)
class Sums:
    """All that the closed forms need to know of a recipe's prompts, whatever the keep weights are.

    Attributes:
        concepts: F and C over the pairs of all concepts.
        general: of the general captions, scaled to the paper's number; None if no weight asks for them.
        preserve: of the prompts about the preserve list; None if it is empty.
    """

    concepts: Moments
    general: Moments | None
    preserve: Moments | None


def gather(model: Model, recipe: Recipe, cache: Path | None) -> Generator[Progress, None, Sums]:
    """Encode the recipe's prompts, stage "refine".

    Args:
        model: its text encoder is read.
        recipe: concepts, preserve list, and whether a weight asks for the general captions.
        cache: folder that keeps the Gram of the general captions, or None.
    """
    general, total = None, len(recipe.concepts)
    if recipe.settings.refine.general or recipe.settings.fuse.general:
        reading = grams.general(model, cache)
        general = yield from relay(reading, lambda n: Progress("refine", f"general captions, {n} read", 0, total))
    preserved = list(prompts.preserved(recipe))
    preserve = grams.gram(model, preserved) if preserved else None
    # Concepts often share their mapping: its sentences are encoded once.
    encoded = lru_cache(maxsize=2)(lambda sentences: (text.ids(model, sentences), text.embed(model, sentences)))
    moments = Moments.zero(model.width)
    for i, concept in enumerate(recipe.concepts):
        moments = moments + _pairs(model, concept, encoded)
        yield Progress("refine", concept.phrase, i + 1, total)
    return Sums(moments, general, preserve)


def solve(sums: Sums, weights: KeepWeights) -> ridge.Refinement:
    """M and its condition number.

    Raises:
        SingularGram: too little is kept.
    """
    keep = ridge.keep_gram(weights, sums.general, sums.preserve, len(sums.concepts.gram_DD))
    return ridge.refinement(sums.concepts, keep.total_DD)


def weights(model: Model, solved: ridge.Refinement) -> dict[str, Tensor]:
    """W' = W M: state-dict key -> weight_PD of every projection of the model."""
    return {key: ridge.refine(weight_PD, solved) for key, weight_PD in projections.read(model.unet).items()}


def _pairs(model: Model, concept: Concept, encoded: Callable[[tuple[str, ...]], tuple[list, Tensor]]) -> Moments:
    """F and C of one concept: the embeddings at co-existing positions of its prompts and of its mapping's."""
    concept_ids, context_NTD = encoded(tuple(prompts.about(concept)))
    mapping_ids, guide_NTD = encoded(tuple(prompts.mapped(concept)))
    contexts, guides = [], []
    for n, (ids, other) in enumerate(zip(concept_ids, mapping_ids, strict=True)):
        here, there = tokens.pair_positions(ids, other, model.length)
        contexts.append(context_NTD[n, here])
        guides.append(guide_NTD[n, there])
    return Moments.of(torch.cat(contexts), torch.cat(guides))
