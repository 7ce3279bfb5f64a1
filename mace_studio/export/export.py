"""Use case export(): an erasure as files that other programs load, each with its recipe and a model card."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from mace_studio.erasure import Erasure, check_fits
from mace_studio.errors import FileError
from mace_studio.export import diffusers_folder, model_card
from mace_studio.export import lora_formats as formats
from mace_studio.export.formats import ENERGY, ExportRequest
from mace_studio.progress import Progress, clocked
from mace_studio.sd import files, ldm_keys, projections
from mace_studio.sd.model import Model

HEADER = "mace_studio_export"
CARD, PICTURE = "README.md", "before-after.png"
# Width of the text context -> what A1111 asks of a LoRA's metadata before it offers it for a model.
FAMILIES = {
    768: {"ss_base_model_version": "sd_v1", "ss_v2": "False"},
    1024: {"ss_base_model_version": "sd_v2", "ss_v2": "True"},
    2048: {"ss_base_model_version": "sdxl_base_v1-0", "ss_v2": "False"},
}
NETWORKS = {"lycoris": "lycoris.kohya", "lora": "networks.lora"}


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the model's folder or file.
        files: path, and what was written beside it.
        size: of all of them, in bytes.
        residuals: projection -> rank of its LoRA, and the share of the difference's Frobenius norm that it leaves out.
    """

    path: Path
    files: tuple[Path, ...]
    size: int
    residuals: dict[str, tuple[int, float]] = field(default_factory=dict)


@dataclass
class _Work:
    """One export on its way."""

    model: Model
    erasure: Erasure
    packing: ExportRequest
    base: Path | None
    facts: model_card.Facts
    metadata: dict[str, str]
    stage: Path
    residuals: dict[str, tuple[int, float]] = field(default_factory=dict)

    @property
    def target(self) -> Path:
        return self.stage / self.packing.path.name


def export(model: Model, erasure: Erasure, packing: ExportRequest) -> Generator[Progress, None, Exported]:
    """Write an erasure in one of the formats of `packing.FORMATS`.

    What is at the path is whole at every moment: the old, or the new. The model is only read.

    Raises:
        RecipeError: a setting that does not fit; the message names it.
        FileError: the erasure is of another model, something is at the path already, or it cannot be written.
    """
    packing.check()
    check_fits(erasure, model)
    return (yield from clocked(_stages(model, erasure, packing), {"export": 1.0}))


def _stages(model: Model, erasure: Erasure, packing: ExportRequest) -> Generator[Progress, None, Exported]:
    base = diffusers_folder.locate(model.source)
    _check_apart(packing.path, [Path(model.source), *([base] if base else [])])
    rows = [_row(path, erasure) for path in packing.pairs]
    facts = _facts(model, erasure, packing, diffusers_folder.licence(base), [caption for caption, _ in rows])
    facts = replace(facts, scores=_scores(packing.report, erasure) if packing.report else ())
    with files.writing(packing.path), files.staging(packing.path.parent) as stage:
        work = _Work(model, erasure, packing, base, facts, _metadata(model, erasure, packing, facts), stage)
        yield from _WRITERS[packing.format](work)
        _write_card(work, [image for _, image in rows])
        _publish(work)
    # By the file system's own account, so that a folder counts with all that is in it.
    inside = [p for path in packing.files for p in (path, *path.rglob("*")) if p.is_file()]
    return Exported(packing.path, packing.files, sum(p.stat().st_size for p in inside), work.residuals)


def _check_apart(path: Path, bases: Sequence[Path]) -> None:
    target = path.resolve()
    for base in (base.resolve() for base in bases if base.exists()):
        if base.is_relative_to(target) or target.is_relative_to(base):
            raise FileError(f"{path} is where the base model lies, which an export never touches; choose another path.")


# The formats


def _diffusers(work: _Work) -> Generator[Progress, None, None]:
    base = work.base
    if base is None:
        base = work.stage / "base"
        diffusers_folder.save(work.model, base)
    names, taken = diffusers_folder.contents(base), set()
    for i, name in enumerate(names, 1):
        taken |= diffusers_folder.copy(base, name, work.target, work.erasure.weights, work.metadata)
        yield Progress("export", step=i, total=len(names))
    _check_taken(work, taken)


def _unet(work: _Work) -> Generator[Progress, None, None]:
    files.stream(work.target, work.erasure.weights, work.metadata)
    yield Progress("export", step=1, total=1)


def _lycoris(work: _Work) -> Generator[Progress, None, None]:
    files.stream(work.target, formats.full(_differences(work)), work.metadata)
    yield Progress("export", step=1, total=1)


def _lora(work: _Work) -> Generator[Progress, None, None]:
    deltas, layers = _differences(work), {}
    rank, total = work.packing.rank, len(deltas) * (1 if work.packing.rank else 2)
    done = itertools.count(1)
    if rank is None:
        rank = 1
        for delta_PD in deltas.values():
            rank = max(rank, formats.rank_for(delta_PD, work.packing.energy or ENERGY))
            yield Progress("export", step=next(done), total=total)
    for key, delta_PD in deltas.items():
        layers[key] = formats.low_rank(delta_PD, rank)
        yield Progress("export", step=next(done), total=total)
    work.residuals |= {key: (layer.rank, layer.residual) for key, layer in layers.items()}
    files.stream(work.target, formats.lora(layers), work.metadata)


def _checkpoint(work: _Work) -> Generator[Progress, None, None]:
    unet = work.model.unet
    if work.base is None:
        names = ldm_keys.unet_keys(unet.config, unet.state_dict())
        renamed = {ldm_keys.UNET + names[key]: weight_PD for key, weight_PD in work.erasure.weights.items()}
        taken = diffusers_folder.rewrite(Path(work.model.source), work.target, renamed, work.metadata)
        _check_taken(work, taken)
    else:
        parts = diffusers_folder.parts(work.model, work.base)
        parts["unet"] |= {key: w.to(parts["unet"][key]) for key, w in work.erasure.weights.items()}
        open_clip = work.model.pipeline.text_encoder.config.hidden_act == "gelu"
        tensors = ldm_keys.checkpoint(unet.config, parts, open_clip)
        tensors |= ldm_keys.markers(work.model.pipeline.scheduler.config) if "text_encoder_2" in parts else {}
        files.stream(work.target, tensors, work.metadata)
    yield Progress("export", step=1, total=1)


_WRITERS = {
    "diffusers": _diffusers,
    "unet": _unet,
    "lycoris": _lycoris,
    "lora": _lora,
    "checkpoint": _checkpoint,
}


def _differences(work: _Work) -> dict[str, Tensor]:
    return formats.differences(work.erasure.weights, projections.read(work.model.unet))


def _check_taken(work: _Work, taken: set[str]) -> None:
    if missing := len(work.erasure.weights) - len(taken):
        raise FileError(
            f"The files of {work.model.name} lack {missing} of the weights that the erasure changes, so the export "
            "would not be erased; load the base model from a whole folder."
        )


# What goes with them


def _facts(
    model: Model, erasure: Erasure, packing: ExportRequest, licence: str | None, rows: Sequence[str]
) -> model_card.Facts:
    picture = PICTURE if packing.format == "diffusers" else packing.path.with_suffix(".png").name
    return model_card.Facts(
        format=packing.format,
        file=packing.path.name,
        base=model.name,
        hub=not Path(model.source).exists(),
        fingerprint=model.fingerprint,
        licence=licence,
        versions=erasure.versions,
        warnings=erasure.warnings,
        picture=picture if rows else None,
        rows=rows,
    )


def _metadata(model: Model, erasure: Erasure, packing: ExportRequest, facts: model_card.Facts) -> dict[str, str]:
    note = model_card.licence_note(facts.base, facts.licence)
    about = {
        "format": packing.format,
        "recipe": asdict(erasure.recipe),
        "base": facts.base,
        "fingerprint": facts.fingerprint,
        "versions": facts.versions,
        "licence": note,
    }
    metadata = {"format": "pt", HEADER: json.dumps(about, sort_keys=True, ensure_ascii=False)}
    if packing.format in NETWORKS:
        metadata |= {"ss_network_module": NETWORKS[packing.format], **FAMILIES.get(model.width, {})}
    return metadata


def _row(path: Path, erasure: Erasure) -> tuple[str, Image.Image]:
    """A picture that `comparison.save_pair` wrote, and what it shows."""
    try:
        with Image.open(path) as picture:
            settings = json.loads(picture.text[HEADER.removesuffix("_export")])
            image = picture.convert("RGB")
        same = settings["recipe"] == json.loads(erasure.recipe.to_json())
        same = same and settings["model_fingerprint"] == erasure.fingerprint
        caption = f"“{settings['prompt']}”, seed {settings['seed']}"
    except (OSError, UnidentifiedImageError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise FileError(f"{path} is no picture that a comparison saved.") from error
    if not same:
        raise FileError(f"{path} shows another erasure than the one to export; compare this one first.")
    return caption, image


def _scores(path: Path, erasure: Erasure) -> list[str]:
    """What the `report.json` of an evaluation says, for the card."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        same = about["recipe"] == json.loads(erasure.recipe.to_json()) and about["fingerprint"] == erasure.fingerprint
        lines = model_card.scores(about)
    except (OSError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise FileError(f"{path} is no report.json that an evaluation wrote.") from error
    if not same:
        raise FileError(f"{path} is about another erasure than the one to export; evaluate this one first.")
    return lines


def _write_card(work: _Work, images: Sequence[Image.Image]) -> None:
    inside = work.packing.format == "diffusers"
    folder = work.target if inside else work.stage
    facts = model_card.with_residuals(work.facts, work.residuals)
    text = model_card.write(work.erasure.recipe, facts)
    (folder / (CARD if inside else work.packing.path.with_suffix(".md").name)).write_text(text, encoding="utf-8")
    if images:
        sheet = Image.new("RGB", (max(i.width for i in images), sum(i.height for i in images)), "white")
        top = 0
        for image in images:
            sheet.paste(image, (0, top))
            top += image.height
        sheet.save(folder / facts.picture)


def _publish(work: _Work) -> None:
    """Move what is whole to where it belongs, the model last."""
    for path in work.packing.files:
        if path.is_dir():
            # A folder cannot be renamed onto one that holds something: the old one steps aside, and back on failure.
            aside = work.stage / "replaced"
            os.rename(path, aside)
            try:
                os.rename(work.stage / path.name, path)
            except OSError:
                os.rename(aside, path)
                raise
        else:
            os.replace(work.stage / path.name, path)
