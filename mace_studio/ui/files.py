"""Files of the page: its own style sheet, scripts and icon, and what visitors may download."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import gradio as gr
from PIL import Image

from mace_studio.paths import ASSETS

PAGE_FILES = ASSETS / "page"


def page_file(name: str) -> str:
    """The text of one of the page's own files."""
    return (PAGE_FILES / name).read_text(encoding="utf-8")


def picture_url(picture: Image.Image) -> str:
    """A picture as a data URL, without loss."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def photo_url(picture: Image.Image) -> str:
    """An RGB picture as a data URL, smaller and with some loss."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def download(path: Path, **changes: object) -> gr.DownloadButton:
    """A download button's new file: served in place, where Gradio would first copy weights of many megabytes."""
    gr.set_static_paths([path])
    return gr.DownloadButton(value=str(path), **changes)
