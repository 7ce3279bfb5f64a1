"""Use case compare(): the same prompt and seed, before and after an erasure."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mace_studio.erasure import Erasure, check_fits
from mace_studio.errors import FileError
from mace_studio.progress import Progress, clocked, relay
from mace_studio.recipe import ImageRequest
from mace_studio.sd import image_cache, projections, sampling
from mace_studio.sd.model import Model


@dataclass(frozen=True)
class Pair:
    """One prompt and seed, before and after.

    Attributes:
        prompt, seed: what was drawn.
        before, after: RGB images of equal size.
        change: mean absolute difference of pixel values, 0 to 255.
        settings: everything needed to draw the pair again.
    """

    prompt: str
    seed: int
    before: Image.Image
    after: Image.Image
    change: float
    settings: dict[str, object]


def compare(model: Model, erasure: Erasure, drawing: ImageRequest) -> Generator[Progress, None, list[Pair]]:
    """Draw every prompt with every seed with the model as it is, then with the erasure in place.

    Raises:
        FileError: the erasure was made from another model.
    """
    drawing.check()
    check_fits(erasure, model)
    return (yield from clocked(_draw_both(model, erasure, drawing), {"draw": 1.0}))


def _draw_both(model: Model, erasure: Erasure, drawing: ImageRequest) -> Generator[Progress, None, list[Pair]]:
    count = len(drawing.prompts) * len(drawing.seeds)
    yield Progress("draw", total=2 * count)
    before = yield from relay(sampling.generate(model, drawing), lambda n: Progress("draw", step=n, total=2 * count))
    with projections.swapped(model.unet, erasure.weights):
        after = yield from relay(
            sampling.generate(model, drawing), lambda n: Progress("draw", step=count + n, total=2 * count)
        )
    about = {
        "steps": drawing.steps,
        "guidance": drawing.guidance,
        "negative_prompt": drawing.negative,
        "model": model.name,
        "model_fingerprint": model.fingerprint,
        "recipe": json.loads(erasure.recipe.to_json()),
    }
    return [
        Pair(prompt, seed, old, new, image_cache.difference(old, new), {"prompt": prompt, "seed": seed} | about)
        for (prompt, seed), old, new in zip(drawing.pairs(), before, after, strict=True)
    ]


def save_pair(pair: Pair, path: Path) -> None:
    """Write before and after side by side as one PNG, with the settings in its text chunk `mace_studio`.

    Raises:
        FileError: the file cannot be written.
    """
    width, height = pair.before.size
    both = Image.new("RGB", (2 * width, height))
    both.paste(pair.before, (0, 0))
    both.paste(pair.after, (width, 0))
    info = PngInfo()
    info.add_itxt("mace_studio", json.dumps(pair.settings, ensure_ascii=False))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        both.save(path, pnginfo=info)
    except OSError as error:
        raise FileError(f"{path} could not be written: {error.strerror or error}. Choose another folder.") from error
