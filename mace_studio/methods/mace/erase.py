"""Use case erase(): images, masks, refinement, LoRAs and fusion in order. The model stays as it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from torch import Tensor

from mace_studio import __version__, masks, phrases, prompts
from mace_studio.caption_files import captions_of
from mace_studio.erasure import Erasure, origin
from mace_studio.masks import UserMasks
from mace_studio.methods.mace import fuse, refine, train_loras, training_images
from mace_studio.progress import Progress, Report, silent, timed
from mace_studio.recipe import Recipe
from mace_studio.sd import batching, text
from mace_studio.sd.embeddings import LIMIT, Embeddings
from mace_studio.sd.lora import LoraDelta
from mace_studio.sd.model import Model

PACKAGES = ("torch", "diffusers", "transformers", "peft")
# Costs beside a UNet sample in a full batch: a forward and a backward of one alone; the encoding of a sentence.
LORA_COST, SENTENCE_COST = 6.0, 0.02


def erase(
    model: Model,
    recipe: Recipe,
    progress: Report = silent,
    cache: Path | None = None,
    *,
    known: Mapping[str, LoraDelta] | None = None,
    user_masks: UserMasks | None = None,
) -> Erasure:
    """Run a recipe on a model.

    The model is bit for bit what it was, whether this ends in success, in an error or because the callback cancels.
    Same recipe, seed and device give the same weights.

    Args:
        model: from `sd.model.load`.
        recipe: checked here.
        progress: called with the stages "images", "masks", "refine", "lora" and "fuse", with seconds and fraction.
        cache: folder for training images, trained LoRAs, and Grams of captions and preserve lists; None keeps nothing.
        known: phrase -> a LoRA of this model that is used as it is; only the others get images and are trained.
        user_masks: (phrase, number from 1) -> mask of a training image; the warnings name them.

    Raises:
        StudioError: with a sentence for the user.
    """
    text.check(model, recipe.check())
    known, warnings = known or {}, phrases.doubts(recipe.concepts)
    trains = recipe.settings.lora.steps > 0
    rest = replace(recipe, concepts=[c for c in recipe.concepts if c.phrase not in known] if trains else ())
    report = timed(progress, costs(recipe, rest))
    images = training_images.make(model, rest, cache, warnings, user_masks, report) if rest.concepts else []
    if images and user_masks:
        warnings.append(masks.summary(user_masks))
    # Training and fusion read the prompts of the refinement once more; without them nothing has to be remembered.
    embeddings = Embeddings(model, LIMIT if trains else 0)
    sums = refine.gather(model, recipe, cache, report, embeddings=embeddings)
    if sums.general is not None and model.captions != captions_of(model.source):
        warnings.append(f"General knowledge was taken from {model.captions.name}.")
    solved = refine.solve(sums, recipe.settings.refine)
    conditions = {"refine": solved.condition}
    weights, loras = refine.weights(model, solved, report), dict[str, LoraDelta]()
    if trains:
        # Memory that one stage used is returned before the next one needs its own.
        batching.free()
        trained = train_loras.train(model, rest, images, weights, embeddings, warnings, report, cache)
        batching.free()
        trained = {phrase: replace(lora, origin=origin(recipe, phrase, user_masks)) for phrase, lora in trained.items()}
        loras = {c.phrase: known.get(c.phrase) or trained[c.phrase] for c in recipe.concepts}
        weights, condition = fuse.fuse(model, recipe, solved, loras, sums, embeddings, report)
        conditions |= condition
    report(Progress("fuse", step=1, total=1))
    return finished(model, recipe, weights, loras, conditions, warnings)


def finished(
    model: Model,
    recipe: Recipe,
    weights: Mapping[str, Tensor],
    loras: Mapping[str, LoraDelta],
    conditions: Mapping[str, float],
    warnings: Sequence[str],
) -> Erasure:
    """The result of a run of this process and its packages.

    Args:
        model: that the weights are for.
        recipe: that was run.
        weights: state-dict key -> weight_PD, in any dtype and on any device.
        loras: phrase -> its LoRA.
        conditions: name of a solve -> condition number of its matrix.
        warnings: sentences for the user.
    """
    return Erasure(
        recipe=recipe,
        weights={key: weight_PD.to("cpu", model.dtype) for key, weight_PD in weights.items()},
        fingerprint=model.fingerprint,
        unet=model.unet_fingerprint,
        loras=loras,
        conditions=conditions,
        warnings=tuple(warnings),
        versions={"mace_studio": __version__} | {name: version(name) for name in PACKAGES},
    )


def costs(recipe: Recipe, untrained: Recipe) -> dict[str, float]:
    """Stage -> what it takes, in UNet forwards of one image in a full batch.

    Args:
        recipe: of the run.
        untrained: the same with those concepts alone whose LoRAs are trained.
    """
    steps = recipe.settings.lora.steps
    return {
        **training_images.costs(untrained),
        "refine": prompts.count(recipe) * SENTENCE_COST,
        "lora": len(untrained.concepts) * steps * LORA_COST,
        "fuse": 1.0,
    }
