"""The parts of a folder in the diffusers layout: checked by their configurations first, then loaded whole or not."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import CLIPTokenizer

from mace_studio import sources
from mace_studio.errors import ModelError
from mace_studio.sd import weight_files
from mace_studio.sd.batching import ran_out

log = logging.getLogger(__name__)

USE_INSTEAD = "Use Stable Diffusion 1.x, 2.x or XL, a Turbo or LCM model, or a model made from one of them."
TEXT = ("CLIPTextModel", "CLIPTextModelWithProjection")
VAES = ("AutoencoderKL", "AsymmetricAutoencoderKL", "AutoencoderTiny", "ConsistencyDecoderVAE")
NEEDED = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
SECOND = ("text_encoder_2", "tokenizer_2")
CALLED = {"unet": "UNet", "vae": "VAE", "text_encoder": "text encoder", "text_encoder_2": "second text encoder"}
LARGEST_JSON = 4_000_000  # bytes; configurations have some thousand
MOST_LAYERS = 200  # of a block or an encoder; all of them are built, without weights, before a file of weights is read
LARGEST = 1_000_000  # any other number of a configuration
SHORTEST = 3  # tokens of a prompt: its start, its end and one of its own
NAMED = 3  # missing weights that a message names
ADAPTERS = ("lora_", "base_layer", ".alpha", "to_q_lora", "lora.")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Args:
        path: of the file, UTF-8; messages name it with its folder.

    Raises:
        ModelError: it is missing, too large, or holds something else.
    """
    where = f"{path.parent.name}/{path.name}"
    try:
        if not path.is_file():  # to open a pipe would wait for its writer
            raise FileNotFoundError
        if path.stat().st_size > LARGEST_JSON:
            raise ModelError(f"{where} is far too large for a configuration; download the model again.")
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ModelError(f"{where} is missing; download the model again, with all of its files.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{where} cannot be read as JSON; download the model again.") from error
    if not isinstance(data, dict):
        raise ModelError(f"{where} holds no settings; download the model again.")
    return data


def check_files(folder: Path, source: str) -> None:
    """Raise a ModelError where a pipe lies in the place of a file: to open it would wait for its writer.

    Args:
        folder: of a model or of one part.
        source: name of the model for messages.
    """
    if pipe := next((path for path in folder.rglob("*") if path.is_fifo()), None):
        raise ModelError(f"{source} holds a pipe in the place of a file, {pipe.name}; download the model again.")


def of_index(source: str, index: Mapping[str, Any]) -> dict[str, str]:
    """Name of each part that is loaded -> its class.

    Args:
        source: name of the model for messages.
        index: the content of its model_index.json.

    Raises:
        ModelError: the index is not that of a text-to-image model with a UNet.
    """
    kind = index.get("_class_name")
    kind = sources.shown(kind) if isinstance(kind, str) and kind else "model of no kind"
    found = _named(source, index)
    if "transformer" in found:
        raise ModelError(
            f"{source} is a {kind}, whose transformer reads text and image in one attention; there are no "
            f"projections of the text alone (attn2) to edit. {USE_INSTEAD}"
        )
    if not {"unet", "text_encoder", "tokenizer"} <= found.keys():
        refiner = " (a refiner, which works on images)" if "text_encoder_2" in found else ""
        raise ModelError(f"{source} is a {kind}, not a text-to-image model with a UNet{refiner}. {USE_INSTEAD}")
    if lacking := [name for name in NEEDED if name not in found]:
        raise ModelError(f"The {sources.INDEX} of {source} names no {lacking[0]}; download the model again.")
    if len({"text_encoder_2", "tokenizer_2"} & found.keys()) == 1:
        raise ModelError(f"The {sources.INDEX} of {source} names one of {' and '.join(SECOND)} without the other.")
    chosen = [*NEEDED, *(name for name in SECOND if name in found)]
    for name in chosen:
        _check_class(source, kind, name, *found[name])
    if str(index.get("_class_name")) not in dir(diffusers):
        raise ModelError(
            f"{source} is a {kind}, which diffusers does not know. If it makes images from text with a UNet, write "
            f"StableDiffusionPipeline or StableDiffusionXLPipeline for _class_name into its {sources.INDEX}."
        )
    return {name: found[name][1] for name in chosen}


def _named(source: str, index: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Name of each part in an index -> its library and class; parts that are not there are left out."""
    found: dict[str, tuple[str, str]] = {}
    for name, part in index.items():
        if name.startswith("_") or not isinstance(part, list) or part == [None, None]:
            continue
        if len(part) != 2 or not all(isinstance(text, str) for text in part):
            said = sources.shown(name)
            raise ModelError(f"The {sources.INDEX} of {source} does not say what its {said} is; download it again.")
        found[name] = (part[0], part[1])
    return found


def _check_class(source: str, kind: str, name: str, library: str, part: str) -> None:
    if name == "scheduler":
        return
    allowed = {"unet": (UNet2DConditionModel.__name__,), "vae": VAES, "text_encoder": TEXT, "text_encoder_2": TEXT}
    known = part in allowed[name] if name in allowed else part in ("CLIPTokenizer", "CLIPTokenizerFast")
    if not known or library not in ("diffusers", "transformers"):
        raise ModelError(
            f"{source} is a {kind}, not a text-to-image model with a UNet that reads CLIP’s text: its {name} is a "
            f"{sources.shown(part)}. {USE_INSTEAD}"
        )


def check_unet(source: str, unet: Mapping[str, Any], latents: int) -> None:
    """Raise a ModelError, before weights are read, unless a UNet draws from a prompt alone.

    Args:
        source: of the model.
        unet: its configuration.
        latents: channels of the VAE's latents.
    """
    more = unet.get("class_embed_type") or unet.get("num_class_embeds")
    more = more or unet.get("addition_embed_type") not in (None, "text_time") or unet.get("encoder_hid_dim_type")
    reads = unet.get("in_channels", 4)
    if not more and isinstance(reads, int) and 0 < reads < latents:
        raise ModelError(
            f"The UNet of {source} reads latents of {reads} channels, and its VAE makes {latents}; they do not belong "
            "together. Use a VAE of the UNet’s own family."
        )
    if more or reads != latents:
        raise ModelError(
            f"{source} generates from more than a prompt (inpainting, depth, upscaling, a refiner), which an erasure "
            f"cannot be trained on. {USE_INSTEAD}"
        )
    if unet.get("out_channels", 4) != latents:
        raise ModelError(
            f"The UNet of {source} predicts {sources.shown(str(unet.get('out_channels')))} channels for latents of "
            f"{latents}, such as a variance beside the noise, which an erasure cannot be trained on. {USE_INSTEAD}"
        )
    if unet.get("dual_cross_attention"):
        raise ModelError(
            f"The UNet of {source} has two cross-attentions side by side, one for text and one for images, and an "
            f"erasure edits one. {USE_INSTEAD}"
        )


def module(kind: str, folder: Path, name: str, dtype: torch.dtype, source: str) -> nn.Module:
    """Load one part with weights: safetensors only, the best variant there is, and every weight from the files.

    Args:
        kind: class of diffusers or transformers.
        folder: of the part.
        name: what the part is in a pipeline, such as "unet".
        dtype: of its weights.
        source: what messages call the model.

    Raises:
        ModelError: there are no safetensors weights, some are missing, or they fit another shape.
    """
    called = CALLED[name]
    files = [path.name for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    found = weight_files.variants(files)
    if not found:
        pickled = any(path.endswith((".bin", ".ckpt", ".pt", ".pth")) for path in files)
        raise ModelError(
            f"{source} has no safetensors weights for its {called}. Pickled weights can run code, so they are not "
            "loaded; convert the model to safetensors first."
            if pickled
            else f"{source} has no safetensors weights for its {called} in the folder “{folder.name}”; download "
            "the model again, with all of its files."
        )
    check_sizes(read_json(folder / "config.json"), called, source)
    loader = getattr(diffusers, kind, None) or getattr(transformers, kind)
    options = {"variant": variant} if (variant := next(iter(found))) else {}
    try:
        loaded, report = loader.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True, **options,
        )  # fmt: skip
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"The weights of the {called} of {source} cannot be read: a file is missing, cut or damaged. Download the "
            "model again."
        ) from error
    except Exception as error:  # diffusers and transformers raise anything over a bad configuration
        if ran_out(error):
            raise
        if any(word in str(error) for word in ("size mismatch", "mismatched", "shape")):
            raise ModelError(
                f"The weights of the {called} of {source} have other shapes than its config.json says; download the "
                "model again."
            ) from error
        said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ModelError(
            f"No {called} can be made of the config.json of {source} ({said}); download the model again."
        ) from error
    check_whole(report["missing_keys"], called, source, report["unexpected_keys"])
    for file in next(iter(found.values())):
        _check_real(folder / file, loaded, called, source)
    return loaded


def kind_of(folder: Path, name: str) -> str:
    """The class of a VAE or text encoder, as its own config.json says.

    Args:
        folder: of the part.
        name: "vae", "text_encoder" or "text_encoder_2".

    Raises:
        ModelError: it is something else.
    """
    config = read_json(folder / "config.json")
    known = VAES if name == "vae" else TEXT
    usual = known[name == "text_encoder_2"]
    # As diffusers writes it, or transformers; a file by hand may say neither.
    said = str(config.get("_class_name") or config.get("architectures") or usual).strip("[']")
    if said == "CLIPModel" and name != "vae":  # which has a text encoder beside that of images
        return usual
    if said not in known:
        raise ModelError(
            f"{folder.name} holds a {sources.shown(said)}, which cannot be the {CALLED[name]}; give the folder of one, "
            f"such as a {usual}."
        )
    return said


def check_sizes(config: Mapping[str, Any], called: str, source: str) -> None:
    """Raise a ModelError where a configuration asks for more layers or larger ones than any model has.

    Args:
        config: of one part.
        called: what it is, such as "UNet".
        source: name of the model for messages.
    """
    for key, value in config.items():
        if isinstance(value, dict):
            check_sizes(value, called, source)
        least, most = (1, MOST_LAYERS) if "layers" in key else (-LARGEST, LARGEST)
        if not all(least <= number <= most for number in _numbers(value)):
            raise ModelError(
                f"The {called} of {source} has a {sources.shown(key)} of {sources.shown(str(value)[:80])}, which no "
                "such model has; download the model again."
            )


def _numbers(value: Any) -> list[float]:
    """The numbers in a value of a configuration, also those of a list of lists."""
    if isinstance(value, list):
        return [number for one in value for number in _numbers(one)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def _check_real(file: Path, part: nn.Module, called: str, source: str) -> None:
    """Raise a ModelError where a file has whole or complex numbers, or yes and no, for weights: half of each is lost.

    Args:
        file: of weights.
        part: into which they were loaded.
        called: what it is, such as "UNet".
        source: name of the model for messages.
    """
    real = {key for key, tensor in part.state_dict().items() if tensor.is_floating_point()}
    with safe_open(file, framework="pt") as stored:
        for key in stored.keys():  # noqa: SIM118
            dtype = stored.get_slice(key).get_dtype()
            if key in real and not dtype.startswith(("F", "BF")):
                raise ModelError(
                    f"The {called} of {source} is saved as {dtype}, in which no weights can be; download the model in "
                    "float32, float16 or bfloat16."
                )


def pretrained(kind: Any, source: str, called: str, dtype: torch.dtype, **options: Any) -> Any:
    """Load a model of transformers that is no part of a folder: safetensors only, and every weight from the files.

    Args:
        kind: class of the model.
        source: folder or hub id.
        called: what messages call it.
        dtype: of the weights in memory. transformers makes it torch's default while it loads, for all threads, and that
            of the files where none is named; two loads at once could leave float16 behind.
        options: more of `from_pretrained`.

    Raises:
        ModelError: weights are missing.
        OSError, ValueError, RuntimeError: as `from_pretrained`.
    """
    loaded, report = kind.from_pretrained(
        source, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
    )
    check_whole(report["missing_keys"], called, source, report["unexpected_keys"])
    return loaded


def check_whole(missing: Iterable[str], called: str, source: str, leftover: Iterable[str] = ()) -> None:
    """Raise a ModelError where weights were not in the files: they would be random numbers.

    Args:
        missing: names of the weights that were in no file.
        called: what they belong to, such as "UNet".
        source: name of the model for messages.
        leftover: names in the files that belong to nothing; they tell of a LoRA.
    """
    missing = sorted(missing)
    if not missing:
        return
    named = ", ".join(missing[:NAMED]) + (" and others" if len(missing) > NAMED else "")
    adapted = any(mark in key for key in leftover for mark in ADAPTERS)
    why = "It was saved with a LoRA attached; save it again without." if adapted else "Download the model again."
    count = f"{len(missing)} weight{'s' if len(missing) > 1 else ''}"
    raise ModelError(f"The {called} of {source} lacks {count}: {named}. {why}")


def tokenizer(folder: Path, name: str, source: str) -> CLIPTokenizer:
    """Load a tokenizer.

    Args:
        folder: of the model.
        name: of the tokenizer's folder in it, "tokenizer" or "tokenizer_2".
        source: name of the model for messages.

    Raises:
        ModelError: its vocabulary is not there; it would split every word into nothing.
    """
    files = {path.name for path in (folder / name).iterdir()} if (folder / name).is_dir() else set()
    if "tokenizer.json" not in files and not {"vocab.json", "merges.txt"} <= files:
        raise ModelError(
            f"The {name} of {source} has no vocabulary: neither tokenizer.json nor vocab.json with merges.txt is in "
            f"its folder “{name}”. Download the model again."
        )
    try:
        return CLIPTokenizer.from_pretrained(folder, subfolder=name, local_files_only=True)
    except Exception as error:  # transformers raises anything over a bad file
        log.info("the tokenizer cannot be made", exc_info=True)
        raise ModelError(
            f"The {name} of {source} cannot be read: a file in its folder “{name}”, such as tokenizer_config.json, is "
            "damaged. Download the model again."
        ) from error


def fit(tokens: CLIPTokenizer, encoder: Any, name: str, source: str) -> None:
    """Let a tokenizer cut prompts where its text encoder ends; a tokenizer's own limit may be missing.

    Args:
        tokens: the tokenizer; its `model_max_length` is lowered to the encoder's, in tokens.
        encoder: the text encoder; only its configuration is read.
        name: of the tokenizer, for messages.
        source: name of the model for messages.

    Raises:
        ModelError: they do not belong together.
    """
    words, rows = len(tokens), encoder.config.vocab_size
    if words > rows or 2 * words < rows:
        raise ModelError(
            f"The {name} of {source} knows {words} tokens and its text encoder {rows}; they do not belong together. "
            "Download the model again."
        )
    if tokens.pad_token is None:
        raise ModelError(
            f"The {name} of {source} does not say with which token prompts are padded (pad_token); download the model "
            "again."
        )
    own, most = tokens.model_max_length, encoder.config.max_position_embeddings
    tokens.model_max_length = own if isinstance(own, int) and SHORTEST <= own < most else most
