"""Use case compare(): the same prompt and seed, before and after an erasure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mace_studio.erasure import Erasure, check_fits
from mace_studio.errors import FileError
from mace_studio.progress import Report, silent, timed, within
from mace_studio.recipe import ImageRequest
from mace_studio.sd import image_cache, sampling
from mace_studio.sd.model import Model


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One prompt and seed, before and after.

    Attributes:
        prompt: the sentence.
        seed: of both images.
        before: RGB image of the model as it is.
        after: RGB image of the erased model, of equal size.
        change: mean absolute difference of pixel values, 0 to 255.
        settings: everything needed to generate the pair again.
    """

    prompt: str
    seed: int
    before: Image.Image
    after: Image.Image
    change: float
    settings: dict[str, object]


def compare(model: Model, erasure: Erasure, request: ImageRequest, progress: Report = silent) -> list[Pair]:
    """Generate every prompt with every seed with the model as it is, then with the erasure in place.

    Args:
        model: is bit for bit the same afterwards.
        erasure: of this model.
        request: prompts, seeds and settings.
        progress: told of stage "generate", steps in images, at every denoising step.

    Returns:
        Pairs in the order of `request.pairs()`.

    Raises:
        FileError: the erasure was made from another model.
        RecipeError: a setting that no image can be generated with.
    """
    request.check()
    check_fits(erasure, model)
    count = len(request.pairs())
    report = timed(progress, {"generate": 1.0})
    before = sampling.generate(model, request, within(report, "generate", total=2 * count))
    with erasure.applied(model):
        after = sampling.generate(model, request, within(report, "generate", before=count, total=2 * count))
    about = {
        "steps": request.steps,
        "guidance": request.guidance,
        "negative_prompt": request.negative,
        "model": model.name,
        "model_fingerprint": model.fingerprint,
        "recipe": json.loads(erasure.recipe.to_json()),
    }
    return [
        Pair(
            prompt=prompt,
            seed=seed,
            before=old,
            after=new,
            change=image_cache.difference(old, new),
            settings={"prompt": prompt, "seed": seed} | about,
        )
        for (prompt, seed), old, new in zip(request.pairs(), before, after, strict=True)
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
