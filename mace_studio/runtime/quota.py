"""Per-request limits on a shared server, counted before anything runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from mace_studio.errors import RecipeError
from mace_studio.masks import image_settings
from mace_studio.methods import find
from mace_studio.recipe import ImageRequest, Recipe
from mace_studio.runtime.perform import Place

LONGEST = 60  # seconds: for so long ZeroGPU lends a GPU, where nothing else is said
# Seconds at the pace of the built-in model on two cores without a GPU, rounded up: what every task takes beside the
# work (a new worker loads libraries and model), one sample through the UNet, and one step of a LoRA.
START, SAMPLE, STEP = 10.0, 0.004, 0.07


def seconds(task: str, place: Place, *arguments: Any) -> int:
    """For how long to ask for a GPU; takes what `perform` takes, as `duration` of `spaces.GPU`."""
    return math.ceil(min(_estimate(task, arguments), LONGEST))


def check(task: str, *arguments: Any) -> None:
    """Refuse what takes longer than one request may.

    Args:
        task: name, of `tasks.TASKS`.
        arguments: what it takes beside the place.

    Raises:
        RecipeError: the field of which there is too much, with the remedy.
    """
    needed = _estimate(task, arguments)
    if needed > LONGEST:
        field, remedy = REMEDIES[task]
        raise RecipeError(
            field,
            f"This takes about {needed:.0f} s here, and {LONGEST} s are lent to a user at once; {remedy}. "
            "On your own machine there is no such bound.",
        )


def _estimate(task: str, arguments: tuple) -> float:
    samples, steps = COUNTS[task](*arguments) if task in COUNTS else (0, 0)
    return START + SAMPLE * samples + STEP * steps


def _erase(recipe: Recipe, user_masks: object = None) -> tuple[int, int]:
    """Samples through the UNet, two an image and step for the guidance; steps of training."""
    work = find(recipe.method).work(recipe)
    return work.images * work.image_steps * 2, work.training_steps


def _masks(recipe: Recipe) -> tuple[int, int]:
    return len(image_settings(recipe)) * find(recipe.method).work(recipe).image_steps * 2, 0


def _images(times: int, request: ImageRequest) -> tuple[int, int]:
    return times * len(request.pairs()) * request.steps * 2, 0


# Task -> its arguments -> samples through the UNet, steps of a LoRA. What is not here takes no longer than `START`.
COUNTS: dict[str, Callable[..., tuple[int, int]]] = {
    "erase": _erase,
    "masks": _masks,
    "compose": lambda paths, remove, add, name: _erase(add) if add is not None else (0, 0),
    "compare": lambda paths, request: _images(1 + len(paths), request),
    "inspect": lambda path, request, phrases: _images(2, request),
    "residual": lambda path, request: _images(3, request),
    "preview": lambda recipe, request: _images(2, request),
    "sample": lambda path, plan: (plan.forwards, 0),
    "evaluate": lambda plans, judge: (sum(plan.forwards for _, plan in plans), 0),
}
# Task -> field at fault, what helps.
REMEDIES = {
    "erase": ("concepts", "erase fewer concepts, or with fewer LoRA steps or training images"),
    "masks": ("concepts", "take fewer concepts or training images"),
    "compose": ("concepts", "add fewer concepts"),
    "compare": ("prompt", "use fewer prompts or seeds, or fewer steps"),
    "inspect": ("steps", "use fewer steps"),
    "residual": ("steps", "use fewer steps"),
    "preview": ("steps", "use fewer steps"),
    "sample": ("plan", "keep a shorter list"),
    "evaluate": ("plan", "choose the quick plan, or fewer erasures, or one with fewer words"),
}
