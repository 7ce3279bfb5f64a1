"""What the parts of a run take: a denoising step and a LoRA step are timed and their memory read."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from mace_studio import prompts
from mace_studio.caption_files import read_captions
from mace_studio.progress import Progress, Report, silent
from mace_studio.recipe import Recipe
from mace_studio.sd import grams, lora, sampling, text
from mace_studio.sd.batching import Batches, free
from mace_studio.sd.counting import counted
from mace_studio.sd.model import Model
from mace_studio.settings import TIMESTEPS, ImageSettings, LoraSettings

CONCEPTS = 4  # at once, where a step of one is quick
QUICK, STEPS = 0.5, 5  # seconds of a step up to which so many steps are timed, also with several at once
PARTS = ("images", "several images", "LoRA", "several LoRAs", "sentences")
Run = Callable[[Batches, int, Report], None]  # (how many at once, steps, told after each step)


@dataclass(frozen=True)
class Line:
    """Seconds of a step with several at once: `fixed` + `each` x how many."""

    fixed: float
    each: float

    def of(self, total: int, at_once: int) -> float:
        """Seconds of one step of each of `total`, `at_once` at a time.

        Args:
            total: images or concepts.
            at_once: how many of them go through one forward.
        """
        return self.fixed * -(-total // at_once) + self.each * total

    @staticmethod
    def through(one: float, count: int, several: float) -> Line:
        """Through the seconds of a step of one and of `count` at once; level where only one was timed.

        Args:
            one: seconds of a step of one.
            count: how many go through one forward in the other step.
            several: seconds of that step.
        """
        if count == 1 or several == one:
            return Line(0.0, one)
        each = min(max((several - one) / (count - 1), 0.0), one)
        return Line(one - each, each)


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What the parts of a run take on one model and device; `runtime.estimate` multiplies them.

    Attributes:
        forward_flops, step_flops, sentence_flops: operations (a multiply and an add are two) of one sample through the
            UNet, of a LoRA step of one concept, of one sentence through the text encoders.
        sample_bytes, step_bytes: memory beside the weights, of a forward by sample, of a LoRA step by concept.
        image_seconds, step_seconds: of a denoising step by images at once, of a LoRA step by concepts at once.
        sentence_seconds: of one sentence.
        halves: samples that an image takes with guidance: two, or one of a distilled model.
        most_steps: denoising steps that a training image takes at the most.
        at_once: how many images are generated at once.
        captions, gram: how many general captions the model has, and the name in the cache of the file of their Gram.
        fingerprint: of the model.
    """

    forward_flops: float
    step_flops: float
    sentence_flops: float
    sample_bytes: float
    step_bytes: float
    image_seconds: Line
    step_seconds: Line
    sentence_seconds: float
    halves: int
    most_steps: int
    at_once: int
    captions: int
    gram: str
    fingerprint: str

    def sentences(self, recipe: Recipe, cache: Path, general: bool, encoded: int | None = None) -> int:
        """Sentences that a run encodes, if all of its prompts fit into memory.

        Those of the general captions and of the preserve list count only where the cache has no Gram.

        Args:
            recipe: as it will be run.
            cache: folder of the Grams.
            general: whether the run asks for the general captions.
            encoded: how many sentences the run encodes beside those; None for those of MACE.
        """
        captions = 0 if not general or (cache / self.gram).exists() else self.captions
        if encoded is not None:
            return encoded + captions
        preserved = list(prompts.preserved(recipe))
        known = (cache / grams.file_name("preserve", self.fingerprint, preserved)).exists()
        return prompts.count(recipe) + captions - len(preserved) * known


def measure(model: Model, progress: Report = silent) -> Costs:
    """Time a denoising step and a LoRA step, of one and, where that is quick, of several; read their memory.

    Args:
        model: bit for bit the same afterwards.
        progress: called with stage "measure" at every step: parts done of `PARTS`.
    """
    context_1TD, pooled_1P = text.encode(model, ["a photo"])
    latents_1CHW = torch.zeros(1, model.unet.config.in_channels, *sampling.latent_size(model))
    subject = lora.Subject(
        phrase="", latents_NCHW=latents_1CHW, masks=[None], context_MTD=context_1TD, positions=[[1, 2]], seed=0,
        pooled_MP=pooled_1P,
    )  # fmt: skip

    def at(part: str) -> Report:
        return lambda _: progress(Progress("measure", part, PARTS.index(part), len(PARTS)))

    def images(batches: Batches, steps: int, on_step: Report) -> None:
        wanted = [sampling.TrainingImage("a photo", "photo", seed) for seed in range(batches.size)]
        settings = sampling.with_defaults(model, ImageSettings(steps=steps))
        sampling.training_images(model, wanted, settings, None, on_step)

    def loras(batches: Batches, steps: int, on_step: Report) -> None:
        def train(batch: Any, _: int) -> list:  # each concept reports its loss; the last one ends the step
            each: Report = lambda done: on_step(done) if done.step % len(batch) == 0 else None  # noqa: E731
            return lora.train(model, batch, LoraSettings(steps=steps), each)

        batches.map([subject] * batches.size, train)

    images_flops, image_bytes = counted(model, lambda: images(Batches(1), 1, at("images")))
    image_seconds = _line(images, model.batches, at("images"), at("several images"))
    step_flops, step_bytes = counted(model, lambda: loras(Batches(1), 1, at("LoRA")))
    step_seconds = _line(loras, Batches(CONCEPTS), at("LoRA"), at("several LoRAs"))
    sentence_flops, _ = counted(model, lambda: text.encode(model, ["a photo"]))
    begun = time.monotonic()
    text.encode(model, ["a photo"] * text.BATCH, at("sentences"))
    sentence_seconds = (time.monotonic() - begun) / text.BATCH
    free()  # so that a run does not start beside the memory of what was timed
    captions, halves = read_captions(model.captions), 1 if model.distilled else 2
    return Costs(
        forward_flops=images_flops[type(model.unet).__name__] / halves,
        step_flops=step_flops["Global"],
        sentence_flops=sentence_flops["Global"],
        sample_bytes=image_bytes / halves,
        step_bytes=step_bytes,
        image_seconds=image_seconds,
        step_seconds=step_seconds,
        sentence_seconds=sentence_seconds,
        halves=halves,
        most_steps=sampling.FEW_STEPS if model.distilled else TIMESTEPS,
        at_once=model.batches.size,
        captions=len(captions),
        gram=grams.file_name("general", model.fingerprint, captions),
        fingerprint=model.fingerprint,
    )


def _line(run: Run, batches: Batches, one: Report, several: Report) -> Line:
    seconds = _seconds(run, Batches(1), 2, one)
    if seconds > QUICK:
        return Line(0.0, seconds)
    seconds, together = _seconds(run, Batches(1), STEPS, one), _seconds(run, batches, STEPS, several)
    # Where memory does not hold that many, their number has shrunk by now, and so it would in a run.
    return Line.through(seconds, batches.size, together)


def _seconds(run: Run, batches: Batches, steps: int, progress: Report) -> float:
    """Median seconds of the steps of a run but the first, which warms up."""
    times: list[float] = []

    def on_step(done: Progress) -> None:
        times.append(time.monotonic())
        progress(done)

    run(batches, steps, on_step)
    return median(end - begin for begin, end in pairwise(times[-steps:]))
