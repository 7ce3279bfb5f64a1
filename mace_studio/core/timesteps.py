"""The timestep density xi(t) of concept-focal importance sampling (Eq. 5), and samples from it."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def density(count: int, t1: float, t2: float, gamma: float) -> Tensor:
    """xi(t) = (sigmoid(gamma (t - t1)) - sigmoid(gamma (t - t2))) / Z over t = 0 .. count - 1.

    Args:
        count: number of training timesteps of the model, usually 1000.
        t1, t2: bounds of the favoured interval; the mode is (t1 + t2) / 2.
        gamma: steepness of both flanks, per timestep.

    Returns:
        float64 (count,), positive, summing to 1.

    Raises:
        ValueError: t1 >= t2, gamma <= 0, a bound that is no number, no timestep, or an interval so far outside of
            0 .. count - 1 that no timestep has any weight.
    """
    if count < 1:
        raise ValueError(f"count is {count}; at least one timestep is needed")
    if not (math.isfinite(t1) and math.isfinite(t2) and t1 < t2):
        raise ValueError(f"t1 ({t1}) must be below t2 ({t2})")
    if not (math.isfinite(gamma) and gamma > 0):
        raise ValueError(f"gamma is {gamma}; it must be above 0")
    steps = torch.arange(count).double()
    # sigmoid(a) - sigmoid(b) = (tanh(a/2) - tanh(b/2)) / 2 loses all digits far from the interval; this form does not.
    rise, fall = gamma * (steps - t1), gamma * (steps - t2)
    weights = torch.exp(torch.nn.functional.logsigmoid(rise) + torch.nn.functional.logsigmoid(-fall))
    total = weights.sum()
    if not total > 0:
        raise ValueError(f"no timestep of 0..{count - 1} lies near [{t1}, {t2}]")
    return weights / total


def sample(weights: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Sample timesteps with replacement.

    Args:
        weights: density of each timestep, (count,), from `density`.
        number: how many.
        generator: on the CPU; the same seed gives the same timesteps.

    Returns:
        int64 (number,), each within 0 .. count - 1.
    """
    return torch.multinomial(weights, number, replacement=True, generator=generator)
