"""The timestep density of Eq. 5 and draws from it."""

import math

import pytest
import torch

from mace_studio.core.timesteps import density, sample


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_the_paper_s_settings():
    # Between the flanks' integrals (1/gamma) ln(1 + e^(gamma t)) the share of [200, 400] is
    # (2 ln((1 + e^10) / 2) - 10) / 10 = 0.8614 of the whole; the sum over integers gives 0.864 with both ends in.
    weights = density(1000, 200, 400, 0.05)
    assert weights.shape == (1000,)
    assert weights.sum().item() == pytest.approx(1)
    assert weights.argmax().item() == 300
    assert weights[200:401].sum().item() == pytest.approx(0.864, abs=5e-4)


def test_the_formula_at_single_timesteps():
    weights = density(1000, 200, 400, 0.05)
    printed = [sigmoid(0.05 * (t - 200)) - sigmoid(0.05 * (t - 400)) for t in range(1000)]
    for t in (0, 100, 200, 300, 399, 500, 900):
        assert weights[t].item() == pytest.approx(printed[t] / sum(printed), rel=1e-9)


def test_far_from_the_interval_no_digit_is_lost():
    # At t far above t2 both sigmoids are 1 to the last digit; the density still falls by e^-gamma a step.
    weights = density(1000, 200, 400, 0.05)
    assert (weights > 0).all()
    assert (weights[999] / weights[998]).item() == pytest.approx(math.exp(-0.05), rel=1e-9)


def test_a_steep_density_is_uniform_between_its_bounds():
    # gamma = 100 makes steps of both flanks: 11, 12, 13 and 14 share all weight but e^-50.
    weights = density(20, 10.5, 14.5, 100)
    assert torch.allclose(weights[11:15], torch.full((4,), 0.25).double())
    assert weights[:11].sum() + weights[15:].sum() < 1e-20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, 2, 0.1), "count is 0"),
        ((10, 5, 5, 0.1), r"t1 \(5\) must be below t2 \(5\)"),
        ((10, 6, 5, 0.1), r"t1 \(6\) must be below t2 \(5\)"),
        ((10, math.nan, 5, 0.1), "t1"),
        ((10, 1, math.inf, 0.1), "t2"),
        ((10, 1, 5, 0.0), "gamma is 0.0"),
        ((10, 1, 5, -1), "gamma is -1"),
        ((10, 1, 5, math.nan), "gamma is nan"),
        ((10, 2000, 3000, 100), r"no timestep of 0..9 lies near \[2000, 3000\]"),
    ],
)
def test_settings_that_make_no_density_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        density(*arguments)


def test_draws_follow_the_density_and_the_generator():
    weights = torch.tensor([0.0, 0.25, 0.0, 0.75]).double()
    drawn = sample(weights, 4000, torch.Generator().manual_seed(5))
    assert drawn.shape == (4000,)
    assert drawn.dtype == torch.int64
    assert set(drawn.tolist()) == {1, 3}
    # Standard deviation of the share is sqrt(.25 * .75 / 4000) = 0.0068; five of them.
    assert (drawn == 3).double().mean().item() == pytest.approx(0.75, abs=0.035)
    assert torch.equal(drawn, sample(weights, 4000, torch.Generator().manual_seed(5)))
    assert not torch.equal(drawn, sample(weights, 4000, torch.Generator().manual_seed(6)))


def test_more_draws_than_timesteps():
    assert sample(torch.ones(2).double() / 2, 10, torch.Generator().manual_seed(0)).shape == (10,)
