"""Trained LoRAs on disk, named by all that decides their bits, so that a run that was broken off goes on from them.

Samples of one forward are computed together, and their last digits may depend on what is beside them. So a name also
says which subjects were trained in the same batch, and a LoRA that is read is the one that would be trained, bit for
bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mace_studio.progress import Progress, Report, silent
from mace_studio.sd import files, finite, lora, projections
from mace_studio.sd.lora import LoraDelta, Subject
from mace_studio.sd.model import Model
from mace_studio.settings import LoraSettings

FORMAT = 1  # another number where the training changes, so that LoRAs of an older version are not taken
FOLDER = "loras"


def train(
    model: Model,
    subjects: Sequence[Subject],
    settings: LoraSettings,
    refined: str,
    cache: Path | None,
    progress: Report = silent,
) -> list[LoraDelta]:
    """`sd.lora.train`, but a batch whose LoRAs are all in the cache is read, and any other one is stored as it ends.

    Args:
        model, subjects, settings, progress: as of `sd.lora.train`.
        refined: `digest` of the refined weights that are in place.
        cache: folder that has the LoRAs in a folder of their own, or None to train all of them.
    """
    if cache is None or settings.flat:  # how many steps there will be is not known before, nor what is beside them
        return lora.train(model, subjects, settings, progress)
    names = keys(model, subjects, settings, refined)
    known = [read(model, settings, cache, name) for name in names]
    found = [delta for delta in known if delta is not None]
    if len(found) < len(subjects):
        found = lora.train(model, subjects, settings, progress)
        for name, delta in zip(names, found, strict=True):
            write(cache, name, delta)
        return found
    total = settings.steps * len(subjects)
    for i, (subject, delta) in enumerate(zip(subjects, found, strict=True), 1):
        progress(Progress("lora", subject.phrase, settings.steps * i, total, loss=delta.losses[-1]))
    return found


def keys(model: Model, subjects: Sequence[Subject], settings: LoraSettings, refined: str) -> list[str]:
    """The name of each subject's LoRA: digits that differ wherever any of its bits might.

    Args:
        model: on whose device, and in whose dtype, the LoRAs are trained.
        subjects: of one batch, in its order.
        settings: of the LoRAs.
        refined: `digest` of the refined weights.
    """
    device = f"{model.device.type} {model.dtype}"
    shared = [FORMAT, model.fingerprint, device, refined, settings, *map(_described, subjects)]
    batch = hashlib.sha256(repr(shared).encode("utf-8", "surrogatepass")).hexdigest()
    return [hashlib.sha256(f"{batch} {i}".encode()).hexdigest()[:40] for i in range(len(subjects))]


def digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of weights and their names, in the order of the names.

    Args:
        weights: name -> weight_PD; its dtype counts, and where it lies does not.
    """
    said = hashlib.sha256()
    for key, weight in sorted(weights.items()):
        said.update(f"{key} ".encode())
        _update(said, [weight])
    return said.hexdigest()


def read(model: Model, settings: LoraSettings, cache: Path, name: str) -> LoraDelta | None:
    """The LoRA of a name; None where it is missing, damaged, or does not fit model and settings.

    Args:
        model: its projections have the shapes (P, D) of up_PR and down_RD.
        settings: rank R, number of losses, and which projections are tuned.
        cache: the folder.
        name: from `keys`.
    """
    shapes: dict[str, tuple[int, ...]] = {"losses": (settings.steps,)}
    weights = projections.read(model.unet)
    wanted = [module + projections.WEIGHT for module in projections.names(model.unet, settings.tune)]
    for key in wanted:
        rows, columns = weights[key].shape
        shapes |= {f"{key}.up": (rows, settings.rank), f"{key}.down": (settings.rank, columns)}
    found = files.cached(_path(cache, name), shapes)
    if found is None:
        return None
    pairs = {key: (found[f"{key}.up"], found[f"{key}.down"]) for key in wanted}
    return LoraDelta(pairs, tuple(found["losses"].tolist()))


def write(cache: Path, name: str, delta: LoraDelta) -> None:
    """Store a LoRA, whole or not at all.

    Args:
        cache: the folder.
        name: from `keys`.
        delta: its pairs (up_PR, down_RD) and its losses.

    Raises:
        NotFinite: a number of it is not finite.
        FileError: the folder cannot be written to, or the disk is full.
    """
    tensors = {"losses": torch.tensor(delta.losses, dtype=torch.float64)}
    for key, (up_PR, down_RD) in delta.pairs.items():
        tensors |= {f"{key}.up": up_PR, f"{key}.down": down_RD}
    finite.check_weights(tensors, "The LoRA")
    files.keep(_path(cache, name), tensors)


def _path(cache: Path, name: str) -> Path:
    return cache / FOLDER / f"{name}.safetensors"


def _described(subject: Subject) -> tuple[object, ...]:
    """All of a subject; of its tensors a digest."""
    said = hashlib.sha256()
    pooled = [] if subject.pooled_MP is None else [subject.pooled_MP]
    path = [] if subject.path_NSCHW is None else [subject.path_NSCHW, torch.tensor(subject.passed)]
    _update(said, [subject.latents_NCHW, subject.context_MTD, *pooled, *path])
    for mask_IJ in subject.masks:
        _update(said, [torch.zeros(0) if mask_IJ is None else mask_IJ])
    positions = tuple(map(tuple, subject.positions))
    acts = () if subject.acts_at is None else (tuple(map(tuple, subject.acts_at)),)
    return *acts, subject.phrase, subject.seed, float(subject.guidance), positions, said.hexdigest()


def _update(said: hashlib._Hash, tensors: Iterable[Tensor]) -> None:
    for tensor in tensors:
        said.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
        said.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
