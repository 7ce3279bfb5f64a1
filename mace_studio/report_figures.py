"""Reports -> charts and contact sheets: layout and colours only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mace_studio.errors import FileError
from mace_studio.figures import AFTER_COLOUR, BEFORE_COLOUR, STYLE, frame
from mace_studio.report import ROLES, Report, Row


def score_bars(report: Report) -> Figure:
    """Top-1 accuracy of every word before and after, with Wilson's 95 % intervals, one panel for each role."""
    roles = {role: [row for row in report.rows if row.role == role] for role in ROLES}
    roles = {role: rows for role, rows in roles.items() if rows}
    longest = max(len(rows) for rows in roles.values())
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * len(roles), 1.2 + 0.3 * longest), layout="constrained")
        figure.suptitle(f"{report.recipe.title()}: top-1 accuracy of {report.judge}", fontsize=8)
        for axis, (role, rows) in zip(figure.subplots(1, len(roles), squeeze=False)[0], roles.items(), strict=True):
            _accuracy(axis, role, rows)
        figure.axes[0].legend(frameon=False, loc="lower right")
    return figure


def contact_sheet(report: Report, role: str) -> Figure:
    """Images of every word of a role, before above after, the same prompts and seeds."""
    rows = [row for row in report.rows if row.role == role and row.images]
    across = max(len(row.images) for row in rows)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(0.9 + 0.8 * across, 0.5 + 1.75 * len(rows)), layout="constrained")
        figure.suptitle(f"{report.recipe.title()} · {ROLES[role]}", fontsize=8)
        grid = figure.subplots(2 * len(rows), across, squeeze=False)
        for r, row in enumerate(rows):
            for side, name in enumerate(("before", "after")):
                for axis, pair in zip(grid[2 * r + side], row.images, strict=False):
                    axis.imshow(pair[side], interpolation="nearest")
                for axis in grid[2 * r + side]:
                    frame(axis, None)
                grid[2 * r + side][0].set_ylabel(f"{row.word}\n{name}" if side == 0 else name)
    return figure


def write(report: Report, folder: Path) -> list[Path]:
    """Write a report's chart and its contact sheets as PNG.

    Raises:
        FileError: a file cannot be written.
    """
    figures = {"scores.png": score_bars(report)}
    roles = dict.fromkeys(row.role for row in report.rows)
    figures |= {f"{ROLES[role].lower()}.png": contact_sheet(report, role) for role in roles}
    try:
        for name, figure in figures.items():
            with matplotlib.rc_context(STYLE):
                figure.savefig(folder / name, dpi=120)
    except OSError as error:
        raise FileError(f"{folder} could not be written: {error.strerror or error}. Choose another folder.") from error
    return [folder / name for name in figures]


def _accuracy(axis: Axes, role: str, rows: Sequence[Row]) -> None:
    for n, (side, colour) in enumerate((("before", BEFORE_COLOUR), ("after", AFTER_COLOUR))):
        tallies = [getattr(row, side) for row in rows]
        shares = [100 * tally.top1 for tally in tallies]
        low = [100 * (tally.top1 - tally.top1_interval[0]) for tally in tallies]
        high = [100 * (tally.top1_interval[1] - tally.top1) for tally in tallies]
        places = [i + 0.4 * (n - 0.5) for i in range(len(rows))]
        spread = np.maximum(0, [low, high])
        axis.barh(places, shares, 0.38, xerr=spread, label=side, color=colour, error_kw={"linewidth": 0.8})
    axis.set_yticks(range(len(rows)), [row.word for row in rows])
    axis.invert_yaxis()
    axis.set_xlim(0, 100)
    axis.set_xlabel("%")
    axis.set_title(ROLES[role])
    axis.spines[["top", "right"]].set_visible(False)
