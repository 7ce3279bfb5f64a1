"""How each format is written: one function for each row of `formats.FORMATS`.

Each takes a `Work` and a progress callback for steps of its own, and returns what a format of low rank leaves out:
projection -> rank, and share of the difference's Frobenius norm; nothing where it is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mace_studio.erasure import Erasure
from mace_studio.errors import FileError
from mace_studio.exports import diffusers_folder, lora_formats
from mace_studio.exports.formats import ENERGY, ExportRequest
from mace_studio.methods import find
from mace_studio.progress import Progress, Report, within
from mace_studio.sd import files, ldm_keys, projections
from mace_studio.sd.model import Model

Residuals = dict[str, tuple[int, float]]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What to write, and where.

    Attributes:
        model: the base model.
        erasure: of this model.
        request: what the user asked for.
        base: folder of the base model in the diffusers layout; None where it came from a single file.
        metadata: of every safetensors file.
        target: the folder or file to write.
        scratch: a folder for files that are not kept.
    """

    model: Model
    erasure: Erasure
    request: ExportRequest
    base: Path | None
    metadata: dict[str, str]
    target: Path
    scratch: Path


def write_folder(work: Work, progress: Report) -> Residuals:
    """A copy of the base model in which only the projections differ."""
    base = work.base
    if base is None:
        base = work.scratch / "base"
        diffusers_folder.save(work.model, base)
    names, replaced = diffusers_folder.contents(base), set()
    for i, name in enumerate(names):
        part = within(progress, "export", before=i, total=len(names))
        replaced |= diffusers_folder.copy(base, name, work.target, work.erasure.weights, work.metadata, part)
    _check_replaced(work, replaced)
    return {}


def write_unet(work: Work, progress: Report) -> Residuals:
    """The changed weights alone."""
    files.stream(work.target, work.erasure.weights, work.metadata, progress)
    return {}


def write_lycoris(work: Work, progress: Report) -> Residuals:
    """The whole difference of every changed weight."""
    files.stream(work.target, lora_formats.full(_differences(work)), work.metadata, progress)
    return {}


def write_lora(work: Work, progress: Report) -> Residuals:
    """The difference of every layer at one rank: the given one, or the least that keeps the energy in all.

    What does not fit, biases and norms, is left out, which its residual says.
    """
    whole = _differences(work)
    deltas, layers = {key: delta for key, delta in whole.items() if lora_formats.fits(delta)}, {}
    rank, searched = work.request.rank, 0 if work.request.rank else len(deltas)
    if rank is None:
        rank = 1
        for i, delta in enumerate(deltas.values(), 1):
            rank = max(rank, lora_formats.rank_for(delta, work.request.energy or ENERGY))
            progress(Progress("export", step=i, total=2 * len(deltas)))
    for i, (key, delta) in enumerate(deltas.items(), searched + 1):
        layers[key] = lora_formats.low_rank(delta, rank)
        progress(Progress("export", step=i, total=searched + len(deltas)))
    files.stream(work.target, lora_formats.lora(layers), work.metadata)
    left_out = {key: (0, float(delta.any())) for key, delta in whole.items() if key not in layers}
    return {key: (layer.rank, layer.residual) for key, layer in layers.items()} | left_out


def write_checkpoint(work: Work, progress: Report) -> Residuals:
    """The whole model in the layout of the original checkpoints."""
    unet = work.model.unet
    if work.base is None:
        names = ldm_keys.unet_keys(unet.config, unet.state_dict())
        renamed = {ldm_keys.UNET + names[key]: weight_PD for key, weight_PD in work.erasure.weights.items()}
        source = Path(work.model.source)
        _check_replaced(work, diffusers_folder.rewrite(source, work.target, renamed, work.metadata, progress))
    else:
        with work.erasure.applied(work.model):
            parts = diffusers_folder.parts(work.model, work.base)
        open_clip = work.model.pipeline.text_encoder.config.hidden_act == "gelu"
        tensors = ldm_keys.checkpoint(unet.config, parts, open_clip)
        tensors |= ldm_keys.markers(work.model.pipeline.scheduler.config) if "text_encoder_2" in parts else {}
        files.stream(work.target, tensors, work.metadata, progress)
    return {}


def _differences(work: Work) -> dict[str, Tensor]:
    base = projections.read(work.model.unet, find(work.erasure.recipe.method).changes)
    return lora_formats.differences(work.erasure.weights, base)


def _check_replaced(work: Work, replaced: set[str]) -> None:
    if missing := len(work.erasure.weights) - len(replaced):
        raise FileError(
            f"The files of {work.model.name} lack {missing} of the weights that the erasure changes, so the export "
            "would not be erased; load the base model from a whole folder."
        )
