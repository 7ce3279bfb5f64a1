"""Files of the page: its own style sheet, scripts and icon, and what visitors may download."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

PAGE_FILES = Path(__file__).parents[2] / "assets" / "page"


def page_file(name: str) -> str:
    """The text of one of the page's own files."""
    return (PAGE_FILES / name).read_text(encoding="utf-8")


def download(path: Path, **changes: object) -> gr.DownloadButton:
    """A download button's new file: served in place, where Gradio would first copy weights of many megabytes."""
    gr.set_static_paths([path])
    return gr.DownloadButton(value=str(path), **changes)
