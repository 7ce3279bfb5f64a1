"""What the methods that train share: float32 copies of weights, predictions with them, noise, images and the steps.

The UNet's own parameters are never touched: a forward reads the copies in their place (`torch.func.functional_call`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mace_studio.errors import ModelError, NotFinite
from mace_studio.progress import Progress, Report, silent, within
from mace_studio.sd import conditions, finite, lora, sampling, text
from mace_studio.sd.model import Model
from mace_studio.sd.sampling import TrainingImage
from mace_studio.settings import ImageSettings

Masters = dict[str, Tensor]  # name of a parameter of the UNet -> its copy in float32, which trains
PREDICTIONS = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class Prompts:
    """What the UNet reads of N sentences.

    Attributes:
        context_NTD: their contexts.
        pooled_NP: what SDXL reads beside them; None for other models.
    """

    context_NTD: Tensor
    pooled_NP: Tensor | None = None

    @staticmethod
    def of(model: Model, sentences: Sequence[str], progress: Report = silent) -> Prompts:
        """Sentences as the model's text encoders read them.

        Args:
            model: its text encoders read them.
            sentences: N of them.
            progress: as in `text.encode`.
        """
        return Prompts(*text.encode(model, sentences, progress))

    def rows(self, numbers: Sequence[int]) -> Prompts:
        """Some of the sentences, in this order; one may come several times.

        Args:
            numbers: indices from 0 of the B sentences to take.
        """
        pooled_BP = None if self.pooled_NP is None else self.pooled_NP[list(numbers)]
        return Prompts(self.context_NTD[list(numbers)], pooled_BP)


@dataclass(frozen=True, kw_only=True)
class Noised:
    """Latents with noise, each at its own timestep.

    Attributes:
        noisy_BCHW: x_t.
        timestep_B: t.
        target_BCHW: what a perfect model predicts there: the noise, or the velocity.
    """

    noisy_BCHW: Tensor
    timestep_B: Tensor
    target_BCHW: Tensor


def masters(model: Model, names: Iterable[str]) -> Masters:
    """Copies of some parameters of the UNet in float32 on the model's device, with gradients.

    Args:
        model: its UNet; left alone.
        names: of parameters, as in `unet.named_parameters()`.
    """
    own = dict(model.unet.named_parameters())
    return {n: own[n].detach().to(model.device, torch.float32, copy=True).requires_grad_() for n in names}


def predict(
    model: Model,
    noisy_BCHW: Tensor,
    timestep: int | Tensor,
    prompts: Prompts,
    *,
    guidance: float = 1.0,
    copies: Masters | None = None,
) -> Tensor:
    """One forward: e(x_t, c) of B latents under B sentences, in the model's dtype.

    Args:
        model: whose UNet predicts.
        noisy_BCHW: x_t.
        timestep: t, one for all or one for each.
        prompts: B of them.
        guidance: which an LCM reads; no other model does.
        copies: weights that take the place of the UNet's own; None for the frozen model.
    """
    dtype = model.dtype  # it is looked up among all parameters
    noisy_BCHW = noisy_BCHW.to(model.device, dtype)
    timestep_B = torch.as_tensor(timestep, device=model.device).expand(len(noisy_BCHW))
    scale_B = torch.full((len(noisy_BCHW),), float(guidance))
    more = conditions.of(model, noisy_BCHW, prompts.pooled_NP, scale_B) | {"return_dict": False}
    arguments = (noisy_BCHW, timestep_B, prompts.context_NTD.to(model.device, dtype))
    with torch.autocast(model.device.type, enabled=False):
        if copies is None:
            return model.unet(*arguments, **more)[0]
        cast = {name: master.to(dtype) for name, master in copies.items()}
        return torch.func.functional_call(model.unet, cast, arguments, more)[0]


def prediction(model: Model) -> str:
    """What the model predicts: "epsilon" or "v_prediction".

    Args:
        model: its scheduler's configuration is read.

    Raises:
        ModelError: something else.
    """
    kind = model.pipeline.scheduler.config.prediction_type
    if kind not in PREDICTIONS:
        raise ModelError(f"{model.name} predicts “{kind}”, on which this method cannot be trained; use MACE.")
    return kind


def noised(
    model: Model, clean_BCHW: Tensor, generator: torch.Generator, timesteps: Sequence[int] | None = None
) -> Noised:
    """x_t = sqrt(abar_t) z + sqrt(1 - abar_t) eps with fresh noise, in float32 on the CPU.

    Args:
        model: whose noise schedule counts.
        clean_BCHW: z.
        generator: of timesteps and noise.
        timesteps: one for each latent; None draws them, all of the model's training alike.
    """
    schedule = model.pipeline.scheduler
    if timesteps is None:
        timesteps = torch.randint(schedule.config.num_train_timesteps, (len(clean_BCHW),), generator=generator).tolist()
    abar_B111 = schedule.alphas_cumprod.cpu().double()[list(timesteps)][:, None, None, None]
    signal_B111, scale_B111 = abar_B111.sqrt().float(), (1 - abar_B111).sqrt().float()
    noise_BCHW = torch.randn(clean_BCHW.shape, generator=generator)
    # v = sqrt(abar_t) eps - sqrt(1 - abar_t) z, where the model predicts that in place of eps.
    velocity = prediction(model) == "v_prediction"
    return Noised(
        noisy_BCHW=signal_B111 * clean_BCHW + scale_B111 * noise_BCHW,
        timestep_B=torch.tensor(timesteps),
        target_BCHW=signal_B111 * noise_BCHW - scale_B111 * clean_BCHW if velocity else noise_BCHW,
    )


def one_of(count: int, generator: torch.Generator) -> int:
    """A number of 0 .. count - 1, all alike.

    Args:
        count: at least 1.
        generator: on the CPU; it moves on by one number.
    """
    return int(torch.randint(count, (), generator=generator))


def images(
    model: Model,
    wanted: Sequence[TrainingImage],
    settings: ImageSettings,
    cache: Path | None,
    warnings: list[str],
    progress: Report,
) -> Tensor:
    """Clean latents of the images that a method trains on, latents_NCHW, float32 on the CPU.

    Args:
        model: the unchanged model.
        wanted: the images.
        settings: steps and guidance; a distilled model takes those that it is made for, which is said in `warnings`.
        cache: folder of images that were generated before, or None.
        warnings: what the user should know is added to it.
        progress: called with stage "images".
    """
    possible = sampling.with_defaults(model, settings)
    if possible != settings:
        warnings.append(
            f"{model.name} is made for few steps, so its training images took {possible.steps} steps with a guidance "
            f"of {possible.guidance:g}."
        )
    found = sampling.training_images(model, wanted, possible, cache, within(progress, "images"))
    return torch.stack([image.latent_CHW for image in found])


def train(
    model: Model,
    optimizer: torch.optim.Optimizer,
    steps: int,
    losses: Callable[[], tuple[str, Iterable[Tensor]]],
    progress: Report,
    clip: float = 0.0,
) -> dict[str, list[float]]:
    """Take optimiser steps; a step adds up the gradients of the parts of its loss.

    In float16 the loss is scaled, and a step whose gradients overflow is left out and the scale halved.

    Args:
        model: its dtype counts.
        optimizer: of what trains.
        steps: how many; with 0 nothing changes.
        losses: called once a step -> the phrase at work and the parts of the loss, each of which is differentiated
            before the next one is asked for.
        progress: called at every step with stage "train", the phrase and the loss; to cancel, it raises.
        clip: largest norm of the gradients of all parameters; 0 for no limit.

    Returns:
        Phrase -> the loss of each step in which it was at work.

    Raises:
        NotFinite: a loss or a gradient is no finite number.
    """
    seen: dict[str, list[float]] = {}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    scale = loss_scale(model)
    for step in range(steps):
        optimizer.zero_grad()
        phrase, parts = losses()
        total = 0.0
        for part in parts:
            total += part.item()
            if not torch.isfinite(part):
                rate = optimizer.param_groups[0]["lr"]
                raise NotFinite(
                    f"The loss of “{phrase}” at step {step + 1}, with a learning rate of {rate:g}, "
                    f"{finite.is_not_finite(model.dtype)}"
                )
            # Differentiated at once, so that the activations of one part alone are held.
            (part * scale).backward()
        gradients = [p.grad for p in parameters if p.grad is not None]
        # Back to the true gradients, so that the clip norm means the same in every dtype.
        torch._foreach_div_(gradients, scale)
        norm = nn.utils.clip_grad_norm_(parameters, clip or torch.inf)
        if norm.isfinite():
            optimizer.step()
        else:
            scale /= 2
            if scale < 1:  # no smaller loss would help: no step would change anything
                raise NotFinite(f"The gradient of “{phrase}” at step {step + 1} {finite.is_not_finite(model.dtype)}")
        seen.setdefault(phrase, []).append(total)
        progress(Progress("train", phrase, step + 1, steps, loss=total))
    return seen


def loss_scale(model: Model) -> float:
    """By what a loss is multiplied before it is differentiated in the model's dtype.

    Args:
        model: its dtype decides.
    """
    return lora.LOSS_SCALE if model.dtype == torch.float16 else 1.0


@contextmanager
def hooked(modules: Iterable[nn.Module], hook: Callable[..., Tensor]) -> Iterator[None]:
    """Inside the `with` block a forward hook acts on some modules.

    Args:
        modules: get the hook each.
        hook: (module, inputs, output) -> the output that takes its place, of the same shape.
    """
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
