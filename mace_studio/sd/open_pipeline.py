"""From a folder, hub id or single file to a diffusers pipeline; what is no UNet that reads text is refused unread."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors import SafetensorError, safe_open

from mace_studio.errors import ModelError
from mace_studio.sd import ldm_keys

USE_INSTEAD = "Use Stable Diffusion 1.x, 2.x or XL, a Turbo or LCM model, or a model made from one of them."
# The safety checker would blacken images that are compared and counted; it is no part of an erasure.
UNCHECKED = {"safety_checker": None, "requires_safety_checker": False}


def read(source: str, dtype: torch.dtype) -> DiffusionPipeline:
    """The pipeline, on the CPU. Safetensors only, never remote code.

    Raises:
        ModelError: this kind of model cannot be used.
        OSError, ValueError: it cannot be read.
    """
    return _file(Path(source), dtype) if Path(source).is_file() else _folder(source, dtype)


def settings_of(file: Path) -> Path:
    """The folder beside a single file that may hold its settings: a diffusers folder, whose weights are not read."""
    return file.with_suffix("")


def _folder(source: str, dtype: torch.dtype) -> DiffusionPipeline:
    local = Path(source).is_dir()
    index = DiffusionPipeline.load_config(source, local_files_only=local)
    _check_index(source, index)
    options = UNCHECKED if "safety_checker" in index else {}
    return DiffusionPipeline.from_pretrained(
        source, dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=local, **options
    )


def _check_index(source: str, index: Mapping) -> None:
    """Raise a ModelError, before any weights are read, unless the pipeline reads text with a UNet."""
    parts = {name: part for name, part in index.items() if isinstance(part, list | tuple) and part[0]}
    name = index.get("_class_name")
    if "transformer" in parts:
        raise ModelError(
            f"{source} is a {name}, whose transformer reads text and image in one attention; there are no "
            f"projections of the text alone (attn2) to edit. {USE_INSTEAD}"
        )
    texts = "tokenizer" in parts and "text_encoder" in parts
    if not texts or "unet" not in parts or parts["unet"][1] != UNet2DConditionModel.__name__:
        raise ModelError(f"{source} is a {name}, not a text-to-image model with a UNet. {USE_INSTEAD}")


def _file(path: Path, dtype: torch.dtype) -> DiffusionPipeline:
    keys = _keys(path)
    if not any(key.startswith("model.diffusion_model.") and key.endswith("attn2.to_k.weight") for key in keys):
        raise ModelError(
            f"{path.name} holds no UNet with cross-attention (attn2) in the layout of Stable Diffusion checkpoints, "
            f"so there is nothing to erase from. {USE_INSTEAD}"
        )
    if any("cond_proj" in key for key in keys):
        raise ModelError(
            f"{path.name} is an LCM whose UNet reads the guidance scale, which diffusers cannot read from a single "
            "file. Use its folder in the diffusers layout, or its hub id."
        )
    settings = settings_of(path)
    known = {"config": str(settings), "local_files_only": True} if (settings / "model_index.json").is_file() else {}
    if any(key.startswith("conditioner.embedders.1.") for key in keys):
        pipeline = StableDiffusionXLPipeline.from_single_file(str(path), dtype=dtype, **known)
        if ldm_keys.V_PREDICTION in keys:
            kind = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": ldm_keys.ZERO_SNR in keys}
            pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, **kind)
        return pipeline
    return StableDiffusionPipeline.from_single_file(str(path), dtype=dtype, **known, **UNCHECKED)


def _keys(path: Path) -> list[str]:
    if path.suffix != ".safetensors":
        raise ModelError(f"{path.name} is no .safetensors file; pickled checkpoints can run code, so they stay out.")
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except SafetensorError as error:
        raise ModelError(f"{path.name} could not be read as a checkpoint: {error}") from error
