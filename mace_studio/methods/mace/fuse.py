"""Stage 3 of a recipe: all LoRAs fused into the weights of the model (Eq. 6, 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from mace_studio import prompts
from mace_studio.core import ridge
from mace_studio.methods.mace import refine
from mace_studio.methods.mace.own_tokens import OwnTokens
from mace_studio.progress import Progress, Report, always, silent
from mace_studio.recipe import Recipe
from mace_studio.sd import finite, lora, projections
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
        recipe: concepts, keep weights of the fusion, and "closed-form" or "weighted-sum".
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
    if recipe.settings.fusion == "weighted-sum":
        summed = ridge.weighted_sum(refine.weights(model, solved), [delta.pairs for delta in loras.values()])
        finite.check_weights(summed, "The fused weights")
        return summed, {}
    keep = ridge.keep_gram(recipe.settings.fuse, sums.general, sums.preserve, model.width)
    fusion, originals = ridge.Fusion(sums.all_DD, keep), projections.read(model.unet)
    concepts, own = len(recipe.concepts), OwnTokens(model, recipe)
    total = concepts + len(originals)
    for i, concept in enumerate(recipe.concepts):
        at = Progress("fuse", concept.phrase, i, total)
        progress(at)
        pairs, pulls = loras[concept.phrase].pairs, pulled.get(concept.phrase)
        # On a cluster it comes from the worker that trained the LoRA, and no prompt is encoded here.
        if pulls is None:
            context_NTD = embeddings.of(prompts.about(concept), always(progress, at)).context_NTD
            pulls = ridge.pulls(followed(context_NTD, own.positions(concept)), pairs)
        fusion.add_pulls(pairs, pulls)
    fused = {}
    for key, weight_PD in originals.items():
        # W' = W M in float64: rounded to the model's dtype it would be another W' than the solve's.
        fused[key] = fusion.fused(key, weight_PD, weight_PD.cpu().double() @ solved.matrix_DD)
        progress(Progress("fuse", step=concepts + len(fused), total=total))
    embeddings.log()
    finite.check_weights(fused, "The fused weights")
    return fused, {"fuse": fusion.condition}


def followed(context_NTD: Tensor, positions: Sequence[Sequence[int]] | None) -> Tensor:
    """The embeddings at which the fused weights follow a LoRA, context_ND; at all others they hold W'.

    Args:
        context_NTD: of the prompts about a concept.
        positions: for each prompt where the LoRA acts; None for all positions, as in Eq. 7.
    """
    if positions is None:
        return context_NTD.flatten(0, 1)
    return torch.cat([context_TD[list(at)] for context_TD, at in zip(context_NTD, positions, strict=True)])
