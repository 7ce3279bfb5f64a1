"""Stage 3 of a recipe: all LoRAs fused into the weights of the model (Eq. 6, 7)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from mace_studio import prompts
from mace_studio.core import ridge, tokens
from mace_studio.methods.mace import OWN_TOKENS, WEIGHTED_SUM, refine
from mace_studio.progress import Progress, Report, always, silent
from mace_studio.recipe import Concept, Recipe
from mace_studio.sd import finite, lora, projections, text
from mace_studio.sd.embeddings import Embeddings
from mace_studio.sd.model import Model


def fuse(
    model: Model,
    recipe: Recipe,
    solved: ridge.Refinement,
    loras: Mapping[str, lora.LoraDelta],
    sums: refine.Sums,
    embeddings: Embeddings,
    progress: Report = silent,
    pulled: Mapping[str, Mapping[str, Tensor]] = MappingProxyType({}),
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Fuse the LoRAs of all concepts.

    Args:
        model: with its own weights in place; its text encoder is read.
        recipe: concepts, keep weights of the fusion, and one of `FUSIONS`.
        solved: M, from `refine.solve`; the closed form takes W' = W M without rounding.
        loras: phrase -> LoRA, of every concept.
        sums: from `refine.gather`.
        embeddings: of the same model; encodes the concepts' prompts, or remembers them.
        progress: called with stage "fuse" at every concept and every projection that is solved.
        pulled: phrase -> `ridge.pulls` of a concept, where another machine computed it; the others are computed here.

    Returns:
        State-dict key -> W*_PD of every projection, in the model's dtype, or in float32 where it is a weighted sum; and
        "fuse" -> condition number of the solve, if there was one.

    Raises:
        SingularGram: too little is kept.
    """
    if recipe.settings.fusion == WEIGHTED_SUM:
        summed = ridge.weighted_sum(refine.weights(model, solved), [delta.pairs for delta in loras.values()])
        finite.check_weights(summed, "The fused weights")
        return summed, {}
    keep = ridge.keep_gram(recipe.settings.fuse, sums.general, sums.preserve, model.width)
    fusion, originals = ridge.Fusion(sums.all_DD, keep), projections.read(model.unet)
    concepts, left_out = len(recipe.concepts), shared(model, recipe)
    total = concepts + len(originals)
    for i, concept in enumerate(recipe.concepts):
        at = Progress("fuse", concept.phrase, i, total)
        progress(at)
        pairs, pulls = loras[concept.phrase].pairs, pulled.get(concept.phrase)
        if pulls is None:
            context_NTD = embeddings.of(prompts.about(concept), always(progress, at)).context_NTD
            pulls = ridge.pulls(followed(model, concept, context_NTD, left_out.get(concept.phrase)), pairs)
        fusion.add_pulls(pairs, pulls)
    fused = {}
    for key, weight_PD in originals.items():
        # W' = W M in float64: rounded to the model's dtype it would be another W' than the solve's.
        fused[key] = fusion.fused(key, weight_PD, weight_PD.cpu().double() @ solved.matrix_DD)
        progress(Progress("fuse", step=concepts + len(fused), total=total))
    embeddings.log()
    finite.check_weights(fused, "The fused weights")
    return fused, {"fuse": fusion.condition}


def shared(model: Model, recipe: Recipe) -> dict[str, int]:
    """With how many first tokens of each concept a kept phrase begins, too; nothing unless the fusion is "own-tokens".

    A text encoder that only looks back gives two phrases the same embeddings as far as they begin alike, so whatever is
    asked of the weights there is asked of both. At least the last token of a concept is its own.

    Args:
        model: its tokenizer splits.
        recipe: concepts and preserve list.
    """
    if recipe.settings.fusion != OWN_TOKENS:
        return {}
    phrases = [concept.phrase for concept in recipe.concepts]
    own, kept = ([row[1:-1] for row in text.ids(model, some)] if some else [] for some in (phrases, recipe.preserve))
    return {
        phrase: min(len(row) - 1, max((tokens.common(row, other) for other in kept), default=0))
        for phrase, row in zip(phrases, own, strict=True)
    }


def followed(model: Model, concept: Concept, context_NTD: Tensor, left_out: int | None) -> Tensor:
    """The embeddings at which the fused weights follow a concept's LoRA; at all others they hold W'.

    Args:
        model: its tokenizer splits.
        concept: of the recipe.
        context_NTD: of its prompts.
        left_out: of `shared`; None for all positions, as in Eq. 7.

    Returns:
        context_ND.
    """
    if left_out is None:
        return context_NTD.flatten(0, 1)
    rows = [
        context_TD[list(run[min(left_out, len(run) - 1) :])]
        for sentence, context_TD in zip(prompts.about(concept), context_NTD, strict=True)
        for run in text.occurrences(model, sentence, concept.phrase)
    ]
    return torch.cat(rows)
