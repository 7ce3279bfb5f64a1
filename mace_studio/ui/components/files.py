"""A component's own script, and images as URLs that need no file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

LARGEST, SMALLEST = 256, 96  # pixels of the longer side of an image that is shown small


def script(module: str) -> str:
    """The JavaScript file beside a module, which has the same name.

    Args:
        module: `__file__` of the module.
    """
    return Path(module).with_suffix(".js").read_text(encoding="utf-8")


def png_url(image: Image.Image) -> str:
    """An image as a data URL, without loss."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def jpeg_url(image: Image.Image) -> str:
    """An RGB image as a data URL, smaller and with some loss."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def strip_url(images: Sequence[Image.Image]) -> str:
    """Images of one size side by side as a data URL, to be shown small."""
    width, height = images[0].size
    strip = Image.new("RGB", (len(images) * width, height))
    for i, image in enumerate(images):
        strip.paste(image, (i * width, 0))
    if max(width, height) <= SMALLEST:
        return png_url(strip)
    scale = min(1.0, LARGEST / max(width, height))
    return jpeg_url(strip.resize((round(strip.width * scale), round(height * scale))))
