"""Use case preview(): what the refinement alone does to one image, before anything is trained.

Refined weights compute W' e = W (M e), so the unchanged model with M applied to its text context generates the same
image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL.Image import Image
from torch import Tensor

from mace_studio.errors import RecipeError
from mace_studio.methods.mace import refine
from mace_studio.methods.mace.refine import Sums
from mace_studio.progress import Report, silent, timed, within
from mace_studio.recipe import ImageRequest, Recipe
from mace_studio.sd import attention_hooks, sampling, text
from mace_studio.sd.model import Model
from mace_studio.settings import KeepWeights


@dataclass(frozen=True)
class Preview:
    """One prompt and seed with the model as it is, and with M applied to its text context.

    Attributes:
        request: one prompt and one seed.
        before, after: RGB images of equal size.
        condition: condition number of the solve.
    """

    request: ImageRequest
    before: Image
    after: Image
    condition: float


@dataclass(kw_only=True)
class PreviewCache:
    """Results of the last preview of one model; the next one needs most of them again.

    Attributes:
        sums_of: concepts, preserve list, and whether the general captions count: what `sums` are of.
        sums: over the prompts.
        request: of `before`.
        before: the image of the unchanged model.
    """

    sums_of: tuple | None = None
    sums: Sums | None = None
    request: ImageRequest | None = None
    before: Image | None = None


def preview(
    model: Model,
    recipe: Recipe,
    request: ImageRequest,
    kept: PreviewCache,
    progress: Report = silent,
    cache: Path | None = None,
) -> Preview:
    """Solve the refinement of a recipe and generate one image with and without it.

    Args:
        model: no weight of it is touched.
        recipe: only its concepts, preserve list and keep weights of the refinement count.
        request: one prompt and one seed.
        kept: from the preview before, with the same model; what is new is put into it.
        progress: called with the stages "refine" and "generate", with seconds and fraction.
        cache: folder that keeps the Gram of the general captions, or None.

    Raises:
        RecipeError: the recipe or the request cannot be run, or the method has no refinement.
        SingularGram: too little is kept.
    """
    recipe.check()
    if recipe.method != "mace":
        raise RecipeError("method", "Only MACE has a refinement to preview; choose it, or erase and compare.")
    text.check(model, recipe)
    request.check_alone()
    report = timed(progress, {"refine": 1.0, "generate": 4.0})
    sums_of = (recipe.concepts, recipe.preserve, bool(recipe.settings.refine.general))
    sums = kept.sums
    if sums is None or kept.sums_of != sums_of:
        # Without the fusion's weights, so that no general captions are read for them.
        sums = refine.gather(model, recipe.with_settings(fuse=KeepWeights()), cache, report)
        kept.sums, kept.sums_of = sums, sums_of
    solved = refine.solve(sums, recipe.settings.refine)
    before, done = kept.before, 0
    if before is None or kept.request != request:
        (before,) = sampling.generate(model, request, within(report, "generate", "before", 0, 2))
        kept.before, kept.request, done = before, request, 1
    # (W M) e = W (M e): with another context the model draws as the refined weights would, and none has to be made.
    with attention_hooks.context(model.unet, lambda context_BTD: applied(context_BTD, solved.matrix_DD)):
        (after,) = sampling.generate(model, request, within(report, "generate", "after", done, done + 1))
    return Preview(request, before, after, solved.condition)


def applied(context_BTD: Tensor, matrix_DD: Tensor) -> Tensor:
    """M e for every embedding e of a context, in the context's dtype and on its device.

    Args:
        context_BTD: embeddings of prompts, in the model's dtype.
        matrix_DD: M, float64 on the CPU.
    """
    return (context_BTD.float() @ matrix_DD.T.to(context_BTD.device).float()).to(context_BTD)
