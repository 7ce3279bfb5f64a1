"""Images to tensors and back, sheets of images to look at, and the curve of a loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

POINTS = 300
GAP = 2


def to_tensor(images: Sequence[np.ndarray]) -> Tensor:
    """Images of rows, columns and 3 channels in 0..255 -> float32 NCHW in -1..1, channels last in memory."""
    pixels_NHWC = torch.from_numpy(np.stack(images)).float() / 127.5 - 1
    return pixels_NHWC.permute(0, 3, 1, 2)


def to_images(pixels_NCHW: Tensor) -> list[Image.Image]:
    """NCHW in about -1..1 -> RGB images."""
    bytes_NCHW = ((pixels_NCHW.detach().float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return [Image.fromarray(image) for image in bytes_NCHW.permute(0, 2, 3, 1).contiguous().cpu().numpy()]


def sheet(images: Sequence[Image.Image], columns: int = 8, zoom: int = 2) -> Image.Image:
    """Images of one size, row by row on one, with black gaps."""
    width, height = (zoom * side for side in images[0].size)
    rows = math.ceil(len(images) / columns)
    whole = Image.new("RGB", (columns * (width + GAP), rows * (height + GAP)))
    for i, image in enumerate(images):
        left, top = i % columns * (width + GAP), i // columns * (height + GAP)
        whole.paste(image.resize((width, height), Image.Resampling.BICUBIC), (left, top))
    return whole


def save_curve(losses: Sequence[float], title: str, path: Path) -> None:
    """Write a PNG of the loss of every step, averaged into a few hundred points."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - the judge, which draws none, is quicker
    from matplotlib.figure import Figure  # noqa: PLC0415

    spans = [span for span in np.array_split(np.asarray(losses), min(POINTS, len(losses))) if len(span)]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss", title=title, yscale="log")
    axes.plot(np.cumsum([len(span) for span in spans]), [span.mean() for span in spans])
    axes.grid(alpha=0.3, which="both")
    FigureCanvasAgg(figure).print_png(str(path))
