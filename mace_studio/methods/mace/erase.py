"""Use case erase(): images, masks, refinement, LoRAs and fusion in order. The model stays as it was."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from torch import Tensor

from mace_studio import __version__, prompts
from mace_studio.core import ridge
from mace_studio.erasure import Erasure, origin
from mace_studio.masks import UserMasks
from mace_studio.methods.mace import refine as refinement
from mace_studio.methods.mace import train_loras, training_images
from mace_studio.progress import Progress, clocked
from mace_studio.recipe import Recipe
from mace_studio.sd import batching, grams, lora, projections
from mace_studio.sd.model import Model, captions_of

PACKAGES = ("torch", "diffusers", "transformers", "peft")
# Beside a UNet sample in a full batch: a forward and a backward of a lone one; a sentence through the text encoder.
LORA_COST, SENTENCE_COST = 6.0, 0.02


@dataclass
class _Notes:
    """What the stages of one run have to say beside their results."""

    conditions: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def erase(
    model: Model,
    recipe: Recipe,
    cache: Path | None = None,
    known: Mapping[str, lora.LoraDelta] | None = None,
    given: UserMasks | None = None,
) -> Generator[Progress, None, Erasure]:
    """Run a recipe on a model.

    The model is bit for bit what it was, whether this ends in success, in an error or by closing the generator. Same
    recipe, seed and device give the same weights.

    Args:
        model: from `sd.model.load`.
        recipe: checked here.
        cache: folder for training images and for the Gram of the general captions; None keeps nothing.
        known: phrase -> a LoRA of this model that is used as it is; images are drawn and LoRAs trained for the other
            concepts alone.
        given: as in `training_images.make`; the warnings name the masks that were given.

    Raises:
        StudioError: with a sentence for the user.
    """
    recipe.check()
    known, given = known or {}, given or {}
    untrained = tuple(c for c in recipe.concepts if c.phrase not in known) if recipe.settings.lora.steps else ()
    steps = _stages(model, recipe, replace(recipe, concepts=untrained), known, cache, given)
    return (yield from clocked(steps, _costs(recipe, replace(recipe, concepts=untrained))))


def _costs(recipe: Recipe, untrained: Recipe) -> dict[str, float]:
    return {
        **training_images.costs(untrained),
        "refine": prompts.count(recipe) * SENTENCE_COST,
        "lora": len(untrained.concepts) * recipe.settings.lora.steps * LORA_COST,
        "fuse": (recipe.settings.lora.steps > 0) * prompts.count(recipe) * SENTENCE_COST + 1.0,
    }


def _stages(
    model: Model,
    recipe: Recipe,
    untrained: Recipe,
    known: Mapping[str, lora.LoraDelta],
    cache: Path | None,
    given: UserMasks,
) -> Generator[Progress, None, Erasure]:
    notes, loras = _Notes(), {}
    drawn: list[training_images.TrainingImages] = []
    if untrained.concepts:
        drawn = yield from training_images.make(model, untrained, cache, notes.warnings, given)
    sums = yield from refinement.gather(model, recipe, cache)
    if sums.general is not None and model.captions != captions_of(model.source):
        notes.warnings.append(f"General knowledge was taken from {model.captions.name}.")
    solved = refinement.solve(sums, recipe.settings.refine)
    notes.conditions["refine"] = solved.condition
    weights = refined = refinement.weights(model, solved)
    if recipe.settings.lora.steps:
        batching.free()  # what the drawing used is not kept beside what the training uses, nor that beside the fusion
        trained = yield from train_loras.train(model, untrained, drawn, refined, notes.warnings)
        batching.free()
        fresh = {phrase: replace(delta, origin=origin(recipe, phrase, given)) for phrase, delta in trained.items()}
        loras = {c.phrase: known.get(c.phrase) or fresh[c.phrase] for c in recipe.concepts}
        weights = yield from _fuse(model, recipe, refined, loras, sums, notes)
    yield Progress("fuse", step=1, total=1)
    return Erasure(
        recipe,
        {key: weight_PD.cpu() for key, weight_PD in weights.items()},
        model.fingerprint,
        loras,
        notes.conditions,
        tuple(notes.warnings),
        {"mace_studio": __version__} | {name: version(name) for name in PACKAGES},
    )


# Stage 3: fusion


def _fuse(
    model: Model,
    recipe: Recipe,
    refined: Mapping[str, Tensor],
    loras: Mapping[str, lora.LoraDelta],
    sums: refinement.Sums,
    notes: _Notes,
) -> Generator[Progress, None, dict[str, Tensor]]:
    if recipe.settings.fusion == "weighted-sum":
        return ridge.weighted_sum(refined, [delta.pairs for delta in loras.values()])
    fusion = ridge.Fusion(model.width)
    for i, concept in enumerate(recipe.concepts):
        fusion.add(grams.gram(model, prompts.about(concept)).gram_DD, loras[concept.phrase].pairs)
        yield Progress("fuse", concept.phrase, i, len(recipe.concepts))
    keep = ridge.keep_gram(recipe.settings.fuse, sums.general, sums.preserve, model.width)
    fused = fusion.solve(projections.read(model.unet), refined, keep)
    notes.conditions["fuse"] = fused.condition
    return fused.weights
