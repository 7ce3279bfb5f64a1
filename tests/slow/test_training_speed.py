"""How fast the built-in model's UNet trains: `pytest -m slow -s tests/slow/test_training_speed.py` prints samples/s."""

import time
from contextlib import nullcontext

import pytest
import torch

from mace_studio.miniature import diffusion
from mace_studio.miniature.latents import SIDE, Batch

WIDTH, POSITIONS = 320, 32
STEPS = 8


def batch(number):
    generator = torch.Generator().manual_seed(0)
    own_NT = torch.zeros(number, POSITIONS, dtype=torch.bool)
    own_NT[:, 5] = True
    return Batch(
        latent_NCHW=torch.randn(number, 8, SIDE, SIDE, generator=generator),
        context_NTD=torch.randn(number, POSITIONS, WIDTH, generator=generator),
        own_NT=own_NT,
        end_N=torch.full((number,), 8),
        mask_NHW=(torch.rand(number, SIDE, SIDE, generator=generator) > 0.6).float(),
        told_N=torch.ones(number, dtype=torch.bool),
    )


def rate(number, rounded):
    unet = diffusion.build_unet(WIDTH).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(unet.parameters(), fused=True)
    alphas_S = torch.linspace(0.99, 0.01, diffusion.TIMESTEPS)
    samples = batch(number)

    def step(index):
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16) if rounded else nullcontext():
            loss = diffusion.loss(unet, samples, alphas_S, torch.Generator().manual_seed(index))
        loss.backward()
        optimizer.step()

    for index in range(3):
        step(index)
    begun = time.monotonic()
    for index in range(STEPS):
        step(index)
    return STEPS * number / (time.monotonic() - begun)


@pytest.mark.slow
def test_bfloat16_and_large_batches_win():
    usual = rate(32, rounded=False)
    for number, rounded in ((32, True), (64, False), (64, True), (96, True)):
        found = rate(number, rounded)
        print(f"\nbatch {number}, {'bfloat16' if rounded else 'float32'}: {found:.0f} samples/s, {found / usual:.2f}")
    assert found > 1.2 * usual
