"""From a folder, hub id or single file to a diffusers pipeline; what is no UNet that reads text is refused unread."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
    LatentConsistencyModelPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from torch import nn

from mace_studio import sources
from mace_studio.errors import ModelError
from mace_studio.sd import checkpoints, hub, parts, schedules
from mace_studio.sd.batching import ran_out
from mace_studio.sd.parts import USE_INSTEAD as USE_INSTEAD

log = logging.getLogger(__name__)

# The safety checker would blacken images that are compared and counted; it is no part of an erasure.
UNUSED = {"safety_checker": None, "feature_extractor": None}


def read(source: str, dtype: torch.dtype, vae: str = "", text_encoder: str = "") -> DiffusionPipeline:
    """The pipeline, on the CPU. Safetensors only, never remote code.

    Args:
        source: from `sources.cleaned`: a folder, a hub id or a single .safetensors checkpoint.
        dtype: of the weights.
        vae: folder or hub id of another VAE, or of a model whose VAE is taken; for a checkpoint that has none.
        text_encoder: the same of the (first) text encoder.

    Raises:
        ModelError: this kind of model cannot be used.
        OSError, ValueError: it cannot be read.
    """
    others: dict[str, nn.Module] = {}
    if vae:
        others["vae"] = _other(vae, "vae", dtype)
    if text_encoder:
        others["text_encoder"] = _other(text_encoder, "text_encoder", dtype)
    path = Path(source)
    if os.path.isfile(path):  # that of Path fails for a name of too many bytes
        return checkpoints.read(path, dtype, others)
    return _folder(path if os.path.isdir(path) else hub.fetched(source), source, dtype, others)


def _folder(folder: Path, source: str, dtype: torch.dtype, others: dict[str, nn.Module]) -> DiffusionPipeline:
    """The text-to-image pipeline of a folder's parts, whichever pipeline they were saved from."""
    if not (folder / sources.INDEX).is_file():
        whole = (folder.parent / sources.INDEX).is_file()
        remedy = f" It is one part of a model; give the folder above, {folder.parent.name}." if whole else ""
        raise ModelError(f"{source} is not a model in the diffusers layout: it holds no {sources.INDEX}.{remedy}")
    parts.check_files(folder, source)
    index = parts.read_json(folder / sources.INDEX)
    kinds = parts.of_index(source, index)
    configs = {name: parts.read_json(folder / name / "config.json") for name in ("unet", "vae") if name not in others}
    latents: Any = others["vae"].config if "vae" in others else configs["vae"]
    parts.check_unet(source, configs["unet"], latents.get("latent_channels", 4))
    loaded: dict[str, Any] = {"scheduler": schedules.of_folder(kinds["scheduler"], folder, source)}
    for name in kinds:
        if name.startswith("tokenizer"):
            loaded[name] = parts.tokenizer(folder, name, source)
        elif name != "scheduler":
            loaded[name] = (
                others[name] if name in others else parts.module(kinds[name], folder / name, name, dtype, source)
            )
    for name in ("tokenizer", "tokenizer_2"):
        if name in kinds:
            parts.fit(loaded[name], loaded[name.replace("tokenizer", "text_encoder")], name, source)
    if "text_encoder_2" in kinds:
        zeros = index.get("force_zeros_for_empty_prompt", True)
        return StableDiffusionXLPipeline(**loaded, force_zeros_for_empty_prompt=bool(zeros))
    embeds = loaded["unet"].config.time_cond_proj_dim is not None
    kind = LatentConsistencyModelPipeline if embeds else StableDiffusionPipeline
    return kind(**loaded, **UNUSED, requires_safety_checker=False)


def _other(source: str, name: str, dtype: torch.dtype) -> nn.Module:
    """A part that takes the place of a model's own: from its own folder, or from that of another model.

    Raises:
        ModelError: there is no such part, or it cannot be read.
    """
    try:
        return _taken(sources.cleaned(source), name, dtype)
    except Exception as error:  # files of strangers: diffusers and transformers raise anything
        if ran_out(error):
            raise
        log.info("the %s of %s could not be loaded", name, source, exc_info=True)
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"The {parts.CALLED[name]} that was named cannot be loaded: {said}") from error


def _taken(source: str, name: str, dtype: torch.dtype) -> nn.Module:
    path = Path(source)
    if os.path.isfile(path) and name == "vae":
        return checkpoints.vae(path, dtype)
    if os.path.isfile(path):
        raise ModelError(f"{source} is a file; give the folder of the text encoder, or of a model that has one.")
    folder = path if os.path.isdir(path) else hub.fetched(source, name)
    parts.check_files(folder, source)
    own = folder / name if (folder / name / "config.json").is_file() else folder
    if not (own / "config.json").is_file():
        raise ModelError(f"{source} holds no {parts.CALLED[name]}: neither a config.json nor a folder “{name}”.")
    return parts.module(parts.kind_of(own, name), own, name, dtype, source)
