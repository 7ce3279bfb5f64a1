"""Use case export(): an erasure as files that other programs load, each with its recipe and a model card."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from mace_studio import text_files
from mace_studio.erasure import Erasure, check_fits, check_has_weights
from mace_studio.errors import FileError, RecipeError
from mace_studio.exports import diffusers_folder, model_card, writers
from mace_studio.exports.formats import FORMATS, GUIDANCE_EMBEDDED, HEADER, ExportRequest
from mace_studio.progress import Report, silent, timed, within
from mace_studio.recipe import Recipe
from mace_studio.sd import files
from mace_studio.sd.model import Model

PAIR_HEADER = "mace_studio"  # where a comparison keeps its settings in an image
# What reading data of another program, or of nobody, may raise.
UNREADABLE = (OSError, LookupError, AttributeError, TypeError, ValueError, OverflowError, RecursionError, RecipeError)
CARD, CARD_IMAGE = "README.md", "before-after.png"
# Width of the text context -> what A1111 asks of a LoRA's metadata before it offers it for a model.
A1111_FAMILIES = {
    768: {"ss_base_model_version": "sd_v1", "ss_v2": "False"},
    1024: {"ss_base_model_version": "sd_v2", "ss_v2": "True"},
    2048: {"ss_base_model_version": "sdxl_base_v1-0", "ss_v2": "False"},
}


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


def export(model: Model, erasure: Erasure, request: ExportRequest, progress: Report = silent) -> Exported:
    """Write an erasure in one of the formats of `formats.FORMATS`. What is at the path is whole: the old, or the new.

    Args:
        model: is bit for bit the same afterwards.
        erasure: of this model.
        request: format, path and settings.
        progress: called with stage "export".

    Raises:
        RecipeError: a setting that does not fit; the message names it.
        FileError: the erasure is of another model or has no weights, the format has no place for this family of models,
            something is at the path already, or it cannot be written.

    Example:
        >>> written = export(model, erasure, ExportRequest("lora", Path("cat-lora.safetensors"), rank=4))
    """
    request.check()
    check_fits(erasure, model)
    check_has_weights(erasure)
    wanted = FORMATS[request.format]
    if model.embeds_guidance and GUIDANCE_EMBEDDED in wanted.refuses:
        raise FileError(f"{wanted.refuses[GUIDANCE_EMBEDDED]}; use another format.")
    base = diffusers_folder.locate(model.source)
    _check_apart(request.path, [Path(model.source), *([base] if base else [])])
    rows, licence = [_captioned(path, erasure) for path in request.pairs], diffusers_folder.licence(base)
    measured = _measured(request.report, erasure) if request.report else []
    with files.writing(request.path), files.staging(request.path.parent) as stage:
        work = writers.Work(
            model=model,
            erasure=erasure,
            request=request,
            base=base,
            metadata=_metadata(model, erasure, request, licence),
            target=stage / request.path.name,
            scratch=stage,
        )
        residuals = getattr(writers, wanted.write)(work, within(timed(progress, {"export": 1.0}), "export"))
        facts = model_card.Facts(
            format=request.format,
            file=request.path.name,
            base=model.name,
            on_hub=not Path(model.source).exists(),
            fingerprint=model.fingerprint,
            licence=licence,
            versions=erasure.versions,
            warnings=erasure.warnings,
            residuals=residuals,
            image=(CARD_IMAGE if wanted.folder else request.path.with_suffix(".png").name) if rows else None,
            rows=[caption for caption, _ in rows],
            scores=measured,
        )
        card = work.target / CARD if wanted.folder else stage / request.path.with_suffix(".md").name
        card.write_text(model_card.write(erasure.recipe, facts), encoding="utf-8")
        if facts.image:
            _stacked([image for _, image in rows]).save(card.parent / facts.image)
        _publish(request.files, stage)
    # By the file system's own account, so that a folder counts with all that is in it.
    inside = [p for path in request.files for p in (path, *path.rglob("*")) if p.is_file()]
    return Exported(request.path, request.files, sum(p.stat().st_size for p in inside), residuals)


def _check_apart(path: Path, bases: Sequence[Path]) -> None:
    target = path.resolve()
    for base in (base.resolve() for base in bases if base.exists()):
        if base.is_relative_to(target) or target.is_relative_to(base):
            raise FileError(f"{path} is where the base model lies, which an export never touches; choose another path.")


def _metadata(model: Model, erasure: Erasure, request: ExportRequest, licence: str | None) -> dict[str, str]:
    """Of every safetensors file of the export."""
    about = {
        "format": request.format,
        "recipe": asdict(erasure.recipe),
        "base": model.name,
        "fingerprint": model.fingerprint,
        "versions": erasure.versions,
        "licence": model_card.licence_note(model.name, licence),
    }
    metadata = {"format": "pt", HEADER: json.dumps(about, sort_keys=True, ensure_ascii=False)}
    if network := FORMATS[request.format].network:
        metadata |= {"ss_network_module": network, **A1111_FAMILIES.get(model.width, {})}
    return metadata


def _captioned(path: Path, erasure: Erasure) -> tuple[str, Image.Image]:
    """An image that `compare.save_pair` wrote, after what it shows."""
    try:
        if not os.path.isfile(path):  # to open a pipe would wait for its writer
            raise FileNotFoundError(path)
        with Image.open(path, formats=["PNG"]) as file:
            settings = json.loads(file.info[PAIR_HEADER])
            image = file.convert("RGB")
        same = _is_of(erasure, settings["recipe"], settings["model_fingerprint"])
        caption = f"“{settings['prompt']}”, seed {settings['seed']}"
    except (*UNREADABLE, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as error:
        raise FileError(f"{path} is no image that a comparison saved.") from error
    if not same:
        raise FileError(f"{path} shows another erasure than the one to export; compare this one first.")
    return caption, image


def _measured(path: Path, erasure: Erasure) -> list[str]:
    """What the `report.json` of an evaluation says, for the card."""
    try:
        about = text_files.note(path)
        same = _is_of(erasure, about["recipe"], about["fingerprint"])
        lines = model_card.scores(about)
    except UNREADABLE as error:
        raise FileError(f"{path} is no report.json that an evaluation wrote.") from error
    if not same:
        raise FileError(f"{path} is about another erasure than the one to export; evaluate this one first.")
    return lines


def _is_of(erasure: Erasure, recipe: object, fingerprint: object) -> bool:
    """Whether what an image or a report says of its recipe, also as version 0.1 wrote it, is that of an erasure."""
    return Recipe.from_json(json.dumps(recipe)) == erasure.recipe and fingerprint == erasure.fingerprint


def _stacked(images: Sequence[Image.Image]) -> Image.Image:
    """Images below one another."""
    sheet = Image.new("RGB", (max(i.width for i in images), sum(i.height for i in images)), "white")
    top = 0
    for image in images:
        sheet.paste(image, (0, top))
        top += image.height
    return sheet


def _publish(paths: Sequence[Path], stage: Path) -> None:
    """Move what is whole from the folder `stage` to where it belongs, the model last.

    A folder cannot be renamed onto one that holds something: the old one steps aside, and back on failure. What kills
    the process in between leaves it under a name that begins as its own and is no abandoned one.
    """
    for path in paths:
        if path.is_dir():
            aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f"{path.name}.old-"))
            os.rename(path, aside / path.name)
            try:
                os.rename(stage / path.name, path)
            except OSError:
                os.rename(aside / path.name, path)
                raise
            finally:
                if path.is_dir():
                    shutil.rmtree(aside, ignore_errors=True)
        else:
            os.replace(stage / path.name, path)
