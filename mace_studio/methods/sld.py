"""SLD, safe latent diffusion: guidance away from a text while sampling (arXiv 2211.05105)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Defaults are the published configuration Medium; `PRESETS` has all four.

    Attributes:
        warmup: delta, steps before the safety guidance acts; counted from 0, not the timestep's number.
        safety_scale: s_S; below 1 switches the method off.
        threshold: lambda, up to which e_p - e_S is guided.
        momentum_scale: s_m. momentum_beta: b_m.
        guidance: s_g of the classifier-free guidance.
    """

    warmup: int = 10
    safety_scale: float = 1000.0
    threshold: float = 0.01
    momentum_scale: float = 0.3
    momentum_beta: float = 0.4
    guidance: float = 7.5


PRESETS = {
    "weak": Settings(warmup=15, safety_scale=200, threshold=0.0, momentum_scale=0.0, momentum_beta=0.0),
    "medium": Settings(),
    "strong": Settings(warmup=7, safety_scale=2000, threshold=0.025, momentum_scale=0.5, momentum_beta=0.7),
    "max": Settings(warmup=0, safety_scale=5000, threshold=1.0, momentum_scale=0.5, momentum_beta=0.7),
}


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
    settings: Settings | None = None,
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

    Source: arXiv 2211.05105; element by element.
    """
    settings = settings or Settings()
    wide = torch.promote_types(null_BCHW.dtype, torch.float32)
    null, prompt, safety = null_BCHW.to(wide), prompt_BCHW.to(wide), safety_BCHW.to(wide)
    momentum = torch.zeros_like(null) if momentum_BCHW is None else momentum_BCHW.to(wide)
    steer = prompt - null
    if settings.safety_scale >= 1:
        difference = prompt - safety
        strength = (settings.safety_scale * difference.abs()).clamp(max=1)
        scale = torch.where(difference >= settings.threshold, 0, strength)
        safe = scale * (safety - null) + settings.momentum_scale * momentum
        momentum = settings.momentum_beta * momentum + (1 - settings.momentum_beta) * safe
        if step >= settings.warmup:
            steer = steer - safe
    return Guided((null + settings.guidance * steer).to(null_BCHW), momentum)
