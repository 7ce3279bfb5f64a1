"""SLD, safe latent diffusion: guidance away from a text while sampling (arXiv 2211.05105)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mace_studio.methods.settings import SldSettings


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

    Source: arXiv 2211.05105; element by element.
    """
    settings = settings or SldSettings()
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
