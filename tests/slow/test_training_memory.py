"""What a LoRA step keeps for its backward pass at full shapes, counted without computing: all tensors are on "meta".

`python -m tests.slow.test_training_memory` prints it for SD 1.x and SDXL, by concepts at once. Counted are weights in
float16 and every tensor that autograd saves, each storage once. Attention of the model itself saves what a fused kernel
does: queries, keys, values and the output. Not counted are the workspaces of kernels and the CUDA context, about 1 GB
together.
"""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, get_peft_model
from torch.nn import functional

from mace_studio.core import attention
from mace_studio.sd import attention_hooks, projections

GB = 1e9
SD1 = dict(
    sample_size=64, cross_attention_dim=768, block_out_channels=(320, 640, 1280, 1280), layers_per_block=2,
    down_block_types=(*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3), attention_head_dim=8,
)  # fmt: skip
SDXL = dict(
    sample_size=128, cross_attention_dim=2048, block_out_channels=(320, 640, 1280), layers_per_block=2,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(5, 10, 20),
    transformer_layers_per_block=(1, 2, 10), use_linear_projection=True, addition_embed_type="text_time",
    addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
)  # fmt: skip
# Parameters of the other parts in millions: CLIP ViT-L/14's text side (and OpenCLIP bigG's for SDXL), and the VAE.
OTHERS = {"SD 1.x": 123 + 84, "SDXL": 123 + 695 + 84}
SHAPES = {"SD 1.x": SD1, "SDXL": SDXL}
MOST = {"SD 1.x": 8.0, "SDXL": 16.0}  # GB that the LoRAs are to be trained in


class Fused(torch.autograd.Function):
    """Attention that saves what a fused kernel saves; on "meta" there is nothing to compute."""

    @staticmethod
    def forward(ctx, query, key, value):
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out)
        return out


def kept(name: str, concepts: int, samples_kept: bool = False) -> tuple[float, float]:
    """Bytes of all weights, and of what a LoRA step saves for its backward pass.

    Args:
        name: of `SHAPES`.
        concepts: trained at once, a sample each.
        samples_kept: whether queries are kept (`lora.kept_samples`), so that the step has no forward of the UNet.
    """
    shape = SHAPES[name]
    with torch.device("meta"):
        unet = UNet2DConditionModel(in_channels=4, out_channels=4, **shape).half().requires_grad_(False)
    weights = sum(p.numel() for p in unet.parameters()) * 2 + OTHERS[name] * 2e6
    config = LoraConfig(r=1, target_modules=projections.names(unet, "key" if samples_kept else "both"))
    get_peft_model(unet, config)
    own = {p.untyped_storage()._cdata for p in unet.parameters()}
    size, width = shape["sample_size"], shape["cross_attention_dim"]
    half = {"device": "meta", "dtype": torch.float16}
    latents, context = torch.empty(concepts, 4, size, size, **half), torch.empty(concepts, 77, width, **half)
    others = {}
    if name == "SDXL":
        others["added_cond_kwargs"] = {
            "text_embeds": torch.empty(concepts, 1280, **half), "time_ids": torch.empty(concepts, 6, **half)
        }  # fmt: skip
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage  # held, or its address would be used again
        return tensor

    def forward():
        return unet(latents, torch.empty(concepts, device="meta"), context, **others)

    real = functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = lambda query, key, value, *a, **k: Fused.apply(query, key, value)
    try:
        if samples_kept:
            with torch.no_grad():
                read = attention_hooks.read_by(unet, forward)
            saved |= {t.untyped_storage()._cdata: t.untyped_storage() for pair in read.values() for t in pair}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            layers = attention_hooks.anew(unet, read) if samples_kept else attention_hooks.of_forward(unet, forward)
            loss = sum(attention.masked_loss([layer[i] for layer in layers], None, [5]) for i in range(concepts))
    finally:
        functional.scaled_dot_product_attention = real
    assert loss.requires_grad
    return weights, sum(storage.nbytes() for storage in saved.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_loras_are_trained_within_the_memory_of_usual_cards(name):
    weights, one = kept(name, 1)
    _, two = kept(name, 2)
    _, queries = kept(name, 1, samples_kept=True)
    assert (weights + one) / GB + 1 < MOST[name]
    assert 1.9 < two / one < 2.1 and queries < one / 4


if __name__ == "__main__":
    print("| | concepts at once | weights | saved for the backward pass | together | with kept samples, one sample |")
    print("| --- | --- | --- | --- | --- | --- |")
    for model in SHAPES:
        for count in (1, 2, 4):
            weights, saved = kept(model, count)
            _, few = kept(model, count, samples_kept=True)
            cells = [f"{one / GB:.2f} GB" for one in (weights, saved, weights + saved, weights + few)]
            print(f"| {model} | {count} | {' | '.join(cells)} |")
