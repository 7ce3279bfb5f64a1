"""Mutated recipes, forms, lists, CSV files and mask images: each is taken or refused in a sentence.

python -m tests.reliability.mutations --count 10000
"""

from __future__ import annotations

import io
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mace_studio import masks, sources
from mace_studio.erasure import Erasure
from mace_studio.errors import StudioError
from mace_studio.presets import presets
from mace_studio.recipe import ImageRequest, Recipe
from mace_studio.runtime import library
from mace_studio.ui import concept_text, form
from mace_studio.ui.cards.masks import painted
from tests.reliability.common import Figures, run, sentence, small

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 10**6, 10**20, -(10**400), 10**400, 0.5, -0.0, 1e300, 1e-320, float("nan"),
    float("inf"), "", " ", "0", "1e9", "5-3", "9" * 5000, "nan", "a" * 300, "a" + " " * 16_000 + "b", "\ud800", "\x00",
    "=1+1", "<script>", "$\\frac{$", "猫", "🐈" * 40, "e\u0301", "../x", [], {}, [[]], [None], {"a": 1}, ["x"] * 60,
    [["cat", "dog", "object", ""]] * 3, [["cat", "dog"]], [{"phrase": "cat", "mapping": "dog"}] * 2,
)  # fmt: skip
CSV = b"phrase,mapping,kind,synonyms\ncat,forest,object,feline;kitty\nVan Gogh,an artist,style,\n"
BYTES = (b"", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b",", b";", b"\n", b"\t", b"sep=;\n", b"->", b"\xed\xa0\x80")


def mutated(value: Any, dice: random.Random) -> Any:
    """A value with one part of it, anywhere in it, replaced, left out or put in twice."""
    if isinstance(value, dict) and value and dice.random() < 0.85:
        key = dice.choice(list(value))
        how = dice.random()
        if how < 0.1:
            return {name: one for name, one in value.items() if name != key}
        if how < 0.15:
            return value | {str(dice.choice(VALUES))[:20]: dice.choice(VALUES)}
        return value | {key: mutated(value[key], dice)}
    if isinstance(value, list) and value and dice.random() < 0.85:
        at = dice.randrange(len(value))
        if dice.random() < 0.1:
            return [*value, value[at]]
        return [*value[:at], mutated(value[at], dice), *value[at + 1 :]]
    return dice.choice(VALUES)


def scrambled(data: bytes, dice: random.Random) -> bytes:
    """Bytes with some cut out, put in or changed."""
    for _ in range(dice.randrange(1, 4)):
        at, how = dice.randrange(len(data) + 1), dice.random()
        if how < 0.3:
            data = data[:at] + data[at + dice.randrange(1, 20) :]
        elif how < 0.7:
            data = data[:at] + dice.choice(BYTES) * dice.choice((1, 1, 3, 500)) + data[at:]
        else:
            data = data[:at] + bytes([dice.randrange(256)]) + data[at + 1 :]
    return data


def recipe_text(dice: random.Random, own: list[Recipe]) -> None:
    data = mutated(json.loads(dice.choice(own).to_json()), dice)
    Recipe.from_json(json.dumps(data)).check().digest()


def recipe_bytes(dice: random.Random, own: list[Recipe]) -> None:
    form.recipe_of_file(scrambled(dice.choice(own).to_json().encode(), dice)).title()


def typed_form(dice: random.Random, own: list[Recipe]) -> None:
    values = form.values_from(dice.choice(own))
    for _ in range(dice.randrange(1, 4)):
        at = dice.randrange(len(values))
        values[at] = mutated(values[at], dice) if dice.random() < 0.5 else dice.choice(VALUES)
    recipe = form.recipe_from(values).check()
    form.values_from(recipe)


def image_fields(dice: random.Random, own: list[Recipe]) -> None:
    prompts = form.prompts_from("\n".join(str(dice.choice(VALUES)) for _ in range(3)))
    request = form.images_from(prompts, *(dice.choice(VALUES) for _ in range(3)), str(dice.choice(VALUES)))
    request.check()
    assert isinstance(request, ImageRequest)


def csv_file(dice: random.Random, own: list[Recipe]) -> None:
    data = scrambled(CSV, dice)
    concepts = concept_text.from_csv(data)
    concept_text.preview([["cat", "sky", "object", ""]], concepts, False)
    Recipe(concepts=tuple(concepts)).check()


def pasted_list(dice: random.Random, own: list[Recipe]) -> None:
    text = scrambled(b"cat -> forest\nVan Gogh, an artist\nwhale\n", dice).decode("utf-8", "replace")
    concept_text.phrases_of_file(scrambled(b"phrase\ndog\nlion, x\n", dice))
    concept_text.pasted(text, "object", dice.choice((None, *concept_text.COMMAS.values())))


def renamed(typed: str) -> None:
    """Give an erasure the name that was typed."""
    with tempfile.TemporaryDirectory() as folder:
        made = Erasure(recipe=small("cat"), weights={"none": torch.zeros(1)}, fingerprint="none")
        made.save(Path(folder) / "cat.safetensors")
        library.rename(Path(folder), "cat", typed)


TYPED: tuple[Callable[[str], object], ...] = (
    form.rank_from, form.energy_from, form.seeds_from, sources.cleaned, renamed,
)  # fmt: skip


def typed_names(dice: random.Random, own: list[Recipe]) -> None:
    address = dice.choice((b"https://huggingface.co/owner/name/tree/main", b"file:///models/sd", b"~/my models/sd"))
    text = scrambled(address, dice).decode("utf-8", "replace")
    for typed in (text, str(dice.choice(VALUES))):
        for read in dice.sample(TYPED, 1):
            read(typed)


def mask_file(dice: random.Random, own: list[Recipe]) -> None:
    file = io.BytesIO()
    mode = dice.choice(("1", "L", "RGB", "RGBA", "P", "I;16", "LA"))
    Image.new(mode, (dice.randrange(1, 40), dice.randrange(1, 40))).save(file, dice.choice(("PNG", "TIFF")))
    data = file.getvalue()
    masks.from_bytes(scrambled(data, dice) if dice.random() < 0.8 else data)


def drawing(dice: random.Random, own: list[Recipe]) -> None:
    size = dice.randrange(1, 30), dice.randrange(1, 30)
    layer = Image.fromarray(np.random.default_rng(dice.randrange(9)).integers(0, 256, (*size, 4), dtype=np.uint8))
    edited = dice.choice((None, {}, {"layers": None}, {"layers": []}, {"layers": [layer]}, {"layers": [layer, layer]}))
    mask = painted(edited)
    if mask is not None:
        masks.overlay(Image.new("RGB", (8, 8)), mask)


KINDS: tuple[Callable[[random.Random, list[Recipe]], None], ...] = (
    recipe_text, recipe_bytes, typed_form, typed_form, image_fields, csv_file, pasted_list, typed_names,
    mask_file, drawing,
)  # fmt: skip


def work(count: int, seed: int) -> Figures:
    dice, own = random.Random(seed), [preset.recipe for preset in presets()][:12]
    came: Counter[str] = Counter()
    foreign: list[str] = []
    for i in range(count):
        kind = KINDS[i % len(KINDS)]
        try:
            kind(dice, own)
            came["taken"] += 1
        except StudioError as error:
            came["refused"] += 1
            if len(str(error)) > 2000:
                foreign.append(f"{kind.__name__}: a message of {len(str(error))} characters")
        except Exception as error:
            foreign.append(f"{kind.__name__}: {sentence(error)}")
    return {"inputs": count, **came, "foreign exceptions": len(foreign), "the first": foreign[:5]}


if __name__ == "__main__":
    sys.exit(run(__doc__, 10_000, work, ("foreign exceptions",)))
