"""A component's own script, and images as URLs that need no file."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image


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
