"""What a run takes before it starts: operations and memory counted on tensors without data, and a few steps timed."""

from __future__ import annotations

import copy
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from mace_studio.recipe import Recipe
from mace_studio.sd import grams, lora, projections, sampling, text
from mace_studio.sd.batching import free, ran_out
from mace_studio.sd.model import Model, read_captions
from mace_studio.settings import TIMESTEPS, ImageSettings, LoraSettings

SENTENCES = 32
MANY = 4  # concepts at once, where a step of one is quick
QUICK = 0.5  # seconds of a step, up to which another one with more at once is timed
# The fused attention of a CPU, which the counter of torch does not know.
CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


@dataclass(frozen=True)
class Line:
    """What grows by the same amount with each one more: a part that is always there, and one for each."""

    fixed: float
    each: float

    def at(self, count: int) -> float:
        return self.fixed + self.each * count

    @staticmethod
    def through(first: tuple[int, float], other: tuple[int, float] | None) -> Line:
        """Through two measured points, or through nothing at nought and the first."""
        (few, low), (many, high) = first, other or (0, 0.0)
        if few == many:
            return Line(0.0, low / few)
        each = max((high - low) / (many - few), 0.0)
        return Line(max(low - each * few, 0.0), each)


@dataclass(frozen=True)
class Costs:
    """What the parts of a run take on one model and device.

    Attributes:
        forward_flops, step_flops, sentence_flops: operations (a multiply and an add are two) of one sample through
            the UNet, of one concept's LoRA step, and of one sentence through the text encoders.
        draw_bytes, step_bytes: memory beside the weights of a forward, by samples, and of a LoRA step, by concepts.
        draw_seconds, step_seconds: of a denoising step, by pictures, and of a LoRA step, by concepts.
        sentence_seconds: of one sentence.
        halves: samples that a picture takes with guidance: two, or one of a distilled model.
        most_steps: denoising steps that a training image takes at the most.
        at_once: how many pictures are drawn at once.
        captions: how many general captions the model has.
        gram: the file in the cache that holds what they sum to.
    """

    forward_flops: float
    step_flops: float
    sentence_flops: float
    draw_bytes: Line
    step_bytes: Line
    draw_seconds: Line
    step_seconds: Line
    sentence_seconds: float
    halves: int
    most_steps: int
    at_once: int
    captions: int
    gram: str

    def samples(self, recipe: Recipe) -> int:
        """Samples that go through the UNet to draw the training images."""
        return _images(recipe) * self._steps(recipe) * self._halves(recipe)

    def flops(self, recipe: Recipe, sentences: int) -> float:
        """Operations of a run that encodes so many sentences."""
        steps = len(recipe.concepts) * recipe.settings.lora.steps
        whole = self.samples(recipe) * self.forward_flops + steps * self.step_flops
        return whole + sentences * self.sentence_flops

    def seconds(self, recipe: Recipe, sentences: int) -> float:
        """Of a run that encodes so many sentences and draws all its training images."""
        draw = sum(map(self.draw_seconds.at, _portions(_images(recipe), self.at_once)))
        train = sum(map(self.step_seconds.at, _portions(len(recipe.concepts), recipe.settings.concepts_at_once)))
        return draw * self._steps(recipe) + train * recipe.settings.lora.steps + sentences * self.sentence_seconds

    def memory(self, recipe: Recipe) -> float:
        """Bytes beside the weights in the largest step of a run."""
        if not recipe.settings.lora.steps:
            return 0.0
        drawing = self.draw_bytes.at(min(_images(recipe), self.at_once) * self._halves(recipe))
        return max(drawing, self.step_bytes.at(min(len(recipe.concepts), recipe.settings.concepts_at_once)))

    def unread(self, recipe: Recipe, cache: Path) -> int:
        """General captions that a run encodes: none that it does not ask for or that were read before."""
        asked = recipe.settings.refine.general or recipe.settings.fuse.general
        return 0 if not asked or (cache / self.gram).exists() else self.captions

    def _steps(self, recipe: Recipe) -> int:
        return min(recipe.settings.images.steps, self.most_steps)

    def _halves(self, recipe: Recipe) -> int:
        return self.halves if recipe.settings.images.guidance > 1 else 1


def measure(model: Model) -> Generator[None, None, Costs]:
    """Count what the parts of a run take, and time two steps of each, more where they are quick.

    Yields:
        After every part, so that whoever waits can leave.
    """
    subject = _subject(model)
    forward_flops, draw_bytes, step_flops, step_bytes = _counted(model, subject)
    yield
    with _flops() as counter:
        text.encode(model, ["a photo"])
    begun = time.monotonic()
    text.encode(model, ["a photo"] * SENTENCES)
    sentence_seconds = (time.monotonic() - begun) / SENTENCES
    yield
    draw_seconds = yield from _line(lambda count: _denoising(model, count), model.room.at_once)
    step_seconds = yield from _line(lambda count: lora.trial(model, [subject] * count, LoraSettings()), MANY)
    free()  # so that a run does not begin beside what was timed
    captions = read_captions(model.captions)
    halves, most_steps = (1, sampling.FEW_STEPS) if model.distilled else (2, TIMESTEPS)
    return Costs(
        forward_flops, step_flops, counter.get_total_flops(), draw_bytes, step_bytes, draw_seconds,
        step_seconds, sentence_seconds, halves, most_steps, model.room.at_once, len(captions),
        grams.file_name(model, captions),
    )  # fmt: skip


def _images(recipe: Recipe) -> int:
    return len(recipe.concepts) * recipe.settings.images.per_concept if recipe.settings.lora.steps else 0


def _portions(total: int, at_once: int) -> Iterator[int]:
    yield from repeat(at_once, total // at_once)
    if total % at_once:
        yield total % at_once


def _subject(model: Model) -> lora.Subject:
    context_1TD, pooled_1C = text.encode(model, ["a photo"])
    latents = torch.zeros(1, model.unet.config.in_channels, *sampling.latent_size(model))
    return lora.Subject("", latents, [None], context_1TD, [[1, 2]], 0, pooled_1C)


# Counting


def _counted(model: Model, subject: lora.Subject) -> tuple[float, Line, float, Line]:
    """Operations of a forward and of a LoRA step, and the memory of both, from a UNet that has shapes and no data."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        hollow = _hollow(model)
        drawn = [_tracked(hollow, lambda n=n: lora.trial_forward(hollow, [subject] * n)) for n in (1, 2)]
        # No LoRA can be put around tensors without data. The gradient of the projections themselves takes the same way
        # through the UNet, and hardly more at its end.
        for name in projections.names(hollow.unet):
            hollow.unet.get_submodule(name).weight.requires_grad_()
        trained = [_tracked(hollow, lambda n=n: _step(hollow, [subject] * n)) for n in (1, 2)]
    lines = [Line.through((1, one[1]), (2, two[1])) for one, two in (drawn, trained)]
    return drawn[0][0], lines[0], trained[0][0], lines[1]


def _step(model: Model, subjects: list[lora.Subject]) -> None:
    lora.trial_loss(model, subjects, LoraSettings()).backward()


def _hollow(model: Model) -> Model:
    """The same model with a UNet of the same shapes, whose tensors take no memory."""
    pipeline = copy.copy(model.pipeline)
    pipeline.unet = type(model.unet).from_config(model.unet.config).eval()
    for module in pipeline.unet.modules():
        for name, weight in module.named_parameters(recurse=False):
            like = torch.empty_like(weight, dtype=model.dtype, device=model.device)
            setattr(module, name, nn.Parameter(like, requires_grad=False))
    return replace(model, pipeline=pipeline)


def _tracked(model: Model, work: Callable[[], object]) -> tuple[float, float]:
    """Operations, and the most bytes that were held at one time beside the UNet's weights."""
    with _flops() as counter, _Held(model.unet) as held:
        work()
    return counter.get_total_flops(), held.most


@contextmanager
def _flops() -> Iterator[FlopCounterMode]:
    known = {CPU_ATTENTION: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)}
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        yield counter


class _Held(TorchDispatchMode):
    """Adds up the storages that are alive, but for a module's own."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known = {t.untyped_storage()._cdata for t in module.state_dict().values()}

    def __torch_dispatch__(self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        result = func(*args, **kwargs or {})
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor):
                self._hold(tensor.untyped_storage())
        return result

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


# Timing


def _line(trial: Callable[[int], Generator], many: int) -> Generator[None, None, Line]:
    one = yield from _second(trial(1))
    more = None
    try:
        if many > 1 and one <= QUICK:
            more = many, (yield from _second(trial(many)))
    except RuntimeError as error:
        if not ran_out(error):  # a run would go on with fewer at once
            raise
    return Line.through((1, one), more)


def _second(steps: Generator) -> Generator[None, None, float]:
    """Seconds of the last step, since the first one warms up."""
    begun = last = time.monotonic()
    with closing(steps):
        for _ in steps:
            begun, last = last, time.monotonic()
            yield
    return last - begun


def _denoising(model: Model, count: int) -> Generator[int, None, object]:
    """Two denoising steps of training images."""
    settings = sampling.with_defaults(model, ImageSettings(steps=2))
    wanted = [sampling.TrainingImage("a photo", "photo", seed) for seed in range(count)]
    return sampling.training_images(model, wanted, settings, None)
