"""Use case compare(): the same prompt and seed, before and after one or several erasures."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from mace_studio import text_files
from mace_studio.erasure import Erasure, check_fits
from mace_studio.errors import FileError
from mace_studio.progress import Progress, Report, silent, timed, within
from mace_studio.recipe import ImageRequest
from mace_studio.sd import image_cache, sampling
from mace_studio.sd.model import Model

PAIRS_AT_ONCE = 4  # so many are generated before the first of them are told of
# Pixels of a sheet: an image at most, a line of text, and the names of the rows at least and at most.
CELL, LINE, LABEL, LONG_LABEL = 256, 22, 150, 450


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
        erasure: number of the erasure among those that were compared, from 0.
    """

    prompt: str
    seed: int
    before: Image.Image
    after: Image.Image
    change: float
    settings: dict[str, object]
    erasure: int = 0


def compare(
    model: Model, erasure: Erasure, request: ImageRequest, progress: Report = silent, others: Sequence[Erasure] = ()
) -> list[Pair]:
    """Generate every prompt with every seed with the model as it is, then with each erasure in place.

    Args:
        model: is bit for bit the same afterwards.
        erasure: of this model.
        request: prompts, seeds and settings.
        progress: called with stage "generate", steps in images, at every denoising step; and with every pair, as
            `result`, as soon as it is there.
        others: more erasures of this model, to be seen beside the first.

    Returns:
        Pairs in the order of `request.pairs()`, for each of them one of every erasure.

    Raises:
        FileError: an erasure was made from another model.
        RecipeError: a setting that no image can be generated with.

    Example:
        >>> (pair,) = compare(model, erasure, ImageRequest(prompts=("a photo of a cat",), seeds=(0,)))
    """
    request.check()
    erasures = [erasure, *others]
    for one in erasures:
        check_fits(one, model)
    asked, report = request.pairs(), timed(progress, {"generate": 1.0})
    about = {
        "steps": request.steps,
        "guidance": request.guidance,
        "negative_prompt": request.negative,
        "model": model.name,
        "model_fingerprint": model.fingerprint,
    }
    recipes = [json.loads(one.recipe.to_json()) for one in erasures]
    pairs: list[Pair] = []
    for start in range(0, len(asked), PAIRS_AT_ONCE):
        part, sides = asked[start : start + PAIRS_AT_ONCE], 1 + len(erasures)
        before, total = sides * start, sides * len(asked)
        old = sampling.generate_pairs(model, part, request, within(report, "generate", before=before, total=total))
        new: list[list[Image.Image]] = []
        for number, one in enumerate(erasures, 1):
            told = within(report, "generate", before=before + number * len(part), total=total)
            with one.applied(model):
                new.append(sampling.generate_pairs(model, part, request, told))
        for i, (prompt, seed) in enumerate(part):
            for number, recipe in enumerate(recipes):
                pair = Pair(
                    prompt=prompt,
                    seed=seed,
                    before=old[i],
                    after=new[number][i],
                    change=image_cache.difference(old[i], new[number][i]),
                    settings={"prompt": prompt, "seed": seed, **about, "recipe": recipe},
                    erasure=number,
                )
                pairs.append(pair)
                report(Progress("generate", step=before + sides * len(part), total=total, result=pair))
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
    _save(both, pair.settings, path)


def save_sheet(pairs: Sequence[Pair], names: Sequence[str], path: Path) -> None:
    """Write all pairs as one PNG: a row for the original and for each erasure under every prompt, a column a seed.

    Args:
        pairs: of one comparison, at least one.
        names: of its erasures, in their order.
        path: the PNG file; its text chunk `mace_studio` holds the settings.

    Raises:
        FileError: the file cannot be written.
    """
    asked, seeds = list(dict.fromkeys(p.prompt for p in pairs)), list(dict.fromkeys(p.seed for p in pairs))
    width, height = pairs[0].before.size
    scale = min(1.0, CELL / max(width, height))
    cell = (max(1, round(width * scale)), max(1, round(height * scale)))
    across, down = max(cell[0], 48) + 4, max(cell[1], LINE) + 4
    block = LINE + (1 + len(names)) * down
    font = ImageFont.load_default(13)
    label = min(LONG_LABEL, max(LABEL, *(round(font.getlength(name)) + 12 for name in names)))
    about = {key: value for key, value in pairs[0].settings.items() if key not in ("prompt", "seed", "recipe")}
    wide = label + max(across * len(seeds), 420)
    told = textwrap.wrap(" · ".join(f"{key} {value}" for key, value in about.items() if value != ""), wide // 8)
    sheet = Image.new("RGB", (wide, LINE * (2 + len(told)) + block * len(asked)), "white")
    pen = ImageDraw.Draw(sheet)

    def write(x: int, y: int, text: str) -> None:
        pen.text((x + 4, y + 3), text, fill="black", font=font)

    for column, seed in enumerate(seeds):
        write(label + column * across, 0, f"seed {seed}")
    for i, prompt in enumerate(asked):
        write(0, LINE + i * block, prompt)
        for row, name in enumerate(["original", *names]):
            write(0, LINE * 2 + i * block + row * down, name[: label // 7])
    for pair in pairs:
        x = label + seeds.index(pair.seed) * across
        y = LINE * 2 + asked.index(pair.prompt) * block
        sheet.paste(pair.before.resize(cell), (x, y))
        sheet.paste(pair.after.resize(cell), (x, y + (1 + pair.erasure) * down))
    for row, line in enumerate(told):
        write(0, sheet.height - LINE * (len(told) - row), line)
    recipes = {names[pair.erasure]: pair.settings["recipe"] for pair in pairs}
    _save(sheet, about | {"prompts": asked, "seeds": seeds, "recipes": recipes}, path)


def _save(image: Image.Image, settings: dict[str, object], path: Path) -> None:
    info = PngInfo()
    info.add_itxt("mace_studio", json.dumps(settings, ensure_ascii=False))
    try:
        with text_files.whole(path) as part:
            image.save(part, pnginfo=info)
    except OSError as error:
        raise FileError(f"{path} could not be written: {error.strerror or error}. Choose another folder.") from error
