"""A base model on disk: where it is, what its licence is, and a copy of it in which only the projections differ."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from mace_studio.errors import FileError
from mace_studio.exports.formats import INDEX
from mace_studio.progress import Progress, Report, silent
from mace_studio.sd import files, finite
from mace_studio.sd.model import Model

# Beside the sub-folders: what the studio and a licence need. The base model's card is about another model.
KEPT = ("captions.txt", "LICENSE*", "LICENCE*", "NOTICE*")
LICENCE = re.compile(r"(license|license_name):\s*[\"']?([\w.+-]+)")  # in a line of front matter
# Under `unet/`, files that may hold the weights as they were, in a form that is not rewritten here.
STALE = re.compile(r"\.(bin|ckpt|pt|pth|msgpack|h5|onnx|onnx_data|pb)(\.|$)")


def locate(source: str) -> Path | None:
    """The folder of a model in the diffusers layout, in the hub's cache for a hub id; None for a single file.

    Raises:
        FileError: the model is no longer on this machine.
    """
    path = Path(source)
    if path.is_dir():
        return path
    if path.is_file():
        return None
    try:
        return Path(snapshot_download(source, local_files_only=True))
    except (OSError, ValueError) as error:
        raise FileError(f"The files of {source} are no longer on this machine; load the model again first.") from error


def licence(folder: Path | None) -> str | None:
    """What the front matter of a model's card calls its licence, or None."""
    card = folder / "README.md" if folder else None
    if card is None or not card.is_file():
        return None
    first, *lines = card.read_text(encoding="utf-8-sig", errors="replace").splitlines() or [""]
    if first.rstrip() != "---" or "---" not in lines:
        return None
    found = [LICENCE.match(line) for line in lines[: lines.index("---")]]
    named = {one[1]: one[2] for one in found if one}
    return named.get("license_name") or named.get("license")


def contents(folder: Path) -> list[Path]:
    """The files of a model that a copy needs, relative to its folder; the index is the first.

    Raises:
        FileError: the folder has no index.
    """
    found = [Path(INDEX), *(path.relative_to(folder) for name in KEPT for path in sorted(folder.glob(name)))]
    for part in _parts(folder):
        inside = (path for path in sorted((folder / part).rglob("*")) if path.is_file())
        found += [p.relative_to(folder) for p in inside if not (part == "unet" and STALE.search(p.name))]
    return found


def copy(
    folder: Path,
    name: Path,
    target: Path,
    weights: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    progress: Report = silent,
) -> set[str]:
    """Copy one file of `contents` into another folder: the UNet's weights with the new ones, all others as they are.

    Args:
        folder: of the base model.
        name: of the file, relative to it.
        target: the other folder.
        weights: state-dict key of the UNet -> weight_PD.
        metadata: added to that of the UNet's files.
        progress: told of the part of the file that is written, of 1.

    Returns:
        Which of the weights the file holds now.
    """
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    if name == Path(INDEX) and (index := _without_missing(folder)) is not None:
        (target / name).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        progress(Progress("write", step=1, total=1))
    elif name.parts[0] == "unet" and name.suffix == ".safetensors":
        return rewrite(folder / name, target / name, weights, metadata, progress)
    else:
        files.copy(folder / name, target / name, progress)
    return set()


def rewrite(
    source: Path,
    target: Path,
    weights: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    progress: Report = silent,
) -> set[str]:
    """Write a safetensors file again with some weights replaced, each in the dtype of the one that it replaces.

    A second set of weights that averages the training's steps (`model_ema`) is left out: the concept is still in it.

    Returns:
        Which weights were replaced.

    Raises:
        FileError: the source cannot be read.
    """
    try:
        tensors = {key: t for key, t in load_file(source).items() if not key.startswith("model_ema.")}
        with safe_open(source, framework="pt") as file:
            about = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise FileError(f"{source.name} of the base model cannot be read; load the model again first.") from error
    present = weights.keys() & tensors.keys()
    tensors |= {key: finite.converted(weights[key], tensors[key], key) for key in present}
    files.stream(target, tensors, {**about, **metadata}, progress)
    return present


def save(model: Model, folder: Path) -> None:
    """Write a model that came from a single file in the diffusers layout.

    Text encoders get the keys that transformers before its version 5 reads too: it would fill an encoder that has
    others with random numbers, and only warn.
    """
    model.pipeline.save_pretrained(folder, safe_serialization=True)
    for path in folder.glob("text_encoder*/model.safetensors"):
        tensors = {key: tensor.clone() for key, tensor in load_file(path).items()}
        bare = not any(key.startswith("text_model.") for key in tensors)
        named = {f"text_model.{key}" if bare else key: tensor for key, tensor in tensors.items()}
        files.stream(path, named, {"format": "pt"})


def parts(model: Model, folder: Path) -> dict[str, dict[str, Tensor]]:
    """State dicts of UNet, VAE and text encoders as loaded, in the dtype of their files where that is narrower."""
    found = {}
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if (module := model.pipeline.components.get(name)) is None:
            continue
        found[name], stored = module.state_dict(), _dtype(folder / name)
        for key, tensor in found[name].items():
            if stored is not None and tensor.is_floating_point() and stored.itemsize < tensor.element_size():
                found[name][key] = finite.converted(tensor, stored, key)
    return found


def _dtype(folder: Path) -> torch.dtype | None:
    # The shortest name is the one without a variant in it.
    for path in sorted(folder.glob("*.safetensors"), key=lambda p: len(p.name)):
        with safe_open(path, framework="pt") as file:
            return files.DTYPES.get(file.get_slice(next(iter(file.keys()))).get_dtype())
    return None


def _parts(folder: Path) -> Iterator[str]:
    for name, value in _index(folder).items():
        if isinstance(value, list) and Path(name).name == name != ".." and (folder / name).is_dir():
            yield name


def _without_missing(folder: Path) -> dict[str, object] | None:
    """The index without the parts that were never downloaded, such as a safety checker; None if all are there."""
    index, present = _index(folder), set(_parts(folder))
    missing = {name for name, value in index.items() if isinstance(value, list) and any(value) and name not in present}
    if not missing:
        return None
    index |= {name: [None, None] for name in missing}
    return index | ({"requires_safety_checker": False} if "safety_checker" in missing else {})


def _index(folder: Path) -> dict[str, object]:
    try:
        return json.loads((folder / INDEX).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"The base model's {INDEX} cannot be read; load the model again first.") from error
