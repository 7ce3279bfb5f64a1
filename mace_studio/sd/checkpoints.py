"""Single files in the layout of the original Stable Diffusion checkpoints -> pipelines."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders import single_file_model
from safetensors import SafetensorError, safe_open
from torch import nn

from mace_studio import sources
from mace_studio.errors import ModelError
from mace_studio.sd import ldm_keys, parts, schedules

log = logging.getLogger(__name__)

UNET, VAE = ldm_keys.UNET, ldm_keys.VAE
AUTOENCODER = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")  # parts of a VAE in a file of its own
LATENTS = 4
REFINER = 2560  # numbers that a refiner reads beside the text: five, each as 256, and a text of 1,280
WEIGHTS = (UNET, VAE, "cond_stage_model.", "conditioner.")
COUNTED = ("position_ids", "num_batches_tracked")  # what is whole numbers beside weights
# How metadata by https://github.com/Stability-AI/ModelSpec calls what the UNet predicts.
# Letters alone count, since people write v-pred and v_pred, too.
PREDICTIONS = {**dict.fromkeys(("v", "vpred", "vprediction", "velocity", "vparameterization"), "v_prediction"),
               **dict.fromkeys(("epsilon", "eps", "epsilonprediction", "noise"), "epsilon")}  # fmt: skip


def settings_of(file: Path) -> Path:
    """The folder beside a single file that may hold its settings: a diffusers folder, whose UNet is not read.

    Args:
        file: of any name; need not exist.
    """
    return file.with_suffix("")


def read(path: Path, dtype: torch.dtype, others: Mapping[str, nn.Module]) -> DiffusionPipeline:
    """The pipeline of a checkpoint. A VAE or text encoder that it lacks comes from the settings folder beside it.

    Args:
        path: of the file.
        dtype: of the weights.
        others: parts that take the place of the file's own.

    Raises:
        ModelError: this kind of checkpoint cannot be used, or a part is missing.
    """
    shapes, about = _header(path)
    _check_kind(path, shapes)
    large = any(key.startswith(f"{UNET}label_emb.") for key in shapes)
    missing = _missing(path, shapes, large, dtype, others)
    given = dict(others) | missing | _settings(path, large, {*others, *missing})
    kind = StableDiffusionXLPipeline if large else StableDiffusionPipeline
    checker = {} if large else {"safety_checker": None, "requires_safety_checker": False}
    with _gaps_named(path):
        pipeline = kind.from_single_file(str(path), dtype=dtype, **given, **checker)
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module):
            _check_whole(part, parts.CALLED.get(name, name), path)
    for name in ("tokenizer", "tokenizer_2"):
        if name in pipeline.components:
            encoder = pipeline.components[name.replace("tokenizer", "text_encoder")]
            parts.fit(pipeline.components[name], encoder, name, path.name)
    if changes := _prediction(shapes, about, pipeline.scheduler.config.prediction_type):
        pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, **changes)
    return pipeline


def vae(path: Path, dtype: torch.dtype) -> AutoencoderKL:
    """The VAE in a single file of its own or in a checkpoint.

    Args:
        path: a .safetensors file with the names of diffusers or of the original layout.
        dtype: of the weights in memory.

    Raises:
        ModelError: it holds none or a part of one, or cannot be read.
    """
    shapes, _ = _header(path)
    if not _has_vae(shapes):
        raise ModelError(f"{path.name} holds no VAE.")
    settings = settings_of(path)
    inner = "vae" if (settings / "vae" / "config.json").is_file() else None
    here = (settings / (inner or "") / "config.json").is_file()
    known = {"config": str(settings), "subfolder": inner, "local_files_only": True} if here else {}
    try:
        with _gaps_named(path):
            return AutoencoderKL.from_single_file(str(path), torch_dtype=dtype, **known)
    except OSError as error:
        raise ModelError(
            f"The settings of {path.name} are fetched from the hub, once: check the network, or put the config.json of "
            f"a VAE of the same family into the folder “{settings}”."
        ) from error


def _settings(path: Path, large: bool, loaded: Collection[str]) -> dict[str, Any]:
    """The options by which a pipeline's settings come from the folder beside a file, checked first; none without it.

    Raises:
        ModelError: nothing can be made of that folder, or it is of another family.
    """
    settings = settings_of(path)
    if not (settings / sources.INDEX).is_file():
        return {}
    here = settings.name
    try:
        parts.check_files(settings, here)
        kinds = parts.of_index(here, parts.read_json(settings / sources.INDEX))
        if large != ("text_encoder_2" in kinds):
            raise ModelError(
                f"it is {'no' if large else 'a'} Stable Diffusion XL, other than {path.name}. Put the folder of a "
                "model of the same family there."
            )
        options: dict[str, Any] = {"config": str(settings), "local_files_only": True}
        for name in kinds:
            if name.startswith("tokenizer"):
                options[name] = parts.tokenizer(settings, name, here)
            elif name == "scheduler":
                options[name] = schedules.of_folder(kinds[name], settings, here)
            elif name not in loaded:
                parts.check_sizes(parts.read_json(settings / name / "config.json"), parts.CALLED[name], here)
    except ModelError as error:
        raise ModelError(
            f"The settings of {path.name}, in the folder “{settings}” beside it, cannot be used: {error}"
        ) from error
    return options


@contextmanager
def _gaps_named(path: Path) -> Iterator[None]:
    """Inside the `with` block, a UNet or VAE of which the file lacks weights is refused by their names.

    Diffusers leaves those without numbers and fails when it puts the part on its device, and says so of the tensor
    alone: the check comes between the two.
    """
    called = {AutoencoderKL: parts.CALLED["vae"], UNet2DConditionModel: parts.CALLED["unet"]}
    put_in_place = single_file_model.dispatch_model

    def checked(part: nn.Module, **options: Any) -> nn.Module:
        _check_whole(part, called.get(type(part), type(part).__name__), path)
        return put_in_place(part, **options)

    single_file_model.dispatch_model = checked
    try:
        yield
    except KeyError as error:  # of the names that diffusers goes through without asking whether they are there
        name = str(error.args[0] if error.args else "some")
        raise ModelError(
            f"{path.name} lacks weights: {name} and perhaps others. Download the model again."
            if "." in name
            else f"The settings of {path.name} do not say its {name}; take the folder of another model of its family."
        ) from error
    except (ValueError, RuntimeError) as error:
        if "expected shape" not in str(error):
            raise
        found = re.search(r"because (\S+) expected shape", str(error))
        raise ModelError(
            f"The weights of {path.name} have other shapes than its settings say{f' ({found[1]})' if found else ''}; "
            f"download the model again, or take away “{settings_of(path)}” if that is of another model."
        ) from error
    finally:
        single_file_model.dispatch_model = put_in_place


def _check_whole(part: nn.Module, called: str, path: Path) -> None:
    """Raise a ModelError where weights were not in the file; diffusers leaves them without numbers."""
    parts.check_whole([key for key, tensor in part.state_dict().items() if tensor.is_meta], called, path.name)


def _header(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """The shape of every tensor, and the metadata; no weights are read."""
    if path.suffix != sources.CHECKPOINT and path.suffix.lower() == sources.CHECKPOINT:
        raise ModelError(f"Rename {path.name} so that it ends in {sources.CHECKPOINT}, in small letters.")
    if path.suffix != sources.CHECKPOINT:
        raise ModelError(f"{path.name} is no .safetensors file; pickled checkpoints can run code, so they stay out.")
    try:
        with safe_open(path, framework="pt") as file:
            stored = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            shapes = {key: tuple(one.get_shape()) for key, one in stored.items()}
            dtypes = {key: one.get_dtype() for key, one in stored.items()}
            about = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path.name} could not be read as a checkpoint: {error}") from error
    for key, dtype in dtypes.items():
        if key.startswith(WEIGHTS) and not key.endswith(COUNTED) and not dtype.startswith(("F", "BF")):
            raise ModelError(
                f"{path.name} is saved as {dtype}, in which no weights can be ({key}); download the model in float32, "
                "float16 or bfloat16."
            )
    return shapes, about


def _check_kind(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    if not any(key.startswith(UNET) and key.endswith("attn2.to_k.weight") for key in shapes):
        alone = all(key.startswith((VAE, *AUTOENCODER)) for key in shapes) and _has_vae(shapes)
        part = " It holds a VAE alone; give it as the VAE of a model." if alone else ""
        raise ModelError(
            f"{path.name} holds no UNet with cross-attention (attn2) in the layout of Stable Diffusion checkpoints, "
            f"so there is nothing to erase from.{part} {parts.USE_INSTEAD}"
        )
    if any("cond_proj" in key for key in shapes):
        raise ModelError(
            f"{path.name} is an LCM whose UNet reads the guidance scale, which diffusers cannot read from a single "
            "file. Use its folder in the diffusers layout, or its hub id."
        )
    first = shapes.get(f"{UNET}input_blocks.0.0.weight", (0, LATENTS))
    refiner = any(key.startswith("conditioner.embedders.0.model.") for key in shapes)
    refiner |= shapes.get(f"{UNET}label_emb.0.0.weight", ())[1:] == (REFINER,)
    # Whether the numbers beside text_time are a class (unCLIP, upscaler) is not seen here; its input is wider anyway.
    parts.check_unet(path.name, {"in_channels": -1 if refiner or len(first) < 2 else first[1]}, LATENTS)


def _has_vae(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return any(key.removeprefix(VAE).startswith("decoder.") for key in shapes)


def _missing(
    path: Path, shapes: Mapping[str, tuple[int, ...]], large: bool, dtype: torch.dtype, others: Mapping[str, nn.Module]
) -> dict[str, nn.Module]:
    """The parts that the file lacks, from the settings folder beside it.

    Raises:
        ModelError: they are not there either.
    """
    text = (
        {"text_encoder": ldm_keys.XL_TEXT[0], "text_encoder_2": ldm_keys.XL_TEXT[1]}
        if large
        else {"text_encoder": ldm_keys.SD_TEXT}
    )
    found: dict[str, nn.Module] = {}
    lacking = [n for n, start in {"vae": VAE, **text}.items() if not any(key.startswith(start) for key in shapes)]
    if "text_encoder_2" in lacking and "text_encoder" not in lacking:
        lacking.append("text_encoder")  # diffusers reads the first from a file only beside the second
    for name in lacking:
        if name in others:
            continue
        settings = settings_of(path)
        if not any(file.suffix in sources.WEIGHTS for file in (settings / name).glob("*")):
            option = {"vae": " or name one with --vae", "text_encoder": " or name one with --text-encoder"}
            raise ModelError(
                f"{path.name} holds no {parts.CALLED[name]}. Put the folder of a model of the same family, with its "
                f"“{name}”, at “{settings}”{option.get(name, '')}."
            )
        own = settings / name
        found[name] = parts.module(parts.kind_of(own, name), own, name, dtype, str(settings))
    return found


def _prediction(shapes: Mapping[str, object], about: Mapping[str, str], now: str) -> dict[str, object]:
    """What the file says of its own noise schedule, where that is not what its settings say."""
    if ldm_keys.V_PREDICTION in shapes:
        return {"prediction_type": "v_prediction", "rescale_betas_zero_snr": ldm_keys.ZERO_SNR in shapes}
    written = str(about.get("modelspec.prediction_type", ""))
    said = PREDICTIONS.get("".join(filter(str.isalpha, written.lower())))
    if said is None and written.strip():
        log.warning("what the file says it predicts, “%s”, is not known; %s is taken", written[:80], now)
    return {"prediction_type": said} if said not in (None, now) else {}
