"""Random pipelines of every family that the studio reads, small, of the same classes as the real ones."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

# The vocabulary of the built-in model's first edition: the random weights below do not change with the shipped model.
TOKENIZER = Path(__file__).parent / "golden" / "tokenizer"
LENGTH = 32
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def tokenizer(pad="<|endoftext|>"):
    return CLIPTokenizer.from_pretrained(str(TOKENIZER), model_max_length=LENGTH, pad_token=pad)


def text_encoder(tokens, width, act="quick_gelu", kind=CLIPTextModel):
    encoder = kind(
        CLIPTextConfig(
            vocab_size=len(tokens), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=LENGTH, hidden_act=act, projection_dim=width,
            bos_token_id=tokens.bos_token_id, eos_token_id=tokens.eos_token_id, pad_token_id=tokens.pad_token_id,
        )
    )  # fmt: skip
    for name, parameter in encoder.named_parameters():
        if "final_layer_norm" in name:  # at its start it would make every embedding lie in one plane
            torch.nn.init.normal_(parameter)
    return encoder


def unet(width, **more):
    options = {"attention_head_dim": 2, "cross_attention_dim": width} | more
    return UNet2DConditionModel(
        sample_size=8, in_channels=options.pop("in_channels", 4), out_channels=4, block_out_channels=(16, 32),
        layers_per_block=1, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), norm_num_groups=4, **options,
    )  # fmt: skip


def vae(latent_channels=4):
    return AutoencoderKL(
        block_out_channels=(8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 3, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 3, latent_channels=latent_channels,
    )  # fmt: skip


def plain(kind, tokens, encoder, denoiser, scheduler):
    return kind(vae(), encoder, tokens, denoiser, scheduler, None, None, requires_safety_checker=False)


def sd1():
    tokens = tokenizer()
    scheduler = PNDMScheduler(skip_prk_steps=True, **BETAS)
    return plain(StableDiffusionPipeline, tokens, text_encoder(tokens, 32), unet(32), scheduler)


def second(scheduler):
    tokens = tokenizer(pad="!")
    denoiser = unet(48, attention_head_dim=(2, 4), use_linear_projection=True)
    return plain(StableDiffusionPipeline, tokens, text_encoder(tokens, 48, "gelu"), denoiser, scheduler)


def sd2():
    return second(DDIMScheduler(prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, **BETAS))


def turbo():
    return second(EulerDiscreteScheduler(timestep_spacing="trailing", **BETAS))


def lcm():
    tokens = tokenizer()
    scheduler = LCMScheduler(**BETAS | {"steps_offset": 0})
    denoiser = unet(32, time_cond_proj_dim=16)
    return plain(LatentConsistencyModelPipeline, tokens, text_encoder(tokens, 32), denoiser, scheduler)


def sdxl():
    first, other = tokenizer(), tokenizer(pad="!")
    denoiser = unet(
        32 + 24, use_linear_projection=True, transformer_layers_per_block=(1, 2), addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=24 + 6 * 8,
    )  # fmt: skip
    return StableDiffusionXLPipeline(
        vae(), text_encoder(first, 32), text_encoder(other, 24, "gelu", CLIPTextModelWithProjection), first, other,
        denoiser, EulerDiscreteScheduler(timestep_spacing="leading", **BETAS),
    )  # fmt: skip


FAMILIES = {"sd1": sd1, "sd2": sd2, "lcm": lcm, "turbo": turbo, "sdxl": sdxl}


def save(name, folder):
    """A pipeline of this family, with the same random weights every time, as a folder in the diffusers layout."""
    torch.manual_seed(0)
    FAMILIES[name]().save_pretrained(folder, safe_serialization=True)
    return folder
