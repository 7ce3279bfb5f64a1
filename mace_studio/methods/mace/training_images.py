"""The training images of a recipe's concepts, and where in each the concept is."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mace_studio import masks, prompts
from mace_studio.errors import RecipeError
from mace_studio.masks import Key, MaskedImage, MaskSheet, UserMasks
from mace_studio.progress import Progress, clocked, relay
from mace_studio.recipe import Concept, Recipe
from mace_studio.sd import pixels, sampling, segment
from mace_studio.sd.model import Model
from mace_studio.sd.sampling import GeneratedImage

MASKED_KINDS = ("object", "celebrity")
# Beside a UNet forward of one image: its decoding, and a look at it.
DECODE_COST, LOOK_COST = 3.0, 1.0

Masks = list[Tensor | None]


@dataclass(frozen=True)
class TrainingImages:
    """The training images of one concept.

    Attributes:
        latents_NCHW: clean latents, scaled as the UNet reads them, float32 on the CPU.
        masks: for each image, mask_IJ where the concept is, or None for the whole image.
    """

    latents_NCHW: Tensor
    masks: Masks


def make(
    model: Model,
    recipe: Recipe,
    cache: Path | None,
    warnings: list[str],
    given: UserMasks | None = None,
) -> Generator[Progress, None, list[TrainingImages]]:
    """Draw the training images of every concept and mask them, stages "images" and "masks".

    Args:
        model: the unchanged model.
        recipe: concepts, images, masks and seed.
        cache: folder of images drawn before, or None to draw all of them.
        warnings: what the user should know is added to it, in sentences.
        given: masks that take the place of the recipe's source; one with nothing white is an empty mask.

    Raises:
        RecipeError: a given mask is of no training image of the recipe.
        ModelError: a model that makes masks cannot be loaded.
    """
    given = given or {}
    _check(given, recipe)
    drawn = yield from _images(model, recipe, cache, warnings)
    found = yield from _sought(model, recipe, drawn, set(given))
    own = {key: _tensor(mask, model) for key, mask in given.items()}
    pictures = []
    for concept, mine, theirs in zip(recipe.concepts, drawn, found, strict=True):
        chosen = [own.get((concept.phrase, i + 1), mask_IJ) for i, mask_IJ in enumerate(theirs)]
        empty = [i for i, mask in enumerate(chosen) if mask is None and _counts(recipe, concept, i, own)]
        if empty:
            warnings.append(
                f"In {len(empty)} of {len(chosen)} training images of “{concept.phrase}” no part stood out, "
                "so the whole image was used."
            )
        pictures.append(TrainingImages(torch.stack([d.latent_CHW for d in mine]), chosen))
    if given:
        warnings.append(masks.note(given))
    return pictures


def show(model: Model, recipe: Recipe, cache: Path | None) -> Generator[Progress, None, MaskSheet]:
    """Draw the training images of a recipe and mask them by its source, as pictures to look at.

    Args:
        model, recipe, cache: as in `draw`; a later erasure with the same cache uses the same images.

    Raises:
        RecipeError: the recipe cannot be run.
        ModelError: a model that makes masks cannot be loaded.
    """
    recipe.check()
    return (yield from clocked(_show(model, recipe, cache), costs(recipe, decodes=True)))


def costs(recipe: Recipe, decodes: bool = False) -> dict[str, float]:
    """What the stages take, in UNet forwards of one image.

    Args:
        recipe: concepts, images and masks.
        decodes: whether the images are decoded even if the source of masks does not ask for it.
    """
    images, looks = (
        len(recipe.concepts) * recipe.settings.images.per_concept,
        recipe.settings.masks not in ("attention", "none"),
    )
    each = LOOK_COST * looks + DECODE_COST * (looks + decodes)
    return {"images": images * recipe.settings.images.steps * 2.0, "masks": images * each}


def _show(model: Model, recipe: Recipe, cache: Path | None) -> Generator[Progress, None, MaskSheet]:
    drawn = yield from _images(model, recipe, cache, [])
    found = yield from _sought(model, recipe, drawn, set())
    shown = []
    for concept, mine, theirs in zip(recipe.concepts, drawn, found, strict=True):
        pictures = pixels.decoded(model, torch.stack([d.latent_CHW for d in mine]))
        for i, (picture, mask_IJ) in enumerate(zip(pictures, theirs, strict=True)):
            mask = None if mask_IJ is None else _picture(mask_IJ, picture.size)
            sought = _seeks(recipe, concept)
            shown.append(MaskedImage(concept.phrase, i + 1, recipe.seed + i, picture, mask, sought))
        yield Progress("masks", concept.phrase, len(recipe.concepts), len(recipe.concepts))
    return MaskSheet(recipe, shown)


def _images(
    model: Model, recipe: Recipe, cache: Path | None, warnings: list[str]
) -> Generator[Progress, None, list[list[GeneratedImage]]]:
    """The training images of each concept."""
    each = recipe.settings.images.per_concept
    wanted = [
        sampling.TrainingImage(prompts.portrait(c.phrase, c.kind), c.phrase, recipe.seed + i)
        for c in recipe.concepts
        for i in range(each)
    ]
    settings = sampling.with_defaults(model, recipe.settings.images)
    if settings != recipe.settings.images:
        warnings.append(
            f"{model.name} is made to draw in few steps, so its training images took {settings.steps} steps with a "
            f"guidance of {settings.guidance:g}."
        )
    yield Progress("images", total=len(wanted))
    drawing = sampling.training_images(model, wanted, settings, cache)
    drawn = yield from relay(drawing, lambda n: Progress("images", step=n, total=len(wanted)))
    yield Progress("images", step=len(wanted), total=len(wanted))
    return [drawn[i : i + each] for i in range(0, len(drawn), each)]


def _sought(
    model: Model, recipe: Recipe, drawn: Sequence[Sequence[GeneratedImage]], given: set[Key]
) -> Generator[Progress, None, list[Masks]]:
    """The source's masks of each concept; None also for images whose mask is given."""
    find = segment.source(model, recipe.settings.masks)
    found: list[Masks] = []
    for i, (concept, mine) in enumerate(zip(recipe.concepts, drawn, strict=True)):
        free = [d for n, d in enumerate(mine) if (concept.phrase, n + 1) not in given]
        asked = free if _seeks(recipe, concept) else []
        answers = iter(find(asked, _query(concept)) if asked else [None] * len(free))
        found.append([None if (concept.phrase, n + 1) in given else next(answers) for n in range(len(mine))])
        yield Progress("masks", concept.phrase, i + 1, len(recipe.concepts))
    return found


def _seeks(recipe: Recipe, concept: Concept) -> bool:
    return recipe.settings.masks != "none" and concept.kind in MASKED_KINDS


def _counts(recipe: Recipe, concept: Concept, image: int, own: dict[Key, Tensor | None]) -> bool:
    """Whether a mask was to be expected of an image, so that its lack is worth a word."""
    return _seeks(recipe, concept) or (concept.phrase, image + 1) in own


def _query(concept: Concept) -> str:
    """What is looked for in a picture: people by what they are, since other models know few of them by name."""
    return "person" if concept.kind == "celebrity" else concept.phrase.strip()


def _check(given: UserMasks, recipe: Recipe) -> None:
    phrases = {c.phrase for c in recipe.concepts}
    for phrase, number in given:
        if phrase not in phrases:
            raise RecipeError("masks", f"A mask of “{phrase}” is given, which is no concept of the recipe.")
        if not 1 <= number <= recipe.settings.images.per_concept:
            raise RecipeError(
                "masks",
                f"A mask of image {number} of “{phrase}” is given; its training images are 1 to "
                f"{recipe.settings.images.per_concept}.",
            )


def _tensor(mask: Image.Image, model: Model) -> Tensor | None:
    """A given mask as mask_HW at the size of the model's pictures; None where nothing is white."""
    height, width = (side * model.pipeline.vae_scale_factor for side in sampling.latent_size(model))
    inside = np.asarray(mask.resize((width, height), Image.Resampling.NEAREST)) >= masks.WHITE
    return torch.from_numpy(inside) if inside.any() else None


def _picture(mask_IJ: Tensor, size: tuple[int, int]) -> Image.Image:
    """A mask in black and white at an image's width and height."""
    return Image.fromarray(mask_IJ.numpy().astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)
