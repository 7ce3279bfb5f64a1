"""Images of prompts and seeds, kept on disk: what the same model generated once is read from there."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mace_studio import text_files
from mace_studio.progress import Progress, Report, silent, within
from mace_studio.recipe import ImageRequest
from mace_studio.sd import files, sampling
from mace_studio.sd.model import Model

log = logging.getLogger(__name__)

Item = tuple[str, int]  # prompt and seed


def generate(
    model: Model,
    items: Sequence[Item],
    request: ImageRequest,
    cache: Path | None,
    progress: Report = silent,
    *,
    changes: str = "",
) -> list[Image.Image]:
    """Generate prompts, each with its own seed.

    Args:
        model: is bit for bit the same afterwards.
        items: prompts and seeds; the same one may come several times.
        request: steps, guidance and negative prompt; its own prompts and seeds do not count.
        cache: folder of images that were generated before, or None.
        progress: called with stage "generate" at every denoising step: images there, parts of images added up, of all.
        changes: of an erased model, digits that are others for any other; "" for the model as it is.

    Returns:
        RGB images in the order of the items.
    """
    key = _key(model, changes, request)
    paths = {item: None if cache is None else _path(cache, key, item) for item in items}
    rows, columns = request.size or [side * model.pipeline.vae_scale_factor for side in sampling.latent_size(model)]
    found = {item: _read(path, (columns, rows)) for item, path in paths.items() if path is not None}
    images = {item: image for item, image in found.items() if image is not None}
    missing, cached = [item for item in paths if item not in images], len(images)
    progress(Progress("generate", step=cached, total=len(paths)))

    def run_batch(batch: Sequence[Item], done: int) -> list[Image.Image]:
        report = within(progress, "generate", "", cached + done, len(paths))
        fresh = sampling.generate_pairs(model, batch, request, report)
        for item, image in zip(batch, fresh, strict=True):
            if (path := paths[item]) is not None:
                _write(image, path)
        return fresh

    # In batches, so that what is done when the job is cancelled is in the cache.
    images |= zip(missing, model.batches.map(missing, run_batch), strict=True)
    return [images[item] for item in items]


def difference(before: Image.Image, after: Image.Image) -> float:
    """Mean absolute difference of the pixel values of two RGB images, 0 to 255.

    Args:
        before, after: of equal size.
    """
    return float(np.abs(np.asarray(before, np.float32) - np.asarray(after, np.float32)).mean())


def _key(model: Model, changes: str, request: ImageRequest) -> str:
    """Changes with everything that an image depends on, but for its prompt and seed."""
    settings = (model.fingerprint, str(model.dtype), request.steps, float(request.guidance), request.negative)
    return hashlib.sha256(repr(settings).encode() + changes.encode()).hexdigest()[:24]


def _path(cache: Path, key: str, item: Item) -> Path:
    prompt, seed = item
    return cache / "images" / key / f"{hashlib.sha256(prompt.encode()).hexdigest()[:24]}-{seed}.png"


def _read(path: Path, size: tuple[int, int]) -> Image.Image | None:
    """The image in a file; None where it is missing, damaged, not RGB or of another size than (width, height)."""
    try:
        if not path.is_file():  # to open a pipe would wait for its writer
            return None
        with Image.open(path, formats=["PNG"]) as image:
            # Its header says so; no pixel is decoded before.
            return image.copy() if (image.mode, image.size) == ("RGB", size) else None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        log.warning("%s is damaged and is made again: %s", path.name, error)
        return None


def _write(image: Image.Image, path: Path) -> None:
    """Write a PNG file so that a reader sees the whole file or none."""
    files.make_way(path)
    with files.writing(path), text_files.whole(path) as part:
        image.save(part, "PNG")
