"""The training images of a recipe's concepts, and where in each the concept is."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mace_studio import prompts
from mace_studio.progress import Progress, relay
from mace_studio.recipe import Concept, Recipe
from mace_studio.sd import generate, segment
from mace_studio.sd.loading import Model

MASKED_KINDS = ("object", "celebrity")


@dataclass(frozen=True)
class Pictures:
    """The training images of one concept.

    Attributes:
        latents_NCHW: clean latents, scaled as the UNet reads them, float32 on the CPU.
        masks: for each image, mask_IJ where the concept is, or None for the whole image.
    """

    latents_NCHW: Tensor
    masks: list[Tensor | None]


def draw(
    model: Model, recipe: Recipe, cache: Path | None, warnings: list[str]
) -> Generator[Progress, None, list[Pictures]]:
    """Draw the training images of every concept and mask them, stages "images" and "masks".

    Args:
        model: the unchanged model.
        recipe: concepts, images, masks and seed.
        cache: folder of images drawn before, or None to draw all of them.
        warnings: what the user should know is added to it, in sentences.
    """
    each = recipe.images.per_concept
    wanted = [
        generate.Portrait(prompts.portrait(c.phrase, c.kind), c.phrase, recipe.seed + i)
        for c in recipe.concepts
        for i in range(each)
    ]
    settings = generate.suited(model, recipe.images)
    if settings != recipe.images:
        warnings.append(
            f"{model.name} is made to draw in few steps, so its training images took {settings.steps} steps with a "
            f"guidance of {settings.guidance:g}."
        )
    yield Progress("images", total=len(wanted))
    drawing = generate.portraits(model, wanted, settings, cache)
    drawn = yield from relay(drawing, lambda n: Progress("images", step=n, total=len(wanted)))
    yield Progress("images", step=len(wanted), total=len(wanted))
    pictures = []
    for i, concept in enumerate(recipe.concepts):
        mine = drawn[i * each : (i + 1) * each]
        masks = _masks(recipe, concept, mine, warnings)
        pictures.append(Pictures(torch.stack([d.latent_CHW for d in mine]), masks))
        yield Progress("masks", concept.phrase, i + 1, len(recipe.concepts))
    return pictures


def _masks(recipe: Recipe, concept: Concept, drawn: Sequence[generate.Drawn], warnings: list[str]) -> list:
    if recipe.masks == "none" or concept.kind not in MASKED_KINDS:
        return [None] * len(drawn)
    masks = [segment.mask(d.heat_HW) for d in drawn]
    if empty := sum(mask is None for mask in masks):
        warnings.append(
            f"In {empty} of {len(masks)} training images of “{concept.phrase}” no part stood out, "
            "so the whole image was used."
        )
    return masks
