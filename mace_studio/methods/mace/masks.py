"""Where a concept is in its training images: masks by the recipe's source, or made by a user."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mace_studio import masks
from mace_studio.errors import RecipeError
from mace_studio.masks import Key, UserMasks
from mace_studio.progress import Progress, Report, silent, within
from mace_studio.recipe import Concept, Recipe
from mace_studio.sd import known, sampling, segment
from mace_studio.sd.model import Model
from mace_studio.sd.sampling import GeneratedImage
from mace_studio.sd.segment import Source

MASKED_KINDS = ("object", "celebrity")

Masks = list[Tensor | None]  # for each image of a concept mask_IJ, or None for the whole image


def searched(recipe: Recipe, concept: Concept) -> bool:
    """Whether the source looks for the concept; it does not for styles and explicit content.

    Args:
        recipe: its `settings.masks` names the source.
        concept: of that recipe.
    """
    return recipe.settings.masks != "none" and concept.kind in MASKED_KINDS


def find(
    model: Model,
    recipe: Recipe,
    images: Sequence[Sequence[GeneratedImage]],
    skip: Collection[Key] = (),
    progress: Report = silent,
) -> list[Masks]:
    """The source's masks of the training images of each concept.

    Args:
        model: generated the images.
        recipe: concepts, and the source.
        images: the training images of each concept, in the order of the recipe's concepts.
        skip: (phrase, number from 1) of images that the source need not look at.
        progress: called with stage "masks" at every batch of images: images done of all.

    Returns:
        For each concept a boolean mask_IJ of every image, of the image's proportions and any size; None where nothing
        is found and where the source does not look.

    Raises:
        ModelError: a model that makes masks cannot be loaded.
    """
    source = segment.source(model, recipe.settings.masks)
    each, total = recipe.settings.images.per_concept, len(recipe.concepts)
    found: list[Masks] = []
    for i, (concept, own) in enumerate(zip(recipe.concepts, images, strict=True)):
        report = within(progress, "masks", concept.phrase, i * each, total * each)
        found.append(of_concept(source, recipe, concept, own, skip, progress=report))
        progress(Progress("masks", concept.phrase, (i + 1) * each, total * each))
    return found


def of_concept(
    source: Source,
    recipe: Recipe,
    concept: Concept,
    images: Sequence[GeneratedImage],
    skip: Collection[Key] = (),
    *,
    progress: Report = silent,
) -> Masks:
    """The masks of the training images of one concept.

    Args:
        source: from `segment.source`, of the name that the recipe says.
        recipe, skip: as of `find`.
        concept: of that recipe.
        images: its training images.
        progress: called at every batch of images, in images.
    """
    result: Masks = [None] * len(images)
    wanted = [n for n in range(len(images)) if (concept.phrase, n + 1) not in skip]
    if wanted and searched(recipe, concept):
        # Other models know few people by name.
        query = "person" if concept.kind == "celebrity" else concept.phrase.strip()
        answers = source([images[n] for n in wanted], query, progress)
        for n, mask_IJ in zip(wanted, answers, strict=True):
            result[n] = mask_IJ
    return result


def combined(
    model: Model,
    recipe: Recipe,
    found: Sequence[Masks],
    user_masks: UserMasks,
    warnings: list[str],
    *,
    doubts: Mapping[str, str] = MappingProxyType({}),
) -> list[Masks]:
    """The masks of each concept: the user's where there is one, the source's elsewhere.

    Args:
        model: of the images.
        recipe: whose images they are.
        found: from `find`.
        user_masks: (phrase, number from 1) -> black and white image of any size; one without white counts as no mask.
        warnings: what the user should know is added to it, in sentences. Where most images of a concept have no mask,
            or there is a doubt about it, also what to do.
        doubts: of `known.doubts`.
    """
    own = {key: to_tensor(mask, model) for key, mask in user_masks.items()}
    result = []
    for concept, theirs in zip(recipe.concepts, found, strict=True):
        keys = [(concept.phrase, n + 1) for n in range(len(theirs))]
        # A user's mask without white is None too, and still takes the place of the source's.
        chosen = [own.get(key, mask_IJ) for key, mask_IJ in zip(keys, theirs, strict=True)]
        # A style has no place in an image, so there the whole image is no failure.
        expected = [searched(recipe, concept) or key in own for key in keys]
        empty = sum(mask_IJ is None and wanted for mask_IJ, wanted in zip(chosen, expected, strict=True))
        said = (
            [
                f"In {empty} of {len(chosen)} training images of “{concept.phrase}” no part stood out, so the whole "
                "image was used."
            ]
            if empty
            else []
        )
        said += [doubts[concept.phrase]] if concept.phrase in doubts else []
        said += [known.REMEDY] if concept.phrase in doubts or 2 * empty > len(chosen) else []
        warnings += [" ".join(said)] if said else []
        result.append(chosen)
    return result


def check(user_masks: UserMasks, recipe: Recipe) -> None:
    """Raise a RecipeError where a mask is of no training image of the recipe; the field is "masks".

    Args:
        user_masks: (phrase, number of the image from 1) -> mask.
        recipe: names the concepts and how many images each has.
    """
    phrases = {c.phrase for c in recipe.concepts}
    for phrase, number in user_masks:
        if phrase not in phrases:
            raise RecipeError("masks", f"A mask of “{phrase}” is given, which is no concept of the recipe.")
        if not 1 <= number <= recipe.settings.images.per_concept:
            raise RecipeError(
                "masks",
                f"A mask of image {number} of “{phrase}” is given; its training images are 1 to "
                f"{recipe.settings.images.per_concept}.",
            )


def to_tensor(mask: Image.Image, model: Model) -> Tensor | None:
    """A user's mask as a boolean mask_HW at the size in pixels of the model's images; None where nothing is white.

    Args:
        mask: any size in pixels, white where the concept is.
        model: gives the size.
    """
    height, width = (side * model.pipeline.vae_scale_factor for side in sampling.latent_size(model))
    inside = np.asarray(mask.resize((width, height), Image.Resampling.NEAREST)) >= masks.WHITE
    return torch.from_numpy(inside) if inside.any() else None


def to_image(mask_IJ: Tensor | None, size: tuple[int, int]) -> Image.Image | None:
    """A mask in black and white at an image's width and height in pixels.

    Args:
        mask_IJ: boolean, or None where there is none.
        size: width and height in pixels.
    """
    if mask_IJ is None:
        return None
    return Image.fromarray(mask_IJ.numpy().astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)
