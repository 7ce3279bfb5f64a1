"""DDIM against the scheduler of diffusers, and the masked squared error against numbers derived by hand."""

import pytest
import torch
from diffusers import DDIMScheduler

from mace_studio.core.diffusion import ddim, squared_error

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def predict(x_BCHW, timestep):
    return torch.tanh(x_BCHW) * (0.5 + timestep / 1000)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_steps_are_those_of_diffusers(prediction):
    scheduler = DDIMScheduler(prediction_type=prediction, clip_sample=False, set_alpha_to_one=False, **BETAS)
    scheduler.set_timesteps(10)
    start_BCHW = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0)).double()
    x_BCHW = start_BCHW
    for timestep in scheduler.timesteps[:4]:
        x_BCHW = scheduler.step(predict(x_BCHW, timestep.item()), timestep, x_BCHW).prev_sample
    levels = scheduler.timesteps[:5].tolist()
    found_BCHW = ddim(predict, start_BCHW, levels, scheduler.alphas_cumprod, prediction)
    assert torch.allclose(found_BCHW, x_BCHW, atol=1e-6)
    assert not torch.allclose(found_BCHW, start_BCHW, atol=1e-2)


def test_one_level_is_no_step():
    start_BCHW = torch.ones(1, 4, 2, 2)
    assert torch.equal(ddim(predict, start_BCHW, [961], torch.linspace(0.99, 0.01, 1000)), start_BCHW)


def test_an_unknown_prediction_is_refused():
    with pytest.raises(ValueError, match="sample"):
        ddim(predict, torch.ones(1, 4, 2, 2), [961, 941], torch.linspace(0.99, 0.01, 1000), "sample")


def test_the_error_is_summed_over_channels_and_averaged_over_the_masked_pixels():
    difference_BCHW = torch.zeros(2, 4, 1, 2)
    difference_BCHW[0, :, 0, 0] = torch.tensor([1.0, 2, 3, 4])  # squares sum to 30 at one of two pixels
    difference_BCHW[1] = 1.0  # 4 at both
    assert squared_error(difference_BCHW).item() == pytest.approx((15 + 4) / 2)
    mask_B1HW = torch.tensor([[[[1.0, 0]]], [[[1.0, 0]]]])
    assert squared_error(difference_BCHW, mask_B1HW).item() == pytest.approx((30 + 4) / 2)
