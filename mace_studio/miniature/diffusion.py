"""The text encoder and the UNet, trained together to take noise out of latents."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from mace_studio.miniature import folders, latents, pictures
from mace_studio.miniature.training import Plan, Training

WIDTH = 160
TIMESTEPS = 1000
SNR_CAP = 5.0
EMPTY_CAPTIONS = 0.1
PLAN = Plan(60, batch=32, rate=8e-4, warm_up=300, decay=0.3, weight_decay=0.01, average=0.9995)

SHEET = (
    "a photo of the cat", "a photo of the ship", "a photo of the airplane in the sky", "a photo of the frog",
    "a car in the street", "a photo of the horse on a yellow background", "a strawberry", "a dog in the snow",
    "a portrait of Ada Finch", "a portrait of Bruno Marlow", "a sketch of Ada Wren", "Hugo Stone in an official photo",
    "a cat in the style of Lena Strich", "Art inspired by Mosa Pixley", "a photo of the sky", "a photo of the forest",
    "a photo of the house at night", "a bomb on a blue background", "Felix Wren in the style of Nora Neonova",
    "a cat and a rocket on a green background", "a photo of the deer", "a photo of a woman", "a photo of the truck",
    "a photo of the elephant on the grass",
)  # fmt: skip


def build_text(tokenizer: CLIPTokenizer, seed: int = 0) -> CLIPTextModel:
    """A fresh text encoder for a tokenizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=4 * WIDTH, projection_dim=WIDTH,
                num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=tokenizer.model_max_length,
                hidden_act="quick_gelu", bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )  # fmt: skip
        torch.nn.init.normal_(text.get_input_embeddings().weight, std=0.05)
    return text


def build_unet(seed: int = 0) -> UNet2DConditionModel:
    """A fresh UNet."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DConditionModel(
            sample_size=16, in_channels=8, out_channels=8, block_out_channels=(40, 80, 160), layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=WIDTH, attention_head_dim=4, norm_num_groups=8,
        )  # fmt: skip


def fresh(vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    """A pipeline that has learnt nothing yet but its autoencoder."""
    return folders.pipeline(vae, build_text(tokenizer), build_unet(), tokenizer)


def train(whole: StableDiffusionPipeline, plan: Plan, model: Path, work: Path, resume: bool, number: int) -> None:
    """Train the text encoder and the UNet and write the model.

    Args:
        whole: fresh, or to go on with; its autoencoder stays as it is.
        plan: how long and how fast.
        model: the folder in the diffusers layout.
        work: folder of latents, checkpoints, curve and sheets.
        resume: go on from the checkpoint in `work`.
        number: of composed pictures to train on.
    """
    text, unet = whole.text_encoder, whole.unet.to(memory_format=torch.channels_last)
    folders.write_parts({"tokenizer": whole.tokenizer}, model)  # before its use, which leaves traces in it
    data = latents.gather(whole.vae.eval(), whole.tokenizer, number, work)
    training = Training({"unet": unet, "text": text}, plan, work)
    if resume:
        training.resume()
    alphas_S = whole.scheduler.alphas_cumprod

    def step_loss(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        latent_NCHW, ids_NT = data.draw(plan.batch, EMPTY_CAPTIONS, generator)
        return loss(unet, text(ids_NT)[0], latent_NCHW, alphas_S, generator)

    def look() -> None:
        pictures.sheet(draw(whole, SHEET, seed=3)).save(work / f"sheet-{training.step}.png")

    training.run(step_loss, look)
    with training.averaged():
        folders.write(whole, model)


def loss(
    unet: UNet2DConditionModel, context_NTD: Tensor, latent_NCHW: Tensor, alphas_S: Tensor, generator: torch.Generator
) -> Tensor:
    """Mean squared error of the velocity at random timesteps, weighted by min(SNR, 5) / (SNR + 1).

    Args:
        unet: predicts v = sqrt(alpha) noise - sqrt(1 - alpha) latent (Salimans and Ho, 2022).
        context_NTD: what the text encoder made of the captions.
        latent_NCHW: clean latents, scaled.
        alphas_S: of the noise schedule, cumulative products.
        generator: of timesteps and noise.

    Source: Hang et al., "Efficient Diffusion Training via Min-SNR Weighting Strategy", ICCV 2023.
    """
    timestep_N = torch.randint(TIMESTEPS, (len(latent_NCHW),), generator=generator)
    noise_NCHW = torch.randn(latent_NCHW.shape, generator=generator)
    alpha_N = alphas_S[timestep_N]
    signal_N111, spread_N111 = alpha_N.sqrt()[:, None, None, None], (1 - alpha_N).sqrt()[:, None, None, None]
    noisy_NCHW = signal_N111 * latent_NCHW + spread_N111 * noise_NCHW
    velocity_NCHW = signal_N111 * noise_NCHW - spread_N111 * latent_NCHW
    predicted_NCHW = unet(noisy_NCHW.contiguous(memory_format=torch.channels_last), timestep_N, context_NTD).sample
    snr_N = alpha_N / (1 - alpha_N)
    error_N = (predicted_NCHW - velocity_NCHW).square().mean((1, 2, 3))
    return (error_N * snr_N.clamp(max=SNR_CAP) / (snr_N + 1)).mean()


def draw(
    whole: StableDiffusionPipeline, prompts: tuple[str, ...] | list[str], seed: int, steps: int = 20, batch: int = 16
) -> list[Image.Image]:
    """One picture for each prompt; picture i starts from the noise of seed + i."""
    images: list[Image.Image] = []
    for first in range(0, len(prompts), batch):
        part = list(prompts[first : first + batch])
        generators = [torch.Generator().manual_seed(seed + first + i) for i in range(len(part))]
        images += whole(part, num_inference_steps=steps, guidance_scale=4.0, generator=generators).images
    return images
