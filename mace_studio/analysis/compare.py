"""Use case compare(): the same prompt and seed, before and after an erasure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mace_studio.erasure import Erasure, check_fits
from mace_studio.errors import FileError
from mace_studio.progress import Progress, Report, silent, timed, within
from mace_studio.recipe import ImageRequest
from mace_studio.sd import image_cache, sampling
from mace_studio.sd.model import Model

PAIRS_AT_ONCE = 4  # so many are generated before the first of them are told of


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
        progress: called with stage "generate", steps in images, at every denoising step; and with every pair, as
            `result`, as soon as it is there.

    Returns:
        Pairs in the order of `request.pairs()`.

    Raises:
        FileError: the erasure was made from another model.
        RecipeError: a setting that no image can be generated with.
    """
    request.check()
    check_fits(erasure, model)
    asked, report = request.pairs(), timed(progress, {"generate": 1.0})
    about = {
        "steps": request.steps,
        "guidance": request.guidance,
        "negative_prompt": request.negative,
        "model": model.name,
        "model_fingerprint": model.fingerprint,
        "recipe": json.loads(erasure.recipe.to_json()),
    }
    pairs: list[Pair] = []
    for start in range(0, len(asked), PAIRS_AT_ONCE):
        part = asked[start : start + PAIRS_AT_ONCE]
        before, total = 2 * start, 2 * len(asked)
        old = sampling.generate_pairs(model, part, request, within(report, "generate", before=before, total=total))
        before += len(part)
        with erasure.applied(model):
            new = sampling.generate_pairs(model, part, request, within(report, "generate", before=before, total=total))
        for (prompt, seed), one, other in zip(part, old, new, strict=True):
            pair = Pair(
                prompt=prompt,
                seed=seed,
                before=one,
                after=other,
                change=image_cache.difference(one, other),
                settings={"prompt": prompt, "seed": seed} | about,
            )
            pairs.append(pair)
            report(Progress("generate", step=before + len(part), total=total, result=pair))
    return pairs


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
