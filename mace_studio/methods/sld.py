"""SLD, safe latent diffusion: guidance away from a text while sampling (arXiv 2211.05105)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mace_studio import sources
from mace_studio.core.diffusion import same_shape
from mace_studio.erasure import Erasure
from mace_studio.methods import inputs
from mace_studio.methods.settings import SldSettings
from mace_studio.progress import Report, silent
from mace_studio.recipe import Recipe
from mace_studio.sd import attention_hooks, text
from mace_studio.sd.model import Model

log = logging.getLogger(__name__)

UNGUIDED = "SLD acts on the guidance, and an image without guidance (a scale of 1) has none: it is as without SLD."


class Guided(NamedTuple):
    """One guided step: the noise to take out, and the momentum nu for the next step."""

    noise_BCHW: Tensor
    momentum_BCHW: Tensor


def guidance(
    null_BCHW: Tensor,
    prompt_BCHW: Tensor,
    safety_BCHW: Tensor,
    momentum_BCHW: Tensor | None = None,
    step: int = 0,
    settings: SldSettings | None = None,
) -> Guided:
    """e_n + s_g [(e_p - e_n) - g 1(step >= delta)], g = mu (e_S - e_n) + s_m nu, nu' = b_m nu + (1 - b_m) g.

    mu is min(1, s_S |e_p - e_S|) where e_p - e_S < lambda and 0 elsewhere. nu changes during the warm-up too.

    Args:
        null_BCHW, prompt_BCHW, safety_BCHW: e_n, e_p, e_S: predictions for "", the prompt and the safety text.
        momentum_BCHW: nu of the step before; None, nu = 0, at the first.
        step: index of the denoising step from 0.
        settings: None takes Medium.

    Returns:
        The guided prediction in the dtype of `null_BCHW`, and nu' in float32 at least.

    Raises:
        ValueError: the shapes differ.

    Source: arXiv 2211.05105; element by element.
    """
    same_shape(null_BCHW=null_BCHW, prompt_BCHW=prompt_BCHW, safety_BCHW=safety_BCHW)
    settings = settings or SldSettings()
    wide = torch.promote_types(null_BCHW.dtype, torch.float32)
    null, prompt, safety = null_BCHW.to(wide), prompt_BCHW.to(wide), safety_BCHW.to(wide)
    momentum = torch.zeros_like(null) if momentum_BCHW is None else momentum_BCHW.to(wide)
    same_shape(null_BCHW=null, momentum_BCHW=momentum)
    steer = prompt - null
    # As in the authors' code, where a scale below 1 switches it off.
    if settings.safety_scale >= 1:
        difference = prompt - safety
        strength = (settings.safety_scale * difference.abs()).clamp(max=1)
        # Equal predictions have no strength; an infinite s_S times 0 would be no number.
        scale = torch.where((difference >= settings.threshold) | (difference == 0), 0, strength)
        safe = scale * (safety - null) + settings.momentum_scale * momentum
        momentum = settings.momentum_beta * momentum + (1 - settings.momentum_beta) * safe
        # nu has been summed during the warm-up; only its use begins here.
        if step >= settings.warmup:
            steer = steer - safe
    return Guided((null + settings.guidance * steer).to(null_BCHW), momentum)


def erase(model: Model, recipe: Recipe, progress: Report = silent, cache: Path | None = None) -> Erasure:
    """An Erasure without weights, whose `applied` guides away from the recipe's concepts while images are generated.

    Args:
        model: from `sd.model.load`.
        recipe: its concepts are read.
        progress: told of stage "refine" once.
        cache: not needed: nothing is computed.

    Raises:
        StudioError: with a sentence for the user.
    """
    warnings = [UNGUIDED] if model.distilled else []
    if rest := text.unread(model, _safety_text(recipe)):
        warnings.append(
            "The names of the concepts are one text here, which is longer than this model reads. Nothing is guided "
            f"away from “{sources.shown(rest)}”; erase fewer concepts, or with another method."
        )
    return inputs.without_weights(model, recipe, progress, warnings)


@dataclass
class _Run:
    """Where the run of an image is.

    Attributes:
        timestep: of the step before; None before the first.
        step: index of the next one.
        momentum_BCHW: nu for it.
    """

    timestep: float | None = None
    step: int = 0
    momentum_BCHW: Tensor | None = None

    def begin(self, timestep: float, first: float) -> None:
        """Take in the timestep of a step. One above the one before begins another run, and so does the first twice.

        Another may come twice within a run: PNDM's second does.
        """
        if self.timestep is None or timestep > self.timestep or timestep == self.timestep == first:
            self.step, self.momentum_BCHW = 0, None
        self.timestep = timestep


@contextmanager
def guide(model: Model, recipe: Recipe) -> Iterator[None]:
    """Inside the `with` block images are guided away from the names of the recipe's concepts, joined with ", ".

    After each forward of the UNet a second one predicts for the safety text. The prompt's prediction e_p becomes
    e_n + (result of `guidance` - e_n) / s with the pipeline's guidance s, so that its own sum e_n + s (e_p - e_n) is
    that result.

    Args:
        model: bit for bit the same afterwards.
        recipe: concepts and settings.
    """
    pipeline, unet, settings = model.pipeline, model.unet, recipe.settings
    context_1TD, pooled_1P = text.encode(model, [_safety_text(recipe)])
    run, warned = _Run(), False

    @torch.no_grad()
    def after(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: tuple) -> tuple | None:
        nonlocal warned
        if not getattr(pipeline, "do_classifier_free_guidance", False):
            if not warned:
                log.warning(UNGUIDED)
            warned = True
            return None
        noisy_BCHW, timestep = args[0].chunk(2)[1], args[1]
        null_BCHW, prompt_BCHW = output[0].chunk(2)
        run.begin(float(timestep), float(pipeline.scheduler.timesteps[0]))
        other = _of_safety_text(kwargs, context_1TD, pooled_1P, len(noisy_BCHW))
        with attention_hooks.aside(unet):  # `forward` itself, so that this hook does not act on it again
            safety_BCHW = unet.forward(noisy_BCHW, timestep, **other)[0]
        guided = guidance(null_BCHW, prompt_BCHW, safety_BCHW, run.momentum_BCHW, run.step, settings)
        run.step, run.momentum_BCHW = run.step + 1, guided.momentum_BCHW
        # In float64: the pipeline multiplies by the scale again, and in half precision the rounding with it.
        moved_BCHW = (guided.noise_BCHW.double() - null_BCHW.double()) / pipeline.guidance_scale
        return (torch.cat([null_BCHW, (null_BCHW.double() + moved_BCHW).to(null_BCHW)]),)

    handle = unet.register_forward_hook(after, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _safety_text(recipe: Recipe) -> str:
    return ", ".join(inputs.phrases(recipe))


def _of_safety_text(
    kwargs: dict[str, Any], context_1TD: Tensor, pooled_1P: Tensor | None, count: int
) -> dict[str, Any]:
    """The arguments of a guided forward, for the safety text alone."""
    other = kwargs | {attention_hooks.CONTEXT: context_1TD.expand(count, -1, -1)}
    if pooled_1P is not None:
        sizes_B6 = kwargs["added_cond_kwargs"]["time_ids"].chunk(2)[1]
        other["added_cond_kwargs"] = {"text_embeds": pooled_1P.expand(count, -1), "time_ids": sizes_B6}
    return other
