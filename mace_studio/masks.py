"""Masks as images: those that a user made, and how a mask looks over its training image."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Collection, Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, UnidentifiedImageError

from mace_studio import text_files
from mace_studio.errors import FileError, RecipeError
from mace_studio.paths import unique_slug
from mace_studio.recipe import Recipe

OVERLAY_WIDTH = 256  # pixels, at least
DIM = 0.3  # brightness outside of a mask, as a share of what it was
EDGE = (255, 255, 255)
WHITE = 128  # values from here on count as white
MOST_PIXELS = 4096 * 4096  # of an image that is read: a file of a few kilobytes may hold gigabytes

FORMATS = ("PNG", "JPEG", "WEBP")  # of an image of a user's; Pillow has decoders of dozens more
MASKS = "masks"  # the folder of masks beside that of images
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")  # of files that are meant as images

Key = tuple[str, int]  # phrase, and the number of the training image, from 1
UserMasks = Mapping[Key, Image.Image]  # masks that a user made, from `black_and_white`


@dataclass(frozen=True, kw_only=True)
class MaskedImage:
    """A training image and where the recipe's source of masks finds the concept in it.

    Attributes:
        phrase: the concept.
        number: of the image, from 1.
        seed: of the image.
        image: RGB.
        mask: black and white, of the image's size; None for the whole image.
        searched: whether the source looked for the concept, which it does not for styles and explicit content.
    """

    phrase: str
    number: int
    seed: int
    image: Image.Image
    mask: Image.Image | None
    searched: bool

    @property
    def key(self) -> Key:
        return self.phrase, self.number


@dataclass
class MaskSheet:
    """The training images of a recipe with their masks.

    Attributes:
        recipe: whose images they are.
        images: in the order of its concepts.
        user_masks: masks that a user made for some of them; changed in place when another is made.
        dropped: how many masks that a user made for earlier images do not fit these.
        warnings: about concepts of which the images show little, in sentences.
    """

    recipe: Recipe
    images: list[MaskedImage]
    user_masks: dict[Key, Image.Image] = field(default_factory=dict)
    dropped: int = 0
    _: KW_ONLY
    warnings: list[str] = field(default_factory=list)

    def mask(self, one: MaskedImage) -> Image.Image | None:
        """The mask that a user made, or else the source's."""
        return self.user_masks.get(one.key, one.mask)

    def fitting(self, recipe: Recipe) -> dict[Key, Image.Image]:
        """The masks that a user made and whose training images are the same in another recipe."""
        before, now = (image_settings(one, self.user_masks) for one in (self.recipe, recipe))
        return {key: mask for key, mask in self.user_masks.items() if before[key] == now.get(key)}


def check_takes_masks(recipe: Recipe) -> None:
    """Raise a RecipeError unless the recipe's method trains on masked images."""
    if not recipe.takes_masks:
        raise RecipeError("method", "Masks belong to MACE, no other method takes any; choose it, or leave them out.")


def black_and_white(image: Image.Image) -> Image.Image:
    """An image as a mask: white where it is white or nearly, black elsewhere and where it is transparent."""
    if image.mode in ("L", "I", "I;16", "RGB") and image.convert("L").getextrema()[1] == 1:
        return image.convert("L").point(lambda value: 255 * value)  # as arrays of 0 and 1 are saved
    flat = Image.new("RGBA", image.size, "black")
    flat.alpha_composite(image.convert("RGBA"))
    grey = flat.convert("L")  # of a palette or with transparency, too
    white = 1 if grey.getextrema()[1] == 1 else WHITE
    return grey.point(lambda value: 255 if value >= white else 0)


def full(size: tuple[int, int]) -> Image.Image:
    """A mask of the whole image; `size` is width and height in pixels."""
    return Image.new("L", size, 255)


def coverage(mask: Image.Image | None) -> float:
    """The share of its image that a mask covers, 0 to 1; 1 where there is none."""
    return 1.0 if mask is None else float((np.asarray(mask) >= WHITE).mean())


def summary(user_masks: UserMasks) -> str:
    """A sentence that says which masks a user made, with a digest of them."""
    numbers: dict[str, list[int]] = {}
    for phrase, number in sorted(user_masks):
        numbers.setdefault(phrase, []).append(number)
    listed = "; ".join(f"“{phrase}” {', '.join(map(str, found))}" for phrase, found in numbers.items())
    return f"Masks given by hand ({digest(user_masks)}): {listed}."


def digest(user_masks: UserMasks) -> str:
    """Eight hexadecimal digits that differ between different masks; "" without any."""
    if not user_masks:
        return ""
    digits = hashlib.sha256()
    for (phrase, number), mask in sorted(user_masks.items(), key=lambda item: item[0]):
        digits.update(repr((phrase, number, mask.size)).encode())
        digits.update(np.packbits(np.asarray(mask) >= WHITE).tobytes())
    return digits.hexdigest()[:8]


def read(folder: Path, recipe: Recipe) -> dict[Key, Image.Image]:
    """The masks in a folder, one PNG each, named as `file_name` says.

    Args:
        folder: theirs, or the one that `write` put them into, beside other images.
        recipe: whose training images they are of.

    Raises:
        FileError: there are none, or one is no image or fits no training image of the recipe.
        RecipeError: the recipe's method takes no masks.
    """
    check_takes_masks(recipe)
    keys = _file_names(recipe)
    folder = folder / MASKS if os.path.isdir(folder / MASKS) else folder
    # macOS puts a file ._x.png beside x.png on other systems' disks, which is no image.
    found = folder.iterdir() if os.path.isdir(folder) else ()
    paths = sorted(path for path in found if path.suffix.lower() in ENDINGS and not path.name.startswith("."))
    if not paths:
        raise FileError(f"There are no masks in {folder}; they are PNG files named like {next(iter(keys))}.")
    return {_key(path, keys, recipe): _read(path) for path in paths}


def from_bytes(data: bytes) -> Image.Image:
    """The mask in the bytes of an image file.

    Raises:
        FileError: they are no image, or one of too many pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:  # its header alone
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            return black_and_white(image)
    except Image.DecompressionBombError as error:  # Pillow's own too, whose bound a server sets
        raise FileError(f"This has too many pixels; save the mask with at most {MOST_PIXELS:,} of them.") from error
    # SyntaxError: what Pillow says of a PNG file with a broken chunk
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise FileError("This cannot be read as an image; save the mask as a PNG file.") from error


def write(sheet: MaskSheet, folder: Path) -> list[Path]:
    """Write training images, masks and one image of all masks over their training images as PNG files.

    Returns:
        The one image, and the folders of images and masks; the latter can be read back.

    Raises:
        FileError: the folder cannot be written to, or holds other images of these names, such as masks that a user has
            changed; then nothing is written.
    """
    overlays, images, masks = folder / "sheet.png", folder / "images", folder / MASKS
    files = {overlays: _contact(sheet)}
    for one in sheet.images:
        name = file_name(*one.key)
        files |= {images / name: one.image, masks / name: sheet.mask(one) or full(one.image.size)}
    try:
        for path, image in files.items():
            if path.exists() and not _holds(path, image):
                raise FileError(
                    f"{path} is another image than the one to be written, and stays. Choose another folder."
                )
        for path in (images, masks):
            path.mkdir(parents=True, exist_ok=True)
        for path, image in files.items():
            with text_files.whole(path) as part:
                image.save(part)
    except OSError as error:
        raise FileError(f"{folder} could not be written: {error.strerror or error}. Choose another folder.") from error
    return [overlays, images, masks]


def _holds(path: Path, image: Image.Image) -> bool:
    """Whether a file is this image."""
    try:
        with Image.open(path, formats=FORMATS) as found:
            return (found.mode, found.size) == (image.mode, image.size) and found.tobytes() == image.tobytes()
    except (UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def file_name(phrase: str, number: int) -> str:
    """What the file of a mask is called, such as cat-1.png; no other phrase's has the same name."""
    return f"{unique_slug(phrase)}-{number}.png"


def overlay(image: Image.Image, mask: Image.Image | None) -> Image.Image:
    """An RGB image, dark and grey outside of the mask, with a white edge; small ones are enlarged by whole pixels."""
    times = max(1, -(-OVERLAY_WIDTH // image.width))
    size = (image.width * times, image.height * times)
    pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.NEAREST), np.float32).copy()
    if mask is not None:
        inside = np.asarray(mask.resize(size, Image.Resampling.NEAREST)) >= WHITE
        pixels[~inside] = DIM * pixels[~inside].mean(axis=1, keepdims=True)
        padded = np.pad(inside, 2, mode="edge")
        around = [padded[i : i + size[1], j : j + size[0]] for i in (0, 2, 4) for j in (0, 2, 4)]
        pixels[inside & ~np.logical_and.reduce(around)] = EDGE  # at most two pixels from the outside
    return Image.fromarray(pixels.round().astype(np.uint8))


def _contact(sheet: MaskSheet) -> Image.Image:
    """One row for each concept, with its phrase above."""
    rows: dict[str, list[Image.Image]] = {}
    for one in sheet.images:
        rows.setdefault(one.phrase, []).append(overlay(one.image, sheet.mask(one)))
    width, height = next(iter(rows.values()))[0].size
    line = 24
    contact = Image.new("RGB", (width * max(map(len, rows.values())), (height + line) * len(rows)), "white")
    for i, (phrase, row) in enumerate(rows.items()):
        ImageDraw.Draw(contact).text((6, i * (height + line) + 5), phrase, fill="black", font_size=14)
        for j, image in enumerate(row):
            contact.paste(image, (j * width, i * (height + line) + line))
    return contact


def image_settings(recipe: Recipe, wanted: Collection[Key] | None = None) -> dict[Key, tuple]:
    """(phrase, number) of each training image -> all settings that it depends on; none for methods without masks.

    Args:
        recipe: whose images they are.
        wanted: of these alone, where there are such; None for all, of which there may be many.
    """
    if not recipe.takes_masks:
        return {}
    images, kinds = recipe.settings.images, {concept.phrase: concept.kind for concept in recipe.concepts}
    keys = wanted if wanted is not None else ((phrase, i + 1) for phrase in kinds for i in range(images.per_concept))
    return {
        (phrase, number): (kinds[phrase], recipe.seed + number - 1, images.steps, images.guidance)
        for phrase, number in keys
        if phrase in kinds and number <= images.per_concept
    }


def _file_names(recipe: Recipe) -> dict[str, Key]:
    names: dict[str, Key] = {}
    for phrase, number in image_settings(recipe):
        other = names.setdefault(file_name(phrase, number), (phrase, number))
        if other[0] != phrase:
            raise FileError(
                f"Masks of “{other[0]}” and of “{phrase}” would have the same file names; rename one of the concepts."
            )
    return names


def _key(path: Path, keys: Mapping[str, Key], recipe: Recipe) -> Key:
    if path.suffix.lower() != ".png":
        raise FileError(f"{path.name} is no PNG file; save the mask as one.")
    if (name := path.stem + ".png") in keys:
        return keys[name]
    name, _, number = path.stem.rpartition("-")
    images = recipe.settings.images.per_concept
    for concept in recipe.concepts:
        if unique_slug(concept.phrase) == name and number.isdecimal():
            raise FileError(f"{path.name}: “{concept.phrase}” has training images 1 to {images}, and no {number}.")
    raise FileError(f"{path.name} fits no concept of the recipe; masks are named like {next(iter(keys))}.")


def _read(path: Path) -> Image.Image:
    try:
        if not path.is_file():  # to open a pipe would wait for its writer
            raise OSError
        return from_bytes(path.read_bytes())
    except FileError as error:
        raise FileError(f"{path.name}{str(error).removeprefix('This')}") from error
    except OSError as error:
        raise FileError(f"{path.name} cannot be read as an image; save the mask as a PNG file.") from error
