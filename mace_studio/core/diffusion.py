"""The arithmetic of diffusion that several methods share: deterministic DDIM steps and the masked squared error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor


def ddim(
    predict: Callable[[Tensor, int], Tensor],
    start_BCHW: Tensor,
    levels: Sequence[int],
    abar_S: Tensor,
    prediction: str = "epsilon",
) -> Tensor:
    """Denoise from the first of `levels` to the last, one prediction for every step, without added noise.

    Args:
        predict: (x_BCHW, timestep) -> what the model predicts; guidance is its own affair.
        start_BCHW: x at level `levels[0]`.
        levels: timesteps to pass through, noisiest first; one alone gives `start_BCHW` back.
        abar_S: cumulated product of the alphas for every training timestep.
        prediction: "epsilon" or "v_prediction", what `predict` returns.

    Returns:
        x at level `levels[-1]`, in the dtype of `start_BCHW`.

    Raises:
        ValueError: another `prediction`.

    Source: Song et al., "Denoising Diffusion Implicit Models", arXiv 2010.02502, Eq. 12 with sigma = 0; the velocity
        of Salimans and Ho, "Progressive Distillation", arXiv 2202.00512.
    """
    if prediction not in ("epsilon", "v_prediction"):
        raise ValueError(f"prediction is {prediction!r}; it must be 'epsilon' or 'v_prediction'")
    x_BCHW = start_BCHW
    for now, after in pairwise(levels):
        signal, noise = abar_S[now].double().sqrt().item(), (1 - abar_S[now].double()).sqrt().item()
        predicted_BCHW = predict(x_BCHW, now)
        if prediction == "epsilon":
            eps_BCHW = predicted_BCHW
            clean_BCHW = (x_BCHW - noise * eps_BCHW) / signal
        else:
            # v = signal eps - noise x_0 and x = signal x_0 + noise eps: both parts come from a rotation of (x, v).
            eps_BCHW = signal * predicted_BCHW + noise * x_BCHW
            clean_BCHW = signal * x_BCHW - noise * predicted_BCHW
        abar = abar_S[after].double()
        x_BCHW = abar.sqrt().item() * clean_BCHW + (1 - abar).sqrt().item() * eps_BCHW
    return x_BCHW.to(start_BCHW)


def same_shape(**tensors: Tensor) -> None:
    """Refuse tensors that would be stretched to each other's shapes.

    Args:
        tensors: by the names that the message gives.

    Raises:
        ValueError: two of them differ in shape.
    """
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"shapes must be the same; these are {shapes}")


def squared_error(difference_BCHW: Tensor, mask_B1HW: Tensor | None = None) -> Tensor:
    """mean_b [ sum_{channel, pixel} m d^2 / sum_pixel m ]: summed over channels, averaged over the masked pixels.

    With C channels and no mask it is C times the mean over all elements.

    Args:
        difference_BCHW: d, what is squared.
        mask_B1HW: m, 0 or more, one channel, for each sample or (1, 1, H, W) for all; None for 1 everywhere. A sample
            whose mask is 0 everywhere adds 0.

    Returns:
        A scalar that can be differentiated.

    Raises:
        ValueError: a mask of another shape.

    Source: the loss of concept ablation (arXiv 2303.13516) as it is normalised there.
    """
    if mask_B1HW is None:
        mask_B1HW = torch.ones_like(difference_BCHW[:, :1])
    batch, _, *pixels = difference_BCHW.shape
    if tuple(mask_B1HW.shape) not in ((batch, 1, *pixels), (1, 1, *pixels)):
        shapes = tuple(mask_B1HW.shape), tuple(difference_BCHW.shape)
        raise ValueError(f"the mask has shape {shapes[0]}; for {shapes[1]} it must be {(batch, 1, *pixels)}")
    mask_B1HW = mask_B1HW.to(difference_BCHW)
    weight_B = mask_B1HW.sum(dim=(1, 2, 3)).clamp(min=torch.finfo(mask_B1HW.dtype).tiny)
    return ((mask_B1HW * difference_BCHW.square()).sum(dim=(1, 2, 3)) / weight_B).mean()
