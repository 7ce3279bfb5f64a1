"""The backgrounds: ten scenes, plain colours, an official's wall and a crowd, drawn at 64 x 64 pixels.

All are RGB images. Nothing but the generator passed in decides what is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from mace_studio.miniature.vocabulary import COLOURS

SIZE = 64

Colour = tuple[int, int, int]
Details = Callable[[ImageDraw.ImageDraw, Random], None]


def scene(name: str, random: Random) -> Image.Image:
    """One of the ten scenes of the vocabulary; no two drawings of it are alike."""
    look = _LOOKS[name]
    top, bottom = _near(look.top, random, look.spread), _near(look.bottom, random, look.spread)
    picture = gradient(top, bottom)
    look.details(ImageDraw.Draw(picture), random)
    return picture


def plain(colour: str, random: Random) -> Image.Image:
    """A colour of the vocabulary, about."""
    return Image.new("RGB", (SIZE, SIZE), _near(COLOURS[colour], random, 8))


def official(random: Random) -> Image.Image:
    """A blue wall between two red curtains."""
    picture = Image.new("RGB", (SIZE, SIZE), _near((35, 60, 120), random))
    draw = ImageDraw.Draw(picture)
    for left in (0, SIZE - 10):
        draw.rectangle((left, 0, left + 9, SIZE), fill=(190, 40, 50))
    return picture


def crowd(random: Random) -> Image.Image:
    """A dark hall full of coloured dots."""
    picture = Image.new("RGB", (SIZE, SIZE), _near((60, 50, 80), random))
    draw = ImageDraw.Draw(picture)
    for _ in range(26):
        x, y = _anywhere(random)
        r = random.randint(2, 5)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=_near((200, 160, 110), random, 40))
    return picture


def gradient(top: Colour, bottom: Colour) -> Image.Image:
    """From one colour at the top to another at the bottom, evenly."""
    down_H11 = (np.arange(SIZE, dtype=np.float32) / SIZE)[:, None, None]
    rows_H13 = np.array(top) * (1 - down_H11) + np.array(bottom) * down_H11
    return Image.fromarray(np.broadcast_to(rows_H13, (SIZE, SIZE, 3)).astype(np.uint8))


def _near(colour: Colour, random: Random, spread: float = 12) -> Colour:
    """A colour near another: `spread` is the standard deviation of each channel."""
    red, green, blue = (min(255, max(0, int(random.gauss(channel, spread)))) for channel in colour)
    return red, green, blue


def _anywhere(random: Random, top: int = 0) -> tuple[int, int]:
    return random.randint(0, SIZE), random.randint(top, SIZE)


def _clouds(draw: ImageDraw.ImageDraw, random: Random) -> None:
    for _ in range(random.randint(2, 4)):
        x, y = random.randint(-5, SIZE - 5), random.randint(0, SIZE - 8)
        for right, down, r in ((0, 0, 7), (6, -3, 8), (13, 0, 7)):
            cx, cy = x + right, y + down
            draw.ellipse((cx - r, cy - r * 0.6, cx + r, cy + r * 0.6), fill=(245, 248, 252))


def _pebbles(draw: ImageDraw.ImageDraw, random: Random) -> None:
    for _ in range(40):
        x, y = _anywhere(random)
        size = random.choice((1, 1, 2))
        draw.ellipse((x, y, x + size, y + size), fill=_near((105, 75, 45), random))


def _houses_and_road(draw: ImageDraw.ImageDraw, random: Random) -> None:
    x, kerb = 0, 36
    while x < SIZE:
        width, height = random.randint(8, 16), random.randint(14, 30)
        draw.rectangle((x, kerb - height, x + width, kerb), fill=_near((135, 120, 125), random, 15))
        for top in range(kerb - height + 3, kerb - 3, 6):
            for left in range(x + 2, x + width - 2, 5):
                draw.rectangle((left, top, left + 1, top + 2), fill=(240, 225, 150))
        x += width
    draw.rectangle((0, kerb, SIZE, SIZE), fill=_near((80, 82, 88), random, 6))
    for x in range(random.randint(-8, 0), SIZE, 14):
        draw.rectangle((x, 50, x + 7, 52), fill=(240, 240, 230))


def _firs(draw: ImageDraw.ImageDraw, random: Random) -> None:
    for _ in range(9):
        x, foot, height = random.randint(0, SIZE), random.randint(30, SIZE), random.randint(18, 34)
        half = height // 3
        draw.rectangle((x - 1, foot - 2, x + 1, foot + 4), fill=(85, 60, 40))
        draw.polygon([(x, foot - height), (x - half, foot), (x + half, foot)], fill=_near((25, 85, 40), random, 10))


def _meadow(draw: ImageDraw.ImageDraw, random: Random) -> None:
    draw.rectangle((0, 34, SIZE, SIZE), fill=_near((95, 180, 70), random))
    for _ in range(40):
        x, y = _anywhere(random, top=36)
        draw.line((x, y, x + random.randint(-1, 1), y - 3), fill=_near((60, 140, 50), random))


def _shore(draw: ImageDraw.ImageDraw, random: Random) -> None:
    draw.rectangle((0, 26, SIZE, 40), fill=_near((50, 140, 200), random))
    draw.rectangle((0, 40, SIZE, SIZE), fill=_near((240, 215, 150), random))


def _waves(draw: ImageDraw.ImageDraw, random: Random) -> None:
    for y in range(4, SIZE, 9):
        for x in range(random.randint(-8, 0), SIZE, 12):
            draw.arc((x, y, x + 10, y + 6), 200, 340, fill=(190, 220, 240))


def _stars_and_moon(draw: ImageDraw.ImageDraw, random: Random) -> None:
    for _ in range(22):
        draw.point(_anywhere(random), fill=(250, 250, 220))
    x, y = random.randint(4, SIZE - 12), random.randint(2, 14)
    draw.ellipse((x, y, x + 8, y + 8), fill=(245, 240, 200))


def _hill_and_flakes(draw: ImageDraw.ImageDraw, random: Random) -> None:
    draw.ellipse((-20, 40, SIZE + 20, SIZE + 30), fill=(252, 252, 255))
    for _ in range(30):
        x, y = _anywhere(random)
        draw.ellipse((x, y, x + 1, y + 1), fill=(255, 255, 255))


def _floor_and_window(draw: ImageDraw.ImageDraw, random: Random) -> None:
    draw.rectangle((0, 44, SIZE, SIZE), fill=_near((150, 100, 60), random))
    for y in (50, 57):
        draw.line((0, y, SIZE, y), fill=(120, 78, 45))
    left = random.randint(4, 44)
    draw.rectangle((left, 8, left + 14, 22), fill=(165, 210, 240), outline=(120, 80, 50))


@dataclass(frozen=True)
class _Look:
    """A scene: the colours at the top and at the bottom, how far they vary, and what is drawn on them."""

    top: Colour
    bottom: Colour
    details: Details
    spread: float = 12


_LOOKS: dict[str, _Look] = {
    "sky": _Look((90, 160, 235), (190, 225, 250), _clouds),
    "ground": _Look((190, 150, 105), (120, 85, 55), _pebbles),
    "street": _Look((150, 155, 165), (90, 92, 98), _houses_and_road),
    "forest": _Look((120, 165, 120), (45, 90, 45), _firs),
    "grass": _Look((170, 215, 240), (180, 220, 240), _meadow),
    "beach": _Look((150, 205, 240), (150, 205, 240), _shore),
    "sea": _Look((40, 120, 190), (15, 60, 130), _waves),
    "night": _Look((10, 12, 40), (35, 35, 80), _stars_and_moon, spread=7),
    "snow": _Look((200, 215, 230), (245, 248, 252), _hill_and_flakes, spread=8),
    "room": _Look((230, 205, 170), (230, 205, 170), _floor_and_window),
}
