"""Inspections -> matplotlib figures to print: layout and colours only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL.Image import Image

from mace_studio import text_files
from mace_studio.errors import FileError

if TYPE_CHECKING:
    from mace_studio.analysis.attention import Inspection, Mass, Run, Word

COLOURS = "inferno"  # perceptually uniform
DIFFERENCES = "RdBu_r"
CELL = 1.05  # inches
SIDE_LABEL = 0.75
WORDS_IN_A_ROW = 12
RESIDUAL = "residual"
# Nothing that a user typed is read as a formula: “$” is a dollar.
STYLE: Any = {
    "font.family": "DejaVu Sans", "font.size": 8, "pdf.fonttype": 42, "axes.linewidth": 0.5, "text.parse_math": False,
}  # fmt: skip
BEFORE_COLOUR, AFTER_COLOUR = "#b85c00", "#0f7b5f"


def palette(name: str) -> list[tuple[int, int, int]]:
    """256 colours of a colour map from lowest to highest, red, green and blue in 0..255."""
    return [tuple(round(255 * c) for c in rgb[:3]) for rgb in matplotlib.colormaps[name](np.arange(256))]


def highest(maps: Sequence[np.ndarray], words: Sequence[Word]) -> float:
    """Where a colour scale for maps_TIJ ends: the largest value of any word; the start token gets far more."""
    shown = [i for i, word in enumerate(words) if word.role in ("word", "concept")]
    return max((float(maps_TIJ[shown].max()) for maps_TIJ in maps if shown), default=1.0) or 1.0


def token_grid(inspection: Inspection) -> Figure:
    """The maps of all words, one row for each run, and the difference of two; mean over layers, heads and steps."""
    runs, words = inspection.runs, inspection.words
    maps = {name: _mean(run) for name, run in runs.items()}
    top = highest(list(maps.values()), words)
    rows = [(name, maps_TIJ, COLOURS, Normalize(0, top)) for name, maps_TIJ in maps.items()]
    if len(rows) == 2:
        change_TIJ = rows[1][1] - rows[0][1]
        rows.append(("difference", change_TIJ, DIFFERENCES, Normalize(-top, top)))
    lines = -(-len(words) // WORDS_IN_A_ROW)
    each = -(-len(words) // lines)  # as few lines of words as fit, of about the same length
    blocks = [range(i, min(i + each, len(words))) for i in range(0, len(words), each)]
    across = 1 + max(len(block) for block in blocks)
    with matplotlib.rc_context(STYLE):
        figure, grid = _grid(len(rows) * len(blocks), across, inspection)
        for b, block in enumerate(blocks):
            for r, (name, maps_TIJ, palette, scale) in enumerate(rows):
                axes = grid[b * len(rows) + r]
                _image(axes[0], runs[name].image if name in runs else None, name)
                for axis, i in zip(axes[1:], block, strict=False):
                    axis.imshow(maps_TIJ[i], cmap=palette, norm=scale, interpolation="nearest")
                    frame(axis, words[i] if r == 0 else None)
                for axis in axes[1 + len(block) :]:
                    axis.set_axis_off()
        _colour_bar(figure, grid, COLOURS, Normalize(0, top), "attention")
        if len(rows) == 3:
            _colour_bar(figure, grid, DIFFERENCES, Normalize(-top, top), "difference")
    return figure


def residual_rows(inspection: Inspection) -> Figure:
    """What the other words carry: image, probability of the concept, and maps of the words, one row for each run."""
    words = inspection.words
    shown = [i for i, word in enumerate(words) if word.role != "concept"][:WORDS_IN_A_ROW]
    maps = {name: _mean(run) for name, run in inspection.runs.items()}
    scale = Normalize(0, highest(list(maps.values()), [words[i] for i in shown]))
    with matplotlib.rc_context(STYLE):
        figure, grid = _grid(len(maps), 1 + len(shown), inspection, "concept words replaced by the end token")
        for row, (axes, (name, run)) in enumerate(zip(grid, inspection.runs.items(), strict=True)):
            presence = [f"p({text_files.visible(phrase)}) = {share:.1%}" for phrase, share in run.presence.items()]
            _image(axes[0], run.image, name, "\n".join(presence))
            for axis, i in zip(axes[1:], shown, strict=True):
                axis.imshow(maps[name][i], cmap=COLOURS, norm=scale, interpolation="nearest")
                frame(axis, words[i] if row == 0 else None)
        _colour_bar(figure, grid, COLOURS, scale, "attention")
    return figure


def mass_bars(inspection: Inspection) -> Figure:
    """The share of attention that each word gets, in the whole image and inside the concept's mask."""
    rows = {name: inspection.masses(name) for name in inspection.runs}
    with matplotlib.rc_context(STYLE):
        mask = inspection.mask
        both = mask is not None
        size = (3.6 * (1 + both), 0.8 + 0.32 * len(inspection.words))
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(_title(inspection), fontsize=7)
        panels = figure.subplots(1, 1 + both, squeeze=False, sharey=True)[0]
        _bars(panels[0], rows, "total", "share of all attention, %")
        if mask is not None:
            _bars(panels[1], rows, "inside", f"share inside the mask of “{text_files.visible(mask.word)}”, %")
        panels[0].invert_yaxis()
        panels[0].legend(frameon=False)
    return figure


def write(inspection: Inspection, folder: Path, name: str) -> list[Path]:
    """Write an inspection's figures as PNG at 200 dots an inch and as PDF, and its images as PNG.

    Raises:
        FileError: a file cannot be written.
    """
    if inspection.settings["kind"] == RESIDUAL:
        figures = {"maps": residual_rows(inspection)}
    else:
        figures = {"maps": token_grid(inspection), "mass": mass_bars(inspection)}
    paths = [folder / f"{name}-{part}.{kind}" for part in figures for kind in ("png", "pdf")]
    images = {folder / f"{name}-{run}.png": inspection.runs[run].image for run in inspection.runs}
    try:
        for path, figure in zip(paths, (f for f in figures.values() for _ in range(2)), strict=True):
            with matplotlib.rc_context(STYLE), text_files.whole(path) as part:
                figure.savefig(part, dpi=200)
            figure.set_layout_engine("none")  # the PDF has the places that the PNG has got, which take a second to find
        for path, image in images.items():
            with text_files.whole(path) as part:
                image.save(part)
    except OSError as error:
        raise FileError(f"{folder} could not be written: {error.strerror or error}. Choose another folder.") from error
    return [*paths, *images]


def _mean(run: Run) -> np.ndarray:
    """maps_TIJ of a run."""
    return run.conditional.mean().mean(dim=0).numpy()


def _grid(rows: int, columns: int, inspection: Inspection, more: str = "") -> tuple[Figure, np.ndarray]:
    size = (CELL * columns + 2 * SIDE_LABEL, CELL * rows + 0.9)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(_title(inspection, more), fontsize=8)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _title(inspection: Inspection, more: str = "") -> str:
    about = inspection.settings
    parts = [f"seed {about['seeds'][0]}", f"{about['steps']} steps", f"guidance {about['guidance']:g}", about["model"]]
    if "recipe_digest" in about:
        parts.append(f"recipe {about['recipe_digest']}")
    return text_files.visible(f"“{about['prompts'][0]}”\n" + " · ".join([*parts, *([more] if more else [])]))


def _image(axis: Axes, image: Image | None, name: str, below: str = "") -> None:
    if image is None:
        axis.set_facecolor("none")
    else:
        axis.imshow(image, interpolation="nearest")
    frame(axis, None, name, below)
    for spine in axis.spines.values():
        spine.set_visible(image is not None)


def frame(axis: Axes, word: Word | None, side: str = "", below: str = "") -> None:
    """Take the ticks off an image and put a word above it, that of a concept standing out, and labels at two sides."""
    # The layout measures each axis that can be seen, also an empty one: most of the time that a figure takes.
    for own, label in ((axis.xaxis, below), (axis.yaxis, side)):
        own.set_ticks([])
        own.set_label_text(label)
        own.set_visible(bool(label))
    if word is not None:
        marked = word.role == "concept"
        title = word.text if word.role in ("word", "concept") else f"⟨{word.text}⟩"
        axis.set_title(
            text_files.visible(title), fontweight="bold" if marked else "normal", color="#b42318" if marked else "black"
        )


def _colour_bar(figure: Figure, grid: np.ndarray, palette: str, scale: Normalize, label: str) -> None:
    # Beside all rows: beside one alone it would make that row's images narrower than the others.
    figure.colorbar(ScalarMappable(scale, palette), ax=list(grid.ravel()), label=label, pad=0.01, aspect=30)


def _bars(axis: Axes, rows: dict[str, list[Mass]], key: str, label: str) -> None:
    thick = 0.8 / len(rows)
    for n, ((name, row), colour) in enumerate(zip(rows.items(), (BEFORE_COLOUR, AFTER_COLOUR), strict=False)):
        places = [i + thick * (n - (len(rows) - 1) / 2) for i in range(len(row))]
        bars = axis.barh(places, [100 * getattr(mass, key) for mass in row], thick, label=name, color=colour)
        axis.bar_label(bars, fmt="%.1f", padding=2, fontsize=6)
    names = next(iter(rows.values()))
    axis.set_yticks(range(len(names)), [text_files.visible(mass.word.text) for mass in names])
    axis.set_xlabel(label)
    axis.spines[["top", "right"]].set_visible(False)
