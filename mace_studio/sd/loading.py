"""From a folder, hub id or single file to a pipeline on a device. Safetensors only, never remote code."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn

from mace_studio.errors import ModelError
from mace_studio.sd import projections

GENERAL_CAPTIONS = Path(__file__).parents[2] / "assets" / "captions" / "general.txt"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Model:
    """A text-to-image pipeline with a UNet that reads text by cross-attention.

    Attributes:
        pipeline: a diffusers pipeline on its device, frozen and in evaluation mode.
        source: the folder, hub id or file it came from.
    """

    pipeline: DiffusionPipeline
    source: str

    @property
    def name(self) -> str:
        """What to call it where the whole path is nobody's business: a hub id, or the last two parts of a path."""
        return "/".join(Path(self.source).parts[-2:])

    @property
    def unet(self) -> UNet2DConditionModel:
        return self.pipeline.unet

    @property
    def device(self) -> torch.device:
        return self.unet.device

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
    def captions(self) -> Path:
        """Captions of general knowledge, one a line: the model's own `captions.txt`, or everyday scenes."""
        return captions(self.source)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all weights, taken in float16 so that a model loaded in float32 and float16 has the same one."""
        digest = hashlib.sha256()
        for part, module in sorted(self._modules().items()):
            for name, tensor in sorted(module.state_dict().items()):
                digest.update(f"{part}.{name}{tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().to("cpu", torch.float16).contiguous().numpy())
        return digest.hexdigest()

    def where(self) -> str:
        """Device and dtype in words, such as "cpu · float32"."""
        return f"{self.device} · {str(self.dtype).removeprefix('torch.')}"

    def memory(self) -> int:
        """Bytes of the weights, and of what an erasure keeps beside them whatever the number of concepts.

        Beside each projection: its refined copy, the sum that the fusion gathers and one that it solves, in float64.
        """
        weights = sum(t.nbytes for m in self._modules().values() for t in m.state_dict().values())
        beside = sum(w.nbytes + 16 * w.numel() for w in projections.read(self.unet).values())
        return weights + beside + 8 * 8 * self.width**2

    def _modules(self) -> dict[str, nn.Module]:
        return {name: part for name, part in self.pipeline.components.items() if isinstance(part, nn.Module)}


def load(source: str, device: str = "auto", dtype: str = "auto") -> Model:
    """Load a text-to-image model.

    Args:
        source: a folder in the diffusers layout, a hub id, or a single .safetensors checkpoint.
        device: "auto" (the best there is), "cpu", "cuda", "cuda:1", "mps".
        dtype: "auto" (float16 on CUDA, float32 elsewhere), "float32", "float16", "bfloat16".

    Raises:
        ModelError: with a sentence on what is wrong and what to do.
    """
    device = _best_device() if device == "auto" else device
    kind = _dtype(dtype, device)
    try:
        pipeline = _read(source, kind).to(device)
    except (OSError, ValueError) as error:
        raise ModelError(_reason(source, str(error))) from error
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        raise ModelError(_no_room(source, device, str(error))) from error
    return _checked(pipeline, source)


def captions(source: str) -> Path:
    """The file of captions that goes with a model."""
    own = Path(source) / "captions.txt"
    return own if own.is_file() else GENERAL_CAPTIONS


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


def _read(source: str, dtype: torch.dtype) -> DiffusionPipeline:
    path = Path(source)
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ModelError(
                f"{path.name} is no .safetensors file; pickled checkpoints can run code, so they stay out."
            )
        return StableDiffusionPipeline.from_single_file(source, dtype=dtype, safety_checker=None)
    # The safety checker would blacken images that are compared and counted; it is no part of an erasure.
    return DiffusionPipeline.from_pretrained(
        source,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=path.is_dir(),
        safety_checker=None,
        requires_safety_checker=False,
    )


def _checked(pipeline: DiffusionPipeline, source: str) -> Model:
    parts = pipeline.components
    reads_text = parts.get("tokenizer") is not None and parts.get("text_encoder") is not None
    if not (reads_text and isinstance(parts.get("unet"), UNet2DConditionModel)):
        raise ModelError(
            f"{source} is a {type(pipeline).__name__}, not a text-to-image model with a UNet. "
            "Use Stable Diffusion 1.x or 2.x, or a model made from them."
        )
    if not projections.names(parts["unet"]):
        raise ModelError(f"The UNet of {source} has no cross-attention (attn2), so there is nothing to erase from.")
    model = Model(pipeline, source)
    for module in model._modules().values():
        module.requires_grad_(False).eval()
    model.unet.to(memory_format=torch.channels_last)
    pipeline.set_progress_bar_config(disable=True)
    return model


def _reason(source: str, error: str) -> str:
    if "safetensors" in error and ("Could not find" in error or "no file named" in error):
        return (
            f"{source} has no safetensors weights. Pickled weights can run code, so they are not loaded; "
            "convert the model to safetensors first."
        )
    if Path(source).is_file():
        return (
            f"{source} could not be read as a checkpoint. Its settings are fetched from the hub, once: check the "
            f"network, or use a folder in the diffusers layout. ({error.splitlines()[0]})"
        )
    if Path(source).exists():
        return f"{source} is not a model in the diffusers layout: {error.splitlines()[0]}"
    return (
        f"There is no folder “{source}”, and it could not be fetched from the hub. Check the spelling and the network, "
        "or give the folder of a model that is on this machine."
    )


def _no_room(source: str, device: str, error: str) -> str:
    if error and "memory" not in error.lower():
        return f"{source} could not be loaded on {device}: {error.splitlines()[0]}"
    return f"There is not enough memory for {source} on {device}. Use float16, another device or a smaller model."
