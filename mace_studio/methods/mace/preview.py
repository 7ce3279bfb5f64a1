"""Use case preview(): what the refinement alone does to one picture, before anything is trained.

Refined weights read W' e = W (M e), so the unchanged model with M applied to its text context draws the same picture.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from PIL.Image import Image
from torch import Tensor

from mace_studio.methods.mace import refine as refinement
from mace_studio.methods.mace.refine import Sums
from mace_studio.progress import Progress, clocked, numbered, relay
from mace_studio.recipe import ImageRequest, Recipe
from mace_studio.sd import attention_hooks, sampling
from mace_studio.sd.model import Model
from mace_studio.settings import KeepWeights


@dataclass(frozen=True)
class Preview:
    """One prompt and seed with the model as it is, and with M applied to its text context.

    Attributes:
        drawing: what was drawn.
        before, after: RGB images of equal size.
        condition: condition number of the solve.
    """

    drawing: ImageRequest
    before: Image
    after: Image
    condition: float


@dataclass
class PreviewCache:
    """What the next preview need not compute again: it asks for the same more often than not."""

    asked: tuple | None = None
    sums: Sums | None = None
    drawing: ImageRequest | None = None
    before: Image | None = None


def preview(
    model: Model, recipe: Recipe, drawing: ImageRequest, known: PreviewCache, cache: Path | None
) -> Generator[Progress, None, Preview]:
    """Solve the refinement of a recipe and draw one picture with and without it.

    Args:
        model: no weight of it is touched.
        recipe: of which concepts, preserve list and the keep weights of the refinement count.
        drawing: one prompt and one seed.
        known: from the preview before, with the same model; what is new is put into it.
        cache: folder that keeps the Gram of the general captions, or None.

    Raises:
        RecipeError: the recipe or the drawing cannot be run.
        SingularGram: too little is kept.
    """
    recipe.check()
    drawing.check_alone()
    return (yield from clocked(_preview(model, recipe, drawing, known, cache), {"refine": 1.0, "draw": 4.0}))


def applied(context_BTD: Tensor, matrix_DD: Tensor) -> Tensor:
    """M e for every embedding e of a context, in its dtype."""
    return (context_BTD.float() @ matrix_DD.T.to(context_BTD.device).float()).to(context_BTD)


def _preview(
    model: Model, recipe: Recipe, drawing: ImageRequest, known: PreviewCache, cache: Path | None
) -> Generator[Progress, None, Preview]:
    # The fusion's weights are no part of this: its general captions must not be read for it.
    asked = recipe.with_settings(fuse=KeepWeights())
    key = (recipe.concepts, recipe.preserve, bool(recipe.settings.refine.general))
    if known.asked != key:
        known.sums = yield from refinement.gather(model, asked, cache)
        known.asked = key
    solved = refinement.solve(known.sums, recipe.settings.refine)
    drawn = 0 if known.drawing == drawing else drawing.steps
    total = drawn + drawing.steps
    if drawn:
        known.before = (yield from relay(sampling.generate(model, drawing), numbered("draw", "before", 0, total)))[0]
        known.drawing = drawing
    with attention_hooks.context(model.unet, lambda context_BTD: applied(context_BTD, solved.matrix_DD)):
        after = (yield from relay(sampling.generate(model, drawing), numbered("draw", "after", drawn, total)))[0]
    return Preview(drawing, known.before, after, solved.condition)
