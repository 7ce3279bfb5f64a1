"""Clean latents -> images."""

from __future__ import annotations

import torch
from diffusers import SchedulerMixin
from diffusers.configuration_utils import FrozenDict
from PIL.Image import Image
from torch import Tensor
from torch.nn import functional

from mace_studio.progress import Progress, Report, silent
from mace_studio.sd.model import Model

THUMBNAIL = 128  # pixels of the longer side of an image that is shown meanwhile


@torch.no_grad()
def decoded(model: Model, latents_NCHW: Tensor, progress: Report = silent) -> list[Image]:
    """Decode latents with the model's VAE; the model is the same afterwards.

    Args:
        model: its VAE decodes, on its device.
        latents_NCHW: scaled as the UNet reads them.
        progress: called with stage "decode" after every batch: images done of all.

    Returns:
        One RGB image for each latent, of the model's own size.
    """
    vae = model.pipeline.vae
    usual = vae.dtype
    if usual == torch.float16 and vae.config.force_upcast:  # SDXL's overflows in float16
        vae.to(torch.float32)
    try:
        images: list[Image] = []
        for batch_NCHW in latents_NCHW.split(model.batches.size):
            plain_NCHW = _unscaled(vae.config, batch_NCHW).to(model.device, vae.dtype)
            pixels_NCHW = vae.decode(plain_NCHW, return_dict=False)[0]
            images += model.pipeline.image_processor.postprocess(pixels_NCHW.float())
            progress(Progress("decode", step=len(images), total=len(latents_NCHW)))
        return images
    finally:
        if vae.dtype != usual:
            vae.to(usual)


def foreseen(
    scheduler: SchedulerMixin, before: Tensor | None, latent_CHW: Tensor, timestep: int, following: int | None
) -> Tensor:
    """The clean latent that two on the way lead to, if they went straight on: z' - s' (z - z') / (s - s').

    z is a latent over its scale, z = x0 + s * noise; z and s before a denoising step, z' and s' after it. Where that is
    not known, such as after the first step, the latent itself.

    Args:
        scheduler: of both.
        before, latent_CHW: before and after a step.
        timestep, following: at which they are; the last step is followed by none.
    """
    if before is None or following is None or following >= timestep:
        return latent_CHW
    kept = [max(float(scheduler.alphas_cumprod[at]), 1e-6) for at in (timestep, following)]
    noise, less = (((1 - share) / share) ** 0.5 for share in kept)
    # Euler's latents have no scale: they begin at the noise that they are to lose.
    first, second = (1.0, 1.0) if float(scheduler.init_noise_sigma) > 1 else (share**0.5 for share in kept)
    start_CHW, end_CHW = before.float() / first, latent_CHW.float() / second
    return end_CHW - less * (start_CHW - end_CHW) / (noise - less)


@torch.no_grad()
def preview(model: Model, latent_CHW: Tensor, cells: int) -> Image:
    """What a latent on its way looks like, as an image of at most `THUMBNAIL` pixels; the model is the same afterwards.

    It is averaged to fewer cells before it is decoded, which costs less, and leaves less of the noise.

    Args:
        model: its VAE decodes.
        latent_CHW: at any denoising step, from `foreseen`.
        cells: of the longer side, at most.
    """
    height, width = latent_CHW.shape[-2:]
    scale = min(1.0, cells / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    small_1CHW = functional.adaptive_avg_pool2d(latent_CHW[None].float(), size)
    # Those of Euler's schedulers begin many times as large as clean ones.
    (image,) = decoded(model, small_1CHW / small_1CHW.std().clamp(min=1.0))
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return image


def _unscaled(config: FrozenDict, latents_NCHW: Tensor) -> Tensor:
    """The latents as the decoder reads them."""
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        return latents_NCHW / config.scaling_factor
    mean_C11, std_C11 = (torch.tensor(values)[:, None, None] for values in (mean, std))
    return latents_NCHW * std_C11 / config.scaling_factor + mean_C11
