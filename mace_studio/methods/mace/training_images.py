"""The training images of a recipe's concepts, with their masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from mace_studio import prompts
from mace_studio.masks import MaskedImage, MaskSheet, UserMasks, check_takes_masks
from mace_studio.methods.mace import masks
from mace_studio.methods.mace.masks import Masks
from mace_studio.progress import Progress, Report, always, silent, timed, within
from mace_studio.recipe import Recipe
from mace_studio.sd import known, pixels, sampling, segment, text
from mace_studio.sd.model import Model
from mace_studio.sd.sampling import GeneratedImage

# Costs beside a UNet forward of one image: to decode it, and to look for a concept in it.
DECODE_COST, LOOK_COST = 3.0, 1.0


@dataclass(frozen=True)
class TrainingImages:
    """The training images of one concept.

    Attributes:
        latents_NCHW: clean latents, scaled as the UNet reads them, float32 on the CPU.
        masks: for each of the N images mask_IJ where the concept is, or None for the whole image.
        path_NSCHW: noisy latents on their way, see `sampling.GeneratedImage`, or None.
    """

    latents_NCHW: Tensor
    masks: Masks
    path_NSCHW: Tensor | None = None


def make(
    model: Model,
    recipe: Recipe,
    cache: Path | None,
    warnings: list[str],
    user_masks: UserMasks | None = None,
    progress: Report = silent,
) -> list[TrainingImages]:
    """Generate the training images of every concept and mask them.

    Args:
        model: the unchanged model.
        recipe: concepts, images, masks and seed.
        cache: folder of images that were generated before, or None to generate all of them.
        warnings: what the user should know is added to it, in sentences.
        user_masks: take the place of the masks of the recipe's source; one without white counts as no mask.
        progress: called with the stages "images" and "masks", in images.

    Returns:
        In the order of the recipe's concepts.

    Raises:
        RecipeError: a mask is of no training image of the recipe.
        ModelError: a model that makes masks cannot be loaded.
    """
    user_masks = user_masks or {}
    masks.check(user_masks, recipe)
    images = generate(model, recipe, cache, warnings, progress)
    found = masks.find(model, recipe, images, user_masks, progress)
    doubts = _doubts(model, recipe, images, warnings, progress)
    chosen = masks.combined(model, recipe, found, user_masks, warnings, doubts=doubts)
    paths = [[image.path_SCHW for image in own if image.path_SCHW is not None] for own in images]
    return [
        TrainingImages(_latents(own), theirs, torch.stack(path) if path else None)
        for own, theirs, path in zip(images, chosen, paths, strict=True)
    ]


def show(model: Model, recipe: Recipe, progress: Report = silent, cache: Path | None = None) -> MaskSheet:
    """Use case masks(): the training images of a recipe and their masks by its source, as images to look at.

    Args:
        model: bit for bit the same afterwards.
        recipe: concepts, images, masks and seed.
        progress: called with the stages "images" and "masks", in images, with seconds and fraction; and with every
            `MaskedImage`, as `result`, as soon as the masks of its concept are there.
        cache: folder of training images; a later erasure with the same cache uses the same ones.

    Raises:
        RecipeError: the recipe cannot be run, or its method takes no masks.
        ModelError: a model that makes masks cannot be loaded.
    """
    check_takes_masks(recipe.check())
    text.check(model, recipe)
    finished = recipe.with_settings(images=replace(recipe.settings.images, path=False))  # to look at
    report = timed(progress, costs(recipe, decodes=True))
    images = generate(model, finished, cache, [], report)
    each, sheet = recipe.settings.images.per_concept, MaskSheet(recipe, [])
    source, found, total = segment.source(model, recipe.settings.masks), [], 2 * len(recipe.concepts) * each
    for i, (concept, own) in enumerate(zip(recipe.concepts, images, strict=True)):
        # Half of the steps are for the masks, half for the images themselves.
        looking, decoding = (within(report, "masks", concept.phrase, (2 * i + half) * each, total) for half in (0, 1))
        found.append(masks.of_concept(source, recipe, concept, own, progress=looking))
        decoded = pixels.decoded(model, _latents(own), decoding)
        for n, (image, mask_IJ) in enumerate(zip(decoded, found[-1], strict=True)):
            masked = MaskedImage(
                phrase=concept.phrase,
                number=n + 1,
                seed=recipe.seed + n,
                image=image,
                mask=masks.to_image(mask_IJ, image.size),
                searched=masks.searched(recipe, concept),
            )
            sheet.images.append(masked)
            report(Progress("masks", concept.phrase, 2 * (i + 1) * each, total, result=masked))
    doubts = _doubts(model, finished, images, sheet.warnings, report)
    masks.combined(model, recipe, found, {}, sheet.warnings, doubts=doubts)
    return sheet


def _doubts(
    model: Model, recipe: Recipe, images: Sequence[Sequence[GeneratedImage]], warnings: list[str], progress: Report
) -> dict[str, str]:
    """`known.doubts` of finished images; those that stop on their way are not to be looked at."""
    if recipe.settings.images.path:
        return {}
    total = len(recipe.concepts) * recipe.settings.images.per_concept
    report = always(progress, Progress("masks", step=total, total=total))
    return known.doubts(model, recipe.concepts, map(_latents, images), warnings, report)


def costs(recipe: Recipe, decodes: bool = False) -> dict[str, float]:
    """What the stages "images" and "masks" take, in UNet forwards of one image.

    Args:
        recipe: concepts, images and masks.
        decodes: whether the images are decoded even if the source of masks does not need that.
    """
    settings = recipe.settings
    images = len(recipe.concepts) * settings.images.per_concept
    looks = settings.masks not in ("attention", "none")
    each = LOOK_COST * looks + DECODE_COST * (looks + decodes)
    return {"images": images * settings.images.steps * 2.0, "masks": images * each}


def generate(
    model: Model, recipe: Recipe, cache: Path | None, warnings: list[str], progress: Report = silent
) -> list[list[GeneratedImage]]:
    """The training images of each concept, without masks; arguments as of `make`.

    Args:
        model: generates them.
        recipe: its concepts, seed and `settings.images`.
        cache: folder that keeps images for later runs, or None.
        warnings: gets a sentence for the user where the model cannot do what the settings say.
        progress: called with stage "images" after every denoising step: images done of all.

    Returns:
        For each concept as many images as `settings.images.per_concept`.
    """
    each = recipe.settings.images.per_concept
    wanted = [
        sampling.TrainingImage(prompts.image_prompt(c.phrase, c.kind), c.phrase, recipe.seed + i)
        for c in recipe.concepts
        for i in range(each)
    ]
    settings = sampling.with_defaults(model, recipe.settings.images)
    if settings != recipe.settings.images:
        warnings.append(
            f"{model.name} is made for few steps, so its training images took {settings.steps} steps with a guidance "
            f"of {settings.guidance:g}."
        )
    lora = recipe.settings.lora if settings.path else None
    window = (lora.t1, lora.t2) if lora else None
    images = sampling.training_images(model, wanted, settings, cache, within(progress, "images"), window)
    return [images[i : i + each] for i in range(0, len(images), each)]


def _latents(images: Sequence[GeneratedImage]) -> Tensor:
    return torch.stack([image.latent_CHW for image in images])
