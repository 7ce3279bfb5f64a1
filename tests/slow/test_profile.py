"""A denoising step and a LoRA step at Stable Diffusion 1.x's widths, with what might make them quicker, as ratios.

`python -m tests.slow.test_profile [SIDE]` prints them; SIDE is that of the latents, 16 when left out, 64 for 512
pixels. `--compile` adds torch.compile, which takes minutes. Weights are random; OMP_NUM_THREADS says how many threads.
"""

import sys
import time
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import pairwise
from statistics import median
from unittest import mock

import pytest
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from mace_studio.paths import BUILT_IN
from mace_studio.sd import lora, sampling, text
from mace_studio.sd.model import Model
from mace_studio.settings import ImageSettings, LoraSettings

STEPS = 4  # the first of them warms up
SHIPPED = "as it is (channels last)"


def build(side: int) -> Model:
    """The UNet of Stable Diffusion 1.x with random weights, between a small text encoder and a small VAE."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(str(BUILT_IN / "tokenizer"), model_max_length=77)
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=768, intermediate_size=768, num_hidden_layers=1,
            num_attention_heads=12, max_position_embeddings=77, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=side, in_channels=4, out_channels=4, block_out_channels=(320, 640, 1280, 1280), layers_per_block=2,
        down_block_types=(*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
        up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3), cross_attention_dim=768, attention_head_dim=8,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4,
    )  # fmt: skip
    scheduler = PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True)
    pipeline = StableDiffusionPipeline(
        vae, encoder, tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    )
    for part in (vae, encoder, unet):
        part.requires_grad_(False).eval()
    unet.to(memory_format=torch.channels_last)
    pipeline.set_progress_bar_config(disable=True)
    return Model(pipeline, "random")


def seconds(run, steps: int = STEPS) -> float:
    """Median CPU seconds of the steps after the first; `run` takes a callback that it calls at the end of each."""
    times = [time.process_time()]
    run(lambda _: times.append(time.process_time()))
    return median(end - begin for begin, end in list(pairwise(times))[1:steps])


def image_step(model: Model) -> float:
    """Of one image with guidance, its attention recorded."""
    wanted = [sampling.TrainingImage("a photo of the cat", "cat", 0)]
    settings = ImageSettings(steps=STEPS)
    seen = []

    def run(note):
        sampling.training_images(model, wanted, settings, None, lambda at: note(at) if at.step else seen.append(at))

    return seconds(run)


def lora_step(model: Model) -> float:
    """Of one concept."""
    context_1TD, _ = text.encode(model, ["a photo of the cat"])
    latents_1CHW = torch.randn(1, 4, *sampling.latent_size(model), generator=torch.Generator().manual_seed(0))
    subject = lora.Subject(
        phrase="cat", latents_NCHW=latents_1CHW, masks=[None], context_MTD=context_1TD,
        positions=[list(range(5, 77))], seed=0,
    )  # fmt: skip
    return seconds(lambda note: lora.train(model, [subject], LoraSettings(steps=STEPS), note))


@contextmanager
def contiguous(model: Model):
    model.unet.to(memory_format=torch.contiguous_format)
    yield
    model.unet.to(memory_format=torch.channels_last)


@contextmanager
def half(model: Model):
    """Last: what is rounded stays so."""
    model.pipeline.to(dtype=torch.bfloat16)
    yield


@contextmanager
def compiled(model: Model):
    # With shapes that may change, Inductor 2.13 fails on the second one (cannot determine truth value of Relational).
    with mock.patch.object(model.unet, "forward", torch.compile(model.unet.forward, dynamic=False)):
        yield


VARIANTS = {
    SHIPPED: lambda model: nullcontext(),
    "contiguous": contiguous,
    "fused AdamW": lambda model: mock.patch("torch.optim.AdamW", partial(torch.optim.AdamW, fused=True)),
    "torch.compile": compiled,
    "bfloat16": half,
}


def table(side: int, with_compile: bool) -> dict[str, tuple[float, float]]:
    """Measure and print all rows: seconds of a denoising step and of a LoRA step, and their ratios to the first."""
    model, rows = build(side), {}
    for name, variant in VARIANTS.items():
        if name == "torch.compile" and not with_compile:
            continue
        with variant(model):
            rows[name] = image_step(model), lora_step(model)
        ratios = [now / first for now, first in zip(rows[name], rows[SHIPPED], strict=True)]
        print(
            f"{name:<26} image step {rows[name][0]:6.2f} s {ratios[0]:5.2f} x  LoRA step {rows[name][1]:6.2f} s"
            f" {ratios[1]:5.2f} x",
            flush=True,
        )
    return rows


@pytest.mark.slow
def test_the_memory_format_that_is_used_is_no_slower():
    rows = table(16, False)
    assert sum(rows[SHIPPED]) < 1.15 * sum(rows["contiguous"])


if __name__ == "__main__":
    sides = [int(word) for word in sys.argv[1:] if word.isdecimal()]
    table(*(sides or [16]), "--compile" in sys.argv)
