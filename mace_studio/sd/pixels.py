"""Clean latents -> pictures."""

from __future__ import annotations

import torch
from PIL.Image import Image
from torch import Tensor

from mace_studio.sd.model import Model


@torch.no_grad()
def decoded(model: Model, latents_NCHW: Tensor) -> list[Image]:
    """RGB pictures of latents that are scaled as the UNet reads them; the model is the same afterwards."""
    vae = model.pipeline.vae
    usual = vae.dtype
    if usual == torch.float16 and vae.config.force_upcast:  # SDXL's overflows in float16
        vae.to(torch.float32)
    try:
        pictures = []
        for batch_NCHW in latents_NCHW.split(model.room.at_once):
            plain_NCHW = _unscaled(vae.config, batch_NCHW).to(model.device, vae.dtype)
            pixels_NCHW = vae.decode(plain_NCHW, return_dict=False)[0]
            pictures += model.pipeline.image_processor.postprocess(pixels_NCHW.float())
        return pictures
    finally:
        if vae.dtype != usual:
            vae.to(usual)


def _unscaled(config: dict, latents_NCHW: Tensor) -> Tensor:
    """The latents as the decoder reads them."""
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        return latents_NCHW / config.scaling_factor
    mean_C11, std_C11 = (torch.tensor(values)[:, None, None] for values in (mean, std))
    return latents_NCHW * std_C11 / config.scaling_factor + mean_C11
