"""A model ready for work: its pipeline on a device, and what can be asked of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from PIL.Image import Image
from torch import nn

from mace_studio.errors import FileError, ModelError
from mace_studio.paths import ASSETS, BUILT_IN
from mace_studio.progress import Report, silent
from mace_studio.recipe import ImageRequest
from mace_studio.sd import open_pipeline, projections
from mace_studio.sd.batching import Batches, ran_out

GENERAL_CAPTIONS = ASSETS / "captions" / "general.txt"
BATCH = 8  # images generated at once
FEW_STEP_SCHEDULERS = ("LCMScheduler", "TCDScheduler")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Model:
    """A text-to-image pipeline with a UNet that reads text by cross-attention.

    Attributes:
        pipeline: a diffusers pipeline on its device, frozen and in evaluation mode.
        source: the folder, hub id or file it came from.
        low_memory: one picture at a time, and each part on the device only while it works.
        captions: file of the captions of general knowledge, for `read_captions`.
    """

    pipeline: DiffusionPipeline
    source: str
    low_memory: bool = False
    captions: Path = GENERAL_CAPTIONS

    @property
    def name(self) -> str:
        """What to call it where the whole path is nobody's business: a hub id, or the last two parts of a path."""
        return "/".join(Path(self.source).parts[-2:])

    @property
    def unet(self) -> UNet2DConditionModel:
        return self.pipeline.unet

    @property
    def device(self) -> torch.device:
        """Where it computes; in low memory its weights may be elsewhere at the moment."""
        return self.pipeline._execution_device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    @property
    def length(self) -> int:
        """T, the token positions of a prompt."""
        return self.pipeline.tokenizer.model_max_length

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
        """Whether it draws in a few steps, and without an unconditional half: LCM, Turbo, Lightning.

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
        digest = hashlib.sha256()
        for part, module in sorted(self.modules().items()):
            for name, tensor in sorted(module.state_dict().items()):
                digest.update(f"{part}.{name}{tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().to("cpu", torch.float16).contiguous().numpy())
        return digest.hexdigest()

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
            progress: told of stage "generate" at every denoising step: images done of all.

        Returns:
            RGB images of the model's own size, in the order of prompts, and of seeds within a prompt.

        Raises:
            RecipeError: no prompt, or a setting that no image can be generated with.

        Example:
            >>> before = model.generate("a photo of a cat", seeds=[0, 1])
        """
        from mace_studio.sd import sampling  # noqa: PLC0415 - it needs this module

        prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
        request = ImageRequest(prompts, tuple(seeds), steps, guidance)
        return sampling.generate(self, sampling.with_defaults(self, request).check(), progress)

    def checksum(self) -> str:
        """SHA-256 of what a run changes in the UNet and restores: projections, the modules there are, their hooks.

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


def load(
    source: str = str(BUILT_IN),
    device: str = "auto",
    dtype: str = "auto",
    low_memory: bool = False,
    captions: Path | None = None,
) -> Model:
    """Load a text-to-image model.

    Args:
        source: a folder in the diffusers layout, a hub id, or a single .safetensors checkpoint; the built-in model when
            left out. The settings of a checkpoint come from the folder beside it that has its name without
            ".safetensors", or else from the hub.
        device: "auto" (the best there is), "cpu", "cuda", "cuda:1", "mps".
        dtype: "auto" (float16 on CUDA, float32 elsewhere), "float32", "float16", "bfloat16".
        low_memory: keep on the device only the part that works, and decode pictures one by one and in tiles.
        captions: file of general captions; None takes those that go with the model.

    Raises:
        ModelError: with a sentence on what is wrong and what to do.
    """
    device = _best_device() if device == "auto" else device
    kind = _dtype(dtype, device)
    try:
        pipeline = open_pipeline.read(source, kind)
        _place(pipeline, device, low_memory)
    except (OSError, ValueError) as error:
        raise ModelError(_reason(source, str(error))) from error
    except (MemoryError, RuntimeError) as error:
        raise ModelError(_no_room(source, device, error)) from error
    return _checked(Model(pipeline, source, low_memory, captions or captions_of(source)))


def captions_of(source: str) -> Path:
    """The captions that go with a model: the `captions.txt` of its folder, or everyday scenes."""
    own = Path(source) / "captions.txt"
    return own if own.is_file() else GENERAL_CAPTIONS


def read_captions(path: Path) -> list[str]:
    """The captions in a text file, one a line, or in an annotation file of MS-COCO, `captions_*.json`.

    Raises:
        FileError: it is neither, or holds none.
    """
    try:
        written = path.read_text(encoding="utf-8")
        lines = written.splitlines()
        if path.suffix == ".json":
            lines = [annotation["caption"] for annotation in json.loads(written)["annotations"]]
        found = [line.strip() for line in lines if line.strip()]
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise FileError(f"{path} is no file of captions: neither text, one a line, nor MS-COCO's JSON.") from error
    if not found:
        raise FileError(f"{path} holds no captions; give a file with one a line.")
    return found


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _dtype(dtype: str, device: str) -> torch.dtype:
    if dtype == "auto":
        return torch.float16 if device.startswith("cuda") else torch.float32
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
    if problem := _unfit(model.pipeline):
        raise ModelError(f"{model.source} {problem}. {open_pipeline.USE_INSTEAD}")
    for module in model.modules().values():
        module.requires_grad_(False).eval()
    model.unet.to(memory_format=torch.channels_last)
    model.pipeline.set_progress_bar_config(disable=True)
    return model


def _unfit(pipeline: DiffusionPipeline) -> str | None:
    """Why a UNet with cross-attention can still not be used, as the end of a sentence."""
    unet, schedule, parts = pipeline.unet.config, pipeline.scheduler.config, pipeline.components
    more = unet.class_embed_type or unet.num_class_embeds or unet.addition_embed_type not in (None, "text_time")
    if more or unet.in_channels != pipeline.vae.config.latent_channels:
        return "draws from more than a prompt (inpainting, depth, upscaling), which an erasure cannot be trained on"
    if "beta_schedule" not in schedule:
        return "has a noise schedule without betas (EDM, flow matching), which an erasure cannot be trained on"
    tokenizers = [part for name, part in parts.items() if name.startswith("tokenizer")]
    if any(t.get_vocab() != tokenizers[0].get_vocab() for t in tokenizers):
        return "has two tokenizers that split words differently, so a concept has no one place in a prompt"
    return None


def _reason(source: str, error: str) -> str:
    if "safetensors" in error and ("Could not find" in error or "no file named" in error):
        return (
            f"{source} has no safetensors weights. Pickled weights can run code, so they are not loaded; "
            "convert the model to safetensors first."
        )
    if Path(source).is_file():
        return (
            f"{source} could not be read as a checkpoint. Its settings are fetched from the hub, once: check the "
            "network, or put a diffusers folder of the same family, whose weights are not read, at "
            f"“{open_pipeline.settings_of(Path(source))}”. ({error.splitlines()[0]})"
        )
    if Path(source).exists():
        return f"{source} is not a model in the diffusers layout: {error.splitlines()[0]}"
    return (
        f"There is no folder “{source}”, and it could not be fetched from the hub. Check the spelling and the network, "
        "or give the folder of a model that is on this machine."
    )


def _no_room(source: str, device: str, error: Exception) -> str:
    if not ran_out(error):
        return f"{source} could not be loaded on {device}: {str(error).splitlines()[0]}"
    return (
        f"There is not enough memory for {source} on {device}. Use float16, --low-memory, another device or a smaller "
        "model."
    )
