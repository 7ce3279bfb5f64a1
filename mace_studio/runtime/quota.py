"""What a visitor of a page that many share may ask for at once, counted before it runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from mace_studio.errors import RecipeError
from mace_studio.recipe import ImageRequest, Recipe
from mace_studio.runtime import tasks

LONGEST = 60  # seconds: for so long ZeroGPU lends a GPU, where nothing else is said
# Seconds at the pace of the built-in model on two cores without a GPU, rounded up: what every task takes beside the
# work (a new worker loads libraries and model), one sample through the UNet, and one step of a LoRA.
START, SAMPLE, STEP = 10.0, 0.004, 0.07


def seconds(task: tasks.Task, place: tasks.Place, *arguments: Any) -> int:
    """For how long to ask for a GPU; takes what `tasks.perform` takes, as `duration` of `spaces.GPU`."""
    return math.ceil(min(_estimate(task, arguments), LONGEST))


def check(task: tasks.Task, *arguments: Any) -> None:
    """Refuse what takes longer than a visitor's share.

    Args:
        task: of `tasks`.
        arguments: what it takes beside the place.

    Raises:
        RecipeError: the field of which there is too much, with the remedy.
    """
    needed = _estimate(task, arguments)
    if needed > LONGEST:
        field, remedy = REMEDIES[task]
        raise RecipeError(
            field,
            f"This takes about {needed:.0f} s here, and {LONGEST} s are lent to a visitor at once; {remedy}. "
            "On your own machine there is no such bound.",
        )


def _estimate(task: tasks.Task, arguments: tuple) -> float:
    samples, steps = COUNTS[task](*arguments) if task in COUNTS else (0, 0)
    return START + SAMPLE * samples + STEP * steps


def _images(recipe: Recipe) -> tuple[int, int]:
    return len(recipe.concepts) * recipe.settings.images.per_concept * recipe.settings.images.steps * 2, 0


def _erase(recipe: Recipe, given: object = None) -> tuple[int, int]:
    steps = len(recipe.concepts) * recipe.settings.lora.steps
    return (_images(recipe)[0] if steps else 0), steps


def _drawn(times: int, drawing: ImageRequest) -> tuple[int, int]:
    return times * len(drawing.pairs()) * drawing.steps * 2, 0


# Task -> its arguments -> samples through the UNet, steps of a LoRA. What is not here takes no longer than `START`.
COUNTS: dict[tasks.Task, Callable[..., tuple[int, int]]] = {
    tasks.erase: _erase,
    tasks.masks: _images,
    tasks.compose: lambda paths, remove, add, name: _erase(add) if add is not None else (0, 0),
    tasks.compare: lambda path, drawing: _drawn(2, drawing),
    tasks.inspect: lambda path, drawing, phrases: _drawn(2, drawing),
    tasks.residual: lambda path, drawing: _drawn(3, drawing),
    tasks.preview: lambda recipe, drawing: _drawn(2, drawing),
    tasks.evaluate: lambda plans, judge: (sum(plan.forwards for _, plan in plans), 0),
}
# Task -> field at fault, what helps.
REMEDIES = {
    tasks.erase: ("concepts", "erase fewer concepts, or with fewer LoRA steps or training images"),
    tasks.masks: ("concepts", "take fewer concepts or training images"),
    tasks.compose: ("concepts", "add fewer concepts"),
    tasks.compare: ("prompt", "draw fewer prompts or seeds, or in fewer steps"),
    tasks.inspect: ("steps", "use fewer steps"),
    tasks.residual: ("steps", "use fewer steps"),
    tasks.preview: ("steps", "use fewer steps"),
    tasks.evaluate: ("plan", "choose the quick plan, or fewer erasures, or one with fewer words"),
}
