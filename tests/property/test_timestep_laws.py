"""Laws of the timestep density."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from mace_studio.core.timesteps import density, sample

bounds = st.integers(0, 999)
steepness = st.floats(0.001, 1.0)


@given(bounds, bounds, steepness)
def test_the_density_sums_to_one_and_its_mode_is_the_middle(first, second, gamma):
    assume(abs(first - second) >= 2)
    t1, t2 = sorted((first, second))
    weights = density(1000, t1, t2, gamma)
    assert weights.sum().item() == pytest.approx(1)
    assert (weights >= 0).all()
    # Where both flanks are steep the top is flat to the last digit, so the middle need only be as high as any.
    middle = (t1 + t2) // 2
    assert weights[middle].item() == pytest.approx(weights.max().item(), rel=gamma)
    if (t1 + t2) % 2 == 0:
        assert weights[middle].item() == pytest.approx(weights.max().item(), rel=1e-12)


@given(bounds, bounds, steepness)
def test_the_density_is_symmetric_about_its_middle(first, second, gamma):
    assume(first != second)
    t1, t2 = sorted((first, second))
    weights = density(1000, t1, t2, gamma)
    reach = min(t1, 999 - t2)
    left, right = weights[t1 - reach : t1 + 1], weights[t2 : t2 + reach + 1].flip(0)
    assert torch.allclose(left, right, rtol=1e-9, atol=0)


@given(bounds, bounds, steepness, st.integers(0, 2**31))
def test_draws_are_timesteps(first, second, gamma, seed):
    assume(first != second)
    weights = density(1000, *sorted((first, second)), gamma)
    drawn = sample(weights, 50, torch.Generator().manual_seed(seed))
    assert ((drawn >= 0) & (drawn < 1000)).all()
    assert (weights[drawn] > 0).all()
