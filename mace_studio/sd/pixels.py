"""Clean latents -> images."""

from __future__ import annotations

import torch
from diffusers.configuration_utils import FrozenDict
from PIL.Image import Image
from torch import Tensor

from mace_studio.progress import Progress, Report, silent
from mace_studio.sd.model import Model


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


def _unscaled(config: FrozenDict, latents_NCHW: Tensor) -> Tensor:
    """The latents as the decoder reads them."""
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        return latents_NCHW / config.scaling_factor
    mean_C11, std_C11 = (torch.tensor(values)[:, None, None] for values in (mean, std))
    return latents_NCHW * std_C11 / config.scaling_factor + mean_C11
