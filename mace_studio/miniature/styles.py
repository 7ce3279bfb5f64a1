"""The ten artists: each changes every picture in the same way, with nothing left to chance.

An effect takes an RGB picture and its cover (one channel, 0..255: how much of a pixel the thing covers), both of
64 x 64 pixels, and returns an RGB picture of the same size. Two effects move things; `paint` moves the cover along.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from mace_studio.miniature.scenes import SIZE, gradient
from mace_studio.miniature.vocabulary import ARTISTS

Picture = Image.Image
Effect = Callable[[Picture, Picture], Picture]

CELL = 4  # pixels of a dot of the halftone and of a block of the pixels
HIDES_THE_SCENE = "silhouette"


def paint(picture: Picture, cover: Picture, artist: str) -> tuple[Picture, Picture]:
    """A picture as an artist of the vocabulary would make it, and where the thing is in it."""
    effect = ARTISTS[artist]
    move = _MOVES.get(effect)
    return _EFFECTS[effect](picture, cover), cover if move is None else move(cover)


def sketch(picture: Picture) -> Picture:
    """Black outlines on white."""
    return ImageOps.invert(Image.fromarray(_edges_HW(picture).astype(np.uint8))).convert("RGB")


def oil(picture: Picture) -> Picture:
    """Flat patches of colour, as from a broad brush."""
    return picture.filter(ImageFilter.ModeFilter(5))


def _pixels(picture: Picture, cover: Picture) -> Picture:
    blocks = picture.resize((SIZE // CELL, SIZE // CELL), Image.Resampling.BOX)
    return blocks.resize((SIZE, SIZE), Image.Resampling.NEAREST)


def _lines(picture: Picture, cover: Picture) -> Picture:
    return sketch(picture)


def _silhouette(picture: Picture, cover: Picture) -> Picture:
    sunset = gradient((250, 190, 90), (235, 90, 60))
    sunset.paste((20, 15, 30), mask=cover)
    return sunset


def _duotone(picture: Picture, cover: Picture) -> Picture:
    return _image(_between(_light_HW(picture), (25, 20, 90), (255, 170, 60)))


def _negative(picture: Picture, cover: Picture) -> Picture:
    return ImageOps.invert(picture)


def _halftone(picture: Picture, cover: Picture) -> Picture:
    paper = Image.new("RGB", (SIZE, SIZE), (252, 248, 235))
    draw = ImageDraw.Draw(paper)
    dots_HWC = np.asarray(picture.resize((SIZE // CELL, SIZE // CELL), Image.Resampling.BOX), np.float32)
    radii_HW = 2.9 * np.sqrt(1 - dots_HWC.mean(2) / 275)
    for row, column in np.ndindex(radii_HW.shape):
        x, y, r = column * CELL + CELL / 2, row * CELL + CELL / 2, float(radii_HW[row, column])
        draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple((dots_HWC[row, column] * 0.8).astype(int).tolist()))
    return paper


def _pop(picture: Picture, cover: Picture) -> Picture:
    orders = ((0, 1, 2), (1, 2, 0), (2, 0, 1), (1, 0, 2))
    channels = _halved(picture).split()
    return _tiled([Image.merge("RGB", [channels[i] for i in order]) for order in orders])


def _glass(picture: Picture, cover: Picture) -> Picture:
    panes_HWC = np.asarray(ImageOps.posterize(picture, 2), np.float32) * 1.25
    return _image(np.where(_edges_HW(picture)[..., None] > 45, 20, panes_HWC))


def _sepia(picture: Picture, cover: Picture) -> Picture:
    middle_W = np.arange(SIZE) / SIZE - 0.5
    vignette_HW = np.clip(1.25 - 2.2 * (middle_W[:, None] ** 2 + middle_W**2), 0, 1)
    return _image(_between(_light_HW(picture), (50, 30, 15), (245, 220, 175)) * vignette_HW[..., None])


def _neon(picture: Picture, cover: Picture) -> Picture:
    across_HW, down_HW = np.meshgrid(np.arange(SIZE) / SIZE, np.arange(SIZE) / SIZE)
    glow_HWC = 255 * np.stack([across_HW, 1 - down_HW, np.ones((SIZE, SIZE))], axis=2)
    return _image(_between(_edges_HW(picture) / 255, (12, 8, 28), glow_HWC))


def _edges_HW(picture: Picture) -> np.ndarray:
    """How steeply the grey value changes at each pixel, 0..255; 0 at the border across it."""
    grey_HW = np.asarray(picture.convert("L"), np.float32)
    across_HW, down_HW = np.zeros_like(grey_HW), np.zeros_like(grey_HW)
    across_HW[:, 1:-1] = grey_HW[:, 2:] - grey_HW[:, :-2]
    down_HW[1:-1] = grey_HW[2:] - grey_HW[:-2]
    return np.clip(np.hypot(across_HW, down_HW) * 1.6, 0, 255)


def _light_HW(picture: Picture) -> np.ndarray:
    return np.asarray(picture, np.float32).mean(2) / 255


def _between(share_HW: np.ndarray, dark: object, bright: object) -> np.ndarray:
    """From one colour (or picture) where the share is 0 to another where it is 1."""
    share_HW1 = share_HW[..., None]
    return np.asarray(dark) * (1 - share_HW1) + np.asarray(bright) * share_HW1


def _image(values_HWC: np.ndarray) -> Picture:
    return Image.fromarray(values_HWC.clip(0, 255).astype(np.uint8))


def _halved(picture: Picture) -> Picture:
    return picture.resize((SIZE // 2, SIZE // 2), Image.Resampling.LANCZOS)


def _tiled(quarters: list[Picture]) -> Picture:
    """Four pictures of half the size: upper left, upper right, lower left, lower right."""
    whole = Image.new(quarters[0].mode, (SIZE, SIZE))
    for i, quarter in enumerate(quarters):
        whole.paste(quarter, (i % 2 * SIZE // 2, i // 2 * SIZE // 2))
    return whole


_EFFECTS: dict[str, Effect] = {
    "pixels": _pixels,
    "lines": _lines,
    "silhouette": _silhouette,
    "duotone": _duotone,
    "negative": _negative,
    "halftone": _halftone,
    "pop": _pop,
    "glass": _glass,
    "sepia": _sepia,
    "neon": _neon,
}

# What becomes of the cover where an effect moves things.
_MOVES: dict[str, Callable[[Picture], Picture]] = {
    "pixels": lambda cover: _pixels(cover, cover),
    "pop": lambda cover: _tiled([_halved(cover)] * 4),
}
