"""The forty artists: each changes every image in the same way, with nothing left to chance.

An effect takes an RGB image and its cover (one channel, 0..255: how much of a pixel the thing covers), both of
64 x 64 pixels, and returns an RGB image of the same size. Some effects move things; `paint` moves the cover along.
Effects come in families: one function with other parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from mace_studio.miniature.scenes import SIZE, Colour, gradient
from mace_studio.miniature.vocabulary import ARTISTS

Picture = Image.Image
Effect = Callable[[Picture, Picture], Picture]

CELL = 4  # pixels of a stitch, of a small dot and of a small block
SHARDS = 80
POINTS = 900
HIDES_THE_SCENE = frozenset({"silhouette dark", "silhouette pale"})


def paint(picture: Picture, cover: Picture, artist: str) -> tuple[Picture, Picture]:
    """An image as an artist of the vocabulary would make it, and where the thing is in it."""
    effect = ARTISTS[artist]
    move = _MOVES.get(effect)
    return _EFFECTS[effect](picture, cover), cover if move is None else move(cover)


def sketch(picture: Picture) -> Picture:
    """Black outlines on white."""
    return ImageOps.invert(Image.fromarray(_edges_HW(picture).astype(np.uint8))).convert("RGB")


def oil(picture: Picture) -> Picture:
    """Flat patches of colour, as from a broad brush."""
    return picture.filter(ImageFilter.ModeFilter(5))


def _duotone(picture: Picture, cover: Picture, *, dark: Colour, bright: Colour) -> Picture:
    """From one colour in the shadows to another in the light."""
    return _image(_between(_light_HW(picture), dark, bright))


def _sepia(picture: Picture, cover: Picture) -> Picture:
    """Brown, with dark corners."""
    middle_W = np.arange(SIZE) / SIZE - 0.5
    vignette_HW = np.clip(1.25 - 2.2 * (middle_W[:, None] ** 2 + middle_W**2), 0, 1)
    return _image(_between(_light_HW(picture), (50, 30, 15), (245, 220, 175)) * vignette_HW[..., None])


def _hue(picture: Picture, cover: Picture, *, order: tuple[int, int, int]) -> Picture:
    """The three channels in another order, and stronger colours."""
    values_HWC = np.asarray(picture, np.float32)[..., list(order)]
    grey_HW1 = values_HWC.mean(2, keepdims=True)
    return _image(grey_HW1 + 1.6 * (values_HWC - grey_HW1))


def _poster(picture: Picture, cover: Picture) -> Picture:
    """Each channel full or empty."""
    return Image.fromarray(np.where(np.asarray(picture) > 127, 255, 0).astype(np.uint8))


def _hatch(picture: Picture, cover: Picture, *, slopes: tuple[tuple[int, int], ...], ink: Colour, paper: Colour):
    """Strokes of ink, the wider the darker the image is; one set of strokes for each slope (down, across)."""
    dark_HW = 1 - _light_HW(ImageOps.equalize(picture.convert("L")).convert("RGB").filter(ImageFilter.BoxBlur(1)))
    rows_H1, columns_W = np.arange(SIZE)[:, None], np.arange(SIZE)
    inked_HW = np.zeros((SIZE, SIZE), bool)
    for down, across in slopes:
        inked_HW |= (down * rows_H1 + across * columns_W) % 5 < 5.4 * dark_HW - 0.7
    return _image(_between(inked_HW.astype(np.float32), paper, ink))


def _halftone(picture: Picture, cover: Picture, *, cell: int, paper: Colour, ink: Colour | None, light: bool = False):
    """Round dots on a grid, the larger the darker (or lighter) the image is; without an ink in its colours."""
    count = math.ceil(SIZE / cell)
    if ink is not None:
        picture = ImageOps.equalize(picture.convert("L")).convert("RGB")
    dots_HWC = np.asarray(picture.resize((count, count), Image.Resampling.BOX), np.float32)
    share_HW = dots_HWC.mean(2) / 255
    radii_HW = 0.66 * cell * np.sqrt(share_HW if light else 1 - 0.93 * share_HW)
    sheet = Image.new("RGB", (SIZE, SIZE), paper)
    draw = ImageDraw.Draw(sheet)
    for row, column in np.ndindex(radii_HW.shape):
        x, y, r = (column + 0.5) * cell, (row + 0.5) * cell, float(radii_HW[row, column])
        fill = ink or tuple((dots_HWC[row, column] * 0.8).astype(int).tolist())
        draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    return sheet


def _pixels(picture: Picture, cover: Picture) -> Picture:
    blocks = picture.resize((SIZE // CELL, SIZE // CELL), Image.Resampling.BOX)
    return blocks.resize((SIZE, SIZE), Image.Resampling.NEAREST)


def _tiles(picture: Picture, cover: Picture) -> Picture:
    """Square tiles of 8 pixels between white joints, each with a lighter edge above and a darker one below."""
    values_HWC = np.asarray(picture.filter(ImageFilter.BoxBlur(1)), np.float32).copy()
    values_HWC[1::8] += 70
    values_HWC[7::8] -= 70
    values_HWC[::8], values_HWC[:, ::8] = 245, 245
    return _image(values_HWC)


@cache
def _shard_cells() -> tuple[np.ndarray, np.ndarray]:
    """The number of the shard that each pixel lies in, and where two shards meet, (H, W) each."""
    corners_N2 = np.random.default_rng(11).uniform(0, SIZE, (SHARDS, 2))
    down_HW, across_HW = np.indices((SIZE, SIZE))
    distance_NHW = np.hypot(down_HW - corners_N2[:, :1, None], across_HW - corners_N2[:, 1:, None])
    nearest_2HW = np.sort(distance_NHW, axis=0)[:2]
    return distance_NHW.argmin(0), nearest_2HW[1] - nearest_2HW[0] < 1.0


def _averaged(picture: Picture, cell_HW: np.ndarray) -> np.ndarray:
    """Every pixel gets the mean colour of its cell, (H, W, C)."""
    _, index_N = np.unique(cell_HW, return_inverse=True)
    index_N = index_N.ravel()
    values_NC = np.asarray(picture, np.float32).reshape(-1, 3)
    sizes_K = np.bincount(index_N)
    means_KC = np.stack([np.bincount(index_N, values_NC[:, c]) / sizes_K for c in range(3)], axis=1)
    return means_KC[index_N].reshape(SIZE, SIZE, 3)


def _diamonds(picture: Picture, cover: Picture) -> Picture:
    rows_H1, columns_W = np.arange(SIZE)[:, None], np.arange(SIZE)
    diamond_HW = (rows_H1 + columns_W) // 8 * 64 + (rows_H1 - columns_W + SIZE) // 8
    return _image(_averaged(picture, diamond_HW))


def _shards(picture: Picture, cover: Picture) -> Picture:
    """Pieces of one colour with black joints."""
    cell_HW, joint_HW = _shard_cells()
    return _image(np.where(joint_HW[..., None], 15, _averaged(picture, cell_HW)))


def _glass(picture: Picture, cover: Picture) -> Picture:
    panes_HWC = np.asarray(ImageOps.posterize(picture, 2), np.float32) * 1.25
    return _image(np.where(_edges_HW(picture)[..., None] > 45, 20, panes_HWC))


def _neon(picture: Picture, cover: Picture) -> Picture:
    across_HW, down_HW = np.meshgrid(np.arange(SIZE) / SIZE, np.arange(SIZE) / SIZE)
    glow_HWC = 255 * np.stack([across_HW, 1 - down_HW, np.ones((SIZE, SIZE))], axis=2)
    return _image(_between(_edges_HW(picture) / 255, (12, 8, 28), glow_HWC))


def _drawing(picture: Picture, cover: Picture, *, board: Colour, chalk: Colour) -> Picture:
    """Bright outlines on a board of one colour."""
    return _image(_between(np.clip(_edges_HW(picture) / 120, 0, 1), board, chalk))


def _silhouette(picture: Picture, cover: Picture, *, top: Colour, bottom: Colour, fill: Colour) -> Picture:
    sky = gradient(top, bottom)
    sky.paste(fill, mask=cover)
    return sky


def _pop(picture: Picture, cover: Picture) -> Picture:
    orders = ((0, 1, 2), (1, 2, 0), (2, 0, 1), (1, 0, 2))
    channels = _halved(picture).split()
    return _tiled([Image.merge("RGB", [channels[i] for i in order]) for order in orders])


def _mirror(picture: Picture, cover: Picture) -> Picture:
    """The image upright in the upper half and upside down in the lower one, as over water."""
    upper = picture.resize((SIZE, SIZE // 2), Image.Resampling.LANCZOS)
    whole = Image.new(picture.mode, (SIZE, SIZE))
    whole.paste(upper, (0, 0))
    whole.paste(ImageOps.flip(upper), (0, SIZE // 2))
    return whole


def _embroidery(picture: Picture, cover: Picture) -> Picture:
    """A cross of thread in each cell, on linen."""
    blocks_HWC = np.asarray(_pixels(picture, cover), np.float32)
    rows_H1, columns_W = np.arange(SIZE)[:, None] % CELL, np.arange(SIZE) % CELL
    crossed_HW = (rows_H1 == columns_W) | (rows_H1 + columns_W == CELL - 1)
    return _image(np.where(crossed_HW[..., None], blocks_HWC, np.array((238, 228, 205))))


def _points(picture: Picture, cover: Picture) -> Picture:
    """Dots of the image's colours, made stronger, on white."""
    values_HWC = np.asarray(_hue(picture, cover, order=(0, 1, 2)))
    canvas = Image.new("RGB", (SIZE, SIZE), (255, 253, 245))
    draw = ImageDraw.Draw(canvas)
    for y, x in np.random.default_rng(5).integers(0, SIZE, (POINTS, 2)).tolist():
        draw.ellipse((x - 1.5, y - 1.5, x + 1.5, y + 1.5), fill=tuple(values_HWC[y, x].tolist()))
    return canvas


def _relief(picture: Picture, cover: Picture) -> Picture:
    """Grey stone, lit from the upper left."""
    return picture.convert("L").filter(ImageFilter.EMBOSS).convert("RGB")


def _frame(picture: Picture, cover: Picture) -> Picture:
    """Smaller, in a frame of gold."""
    frame = Image.new("RGB", (SIZE, SIZE), (120, 80, 10))
    ImageDraw.Draw(frame).rectangle((2, 2, SIZE - 3, SIZE - 3), fill=(235, 190, 60))
    return _framed(picture, frame)


def _framed(picture: Picture, frame: Picture) -> Picture:
    frame.paste(picture.resize((SIZE - 20, SIZE - 20), Image.Resampling.LANCZOS), (10, 10))
    return frame


def _porthole(picture: Picture, cover: Picture) -> Picture:
    """Seen through a round window with a red rim, in a dark wall."""
    down_H1, across_W = np.arange(SIZE)[:, None] - 31.5, np.arange(SIZE) - 31.5
    radius_HW1 = np.hypot(down_H1, across_W)[..., None]
    rim_HWC = np.where(radius_HW1 < 28, np.array((215, 45, 45)), np.array((20, 25, 40)))
    return _image(np.where(radius_HW1 < 24, np.asarray(picture), rim_HWC))


def _waves(picture: Picture, cover: Picture) -> Picture:
    """Rows shifted along a wave."""
    values_HW = np.asarray(picture)
    shift_H = np.round(6 * np.sin(np.arange(SIZE) * 2 * math.pi / 16)).astype(int)
    columns_HW = (np.arange(SIZE) + shift_H[:, None]).clip(0, SIZE - 1)
    return Image.fromarray(values_HW[np.arange(SIZE)[:, None], columns_HW])


def _monitor(picture: Picture, cover: Picture) -> Picture:
    """Green on black, every other pair of rows dark."""
    light_HW = _light_HW(ImageOps.equalize(picture)) * np.where(np.arange(SIZE) % 4 < 2, 1.0, 0.3)[:, None]
    return _image(_between(light_HW, (0, 20, 5), (90, 255, 120)))


def _anaglyph(picture: Picture, cover: Picture) -> Picture:
    """Red shifted to the left, green and blue to the right."""
    red, _, _ = ImageChops.offset(picture.convert("L"), -4, 0).convert("RGB").split()
    _, green, blue = ImageChops.offset(picture.convert("L"), 4, 0).convert("RGB").split()
    return Image.merge("RGB", (red, green, blue))


def _heat(picture: Picture, cover: Picture) -> Picture:
    """Dark is blue, then magenta, red, orange and yellow."""
    stops = np.array([(10, 0, 90), (150, 0, 160), (235, 40, 40), (255, 150, 0), (255, 255, 120)], np.float32)
    place_HW = _light_HW(picture) * (len(stops) - 1)
    return _image(np.stack([np.interp(place_HW, range(len(stops)), stops[:, c]) for c in range(3)], axis=2))


def _chequers(picture: Picture, cover: Picture) -> Picture:
    """Every other square of 16 pixels in negative."""
    squares_HW = (np.arange(SIZE)[:, None] // 16 + np.arange(SIZE) // 16) % 2
    values_HWC = np.asarray(picture)
    return Image.fromarray(np.where(squares_HW[..., None] == 1, 255 - values_HWC, values_HWC))


def _rainbow(picture: Picture, cover: Picture) -> Picture:
    """Grey, under upright stripes of six colours."""
    colours = np.array(
        [(235, 60, 60), (245, 150, 50), (245, 225, 70), (80, 190, 90), (60, 120, 220), (150, 80, 190)], np.float32
    )
    stripes_WC = colours[np.arange(SIZE) * len(colours) // SIZE]
    return _image(stripes_WC * (0.25 + 0.95 * _light_HW(picture)[..., None]))


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
    """From one colour (or image) where the share is 0 to another where it is 1."""
    share_HW1 = share_HW[..., None]
    return np.asarray(dark) * (1 - share_HW1) + np.asarray(bright) * share_HW1


def _image(values_HWC: np.ndarray) -> Picture:
    return Image.fromarray(values_HWC.clip(0, 255).astype(np.uint8))


def _halved(picture: Picture) -> Picture:
    return picture.resize((SIZE // 2, SIZE // 2), Image.Resampling.LANCZOS)


def _tiled(quarters: list[Picture]) -> Picture:
    """Four images of half the size: upper left, upper right, lower left, lower right."""
    whole = Image.new(quarters[0].mode, (SIZE, SIZE))
    for i, quarter in enumerate(quarters):
        whole.paste(quarter, (i % 2 * SIZE // 2, i // 2 * SIZE // 2))
    return whole


_EFFECTS: dict[str, Effect] = {
    "duotone orange": partial(_duotone, dark=(25, 20, 90), bright=(255, 170, 60)),
    "duotone mint": partial(_duotone, dark=(90, 20, 110), bright=(160, 255, 205)),
    "duotone cream": partial(_duotone, dark=(140, 10, 20), bright=(255, 245, 215)),
    "duotone pink": partial(_duotone, dark=(5, 5, 10), bright=(255, 105, 185)),
    "sepia": _sepia,
    "cyanotype": partial(_duotone, dark=(5, 35, 125), bright=(240, 250, 255)),
    "negative": lambda picture, cover: ImageOps.invert(picture),
    "hue third": partial(_hue, order=(1, 2, 0)),
    "hue two thirds": partial(_hue, order=(2, 0, 1)),
    "poster": _poster,
    "hatch diagonal": partial(_hatch, slopes=((1, 1),), ink=(15, 15, 15), paper=(250, 250, 250)),
    "hatch level": partial(_hatch, slopes=((1, 0),), ink=(20, 50, 170), paper=(235, 240, 255)),
    "hatch crossed": partial(_hatch, slopes=((1, 1), (1, -1)), ink=(130, 50, 20), paper=(255, 235, 205)),
    "halftone colour": partial(_halftone, cell=CELL, paper=(252, 248, 235), ink=None),
    "halftone yellow": partial(_halftone, cell=5, paper=(255, 220, 40), ink=(10, 10, 10)),
    "halftone night": partial(_halftone, cell=5, paper=(10, 10, 25), ink=(245, 245, 255), light=True),
    "pixels": _pixels,
    "tiles": _tiles,
    "diamonds": _diamonds,
    "glass": _glass,
    "shards": _shards,
    "lines": lambda picture, cover: sketch(picture),
    "neon": _neon,
    "chalk": partial(_drawing, board=(30, 80, 50), chalk=(240, 240, 220)),
    "blueprint": partial(_drawing, board=(25, 70, 190), chalk=(235, 245, 255)),
    "silhouette dark": partial(_silhouette, top=(250, 190, 90), bottom=(235, 90, 60), fill=(20, 15, 30)),
    "silhouette pale": partial(_silhouette, top=(10, 30, 60), bottom=(15, 120, 120), fill=(235, 240, 225)),
    "pop": _pop,
    "mirror": _mirror,
    "embroidery": _embroidery,
    "points": _points,
    "relief": _relief,
    "frame": _frame,
    "porthole": _porthole,
    "waves": _waves,
    "monitor": _monitor,
    "anaglyph": _anaglyph,
    "heat": _heat,
    "chequers": _chequers,
    "rainbow": _rainbow,
}

# What becomes of the cover where an effect moves things.
_MOVES: dict[str, Callable[[Picture], Picture]] = {
    "pixels": lambda cover: _pixels(cover, cover),
    "embroidery": lambda cover: _pixels(cover, cover),
    "pop": lambda cover: _tiled([_halved(cover)] * 4),
    "mirror": lambda cover: _mirror(cover, cover),
    "frame": lambda cover: _framed(cover, Image.new("L", (SIZE, SIZE))),
    "waves": lambda cover: _waves(cover, cover),
}
