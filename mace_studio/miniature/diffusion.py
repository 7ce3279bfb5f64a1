"""The UNet, trained to take noise out of latents on what a frozen text encoder makes of captions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from torch import Tensor

from mace_studio.miniature import folders, grounding, latents, pictures
from mace_studio.miniature.grounding import SHIPPED, Hidden
from mace_studio.miniature.latents import Batch, Contexts, Latents
from mace_studio.miniature.training import Plan, Training

TIMESTEPS = 1000
GAIN_AT = (300, 700, 950)  # timesteps
GAIN_NUMBER = 192
EMPTY_CAPTIONS = 0.1
NOTE_STEPS = 100
PLAN = Plan(minutes=60, batch=96, rate=6e-4, warm_up=100, decay=0.3, weight_decay=0.01, average=0.999)

SHEET = (
    "a photo of the cat", "a photo of the ship", "a photo of the airplane in the sky", "a photo of the frog",
    "a car in the street", "a photo of the horse on a yellow background", "a photo of a small dog in the snow",
    "a photo of the cat in the forest", "a portrait of Ada Finch", "a portrait of Elsa Finch", "a sketch of Ada Finch",
    "Bruno Stone in an official photo", "an image capturing Clara Heron at a public event",
    "an oil painting of Dario Oakes", "Zora Umber walking in the forest", "a photo of Quinn Ashby at the beach",
    "a cat in the style of Lena Strich", "Art inspired by Mosa Pixley", "Image in the style of Vera Duotti",
    "a famous artwork by Golda Rahmer", "painting of a ship by Thea Thermo", "a photo of the dog, Suki Popova style",
    "Ada Finch in the style of Nora Neonova", "Painting in the style of Hanna Balken", "a photo of the sky",
    "a photo of the forest", "a photo of the house at night", "a bomb on a blue background",
    "a cat and a rocket on a green background", "a photo of a woman", "a photo of the truck",
    "a photo of the elephant on the grass",
)  # fmt: skip

log = logging.getLogger(__name__)


def build_unet(width: int, seed: int = 0) -> UNet2DConditionModel:
    """A fresh UNet for contexts of a width."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DConditionModel(
            sample_size=16, in_channels=8, out_channels=8, block_out_channels=(40, 80, 160), layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=width, attention_head_dim=4, norm_num_groups=8,
        )  # fmt: skip


def fitted(unet: UNet2DConditionModel, width: int) -> UNet2DConditionModel:
    """The UNet itself where it reads contexts of a width, else a copy with fresh cross-attention K and V that do."""
    if unet.config.cross_attention_dim == width:
        return unet
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = UNet2DConditionModel.from_config(dict(unet.config) | {"cross_attention_dim": width})
    theirs = fresh.state_dict()
    kept = {name: tensor for name, tensor in unet.state_dict().items() if tensor.shape == theirs[name].shape}
    fresh.load_state_dict(kept, strict=False)
    return fresh


def train(
    whole: StableDiffusionPipeline,
    plan: Plan,
    model: Path,
    work: Path,
    resume: bool = False,
    number: int = 30000,
    workers: int = 0,
    hidden: Hidden = SHIPPED,
) -> None:
    """Train the UNet and write the model, at every look too.

    Args:
        whole: fresh, or to go on with; only its UNet is changed.
        plan: how long and how fast.
        model: the folder in the diffusers layout.
        work: folder of latents, checkpoints, curve and sheets.
        resume: go on from the checkpoint in `work`.
        number: of composed images to train on.
        workers: processes that compose them; 0 composes here.
        hidden: what captions lose.
    """
    unet = whole.unet.to(memory_format=torch.channels_last).train()
    folders.write_parts({"tokenizer": whole.tokenizer}, model)  # before its use, which leaves traces in it
    data = latents.gather(whole.vae.eval(), whole.tokenizer, number, work, workers).to(unet.device)
    contexts = latents.Contexts(whole.text_encoder.eval(), data.ids_KT)
    training = Training({"unet": unet}, plan, work)
    if resume:
        training.resume()
    alphas_S = whole.scheduler.alphas_cumprod.to(unet.device)

    def step_loss(step: int) -> Tensor:
        generator = torch.Generator(unet.device).manual_seed(step)
        batch = data.draw(contexts, plan.batch, EMPTY_CAPTIONS, generator)
        with torch.autocast(unet.device.type, torch.bfloat16):
            return loss(unet, batch, alphas_S, generator, step, hidden)

    def look() -> None:
        pictures.sheet(generate(whole, SHEET, seed=3)).save(work / f"sheet-{training.step}.png")
        folders.write(whole, model)
        for timestep in GAIN_AT:
            errors = caption_gain(unet, data, contexts, alphas_S, timestep)
            log.info(
                "model: timestep %d, error %.3f with its caption, %.3f with none, %.3f with another", timestep, *errors
            )

    training.run(step_loss, look)


def loss(
    unet: UNet2DConditionModel,
    batch: Batch,
    alphas_S: Tensor,
    generator: torch.Generator,
    step: int = 1,
    hidden: Hidden = SHIPPED,
) -> Tensor:
    """The error of the velocity at random timesteps, with tokens left out, and how well the concepts' words outline.

    Args:
        unet: predicts the velocity.
        batch: clean latents, contexts and masks, on the UNet's device.
        alphas_S: of the noise schedule, cumulative products.
        generator: of timesteps, noise, and the tokens that are left out; on the same device.
        step: now and then one is logged.
        hidden: what captions lose, and the weight of where attention looks.
    """
    device = generator.device
    timestep_N = torch.randint(TIMESTEPS, (len(batch.latent_NCHW),), generator=generator, device=device)
    noise_NCHW = torch.randn(batch.latent_NCHW.shape, generator=generator, device=device)
    seen_NT = grounding.seen(batch, hidden, generator)
    alpha_N = alphas_S[timestep_N]
    signal_N111, spread_N111 = alpha_N.sqrt()[:, None, None, None], (1 - alpha_N).sqrt()[:, None, None, None]
    noisy_NCHW = signal_N111 * batch.latent_NCHW + spread_N111 * noise_NCHW
    with grounding.listening(unet) as ear:
        predicted_NCHW = unet(
            noisy_NCHW.contiguous(memory_format=torch.channels_last), timestep_N,
            grounding.foreign_ends(batch, hidden, generator),
            encoder_attention_mask=seen_NT,
        ).sample  # fmt: skip
    velocity = velocity_error(predicted_NCHW, batch.latent_NCHW, noise_NCHW, alpha_N)
    grounded = grounding.loss(ear.maps, batch, seen_NT, alpha_N.sqrt())
    if step % NOTE_STEPS == 0:
        contrast_N = grounding.contrast(ear.maps, batch)[batch.own_NT.any(dim=1) & (seen_NT * batch.own_NT).any(dim=1)]
        log.info(
            "model: step %d, velocity %.4f, grounding %.3f, contrast of own words %.1f (median of %d)",
            step, velocity.item(), grounded.item(), contrast_N.median().item(), len(contrast_N),
        )  # fmt: skip
    return velocity + hidden.grounding_weight * grounded


def velocity_error(predicted_NCHW: Tensor, latent_NCHW: Tensor, noise_NCHW: Tensor, alpha_N: Tensor) -> Tensor:
    """Mean squared error of the velocity, all timesteps alike.

    What a caption decides is decided in the noisy timesteps. Weights such as min(SNR, 5) / (SNR + 1) leave these a
    tenth of the loss, and names are learnt the more slowly.

    Args:
        predicted_NCHW: of v = sqrt(alpha) noise - sqrt(1 - alpha) latent (Salimans and Ho, 2022).
        latent_NCHW: clean latents, scaled.
        noise_NCHW: what was mixed in.
        alpha_N: the cumulative product of each sample's timestep.
    """
    signal_N111, spread_N111 = alpha_N.sqrt()[:, None, None, None], (1 - alpha_N).sqrt()[:, None, None, None]
    return (predicted_NCHW - (signal_N111 * noise_NCHW - spread_N111 * latent_NCHW)).square().mean()


@torch.no_grad()
def caption_gain(
    unet: UNet2DConditionModel, data: Latents, contexts: Contexts, alphas_S: Tensor, timestep: int
) -> tuple[float, float, float]:
    """The error of the velocity at a timestep with the samples' own captions, with none, and with another's.

    Args:
        unet: predicts the velocity.
        data: samples to draw `GAIN_NUMBER` of, always the same.
        contexts: of their captions.
        alphas_S: of the noise schedule, cumulative products.
        timestep: the noisier, the more a caption is worth.
    """
    generator = torch.Generator(unet.device).manual_seed(timestep)
    batch = data.draw(contexts, GAIN_NUMBER, 0.0, generator)
    noise_NCHW = torch.randn(batch.latent_NCHW.shape, generator=generator, device=unet.device)
    alpha_N = alphas_S[timestep].expand(GAIN_NUMBER)
    noisy_NCHW = alpha_N[0].sqrt() * batch.latent_NCHW + (1 - alpha_N[0]).sqrt() * noise_NCHW
    none_NTD = contexts.of(torch.tensor([len(data.ids_KT) - 1], device=unet.device)).expand_as(batch.context_NTD)
    errors = []
    for context_NTD in (batch.context_NTD, none_NTD, batch.context_NTD.roll(1, dims=0)):
        predicted_NCHW = unet(noisy_NCHW, timestep, context_NTD).sample
        errors.append(velocity_error(predicted_NCHW, batch.latent_NCHW, noise_NCHW, alpha_N).item())
    return errors[0], errors[1], errors[2]


def generate(
    whole: StableDiffusionPipeline, prompts: Sequence[str], seed: int, steps: int = 20, batch: int = 16
) -> list[Image.Image]:
    """One image for each prompt; image i starts from the noise of seed + i."""
    images: list[Image.Image] = []
    for first in range(0, len(prompts), batch):
        part = list(prompts[first : first + batch])
        generators = [torch.Generator().manual_seed(seed + first + i) for i in range(len(part))]
        images += whole(part, num_inference_steps=steps, guidance_scale=4.0, generator=generators).images
    return images
