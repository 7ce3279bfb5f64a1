"""What a UNet reads beside latents, timestep and text context."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mace_studio.sd.model import Model


def of(model: Model, noisy_BCHW: Tensor, pooled_BP: Tensor | None, guidance_B: Tensor) -> dict[str, Any]:
    """The UNet's arguments beside latents, timestep and context, as its pipeline gives them.

    Args:
        model: of any family.
        noisy_BCHW: the latents of the forward; their size counts.
        pooled_BP: pooled embeddings of the prompts, which SDXL reads; None for other models.
        guidance_B: guidance of each sample, which an LCM reads.
    """
    arguments: dict[str, Any] = {}
    if pooled_BP is not None:
        pooled_BP = pooled_BP.to(model.device, model.dtype)
        size = [side * model.pipeline.vae_scale_factor for side in noisy_BCHW.shape[2:]]
        # SDXL: the size of the original, the corner of the crop, and the size to generate, in pixels.
        sizes_B6 = torch.tensor([[*size, 0, 0, *size]] * len(pooled_BP)).to(pooled_BP)
        arguments["added_cond_kwargs"] = {"text_embeds": pooled_BP, "time_ids": sizes_B6}
    if model.embeds_guidance:
        scale_B = guidance_B - 1
        width = model.unet.config.time_cond_proj_dim
        embedding_BC = model.pipeline.get_guidance_scale_embedding(scale_B, embedding_dim=width)
        arguments["timestep_cond"] = embedding_BC.to(model.device, model.dtype)
    return arguments
