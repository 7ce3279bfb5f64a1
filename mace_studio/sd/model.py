"""A model ready for work: its pipeline on a device, and what can be asked of it."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from PIL.Image import Image
from torch import nn

from mace_studio import sources
from mace_studio.caption_files import GENERAL_CAPTIONS, captions_of
from mace_studio.errors import ModelError
from mace_studio.paths import BUILT_IN
from mace_studio.progress import Report, silent
from mace_studio.recipe import ImageRequest
from mace_studio.sd import checkpoints, devices, open_pipeline, parts, projections, schedules
from mace_studio.sd.batching import Batches, ran_out
from mace_studio.settings import SIDE

log = logging.getLogger(__name__)

BATCH = 8  # images generated at once
FEW_STEP_SCHEDULERS = ("LCMScheduler", "TCDScheduler")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Model:
    """A text-to-image pipeline with a UNet that reads text by cross-attention.

    Attributes:
        pipeline: a diffusers pipeline on its device, frozen and in evaluation mode.
        source: the folder, hub id or file it came from.
        low_memory: one image at a time, and each part on the device only while it works.
        captions: file of the captions of general knowledge, for `caption_files.read_captions`.
        vae, text_encoder: as `load` took them.
    """

    pipeline: DiffusionPipeline
    source: str
    _: KW_ONLY
    low_memory: bool = False
    captions: Path = GENERAL_CAPTIONS
    vae: str = ""
    text_encoder: str = ""

    @property
    def name(self) -> str:
        """A short name without the folders of this machine: a hub id, or the last two parts of a path."""
        return "/".join(Path(self.source).parts[-2:])

    @property
    def unet(self) -> UNet2DConditionModel:
        return self.pipeline.unet

    @property
    def device(self) -> torch.device:
        """Where it computes; in low memory its weights may be elsewhere at the moment."""
        # diffusers' own `_execution_device` walks through all modules, and a step of training asks five times.
        offloaded = getattr(getattr(self.unet, "_hf_hook", None), "execution_device", None)
        return next(self.unet.parameters()).device if offloaded is None else torch.device(offloaded)

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    @property
    def length(self) -> int:
        """T, the token positions of a prompt."""
        encoder = self.pipeline.text_encoder.config
        return min(self.pipeline.tokenizer.model_max_length, encoder.max_position_embeddings)

    @property
    def width(self) -> int:
        """D, the width of the text context."""
        return projections.width(self.unet)

    @property
    def embeds_guidance(self) -> bool:
        """Whether the UNet reads the guidance scale, as an LCM does; it has no unconditional half then."""
        return self.unet.config.time_cond_proj_dim is not None

    @property
    def distilled(self) -> bool:
        """Whether it generates in a few steps, and without an unconditional half: LCM, Turbo, Lightning.

        Only its scheduler tells: one of their own, or, of a model that predicts noise, Euler's with trailing steps.
        """
        name, config = type(self.pipeline.scheduler).__name__, self.pipeline.scheduler.config
        trailing = config.get("timestep_spacing") == "trailing" and config.prediction_type == "epsilon"
        return self.embeds_guidance or name in FEW_STEP_SCHEDULERS or (name.startswith("Euler") and trailing)

    @cached_property
    def batches(self) -> Batches:
        """Batches in which images are generated: of one in low memory, smaller than usual once memory has run out."""
        return Batches(1 if self.low_memory else BATCH)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all weights, taken in float16 so that a model loaded in float32 and float16 has the same one."""
        return digest(self.modules())

    @cached_property
    def unet_fingerprint(self) -> str:
        """The same of the UNet alone."""
        return digest({"unet": self.unet})

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        seeds: Sequence[int] = (0,),
        steps: int = ImageRequest.steps,
        guidance: float = ImageRequest.guidance,
        progress: Report = silent,
    ) -> list[Image]:
        """Generate every prompt with every seed, with whatever weights are in place.

        Args:
            prompts: one or several.
            seeds: one image of every prompt for each; the same seed gives the same image.
            steps: denoising steps; fewer for a model that is distilled to few.
            guidance: classifier-free guidance scale, 1 is none; fixed for a distilled model.
            progress: called with stage "generate" at every denoising step: images done of all.

        Returns:
            RGB images of the model's own size, in the order of prompts, and of seeds within a prompt.

        Raises:
            RecipeError: no prompt, or a setting that no image can be generated with.

        Example:
            >>> before = model.generate("a photo of a cat", seeds=[0, 1])
        """
        from mace_studio.sd import sampling  # noqa: PLC0415 - it needs this module

        prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
        request = ImageRequest(prompts, tuple(seeds), steps=steps, guidance=guidance)
        return sampling.generate(self, sampling.with_defaults(self, request).check(), progress)

    def checksum(self) -> str:
        """SHA-256 of what a run changes in the UNet and restores: projections, modules and their hooks.

        It reads far less than `fingerprint`, so that it can be looked at before every run.
        """
        digest = hashlib.sha256()
        for name, module in self.unet.named_modules():
            hooks = len(module._forward_hooks), len(module._forward_pre_hooks)
            digest.update(f"{name} {type(module).__name__} {hooks}".encode())
        for name, tensor in self.unet.state_dict().items():
            if any(ending in name for ending in projections.ENDINGS["both"]):  # also what a LoRA's wrapper holds
                digest.update(tensor.to("cpu").contiguous().view(torch.uint8).numpy())
        return digest.hexdigest()

    def where(self) -> str:
        """Device and dtype in words, such as "cpu · float32"."""
        return f"{self.device} · {str(self.dtype).removeprefix('torch.')}"

    def memory(self) -> int:
        """Bytes of the weights, and of what an erasure keeps beside them whatever the number of concepts.

        Beside each projection: its refined copy, the sum that the fusion gathers and one that it solves, in float64.
        """
        weights = sum(t.nbytes for m in self.modules().values() for t in m.state_dict().values())
        beside = sum(w.nbytes + 16 * w.numel() for w in projections.read(self.unet).values())
        return weights + beside + 8 * 8 * self.width**2

    def modules(self) -> dict[str, nn.Module]:
        """Its parts that have weights, by their names in the pipeline, such as "unet"."""
        return {name: part for name, part in self.pipeline.components.items() if isinstance(part, nn.Module)}


def digest(parts: Mapping[str, nn.Module]) -> str:
    """SHA-256 of all weights of networks, taken in float16.

    Args:
        parts: name -> the network; both names and shapes count.
    """
    digest = hashlib.sha256()
    for part, module in sorted(parts.items()):
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(f"{part}.{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().to("cpu", torch.float16).contiguous().numpy())
    return digest.hexdigest()


def load(
    source: str | os.PathLike[str] = str(BUILT_IN),
    device: str = "auto",
    dtype: str = "auto",
    low_memory: bool = False,
    captions: Path | None = None,
    vae: str | os.PathLike[str] = "",
    text_encoder: str | os.PathLike[str] = "",
) -> Model:
    """Load a text-to-image model.

    Args:
        source: a folder in the diffusers layout, a hub id, or a single .safetensors checkpoint, as `sources.cleaned`
            reads it; the built-in model when left out. The settings of a checkpoint come from the folder beside it that
            has its name without ".safetensors", or else from the hub.
        device: "auto" (the best there is), "cpu", "cuda", "cuda:1", "mps".
        dtype: "auto", "float32", "float16" or "bfloat16". "auto" is bfloat16 on a CUDA device that computes in it,
            float16 on another, and float32 elsewhere.
        low_memory: keep on the device only the part that works, and decode images one by one and in tiles.
        captions: file of general captions; None takes those that go with the model.
        vae: folder, hub id or file of another VAE; the model's own when empty.
        text_encoder: folder or hub id of another (first) text encoder; the model's own when empty.

    Raises:
        ModelError: with a sentence on what is wrong and what to do.

    Example:
        >>> model = load("path or hub id", dtype="float16")
    """
    source, vae, text_encoder = sources.cleaned(os.fspath(source)), os.fspath(vae), os.fspath(text_encoder)
    device = devices.checked(device)
    kind = _dtype(dtype, device)
    try:
        pipeline = open_pipeline.read(source, kind, vae, text_encoder)
        _place(pipeline, device, low_memory)
    except ModelError:
        raise
    except (OSError, ValueError) as error:
        raise ModelError(_reason(source, str(error))) from error
    except Exception as error:  # files of strangers: diffusers and transformers raise anything over a bad configuration
        log.info("%s could not be loaded", source, exc_info=True)
        raise ModelError(_no_room(source, device, error)) from error
    return _checked(
        Model(
            pipeline,
            source,
            low_memory=low_memory,
            captions=captions or captions_of(source),
            vae=vae,
            text_encoder=text_encoder,
        )
    )


def _dtype(dtype: str, device: str) -> torch.dtype:
    if dtype == "auto":
        half = torch.bfloat16 if device.startswith("cuda") and torch.cuda.is_bf16_supported(False) else torch.float16
        return half if device.startswith("cuda") else torch.float32
    if dtype not in DTYPES:
        raise ModelError(f"The dtype “{dtype}” is not known; use auto, {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def _place(pipeline: DiffusionPipeline, device: str, low_memory: bool) -> None:
    # Attention is not sliced: the fused kernels of PyTorch hold no whole map, and slicing would take their place.
    if low_memory:
        pipeline.vae.enable_slicing()
        pipeline.vae.enable_tiling()
    if low_memory and torch.device(device).type != "cpu":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.to(device)


def _checked(model: Model) -> Model:
    if not projections.names(model.unet):
        raise ModelError(
            f"The UNet of {model.source} has no cross-attention (attn2), so there is nothing to erase from."
        )
    unet, latents = model.unet.config, model.pipeline.vae.config.get("latent_channels", 4)
    parts.check_unet(model.source, unet, latents)
    if problem := _unfit(model.pipeline):
        raise ModelError(f"{model.source} {problem}. {parts.USE_INSTEAD}")
    for name, module in model.modules().items():
        _check_finite(module, parts.CALLED.get(name, name), model.source)
        module.requires_grad_(False).eval()
    model.unet.to(memory_format=torch.channels_last)
    model.pipeline.set_progress_bar_config(disable=True)
    return model


def _check_finite(module: nn.Module, called: str, source: str) -> None:
    """Raise a ModelError where a weight is not a finite number: every image and erasure would be made of such."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            dtype = str(tensor.dtype).removeprefix("torch.")
            remedy = "Load it in float32." if tensor.dtype == torch.float16 else "Download the model again."
            raise ModelError(f"The {called} of {source} has weights that are not finite in {dtype}: {name}. {remedy}")


def _unfit(pipeline: DiffusionPipeline) -> str | None:
    """Why a UNet with cross-attention can still not be used, as the end of a sentence."""
    return schedules.fault(pipeline.scheduler) or _unfit_for_images(pipeline) or _unfit_for_texts(pipeline)


def _unfit_for_images(pipeline: DiffusionPipeline) -> str | None:
    size, scale = pipeline.unet.config.sample_size, pipeline.vae.config.get("scaling_factor")
    sides = size if isinstance(size, list | tuple) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        return "has a UNet whose config.json does not say how large its images are (sample_size)"
    if not isinstance(scale, int | float) or not (math.isfinite(scale) and scale):
        return "has a VAE whose config.json does not say the scale of its latents (scaling_factor)"
    pixels = [side * pipeline.vae_scale_factor for side in sides]
    if max(pixels) > SIDE:
        return f"makes images of {pixels[0]} × {pixels[1]} pixels, and a side of {SIDE:,} is the most"
    if any(side % 8 for side in pixels):
        return f"makes images of {pixels[0]} × {pixels[1]} pixels, and diffusers makes only multiples of 8"
    embeds, kind = pipeline.unet.config.time_cond_proj_dim is not None, type(pipeline.scheduler).__name__
    if embeds and kind not in FEW_STEP_SCHEDULERS:
        return f"has the UNet of an LCM, which needs LCMScheduler, not {kind}, in its {sources.INDEX}"
    return None


def _unfit_for_texts(pipeline: DiffusionPipeline) -> str | None:
    components, width = pipeline.components, projections.width(pipeline.unet)
    if any(weight.shape[1] != width for weight in projections.read(pipeline.unet).values()):
        return "has a UNet whose layers read texts of several widths"
    texts = [part.config.hidden_size for name, part in components.items() if name.startswith("text_encoder")]
    if width != sum(texts):
        return f"has a UNet that reads a text of {width} numbers a token, and text encoders that make {sum(texts)}"
    tokenizers = [part for name, part in components.items() if name.startswith("tokenizer")]
    if any(t.get_vocab() != tokenizers[0].get_vocab() for t in tokenizers):
        return "has two tokenizers that split words differently, so a concept has no one place in a prompt"
    return None


def _reason(source: str, error: str) -> str:
    first = (error.splitlines() or ["it cannot be read"])[0]
    if os.path.isfile(source):
        return (
            f"{source} could not be read as a checkpoint. Its settings are fetched from the hub, once: check the "
            "network, or put a diffusers folder of the same family, whose weights are not read, at "
            f"“{checkpoints.settings_of(Path(source))}”. ({first})"
        )
    return f"{source} is not a model in the diffusers layout: {first}"


def _no_room(source: str, device: str, error: Exception) -> str:
    if not ran_out(error):
        first = (str(error).splitlines() or [type(error).__name__])[0]
        return f"{source} could not be loaded on {device}: {first}"
    return (
        f"There is not enough memory for {source} on {device}. Use float16, --low-memory, another device or a smaller "
        "model."
    )
