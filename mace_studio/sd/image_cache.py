"""Images of prompts and seeds, kept on disk: what was drawn once with the same weights is read, not drawn again."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mace_studio.recipe import ImageRequest
from mace_studio.sd import projections, sampling
from mace_studio.sd.model import Model

Item = tuple[str, int]  # prompt and seed


def generate(
    model: Model, weights: Mapping[str, Tensor], items: Sequence[Item], drawing: ImageRequest, cache: Path | None
) -> Generator[int, None, list[Image.Image]]:
    """Draw prompts, each with its own seed, with some weights in place.

    Args:
        model: is bit for bit the same afterwards.
        weights: of projections; none leaves the model as it is.
        items: prompts and seeds.
        drawing: steps, guidance and negative prompt.
        cache: folder of images drawn before, or None.

    Yields:
        How many images are there.
    """
    key = _key(model, weights, drawing)
    paths = {item: None if cache is None else _path(cache, key, item) for item in items}
    images = {item: _read(path) for item, path in paths.items() if path is not None and path.exists()}
    missing = [item for item in paths if item not in images]
    known = len(images)
    yield known

    def draw_batch(batch: Sequence[Item], done: int) -> Generator[int, None, list[Image.Image]]:
        fresh = yield from sampling.generate_pairs(model, batch, drawing, known + done)
        for item, image in zip(batch, fresh, strict=True):
            if paths[item] is not None:
                _write(image, paths[item])
        return fresh

    with projections.swapped(model.unet, weights):
        images |= zip(missing, (yield from model.room.each(missing, draw_batch)), strict=True)
    return [images[item] for item in items]


def difference(before: Image.Image, after: Image.Image) -> float:
    """Mean absolute difference of the pixel values of two RGB images of equal size, 0 to 255."""
    return float(np.abs(np.asarray(before, np.float32) - np.asarray(after, np.float32)).mean())


def _key(model: Model, weights: Mapping[str, Tensor], drawing: ImageRequest) -> str:
    """Changes with everything that an image depends on, but for its prompt and seed."""
    settings = (model.fingerprint, str(model.dtype), drawing.steps, float(drawing.guidance), drawing.negative)
    digest = hashlib.sha256(repr(settings).encode())
    for name, weight_PD in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(weight_PD.to("cpu", torch.float32).contiguous().numpy())
    return digest.hexdigest()[:24]


def _path(cache: Path, key: str, item: Item) -> Path:
    prompt, seed = item
    return cache / "images" / key / f"{hashlib.sha256(prompt.encode()).hexdigest()[:24]}-{seed}.png"


def _read(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _write(image: Image.Image, path: Path) -> None:
    """Whole or not at all: what is cut short must not be read later."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    image.save(part, "PNG")
    part.replace(path)
