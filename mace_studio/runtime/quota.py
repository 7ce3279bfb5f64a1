"""Per-request limits on a shared server, counted before anything runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from mace_studio import prompts
from mace_studio.errors import RecipeError
from mace_studio.methods import find
from mace_studio.recipe import ImageRequest, Recipe
from mace_studio.runtime.perform import Place

LONGEST = 60  # seconds: for so long ZeroGPU lends a GPU, where nothing else is said
# Seconds at the pace of the built-in model on two cores without a GPU, rounded up: what every task takes beside the
# work (a new worker loads libraries and model), one sample through the UNet, and one step of a LoRA.
START, SAMPLE, STEP = 10.0, 0.004, 0.07
# A step of rank 256 takes 1.7 times as long as one of rank 1. Beyond so many sentences, each takes so long to encode.
RANK, SENTENCES, SENTENCE = 256.0, 500, 0.0025
BATCH = 8  # images that are generated at once, as `sd.model` has it
NATIVE = 64 * 64  # pixels of the built-in model's images; larger ones take longer in proportion, and their maps more
# Bytes that a run keeps at a time, as `python -m tests.reliability.quota_bytes` measures them on the built-in model,
# rounded up: of a training image with what is shown of it; of a concept whose LoRA trains beside others, for the
# backward pass; of each rank of its LoRA, with gradients and the two moments of AdamW; of a kept sample; of a pixel of
# a pair, with a third for its files; of a pixel of an image at work; of a step whose attention is recorded.
MOST_BYTES = 1_000_000_000
IMAGE_BYTES, CONCEPT_BYTES, RANK_BYTES, SAMPLE_BYTES = 100_000, 13_000_000, 160_000, 550_000
PIXEL_BYTES, WORK_BYTES, MAP_BYTES = 24, 2_100, 650_000


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
    field, remedy = REMEDIES.get(task, ("", ""))
    if task in BYTES and (kept := BYTES[task](*arguments)) > MOST_BYTES:
        raise RecipeError(
            field,
            f"This takes about {kept / 1e9:.1f} GB of memory, and {MOST_BYTES / 1e9:g} GB are lent to a user at once; "
            f"{remedy}. On your own machine there is no such bound.",
        )
    if needed > LONGEST:
        raise RecipeError(
            field,
            f"This takes about {needed:.0f} s here, and {LONGEST} s are lent to a user at once; {remedy}. "
            "On your own machine there is no such bound.",
        )


def _estimate(task: str, arguments: tuple) -> float:
    samples, steps = COUNTS[task](*arguments) if task in COUNTS else (0.0, 0.0)
    recipes = [one for one in arguments if isinstance(one, Recipe)] if task != "masks" else []
    sentences = max(0, sum(map(prompts.count, recipes)) - SENTENCES)  # beyond those that `START` covers
    return START + SAMPLE * samples + STEP * steps + SENTENCE * sentences


def _erase(recipe: Recipe, user_masks: object = None) -> tuple[float, float]:
    """Samples through the UNet, two an image and step for the guidance; steps of training, each of rank 1."""
    work = find(recipe.method).work(recipe)
    return work.images * work.image_steps * 2, work.training_steps * (1 + 0.7 * (max(work.rank, 1) - 1) / RANK)


def _erase_bytes(recipe: Recipe, user_masks: object = None) -> float:
    work = find(recipe.method).work(recipe)
    each = CONCEPT_BYTES + RANK_BYTES * work.rank + SAMPLE_BYTES * work.kept_samples
    return IMAGE_BYTES * work.images + each * min(work.side_by_side, work.at_once)


def _masks(recipe: Recipe) -> tuple[float, float]:
    count = len(recipe.concepts) * recipe.settings.images.per_concept if recipe.takes_masks else 0
    return count * find(recipe.method).work(recipe).image_steps * 2, 0


def _images(times: int, request: ImageRequest) -> tuple[float, float]:
    height, width = request.size or (1, 1)
    larger = max(1.0, height * width / NATIVE)
    return times * len(request.pairs()) * request.steps * 2 * larger, 0


def _image_bytes(request: ImageRequest) -> float:
    height, width = request.size or (64, 64)
    return height * width * (len(request.pairs()) * PIXEL_BYTES + min(len(request.pairs()), BATCH) * WORK_BYTES)


def _map_bytes(runs: int, request: ImageRequest) -> float:
    height, width = request.size or (64, 64)
    return runs * request.steps * MAP_BYTES * max(1.0, height * width / NATIVE) + _image_bytes(request)


# Task -> its arguments -> samples through the UNet, steps of a LoRA. What is not here takes no longer than `START`.
COUNTS: dict[str, Callable[..., tuple[float, float]]] = {
    "erase": _erase,
    "masks": _masks,
    "compose": lambda paths, remove, add, name: _erase(add) if add is not None else (0, 0),
    "compare": lambda paths, request: _images(1 + len(paths), request),
    "inspect": lambda path, request, phrases: _images(2, request),
    "residual": lambda path, request: _images(3, request),
    "preview": lambda recipe, request: _images(2, request),
    "sample": lambda path, plan, judge: (plan.forwards, 0),
    "evaluate": lambda plans, judge: (sum(plan.forwards for _, plan in plans), 0),
}
# Task -> its arguments -> bytes that it keeps.
BYTES: dict[str, Callable[..., float]] = {
    "erase": _erase_bytes,
    "masks": _erase_bytes,
    "compose": lambda paths, remove, add, name: _erase_bytes(add) if add is not None else 0,
    "compare": lambda paths, request: (1 + len(paths)) / 2 * _image_bytes(request),
    "inspect": lambda path, request, phrases: _map_bytes(2, request),
    "residual": lambda path, request: _map_bytes(3, request),
}
# Task -> field at fault, what helps.
REMEDIES = {
    "erase": ("concepts", "erase fewer concepts, or with fewer LoRA steps or training images"),
    "masks": ("concepts", "take fewer concepts or training images"),
    "compose": ("concepts", "add fewer concepts"),
    "compare": ("prompt", "use fewer prompts or seeds, fewer steps, or smaller images"),
    "inspect": ("steps", "use fewer steps"),
    "residual": ("steps", "use fewer steps"),
    "preview": ("steps", "use fewer steps"),
    "sample": ("plan", "keep a shorter list"),
    "evaluate": ("plan", "choose the quick plan, or fewer erasures, or one with fewer words"),
}
