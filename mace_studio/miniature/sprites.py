"""The sprites of things and people, and how one is pasted into a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

import numpy as np
from PIL import Image

from mace_studio.miniature.vocabulary import FOLDER


@cache
def atlas(name: str) -> Mapping[str, tuple[Image.Image, ...]]:
    """The sprites of an atlas by what they show, in the atlas's order.

    Args:
        name: "objects", "people" or "passers_by": a PNG, and a JSON list of entries with what is shown ("concept" or
            "person") and "box", in pixels: left, top, right, bottom.

    Returns:
        What is shown -> RGBA images, cropped to what is opaque.
    """
    with Image.open(FOLDER / f"{name}.png") as file:
        sheet = file.convert("RGBA")
    found: dict[str, tuple[Image.Image, ...]] = {}
    for entry in json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")):
        shown = entry["concept"] if name == "objects" else entry["person"]
        found[shown] = (*found.get(shown, ()), sheet.crop(entry["box"]))
    return MappingProxyType(found)


def paste(picture: Image.Image, sprite: Image.Image, scale: float, left: int, top: int) -> Image.Image:
    """Paste a sprite into a picture, in place.

    Args:
        picture: RGB.
        sprite: RGBA.
        scale: from the sprite's pixels to the picture's.
        left, top: the sprite's upper left corner in the picture, in pixels; parts outside are cut off.

    Returns:
        How much of each pixel the sprite covers: a picture of one channel, 0..255, of the picture's size.
    """
    scaled = sprite.resize(scaled_size(sprite, scale), Image.Resampling.LANCZOS)
    picture.paste(scaled, (left, top), scaled)
    cover = Image.new("L", picture.size)
    cover.paste(scaled.getchannel("A"), (left, top))
    return cover


def scaled_size(sprite: Image.Image, scale: float) -> tuple[int, int]:
    """Width and height in pixels of a sprite at a scale; at least two."""
    return max(2, int(sprite.width * scale)), max(2, int(sprite.height * scale))


def covered(cover: Image.Image) -> np.ndarray:
    """The mask of a cover: boolean, rows and columns; true where any of the sprite is."""
    return np.asarray(cover) > 0
