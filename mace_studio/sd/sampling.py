"""Prompts and seeds -> images, and the training images of concepts together with where the model looked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from diffusers import DiffusionPipeline
from PIL.Image import Image
from torch import Tensor

from mace_studio.core import attention
from mace_studio.errors import RecipeError
from mace_studio.progress import Progress, Report, silent, within
from mace_studio.recipe import ImageRequest
from mace_studio.sd import attention_hooks, files, finite, pixels, schedules, text
from mace_studio.sd.model import Model
from mace_studio.settings import ImageSettings

FEW_STEPS = 4
HEAT = 2  # raised whenever what is stored as heat_HW changes, so that no older file is read


class Stepped(Protocol):
    """A dataclass with denoising steps and a guidance scale."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def steps(self) -> int: ...

    @property
    def guidance(self) -> float: ...


Settings = TypeVar("Settings", bound=Stepped)


@dataclass(frozen=True)
class TrainingImage:
    """A training image to generate.

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
    """A generated training image, with where its phrase is.

    Attributes:
        latent_CHW: the clean latent, scaled as the UNet reads it, float32 on the CPU.
        heat_HW: mean attention to the phrase over layers, heads and steps, float32 on the CPU. Where that does not
            stand out, to the end or padding token that does so most: a model may read a phrase at the end of a prompt
            from there.
        path_SCHW: noisy latents that it passed at the S timesteps of `passed`, where those were asked for.
    """

    latent_CHW: Tensor
    heat_HW: Tensor
    path_SCHW: Tensor | None = None


def generate(model: Model, request: ImageRequest, progress: Report = silent) -> list[Image]:
    """Generate every prompt with every seed; the same seed gives the same image whatever is generated beside it.

    Args:
        model: with whatever weights are in place.
        request: prompts, seeds, steps, guidance, negative prompt and size.
        progress: called with stage "generate" at every denoising step: images done, parts of images added up, of all.

    Returns:
        RGB images in the order of prompts, and of seeds within a prompt.

    Raises:
        RecipeError: more steps than the model has.
    """
    return generate_pairs(model, request.pairs(), request, progress)


def generate_pairs(
    model: Model, pairs: Sequence[tuple[str, int]], request: ImageRequest, progress: Report = silent
) -> list[Image]:
    """Generate some prompts, each with its own seed; the same as `generate` otherwise.

    Args:
        model: with whatever weights are in place.
        pairs: (prompt, seed) of each image.
        request: steps, guidance, negative prompt and size; its own prompts and seeds do not count.
        progress: as in `generate`.

    Returns:
        RGB images in the order of the pairs.
    """
    most = model.pipeline.scheduler.config.get("original_inference_steps")
    if most and request.steps > most:
        raise RecipeError("steps", f"{model.name} has no more than {most} steps; {FEW_STEPS} to 8 are enough for it.")
    schedules.check_steps(model.pipeline.scheduler, request.steps, model.name)

    def run_batch(batch: Sequence[tuple[str, int]], done: int) -> list[Image]:
        options = {
            "num_inference_steps": request.steps,
            "guidance_scale": request.guidance,
            # SDXL reads zeros where there is no negative prompt, and something else where that is an empty one.
            "negative_prompt": [request.negative] * len(batch) if request.negative else None,
        }
        if request.size:
            options["height"], options["width"] = request.size
        return _run(model, batch, options, within(progress, "generate", "", done, len(pairs))).images

    return model.batches.map(pairs, run_batch)


def training_images(
    model: Model,
    wanted: Sequence[TrainingImage],
    settings: ImageSettings,
    cache: Path | None,
    progress: Report = silent,
    window: tuple[float, float] | None = None,
) -> list[GeneratedImage]:
    """Generate training images and record the attention to their phrases in the same run.

    With DPM-Solver++, or a distilled model's own scheduler: no other fits what such a model predicts.

    Args:
        model: the unchanged model.
        wanted: the images; generated in batches over all concepts.
        settings: steps and guidance.
        cache: folder of images that were generated before, or None to generate all of them.
        progress: called with stage "generate" at every denoising step: images there, parts of images added up, of all;
            and after every batch with one of its images, small, as `result`.
        window: bounds of timesteps whose noisy latents are kept; what comes after them is not computed, and
            `latent_CHW` is the last of them. None for finished images.

    Returns:
        In the order of `wanted`.
    """
    stops = passed(model, settings, window) if window else []
    paths = {image: _file(cache, model, image, settings, stops) for image in wanted}
    size, channels = latent_size(model), model.unet.config.in_channels
    shapes = {"latent_CHW": (channels, *size), "heat_HW": size}
    if stops:
        shapes["path_SCHW"] = (len(stops), channels, *size)
    found = {image: files.cached(path, shapes) for image, path in paths.items() if path is not None}
    kept = {image: GeneratedImage(**tensors) for image, tensors in found.items() if tensors is not None}
    missing = [image for image in paths if image not in kept]
    cached = len(wanted) - len(missing)
    progress(Progress("generate", step=cached, total=len(wanted)))

    def run_batch(batch: Sequence[TrainingImage], done: int) -> list[GeneratedImage]:
        report = within(progress, "generate", "", cached + done, len(wanted))
        results = _training_batch(model, batch, settings, report, stops)
        for image, result in zip(batch, results, strict=True):
            if (path := paths[image]) is not None:
                tensors = {"latent_CHW": result.latent_CHW, "heat_HW": result.heat_HW}
                files.keep(path, tensors | ({} if result.path_SCHW is None else {"path_SCHW": result.path_SCHW}))
        # One image of each batch, small: to be seen while the others are generated, at the cost of one decoding.
        (shown,) = pixels.decoded(model, results[0].latent_CHW[None])
        shown.thumbnail((pixels.THUMBNAIL, pixels.THUMBNAIL))
        report(Progress("generate", batch[0].phrase, len(batch), len(batch), result=shown))
        return results

    kept |= zip(missing, model.batches.map(missing, run_batch), strict=True)
    return [kept[image] for image in wanted]


def passed(model: Model, settings: ImageSettings, window: tuple[float, float]) -> list[int]:
    """The timesteps within a window at which training images are on their way, the largest first.

    Where there is none, the one nearest to its middle. The start, which is nothing but noise, is left out.

    Args:
        model: not a distilled one.
        settings: how many steps.
        window: t1 and t2.
    """
    scheduler = schedules.for_training(model.pipeline.scheduler)
    scheduler.set_timesteps(settings.steps)
    later = [int(timestep) for timestep in scheduler.timesteps][1:]
    inside = [timestep for timestep in later if window[0] <= timestep <= window[1]]
    return inside or sorted(later, key=lambda timestep: abs(timestep - sum(window) / 2))[:1]


def steps_until(model: Model, settings: ImageSettings, window: tuple[float, float]) -> int:
    """How many denoising steps are computed where the rest after a window is left out.

    Args:
        model: not a distilled one.
        settings: how many steps there would be.
        window: t1 and t2, timesteps.
    """
    scheduler = schedules.for_training(model.pipeline.scheduler)
    scheduler.set_timesteps(settings.steps)
    return [int(timestep) for timestep in scheduler.timesteps].index(passed(model, settings, window)[-1])


def with_defaults(model: Model, settings: Settings) -> Settings:
    """The settings, or what a distilled model can make of them: few steps, and guidance only where it is embedded.

    Args:
        model: distilled or not.
        settings: with the fields `steps` (denoising steps) and `guidance` (scale; 1 is without).
    """
    if not model.distilled:
        return settings
    guidance = settings.guidance if model.embeds_guidance else 1.0
    few = replace(settings, steps=min(settings.steps, FEW_STEPS), guidance=guidance)
    # Its few steps pass hardly any timestep, and with a scheduler of its own.
    return replace(few, path=False) if isinstance(few, ImageSettings) else few


def _training_batch(
    model: Model, batch: Sequence[TrainingImage], settings: ImageSettings, progress: Report, stops: Sequence[int]
) -> list[GeneratedImage]:
    way: list[Tensor] = []

    def on_way(timestep: int, latents_NCHW: Tensor) -> bool:
        if timestep in stops:
            way.append(latents_NCHW.float().cpu())
        return len(way) < len(stops) or not stops

    sums: dict[int, Tensor] = {}  # pixels of a layer -> sum_BQT
    layers = 0

    def receive(_: str, probabilities_BHQT: Tensor) -> None:
        nonlocal layers
        conditional_BQT = probabilities_BHQT[-len(batch) :].mean(dim=1)  # with guidance the unconditional half is first
        pixels = conditional_BQT.shape[1]
        sums[pixels] = sums.get(pixels, 0) + conditional_BQT
        layers += 1

    options = {"num_inference_steps": settings.steps, "guidance_scale": settings.guidance, "output_type": "latent"}
    usual = model.pipeline.scheduler
    if not model.distilled:
        model.pipeline.scheduler = schedules.for_training(usual)
    try:
        with attention_hooks.attention(model.unet, receive):
            output = _run(model, [(image.prompt, image.seed) for image in batch], options, progress, on_way)
    finally:
        model.pipeline.scheduler = usual
    latents_NCHW = output.images.float().cpu()
    path_NSCHW = torch.stack(way, dim=1) if way else None
    return [
        GeneratedImage(
            latent_CHW.clone(),
            phrase_heat(model, image, [sum_BQT[i] for sum_BQT in sums.values()]) / layers,
            None if path_NSCHW is None else path_NSCHW[i].clone(),
        )
        for i, (latent_CHW, image) in enumerate(zip(latents_NCHW, batch, strict=True))
    ]


def phrase_heat(model: Model, image: TrainingImage, sums: Sequence[Tensor]) -> Tensor:
    """The map of a phrase, or of what shows where it is, heat_HW at the size of the latents.

    Args:
        model: gives the size, and its tokenizer splits.
        image: its prompt and phrase.
        sums: for each size of layer attention added up over its layers, sum_QT.
    """
    size = latent_size(model)
    maps = [sum_QT.cpu().T.unflatten(1, attention.map_size(len(sum_QT), *size)) for sum_QT in sums]
    maps_TIJ = sum((attention.upsample(layer_TIJ, *size) for layer_TIJ in maps), torch.zeros(()))
    own_IJ = maps_TIJ[text.positions(model, image.prompt, image.phrase)].mean(dim=0)
    after_NIJ = maps_TIJ[text.closing(text.ids(model, [image.prompt])[0], len(maps_TIJ))]
    best = attention.clearest(after_NIJ) if attention.mask(own_IJ) is None else None
    return own_IJ if best is None else after_NIJ[best]


def _run(
    model: Model,
    pairs: Sequence[tuple[str, int]],
    options: dict,
    progress: Report,
    on_way: Callable[[int, Tensor], bool] = lambda timestep, latents_NCHW: True,
) -> Any:
    """Call the pipeline on some prompts and their seeds; at every denoising step `progress` gets the images done.

    `on_way` gets the next timestep and the noisy latents before it; where it returns False, the rest is left out.
    """

    before: Tensor | None = None  # the first image's latents at `timestep`

    def on_step_end(pipeline: DiffusionPipeline, step: int, timestep: int, tensors: dict) -> dict:
        nonlocal before
        finite.check(tensors["latents"], f"The latents of step {step + 1}")
        done = len(pairs) * (step + 1) / pipeline.num_timesteps  # some schedulers run the UNet twice a step
        # In low memory the VAE would push the UNet from the device.
        latent_CHW, timesteps = tensors["latents"][0], pipeline.scheduler.timesteps
        following = int(timesteps[step + 1]) if step + 1 < len(timesteps) else None
        clean = partial(pixels.foreseen, pipeline.scheduler, before, latent_CHW, int(timestep), following)
        look = None if model.low_memory else lambda cells: pixels.preview(model, clean(), cells)
        progress(Progress("generate", step=done, total=len(pairs), look=look))
        before = latent_CHW
        if following is not None:
            pipeline._interrupt = not on_way(following, tensors["latents"])
        return tensors

    with finite.decoder(model.pipeline.vae):
        return model.pipeline(
            prompt=[prompt for prompt, _ in pairs],
            generator=[torch.Generator().manual_seed(seed) for _, seed in pairs],
            callback_on_step_end=on_step_end,
            **options,
        )


def latent_size(model: Model) -> tuple[int, int]:
    """Rows and columns of the latents of an image of the model's own size.

    Args:
        model: its UNet's configuration is read.

    Returns:
        Height and width in latent cells; times `vae_scale_factor` they are pixels.
    """
    size = model.unet.config.sample_size
    return (size, size) if isinstance(size, int) else tuple(size)


def _file(
    cache: Path | None, model: Model, image: TrainingImage, settings: ImageSettings, stops: Sequence[int]
) -> Path | None:
    if cache is None:
        return None
    key = [HEAT, model.fingerprint, *astuple(image), settings.steps, settings.guidance, *stops]
    return cache / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:40]}.safetensors"
