"""The model's folder in the diffusers layout: what it is started from, and how trained parts get into it."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

# Where a folder was loaded from is nobody's business.
PRIVATE = ("_name_or_path", "name_or_path")


def adopt(start: Path, model: Path) -> None:
    """Copy the autoencoder of the folder that a model is started from, unless `model` has one already.

    The tokenizer and the text encoder come with the CLIP, and the UNet is written when it was trained.
    """
    if not (model / "vae").exists():
        shutil.copytree(start / "vae", model / "vae")


def load(folder: Path) -> StableDiffusionPipeline:
    """The pipeline in float32 on the CPU."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_vae(folder: Path) -> AutoencoderKL:
    """The autoencoder in float32.

    Raises:
        FileNotFoundError: the folder has none.
    """
    if not (folder / "vae" / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no vae; train one first, or name a model with --start")
    return AutoencoderKL.from_pretrained(folder, subfolder="vae", dtype=torch.float32, local_files_only=True)


def load_clip(folder: Path) -> CLIPModel:
    """A whole CLIP in float32.

    Raises:
        FileNotFoundError: there is no CLIP in the folder.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no CLIP; train one first")
    return CLIPModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def load_text(folder: Path) -> tuple[CLIPTextModel, CLIPTokenizer]:
    """The text side of a CLIP in float32, and its tokenizer.

    Raises:
        FileNotFoundError: there is no CLIP in the folder.
    """
    return load_clip(folder).text_model.eval(), CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def pipeline(
    vae: AutoencoderKL, text: CLIPTextModel, unet: UNet2DConditionModel, tokenizer: CLIPTokenizer
) -> StableDiffusionPipeline:
    """The parts as a pipeline, with the noise that the model is trained on."""
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        clip_sample=False, set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    whole = StableDiffusionPipeline(vae, text, tokenizer, unet, scheduler, None, None, requires_safety_checker=False)
    whole.set_progress_bar_config(disable=True)
    return whole


def write(whole: StableDiffusionPipeline, folder: Path) -> None:
    """Write trained weights over those in a folder, in float16, and whatever else it still lacks."""
    parts = {name: part for name, part in whole.components.items() if part is not None}
    write_parts(parts, folder)
    index = folder / "model_index.json"
    if not index.exists():
        with TemporaryDirectory(dir=folder) as temporary:
            whole.save_config(temporary)
            tidy(Path(temporary))
            os.replace(Path(temporary) / index.name, index)


def write_parts(parts: Mapping[str, Any], folder: Path) -> None:
    """Write parts into the folders of their names: modules in float16 in place of the old, others only if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        target = folder / name
        if target.exists() and not isinstance(part, nn.Module):
            continue
        with TemporaryDirectory(dir=folder) as temporary:
            fresh = Path(temporary) / name
            light: Any = copy.deepcopy(part).half() if isinstance(part, nn.Module) else part
            light.save_pretrained(fresh)
            tidy(fresh)
            shutil.rmtree(target, ignore_errors=True)
            os.replace(fresh, target)


def tidy(folder: Path) -> None:
    """Drop from the settings in a folder where they were loaded from."""
    for path in folder.glob("*.json"):
        settings = json.loads(path.read_text(encoding="utf-8"))
        kept = {key: value for key, value in settings.items() if key not in PRIVATE}
        path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
