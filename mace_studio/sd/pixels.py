"""Clean latents -> images."""

from __future__ import annotations

import torch
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


@torch.no_grad()
def preview(model: Model, latent_CHW: Tensor, cells: int) -> Image:
    """What a noisy latent looks like, as an image of at most `THUMBNAIL` pixels; the model is the same afterwards.

    It is averaged to fewer cells before it is decoded, which costs less, and leaves less of the noise.

    Args:
        model: its VAE decodes.
        latent_CHW: at any denoising step.
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
