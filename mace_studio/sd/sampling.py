"""Prompts and seeds -> images, and the training images of concepts together with where the model looked."""

from __future__ import annotations

import hashlib
import json
import queue
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import DPMSolverMultistepScheduler, SchedulerMixin
from PIL.Image import Image
from safetensors.torch import load_file
from torch import Tensor

from mace_studio.core import attention
from mace_studio.errors import RecipeError
from mace_studio.recipe import ImageRequest
from mace_studio.sd import attention_hooks, files, text
from mace_studio.sd.model import Model
from mace_studio.settings import ImageSettings

FEW_STEPS = 4
HEAT = 2  # another number whenever what is stored as heat_HW changes, so that no older file is read

Result = TypeVar("Result")
Settings = TypeVar("Settings")  # anything with steps and a guidance
Tick = Callable[[object, int, int, dict], dict]


@dataclass(frozen=True)
class TrainingImage:
    """A training image to draw: what it shows, and with which seed.

    Attributes:
        prompt: the sentence.
        phrase: the words in it whose attention is recorded.
        seed: of the starting noise.
    """

    prompt: str
    phrase: str
    seed: int


@dataclass(frozen=True)
class GeneratedImage:
    """A training image as the training needs it.

    Attributes:
        latent_CHW: the clean latent, scaled as the UNet reads it, float32 on the CPU.
        heat_HW: mean attention to the phrase over layers, heads and steps, float32 on the CPU. Where that does not
            stand out, to the end or padding token that does so most: with nothing after it to carry a phrase, a model
            may draw it from there.
    """

    latent_CHW: Tensor
    heat_HW: Tensor


def generate(model: Model, drawing: ImageRequest) -> Generator[int, None, list[Image]]:
    """Draw every prompt with every seed; the same seed gives the same image whatever is drawn beside it.

    Yields:
        At every denoising step how many images are done, parts of images added up.

    Returns:
        Images in the order of prompts, and of seeds within a prompt.

    Raises:
        RecipeError: more steps than the model has.
    """
    return (yield from generate_pairs(model, drawing.pairs(), drawing))


def generate_pairs(
    model: Model, pairs: Sequence[tuple[str, int]], drawing: ImageRequest, before: int = 0
) -> Generator[int, None, list[Image]]:
    """Draw some prompts, each with its own seed, with a drawing's settings; otherwise the same as `draw`.

    Args:
        model: draws.
        pairs: prompts and seeds.
        drawing: steps, guidance, negative prompt and size.
        before: what the images are counted on from.
    """
    _check_steps(model, drawing.steps)

    def run_batch(batch: Sequence[tuple[str, int]], done: int) -> Generator[int, None, list[Image]]:
        prompts, seeds = [prompt for prompt, _ in batch], [seed for _, seed in batch]
        options = {
            "num_inference_steps": drawing.steps,
            "guidance_scale": drawing.guidance,
            # SDXL reads zeros where there is no negative prompt, and something else where that is an empty one.
            "negative_prompt": [drawing.negative] * len(batch) if drawing.negative else None,
        }
        if drawing.size:
            options["height"], options["width"] = drawing.size
        result = yield from _steps(model, prompts, seeds, options, before + done)
        return result.images

    return (yield from model.room.each(pairs, run_batch))


def training_images(
    model: Model, wanted: Sequence[TrainingImage], settings: ImageSettings, cache: Path | None
) -> Generator[int, None, list[GeneratedImage]]:
    """Draw training images and record the attention to their phrases in the same run.

    With DPM-Solver++, or a distilled model's own scheduler: no other fits what such a model predicts.

    Args:
        model: the unchanged model.
        wanted: the images; drawn in batches over all concepts.
        settings: steps and guidance.
        cache: folder of images drawn before, or None to draw all of them.

    Yields:
        At every denoising step how many images are done, parts of images added up.
    """
    paths = {p: _file(cache, model, p, settings) for p in wanted}
    missing = [p for p in wanted if paths[p] is None or not paths[p].exists()]
    known = len(wanted) - len(missing)

    def run_batch(batch: Sequence[TrainingImage], done: int) -> Generator[int, None, list[GeneratedImage]]:
        drawn = yield from _portrait_batch(model, batch, settings, known + done)
        for portrait, one in zip(batch, drawn, strict=True):
            _store(paths[portrait], one)
        return drawn

    fresh = dict(zip(missing, (yield from model.room.each(missing, run_batch)), strict=True))
    return [fresh[p] if p in fresh else GeneratedImage(**load_file(paths[p])) for p in wanted]


def training_scheduler(usual: SchedulerMixin) -> DPMSolverMultistepScheduler:
    """DPM-Solver++ with a model's noise schedule; how the model's own scheduler solves (DEIS, SA, SDE) stays out."""
    return DPMSolverMultistepScheduler.from_config(
        usual.config, algorithm_type="dpmsolver++", solver_type="midpoint", final_sigmas_type="zero"
    )


def with_defaults(model: Model, settings: Settings) -> Settings:
    """The settings, or what a distilled model can make of them: few steps, and guidance only where it is embedded."""
    if not model.distilled:
        return settings
    guidance = settings.guidance if model.embeds_guidance else 1.0
    return replace(settings, steps=min(settings.steps, FEW_STEPS), guidance=guidance)


def _check_steps(model: Model, steps: int) -> None:
    most = model.pipeline.scheduler.config.get("original_inference_steps")
    if most and steps > most:
        raise RecipeError("steps", f"{model.name} has no more than {most} steps; {FEW_STEPS} to 8 are enough for it.")


def _portrait_batch(
    model: Model, batch: Sequence[TrainingImage], settings: ImageSettings, before: int
) -> Generator[int, None, list[GeneratedImage]]:
    prompts = [p.prompt for p in batch]
    sums: dict[int, Tensor] = {}  # pixels of a layer -> sum_BQT
    layers = 0

    def receive(_: str, probabilities_BHQT: Tensor) -> None:
        nonlocal layers
        conditional_BQT = probabilities_BHQT[-len(batch) :].mean(dim=1)  # with guidance the unconditional half is first
        pixels = conditional_BQT.shape[1]
        sums[pixels] = sums.get(pixels, 0) + conditional_BQT
        layers += 1

    options = {
        "num_inference_steps": settings.steps,
        "guidance_scale": settings.guidance,
        "output_type": "latent",
    }
    usual = model.pipeline.scheduler
    if not model.distilled:
        model.pipeline.scheduler = training_scheduler(usual)
    try:
        with attention_hooks.attention(model.unet, receive):
            result = yield from _steps(model, prompts, [p.seed for p in batch], options, before)
    finally:
        model.pipeline.scheduler = usual
    latents_NCHW = result.images.float().cpu()
    each = zip(latents_NCHW, batch, text.ids(model, prompts), strict=True)
    return [
        GeneratedImage(
            latent_CHW.clone(), _heat(model, ids, p.phrase, [sum_BQT[i] for sum_BQT in sums.values()]) / layers
        )
        for i, (latent_CHW, p, ids) in enumerate(each)
    ]


def _heat(model: Model, sentence_ids: Sequence[int], phrase: str, sums: Sequence[Tensor]) -> Tensor:
    """The map of a phrase, or of what shows where it is, from the sum_QT of each size of layer."""
    size = latent_size(model)
    maps = [sum_QT.cpu().T.unflatten(1, attention.map_size(len(sum_QT), *size)) for sum_QT in sums]
    maps_TIJ = sum(attention.upsample(layer_TIJ, *size) for layer_TIJ in maps)
    own_IJ = maps_TIJ[text.positions(model, sentence_ids, phrase)].mean(dim=0)
    after_NIJ = maps_TIJ[text.closing(sentence_ids, len(maps_TIJ))]
    best = attention.clearest(after_NIJ) if attention.mask(own_IJ) is None else None
    return own_IJ if best is None else after_NIJ[best]


def _steps(
    model: Model, prompts: list[str], seeds: list[int], options: dict, before: int
) -> Generator[int, None, object]:
    """The pipeline's own call, which yields at every denoising step how many images are done, counted from `before`."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def call(tick: Tick) -> object:
        return model.pipeline(prompt=prompts, generator=generators, callback_on_step_end=tick, **options)

    return (yield from _turn_by_turn(call, lambda step: before + step * len(prompts) // options["num_inference_steps"]))


class _Left(Exception):
    """Nobody waits for the next step any more."""


def _turn_by_turn(call: Callable[[Tick], Result], count: Callable[[int], int]) -> Generator[int, None, Result]:
    """A call that reports its steps through a callback, as a generator that yields `count(step)` after each.

    The call runs on a thread of its own, but only while somebody waits for the next step, so nothing happens at the
    same time. Whoever leaves early ends the call at its present step.
    """
    turns: queue.Queue = queue.Queue()
    resume: queue.Queue[bool] = queue.Queue()

    def tick(pipeline: object, step: int, timestep: int, tensors: dict) -> dict:
        turns.put(step + 1)
        if not resume.get():
            raise _Left
        return tensors

    with ThreadPoolExecutor(1, "denoising") as pool:
        future = pool.submit(call, tick)
        future.add_done_callback(turns.put)
        try:
            while (turn := turns.get()) is not future:
                yield count(turn)
                resume.put(True)
        finally:
            resume.put(False)
        return future.result()


def latent_size(model: Model) -> tuple[int, int]:
    """Rows and columns of the latents of a picture of the model's own size."""
    size = model.unet.config.sample_size
    return (size, size) if isinstance(size, int) else tuple(size)


def _file(cache: Path | None, model: Model, portrait: TrainingImage, settings: ImageSettings) -> Path | None:
    if cache is None:
        return None
    key = [HEAT, model.fingerprint, *astuple(portrait), settings.steps, settings.guidance]
    return cache / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:40]}.safetensors"


def _store(path: Path | None, drawn: GeneratedImage) -> None:
    if path is not None:
        files.write(path, {"latent_CHW": drawn.latent_CHW, "heat_HW": drawn.heat_HW})
