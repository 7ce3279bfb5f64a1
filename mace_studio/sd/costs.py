"""What a run takes, before it starts: one denoising step and one LoRA step are timed and their memory read."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from mace_studio import prompts
from mace_studio.methods import find
from mace_studio.methods.settings import Work
from mace_studio.progress import Progress, Report, silent
from mace_studio.recipe import Recipe
from mace_studio.sd import grams, lora, sampling, text
from mace_studio.sd.batching import Batches, free
from mace_studio.sd.model import Model, read_captions
from mace_studio.settings import TIMESTEPS, ImageSettings, LoraSettings

CONCEPTS = 4  # at once, where a step of one is quick
QUICK = 0.5  # seconds of a step, up to which more steps are timed, also with several at once
STEPS = 5
PARTS = ("images", "LoRA", "sentences", "several images", "several LoRAs")
# The fused attention of a CPU, which the counter of torch does not know.
CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
COUNTED = {CPU_ATTENTION: lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)}


@dataclass(frozen=True)
class Line:
    """Seconds of a step with several at once: `fixed` + `each` x how many."""

    fixed: float
    each: float

    def at(self, count: int) -> float:
        return self.fixed + self.each * count

    @staticmethod
    def through(one: float, count: int, several: float) -> Line:
        """Through the seconds of one and of `count` at once; the same of both where only one was timed."""
        if count == 1 or several == one:
            return Line(0.0, one)
        each = min(max((several - one) / (count - 1), 0.0), one)
        return Line(one - each, each)


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What the parts of a run take on one model and device.

    Attributes:
        forward_flops: operations (a multiply and an add are two) of one sample through the UNet.
        step_flops: operations of a LoRA step of one concept.
        sentence_flops: operations of one sentence through the text encoders.
        sample_bytes: memory of a forward beside the weights, for each sample.
        step_bytes: memory of a LoRA step beside the weights, for each concept.
        image_seconds: of a denoising step, by images at once.
        step_seconds: of a LoRA step, by concepts at once.
        sentence_seconds: of one sentence.
        halves: samples that an image takes with guidance: two, or one of a distilled model.
        most_steps: denoising steps that a training image takes at the most.
        at_once: how many images are generated at once.
        captions: how many general captions the model has.
        gram: name of the file in the cache that holds their Gram.
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

    def samples(self, recipe: Recipe) -> int:
        """Samples that go through the UNet for the training images of a recipe."""
        work = find(recipe.method).work(recipe)
        return work.images * min(work.image_steps, self.most_steps) * self._halves(work)

    def flops(self, recipe: Recipe, sentences: int) -> float:
        """Operations of a run that encodes so many sentences."""
        steps = find(recipe.method).work(recipe).training_steps
        return self.samples(recipe) * self.forward_flops + steps * self.step_flops + sentences * self.sentence_flops

    def seconds(self, recipe: Recipe, sentences: int) -> float:
        """Of a run that encodes so many sentences and generates all its training images."""
        work = find(recipe.method).work(recipe)
        images = _in_batches(self.image_seconds, work.images, self.at_once)
        trained = _in_batches(self.step_seconds, work.side_by_side, work.at_once)
        steps, each = min(work.image_steps, self.most_steps), work.training_steps // work.side_by_side
        return images * steps + trained * each + sentences * self.sentence_seconds

    def memory(self, recipe: Recipe) -> float:
        """Bytes beside the weights in the largest step of a run."""
        work = find(recipe.method).work(recipe)
        samples = min(work.images, self.at_once) * self._halves(work)
        trained = min(work.side_by_side, work.at_once) if work.training_steps else 0
        return max(samples * self.sample_bytes, trained * self.step_bytes)

    def sentences(self, recipe: Recipe, cache: Path) -> int:
        """Sentences that a run encodes, if all of its prompts fit into memory.

        Of the general captions, if a weight asks for them, and of the preserve list only where the cache has no Gram.
        """
        work = find(recipe.method).work(recipe)
        captions = 0 if not work.captions or (cache / self.gram).exists() else self.captions
        if work.sentences is not None:
            return work.sentences + captions
        preserved = list(prompts.preserved(recipe))
        known = (cache / grams.file_name("preserve", self.fingerprint, preserved)).exists()
        return prompts.count(recipe) + captions - len(preserved) * known

    def _halves(self, work: Work) -> int:
        return self.halves if work.guidance > 1 else 1


def measure(model: Model, progress: Report = silent) -> Costs:
    """Count and time a denoising step of one image and a LoRA step of one concept, and of several where they are quick.

    Args:
        model: bit for bit the same afterwards.
        progress: called with stage "measure" at every step: parts done of `PARTS`.
    """

    subject, halves, at_once = _subject(model), 1 if model.distilled else 2, Batches(CONCEPTS)

    def at(part: str) -> Report:
        return lambda _: progress(Progress("measure", part, PARTS.index(part), len(PARTS)))

    def images(count: int, steps: int, report: Report) -> None:
        wanted = [sampling.TrainingImage("a photo", "photo", seed) for seed in range(count)]
        sampling.training_images(model, wanted, sampling.with_defaults(model, ImageSettings(steps=steps)), None, report)

    def loras(batches: Batches, steps: int, report: Report) -> None:
        settings = LoraSettings(steps=steps)
        batches.map([subject] * batches.size, lambda batch, _: lora.train(model, batch, settings, report))

    counts, sample_bytes = _counted(model, lambda: images(1, 1, at("images")))
    forward_flops = counts[type(model.unet).__name__]
    step_counts, step_bytes = _counted(model, lambda: loras(Batches(1), 1, at("LoRA")))
    sentence_counts, _ = _counted(model, lambda: text.encode(model, ["a photo"]))
    one_image = several_images = _seconds(lambda *args: images(1, *args), 1, 2, at("images"))
    one_lora = several_loras = _seconds(lambda *args: loras(Batches(1), *args), 1, 2, at("LoRA"))
    begun = time.monotonic()
    text.encode(model, ["a photo"] * text.BATCH, at("sentences"))
    sentence_seconds = (time.monotonic() - begun) / text.BATCH
    # Where memory does not hold that many, the sizes shrink, and so they would in a run.
    if one_image <= QUICK:
        one_image = _seconds(lambda *args: images(1, *args), 1, STEPS, at("images"))
        several_images = _seconds(lambda *args: images(model.batches.size, *args), 1, STEPS, at("several images"))
    if one_lora <= QUICK:
        one_lora = _seconds(lambda *args: loras(Batches(1), *args), 1, STEPS, at("LoRA"))
        several_loras = _seconds(lambda *args: loras(at_once, *args), at_once.size, STEPS, at("several LoRAs"))
    free()  # so that a run does not start beside the memory of what was timed
    captions = read_captions(model.captions)
    return Costs(
        forward_flops=forward_flops / halves,
        step_flops=step_counts["Global"],
        sentence_flops=sentence_counts["Global"],
        sample_bytes=sample_bytes / halves,
        step_bytes=step_bytes,
        image_seconds=Line.through(one_image, model.batches.size, several_images),
        step_seconds=Line.through(one_lora, at_once.size, several_loras),
        sentence_seconds=sentence_seconds,
        halves=halves,
        most_steps=sampling.FEW_STEPS if model.distilled else TIMESTEPS,
        at_once=model.batches.size,
        captions=len(captions),
        gram=grams.file_name("general", model.fingerprint, captions),
        fingerprint=model.fingerprint,
    )


def _in_batches(seconds: Line, total: int, at_once: int) -> float:
    """Seconds of a step of each of `total`, `at_once` at a time."""
    whole, rest = divmod(total, at_once)
    return whole * seconds.at(at_once) + (seconds.at(rest) if rest else 0.0)


def _subject(model: Model) -> lora.Subject:
    context_1TD, pooled_1P = text.encode(model, ["a photo"])
    latents_1CHW = torch.zeros(1, model.unet.config.in_channels, *sampling.latent_size(model))
    return lora.Subject(
        phrase="",
        latents_NCHW=latents_1CHW,
        masks=[None],
        context_MTD=context_1TD,
        positions=[[1, 2]],
        seed=0,
        pooled_MP=pooled_1P,
    )


def _seconds(run: Callable[[int, Report], object], events: int, steps: int, progress: Report) -> float:
    """Median seconds of the steps of a run after its first one, which warms up.

    Args:
        run: (steps, callback) -> runs so many steps and calls the callback `events` times in each.
        events: of a step.
        steps: at least 2.
        progress: called at every event.
    """
    times: list[float] = []

    def on_event(at: Progress) -> None:
        times.append(time.monotonic())
        progress(at)

    run(steps, on_event)
    ends = times[::-events][:steps]  # of each step, the last one first
    return median(end - begin for end, begin in pairwise(ends))


def _counted(model: Model, run: Callable[[], object]) -> tuple[dict[str, int], float]:
    """Operations of `run` by class of module ("Global" for all), and the most bytes held at one time beside weights."""
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter, _Held(model) as held:
        run()
    return {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}, held.most


class _Held(TorchDispatchMode):
    """Adds up the storages that are alive, but for the model's own; a CPU's allocator does not say what it holds."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.now = self.most = 0
        weights = [tensor for module in model.modules().values() for tensor in module.state_dict().values()]
        self._counted = {tensor.untyped_storage()._cdata for tensor in weights}

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **kwargs or {})
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self._counted:
                storage = tensor.untyped_storage()
                self._counted.add(storage._cdata)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._release, storage._cdata, storage.nbytes())
        return result

    def _release(self, key: int, size: int) -> None:
        self._counted.discard(key)
        self.now -= size
