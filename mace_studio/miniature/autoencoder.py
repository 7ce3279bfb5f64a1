"""The autoencoder: images of 64 x 64 pixels to latents of 8 x 16 x 16 and back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from mace_studio.miniature import ahead, folders, pictures, world
from mace_studio.miniature.scenes import SIZE
from mace_studio.miniature.training import Plan, Training
from mace_studio.miniature.world import HELD_OUT, Sample

HELD_OUT_NUMBER = 256
KL_WEIGHT = 1e-5
PLAN = Plan(minutes=60, batch=16, rate=1.5e-3, warm_up=100, decay=1.0, weight_decay=0.0, average=0.999)

log = logging.getLogger(__name__)


def build(seed: int = 0) -> AutoencoderKL:
    """A fresh autoencoder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoencoderKL(
            in_channels=3, out_channels=3, latent_channels=8, sample_size=SIZE,
            down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(16, 32, 64), layers_per_block=1, norm_num_groups=8, mid_block_add_attention=False,
        )  # fmt: skip


def train(
    vae: AutoencoderKL, plan: Plan, model: Path, work: Path, resume: bool, decoder_only: bool = False, workers: int = 0
) -> None:  # fmt: skip
    """Train and write the autoencoder.

    Args:
        vae: fresh, or to go on with.
        plan: how long and how fast.
        model: the folder in whose `vae` it is written.
        work: folder of checkpoints, curve and sheets.
        resume: go on from the checkpoint in `work`.
        decoder_only: leave the encoder as it is, so that diffusion models trained on its latents still fit.
        workers: processes that compose images; 0 composes here.
    """
    vae.to(memory_format=torch.channels_last).train()
    if decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    training = Training({"vae": vae}, plan, work)
    if resume:
        training.resume()

    def look() -> None:
        pixels_NCHW = composed(16, HELD_OUT)
        rows = [pixels_NCHW[:8], reconstructed(vae, pixels_NCHW[:8]).cpu(), pixels_NCHW[8:]]
        rows.append(reconstructed(vae, pixels_NCHW[8:]).cpu())
        pictures.sheet(pictures.to_images(torch.cat(rows))).save(work / "sheet.png")
        log.info("vae: %.2f dB on held-out pictures", psnr(vae))

    composed_for = ahead.Steps(plan.batch, workers)
    training.run(lambda step: _step_loss(vae, step, composed_for(step)), look)
    with training.averaged():
        if not decoder_only:  # the latents of held-out images get a standard deviation of 1
            pixels = composed(HELD_OUT_NUMBER, HELD_OUT).to(vae.device).split(32)
            with torch.no_grad():
                latents = [vae.encode(part_NCHW).latent_dist.mode() for part_NCHW in pixels]
            vae.register_to_config(scaling_factor=1 / torch.cat(latents).std().item())
        folders.write_parts({"vae": vae}, model)


def loss(pixels_NCHW: Tensor, drawn_NCHW: Tensor, kl_N: Tensor, latent_numbers: int) -> Tensor:
    """How far reconstructions are off, in values, in their square and in their gradients, and a little of the KL.

    Args:
        pixels_NCHW, drawn_NCHW: in -1..1.
        kl_N: of the posterior to the unit Gaussian, summed over a latent.
        latent_numbers: of one latent.
    """
    off_NCHW = drawn_NCHW - pixels_NCHW
    slopes = off_NCHW.diff(dim=-1).abs().mean() + off_NCHW.diff(dim=-2).abs().mean()
    return off_NCHW.abs().mean() + off_NCHW.square().mean() + slopes + KL_WEIGHT * kl_N.mean() / latent_numbers


def composed(number: int, seed: int) -> Tensor:
    """Images of the world, NCHW in -1..1."""
    return pictures.to_tensor([sample.image_HWC for sample in world.samples(number, seed)])


@torch.no_grad()
def reconstructed(vae: AutoencoderKL, pixels_NCHW: Tensor) -> Tensor:
    """Images to latents and back, NCHW in -1..1."""
    return vae.decode(vae.encode(pixels_NCHW.to(vae.device)).latent_dist.mode()).sample.clamp(-1, 1)


def psnr(vae: AutoencoderKL, number: int = HELD_OUT_NUMBER) -> float:
    """Peak signal-to-noise ratio in dB of held-out images: of their mean squared error, with a peak of 1."""
    pixels_NCHW = composed(number, HELD_OUT)
    errors = [(reconstructed(vae, part).cpu() - part).square().sum() for part in pixels_NCHW.split(32)]
    return (-10 * (torch.stack(errors).sum() / pixels_NCHW.numel() / 4).log10()).item()


def _step_loss(vae: AutoencoderKL, step: int, samples: Sequence[Sample]) -> Tensor:
    pixels_NCHW = pictures.to_tensor([sample.image_HWC for sample in samples]).to(vae.device)
    posterior = vae.encode(pixels_NCHW).latent_dist
    noise_NCHW = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(step))
    latent_NCHW = posterior.mean + posterior.std * noise_NCHW.to(vae.device)
    return loss(pixels_NCHW, vae.decode(latent_NCHW).sample, posterior.kl(), latent_NCHW[0].numel())
