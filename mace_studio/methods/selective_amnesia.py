"""SA, selective amnesia: learn a surrogate, and hold what other concepts need by elastic weights (arXiv 2305.10120)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import functional


def loss(
    forget_BCHW: Tensor,
    forget_noise_BCHW: Tensor,
    replay_BCHW: Tensor,
    replay_noise_BCHW: Tensor,
    parameters: Mapping[str, Tensor],
    start: Mapping[str, Tensor],
    fisher: Mapping[str, Tensor],
    *,
    replay_weight: float = 1.0,
    fisher_weight: float = 50.0,
) -> Tensor:
    """mean (eps - U(x_t, c_f))^2 + gamma mean (eps - U(x_t, c_r))^2 + lambda sum_i F_i (theta_i - theta*_i)^2.

    Args:
        forget_BCHW, forget_noise_BCHW: prediction for a noised surrogate under the concept's prompt, and its noise.
        replay_BCHW, replay_noise_BCHW: the same for a replayed image under its own sentence.
        parameters: name -> theta, with gradients.
        start: name -> theta*, before training.
        fisher: name -> F; its names are those that are summed.
        replay_weight, fisher_weight: gamma and lambda.

    Source: arXiv 2305.10120, with the code's lambda (the paper has lambda / 2).
    """
    penalty = sum((f * (parameters[name] - start[name]).square()).sum() for name, f in fisher.items())
    return (
        functional.mse_loss(forget_BCHW, forget_noise_BCHW)
        + replay_weight * functional.mse_loss(replay_BCHW, replay_noise_BCHW)
        + fisher_weight * penalty
    )


def fisher(samples: Iterable[Iterable[Tensor]], parameters: Mapping[str, Tensor], stride: int = 1) -> dict[str, Tensor]:
    """F_i = (1/N) sum_n ( sum_t d/dtheta_i mean (eps - U(x_t, c_n))^2 )^2: gradients are summed, then squared.

    Args:
        samples: for each replayed image its losses, scalars; each may hold one timestep or the sum over several. They
            are read one at a time, so a generator needs no more memory than one loss.
        parameters: name -> theta, with gradients.
        stride: how many timesteps one that is given stands for; F is scaled by its square.

    Returns:
        name -> F in the shape of theta, float32 at least.

    Raises:
        ValueError: no sample.

    Source: arXiv 2305.10120 and the authors' code, which squares the sum over all timesteps of an image.
    """
    tensors = list(parameters.values())
    totals = [torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)).detach() for p in tensors]
    count = 0
    for losses in samples:
        sums = [torch.zeros_like(total) for total in totals]
        for value in losses:
            for summed, gradient in zip(sums, torch.autograd.grad(value, tensors, allow_unused=True), strict=True):
                if gradient is not None:
                    summed += gradient
        for total, summed in zip(totals, sums, strict=True):
            total += (stride * summed).square()
        count += 1
    if not count:
        raise ValueError("the Fisher information needs at least one sample")
    return {name: total / count for name, total in zip(parameters, totals, strict=True)}
