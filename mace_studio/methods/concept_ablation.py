"""AC, concept ablation: the concept's prompt learns to predict what the anchor's predicts (arXiv 2303.13516)."""

from __future__ import annotations

import torch
from torch import Tensor

from mace_studio.core.diffusion import squared_error

FORMS = ("compvis", "diffusers")


def loss(
    concept_BCHW: Tensor,
    anchor_BCHW: Tensor,
    mask_B1HW: Tensor | None = None,
    *,
    noise_BCHW: Tensor | None = None,
    prior_weight: float = 0.0,
    form: str = "compvis",
) -> Tensor:
    """mean_b [ sum_{channel, pixel} m d^2 / sum_pixel m ] + lambda_r R, with d = U(x_t, c*) - sg[ U(x_t, a) ].

    The mask has one channel, so without it the first term is C times the mean over all elements.

    Args:
        concept_BCHW: U(x_t, c*), the trained model's prediction with the concept in the anchor's place.
        anchor_BCHW: U(x_t, a), the same model's prediction for the anchor's sentence; no gradient goes through it but
            in R. For the noise-based variant give the noise.
        mask_B1HW: m, 1 where an image counts; None for everywhere. The diffusers code leaves out a border of one.
        noise_BCHW: eps that made x_t, for R; needed where `prior_weight` is not 0.
        prior_weight: lambda_r.
        form: R = the same sum over channels and mean over pixels of U(x_t, a) - eps ("compvis"), or the mean over all
            elements ("diffusers").

    Raises:
        ValueError: another form, or a prior weight without noise.

    Source: arXiv 2303.13516, and the normalisation of the authors' two codes.
    """
    if form not in FORMS:
        raise ValueError(f"form is {form!r}; it must be one of {', '.join(FORMS)}")
    wide = torch.promote_types(concept_BCHW.dtype, torch.float32)
    concept_BCHW, anchor_BCHW = concept_BCHW.to(wide), anchor_BCHW.to(wide)
    total = squared_error(concept_BCHW - anchor_BCHW.detach(), mask_B1HW)
    if not prior_weight:
        return total
    if noise_BCHW is None:
        raise ValueError("the regulariser compares the anchor's prediction with the noise; give noise_BCHW")
    rest_BCHW = anchor_BCHW - noise_BCHW.to(wide)
    return total + prior_weight * (squared_error(rest_BCHW) if form == "compvis" else rest_BCHW.square().mean())


def cut_start(projected_BTP: Tensor) -> Tensor:
    """Keys or values through which no gradient of the start token goes; AC trains with that."""
    return torch.cat([projected_BTP[:, :1].detach(), projected_BTP[:, 1:]], dim=1)
