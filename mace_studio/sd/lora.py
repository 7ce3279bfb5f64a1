"""Stage 2: one LoRA per concept, trained to take attention away from the concept (Eq. 3-5)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, TypeVar

import torch
from diffusers import DDPMScheduler
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from mace_studio.core import attention, timesteps
from mace_studio.errors import NotFinite
from mace_studio.progress import Progress, Report, silent
from mace_studio.sd import attention_hooks, conditions, projections
from mace_studio.sd.model import Model
from mace_studio.settings import LoraSettings

CLIP_NORM = 1.0
WINDOW = 10  # steps whose mean loss tells whether it still falls
# In float16 most gradients of activations are below the smallest normal number, and the LoRA's would be noise.
LOSS_SCALE = 4096.0


@dataclass(frozen=True, kw_only=True)
class Subject:
    """All that the LoRA of one concept trains on.

    Attributes:
        phrase: the concept.
        latents_NCHW: clean latents of its N training images, scaled as the UNet reads them, float32 on the CPU.
        masks: for each image where the concept is, mask_IJ of the image's proportions, or None for everywhere.
        context_MTD: text context of its M prompts.
        positions: for each prompt the token positions whose attention is lowered.
        seed: of the LoRA's start, of the choice of images, prompts and timesteps, and of the noise.
        pooled_MP: pooled embedding of its prompts, which SDXL reads beside the context; None for other models.
        guidance: with which its images were generated; an LCM reads it.
        path_NSCHW: noisy latents of the images on their way; they are trained on as they are, without other noise.
        passed: the S timesteps at which they were.
        acts_at: for each prompt the token positions at which the LoRA acts; None for all.
    """

    phrase: str
    latents_NCHW: Tensor
    masks: Sequence[Tensor | None]
    context_MTD: Tensor
    positions: Sequence[Sequence[int]]
    seed: int
    pooled_MP: Tensor | None = None
    guidance: float = 1.0
    path_NSCHW: Tensor | None = None
    passed: Sequence[int] = ()
    acts_at: Sequence[Sequence[int]] | None = None

    def generator(self) -> torch.Generator:
        """Randomness that belongs to this concept alone, whatever trains beside it."""
        digest = hashlib.sha256(f"{self.seed} {self.phrase}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@dataclass(frozen=True)
class LoraDelta:
    """A trained LoRA, with its scale folded into `up_PR`.

    Attributes:
        pairs: state-dict key of the projection -> (up_PR, down_RD), float32 on the CPU.
        losses: the loss of every step.
        origin: which recipe trained it, as its digest by `erasure.origin`.
    """

    pairs: Mapping[str, tuple[Tensor, Tensor]]
    losses: tuple[float, ...]
    origin: str = ""


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """One concept's part of a forward: a noisy latent, its timestep, and a prompt; the rest as in `Subject`.

    `acts_T1` is 1 where the LoRA acts and 0 elsewhere, or None where it acts everywhere.
    """

    noisy_CHW: Tensor
    timestep: int
    context_TD: Tensor
    mask_IJ: Tensor | None
    positions: Sequence[int]
    pooled_P: Tensor | None
    guidance: float
    acts_T1: Tensor | None


def train(
    model: Model, subjects: Sequence[Subject], settings: LoraSettings, progress: Report = silent
) -> list[LoraDelta]:
    """Train one LoRA per subject, all of them in the same forwards: sample j goes through LoRA j.

    Losses, gradients and clipping are per concept, so the result is that of training them one after another. The
    UNet is the same afterwards, also after an error or when the callback cancels.

    Args:
        model: with the refined weights in place.
        subjects: the concepts; memory grows with their number.
        settings: of the recipe.
        progress: called with stage "lora" with a subject's phrase and loss, for every subject at every optimiser step:
            how many there were of `steps` x subjects.

    Returns:
        In the order of the subjects.
    """
    # A rate beyond the range of the parameters' dtype; the optimizer itself would fail on it.
    _check("The learning rate", [torch.tensor(settings.learning_rate, dtype=torch.float32)], model, settings)
    total = settings.steps * len(subjects)
    generators = [subject.generator() for subject in subjects]
    schedule = DDPMScheduler.from_config(model.pipeline.scheduler.config)  # Euler's would scale the noise by sigma
    schedules = [_timesteps(model, settings, s, g) for s, g in zip(subjects, generators, strict=True)]
    losses: list[list[float]] = [[] for _ in subjects]
    at_work = list(range(len(subjects)))
    with _wrapped(model.unet, settings, generators) as (adapters, names, acts):
        parameters = [[p for pair in adapter.values() for p in pair] for adapter in adapters]
        optimizer = torch.optim.AdamW([p for group in parameters for p in group], lr=settings.learning_rate)
        scales = [LOSS_SCALE if model.dtype == torch.float16 else 1.0 for _ in subjects]
        kept = _kept(model, schedule, subjects, schedules, generators, settings.kept_samples)
        for step in range(settings.steps):
            names[:] = [f"concept{i}" for i in at_work]
            if kept:
                samples, look = _chosen(model, kept, [(i, generators[i]) for i in at_work])
            else:
                samples = [_sample(schedule, subjects[i], schedules[i][step], generators[i]) for i in at_work]
                look = partial(_watched, model, samples, attention_hooks.of_forward)
            acts.update((name, sample.acts_T1) for name, sample in zip(names, samples, strict=True))
            values = dict(zip(at_work, _losses(model, samples, look(), settings), strict=True))
            for i, value in values.items():
                _check(f"The loss of “{subjects[i].phrase}” at step {step + 1}", [value], model, settings)
            optimizer.zero_grad()
            torch.stack([value * scales[i] for i, value in values.items()]).sum().backward()
            for i in at_work:
                before, scales[i] = scales[i], clip(parameters[i], scales[i])
                over = [torch.tensor(torch.nan if scales[i] < min(before, 1) else 0.0)]
                _check(f"The gradient of “{subjects[i].phrase}” at step {step + 1}", over, model, settings)
            optimizer.step()
            for i, value in values.items():
                losses[i].append(value.item())
                progress(Progress("lora", subjects[i].phrase, step * len(subjects) + i + 1, total, loss=value.item()))
            at_work = [i for i in at_work if not _flat(losses[i], settings.flat)]
            if not at_work:
                break
        deltas = [_delta(a, settings, tuple(curve)) for a, curve in zip(adapters, losses, strict=True)]
    for subject, delta in zip(subjects, deltas, strict=True):
        tensors = [tensor for pair in delta.pairs.values() for tensor in pair]
        _check(f"The LoRA of “{subject.phrase}”", tensors, model, settings)
    return deltas


def _flat(losses: Sequence[float], share: float) -> bool:
    """Whether a loss has fallen by less than a share of itself from one window to the next; never for a share of 0."""
    if not share or len(losses) < 2 * WINDOW:
        return False
    before, now = sum(losses[-2 * WINDOW : -WINDOW]), sum(losses[-WINDOW:])
    return before - now < share * before


def _check(what: str, tensors: Iterable[Tensor], model: Model, settings: LoraSettings) -> None:
    """Raise a NotFinite unless all numbers are finite; the sentence names the rate and the dtype."""
    if all(bool(tensor.isfinite().all()) for tensor in tensors):
        return
    dtype = str(model.dtype).removeprefix("torch.")
    raise NotFinite(
        f"{what} is no finite number any more, with a learning rate of {settings.learning_rate:g} and an alpha of "
        f"{settings.alpha:g} in {dtype}. Use a smaller rate or alpha{'' if dtype == 'float32' else ', or float32'}."
    )


def clip(group: Sequence[nn.Parameter], scale: float) -> float:
    """Divide the gradients of one concept by the scale of its loss, and clip their norm to `CLIP_NORM`.

    Args:
        group: parameters of its LoRA, whose gradients are changed in place; those without a gradient do not count.
        scale: by which the loss was multiplied; positive.

    Returns:
        The scale of the next step. Where gradients overflowed it is half, and they are dropped, so that the step leaves
        the concept as it is: the loss scaling of Micikevicius et al., "Mixed Precision Training", ICLR 2018.
        If it is below 1 then, no smaller loss helps.
    """
    gradients = [p.grad for p in group if p.grad is not None]
    torch._foreach_div_(gradients, scale)
    if nn.utils.clip_grad_norm_(group, CLIP_NORM).isfinite():
        return scale
    for parameter in group:
        parameter.grad = None
    return scale / 2


def _timesteps(model: Model, settings: LoraSettings, subject: Subject, generator: torch.Generator) -> list[int]:
    count = model.pipeline.scheduler.config.num_train_timesteps
    weights = (
        torch.ones(count).double()
        if settings.uniform
        else timesteps.density(count, settings.t1, settings.t2, settings.gamma)
    )
    if subject.path_NSCHW is not None:  # only those at which there are latents
        there = torch.zeros(count, dtype=torch.bool).index_fill_(0, torch.tensor(subject.passed), True)
        weights = weights * there
    return timesteps.sample(weights, settings.kept_samples or settings.steps, generator).tolist()


def _sample(schedule: DDPMScheduler, subject: Subject, timestep: int, generator: torch.Generator) -> _Sample:
    image = int(torch.randint(len(subject.latents_NCHW), (), generator=generator))
    prompt = int(torch.randint(len(subject.context_MTD), (), generator=generator))
    if subject.path_NSCHW is not None:
        noisy_CHW = subject.path_NSCHW[image, list(subject.passed).index(timestep)]
    else:
        latent_CHW = subject.latents_NCHW[image]
        noise_CHW = torch.randn(latent_CHW.shape, generator=generator)
        noisy_CHW = schedule.add_noise(latent_CHW[None], noise_CHW[None], torch.tensor([timestep]))[0]
    pooled_P = None if subject.pooled_MP is None else subject.pooled_MP[prompt]
    acts_T1 = None
    if subject.acts_at is not None:
        acts_T1 = torch.zeros(subject.context_MTD.shape[1], 1).index_fill_(0, torch.tensor(subject.acts_at[prompt]), 1)
    return _Sample(
        noisy_CHW=noisy_CHW,
        timestep=timestep,
        context_TD=subject.context_MTD[prompt],
        mask_IJ=subject.masks[image],
        positions=subject.positions[prompt],
        pooled_P=pooled_P,
        guidance=subject.guidance,
        acts_T1=acts_T1,
    )


Read = dict[str, tuple[Tensor, Tensor]]  # of `attention_hooks.read_by`


def _kept(
    model: Model,
    schedule: DDPMScheduler,
    subjects: Sequence[Subject],
    schedules: Sequence[Sequence[int]],
    generators: Sequence[torch.Generator],
    count: int,
) -> list[list[tuple[_Sample, Read]]]:
    """For each subject `count` samples with what cross-attention reads in them, by LoRAs that change nothing yet."""
    kept: list[list[tuple[_Sample, Read]]] = [[] for _ in subjects] if count else []
    for number in range(count):
        parts = zip(subjects, schedules, generators, strict=True)
        samples = [_sample(schedule, subject, own[number], generator) for subject, own, generator in parts]
        with torch.no_grad():
            read = _watched(model, samples, attention_hooks.read_by)
        for i, sample in enumerate(samples):  # cloned, since a view of one would keep the whole batch
            own = {name: (query_BQC[i].clone(), context[i].clone()) for name, (query_BQC, context) in read.items()}
            kept[i].append((sample, own))
    return kept


def _chosen(
    model: Model, kept: Sequence[Sequence[tuple[_Sample, Read]]], at_work: Sequence[tuple[int, torch.Generator]]
) -> tuple[list[_Sample], Callable[[], list[Tensor]]]:
    """One kept sample of each subject at work, and what gives all their attention as it is at the time."""
    drawn = [kept[i][int(torch.randint(len(kept[i]), (), generator=generator))] for i, generator in at_work]
    read = {
        name: (torch.stack([own[name][0] for _, own in drawn]), torch.stack([own[name][1] for _, own in drawn]))
        for name in drawn[0][1]
    }

    def look() -> list[Tensor]:
        with _autocast(model):
            return attention_hooks.anew(model.unet, read)

    return [sample for sample, _ in drawn], look


def _autocast(model: Model) -> torch.autocast:
    return torch.autocast(model.device.type, model.dtype, enabled=model.dtype != torch.float32)


Result = TypeVar("Result")


def _watched(
    model: Model, samples: Sequence[_Sample], watch: Callable[[nn.Module, Callable[[], object]], Result]
) -> Result:
    """What `watch` sees in one conditional forward of all samples, which ends with the last cross-attention layer."""
    noisy_BCHW = torch.stack([s.noisy_CHW for s in samples]).to(model.device, model.dtype)
    timestep_B = torch.tensor([s.timestep for s in samples], device=model.device)
    context_BTD = torch.stack([s.context_TD for s in samples]).to(model.device, model.dtype)
    pooled = [s.pooled_P for s in samples if s.pooled_P is not None]
    guidance_B = torch.tensor([s.guidance for s in samples])
    others = conditions.of(model, noisy_BCHW, torch.stack(pooled) if pooled else None, guidance_B)
    with _autocast(model):
        return watch(model.unet, lambda: model.unet(noisy_BCHW, timestep_B, context_BTD, **others))


def _losses(model: Model, samples: Sequence[_Sample], layers: Sequence[Tensor], settings: LoraSettings) -> list[Tensor]:
    """The attention loss of each sample, from the probabilities of all of them in every layer."""
    return [
        attention.masked_loss(
            [layer_BHQT[i] for layer_BHQT in layers],
            None if s.mask_IJ is None else s.mask_IJ.to(model.device),
            s.positions,
            settings.squared,
        )
        for i, s in enumerate(samples)
    ]


Adapter = dict[str, tuple[nn.Parameter, nn.Parameter]]  # state-dict key -> (up_PR, down_RD)


@contextmanager
def _wrapped(
    unet: nn.Module, settings: LoraSettings, generators: Sequence[torch.Generator]
) -> Iterator[tuple[list[Adapter], list[str], dict[str, Tensor | None]]]:
    """The UNet with one LoRA per generator on its projections; sample j of a batch goes through LoRA names[j].

    Yields:
        The LoRAs "concept0", "concept1", ...; the names, which may be changed: one for each sample of a batch; and for
        each LoRA, to be set too, 1 at the positions of the context where it acts and 0 elsewhere, (T, 1), or None.
    """
    targets = projections.names(unet, settings.tune)
    # peft declares a whole number, and divides it by the rank.
    alpha: Any = settings.alpha
    config = LoraConfig(r=settings.rank, lora_alpha=alpha, target_modules=targets)
    names = [f"concept{j}" for j in range(len(generators))]
    with torch.random.fork_rng(devices=[]):  # peft samples a start from the global generator; it is replaced below
        wrapped = get_peft_model(unet, config, names[0])
        for name in names[1:]:
            wrapped.add_adapter(name, config)
    used, acts = list(names), dict[str, Tensor | None].fromkeys(names)
    layers: dict[str, Any] = {name + projections.WEIGHT: unet.get_submodule(name) for name in targets}
    try:
        with each_its_own(layers.values(), used):
            for layer, name in product(layers.values(), names):
                layer.lora_A[name].register_forward_pre_hook(partial(_act, acts, name))  # unload drops it
            adapters = [_start(layers, name, settings.rank, g) for name, g in zip(names, generators, strict=True)]
            yield adapters, used, acts
    finally:
        wrapped.unload()


def _act(acts: Mapping[str, Tensor | None], name: str, _: nn.Module, args: tuple[Tensor]) -> Tensor | None:
    """What a LoRA reads in place of a context: nothing of it where it does not act; None leaves it as it is."""
    acts_T1 = acts[name]
    return None if acts_T1 is None else args[0] * acts_T1.to(args[0])


@contextmanager
def each_its_own(layers: Iterable[nn.Module], names: Sequence[str]) -> Iterator[None]:
    """Inside the `with` block sample j of a batch goes through the LoRA called `names[j]`, and through no other.

    The forward of peft's layers takes the names of a mixed batch, and gradients flow through it; only the wrapped
    model, which would pass them on, refuses them while it trains. So they are given to the layers themselves.

    Args:
        layers: of one model, each with all of the LoRAs.
        names: one for each sample of every batch inside the block.
    """

    def with_names(layer: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return args, kwargs | {"adapter_names": list(names)}

    handles = [layer.register_forward_pre_hook(with_names, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _start(layers: Mapping[str, Any], name: str, rank: int, generator: torch.Generator) -> Adapter:
    """The parameters of one LoRA at their start: down normal, up zero; trainable, float32.

    The standard deviation of down is 1 / rank, as in the published runs, to which the learning rates of Table 9 belong.
    A uniform start within 1 / sqrt(D), which is peft's, is sqrt(3 D) times smaller at rank 1 and hardly moves.
    """
    adapter: Adapter = {}
    for key, layer in layers.items():
        down_RD, up_PR = layer.lora_A[name].weight, layer.lora_B[name].weight
        start_RD = torch.randn(down_RD.shape, generator=generator) / rank
        with torch.no_grad():
            down_RD.copy_(start_RD)
            up_PR.zero_()
        adapter[key] = (up_PR.requires_grad_(), down_RD.requires_grad_())
    return adapter


def _delta(adapter: Adapter, settings: LoraSettings, losses: tuple[float, ...]) -> LoraDelta:
    scale = settings.alpha / settings.rank
    pairs = {
        key: (up_PR.detach().float().cpu() * scale, down_RD.detach().float().cpu().clone())
        for key, (up_PR, down_RD) in adapter.items()
    }
    return LoraDelta(pairs, losses)
