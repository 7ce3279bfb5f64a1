"""Reports -> charts and contact sheets: layout and colours only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from mace_studio import text_files
from mace_studio.analysis.figures import AFTER_COLOUR, BEFORE_COLOUR, STYLE, frame
from mace_studio.errors import FileError
from mace_studio.evaluation.methods_study import title as method_title
from mace_studio.evaluation.report import ERASED, KEPT, ROLES, TOP1, Report, Row, Tally, called

WORDS = 12  # of a contact sheet
PANELS = 4  # of a scatter side by side
LEVELS = (20, 40, 60, 80, 90, 95)  # of the harmonic mean, in percent
MARKERS = ("o", "s", "^")

Point = tuple[str, Tally, Tally]  # name, of what is erased and of what is kept, after the erasure


def score_bars(report: Report) -> Figure:
    """Top-1 accuracy of every word before and after, with Wilson's 95 % intervals, one panel for each role."""
    rows = {role: [(row.word, row) for row in report.rows if row.role == role] for role in ROLES}
    return _panels(rows, f"{report.recipe.title()}: top-1 accuracy of {report.judge}")


def side_by_side(reports: Sequence[Report]) -> Figure:
    """The same of every role as a whole, a pair of bars for each report."""
    names = called(reports)
    pooled = {role: [(n, r.pooled(role)) for n, r in zip(names, reports, strict=True)] for role in ROLES}
    rows = {role: [(name, row) for name, row in lines if row is not None] for role, lines in pooled.items()}
    return _panels(rows, f"Top-1 accuracy of {', '.join(dict.fromkeys(report.judge for report in reports))}")


def growth(reports: Sequence[Report], seconds: Sequence[float | None]) -> Figure:
    """Accuracies, harmonic mean and time of the erasure over the number of concepts that were erased (Fig. 7's axes).

    Args:
        reports: each of another number of concepts.
        seconds: that each erasure took, or None where it was there already.
    """
    counts = [len(report.recipe.concepts) for report in reports]
    timed = [(count, taken) for count, taken in zip(counts, seconds, strict=True) if taken is not None]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * (1 + bool(timed)), 2.8), layout="constrained")
        panels = figure.subplots(1, 1 + bool(timed), squeeze=False)[0]
        for role, name, colour in ((ERASED, "erased (low is good)", BEFORE_COLOUR), (KEPT, "kept", AFTER_COLOUR)):
            tallies = [(n, row.after) for n, r in zip(counts, reports, strict=True) if (row := r.pooled(role))]
            shares = [100 * tally.top1 for _, tally in tallies]
            ends = [[100 * abs(tally.top1 - tally.top1_interval[end]) for _, tally in tallies] for end in (0, 1)]
            panels[0].errorbar([n for n, _ in tallies], shares, ends, marker="o", capsize=2, label=name, color=colour)
        means = [r.mean(TOP1) for r in reports]
        panels[0].plot(counts, [np.nan if m is None else 100 * m for m in means], "k--", label="harmonic mean")
        panels[0].set_ylabel("top-1 accuracy after, %")
        panels[0].set_ylim(0, 105)
        panels[0].legend(frameon=False)
        if timed:
            panels[1].plot(*zip(*timed, strict=True), marker="o", color=BEFORE_COLOUR)
            panels[1].set_ylabel("seconds to erase")
            panels[1].set_ylim(0)
        for axis in panels:
            axis.set_xlabel("concepts erased")
            axis.set_xticks(counts)
            axis.spines[["top", "right"]].set_visible(False)
    return figure


def scatter(panels: Mapping[str, Sequence[Point]]) -> Figure:
    """How much of what is erased is gone against how much of what is kept is there, with Wilson's 95 % intervals.

    The best place is the upper right corner; the dotted lines join places of one harmonic mean of the two (H_c, Eq. 9).

    Args:
        panels: title -> points.
    """
    with matplotlib.rc_context(STYLE):
        across = min(len(panels), PANELS)
        down = -(-len(panels) // across)
        figure = Figure(figsize=(3.8 * across, 3.6 * down), layout="constrained")
        axes = list(figure.subplots(down, across, squeeze=False).flat)
        for axis, (title, points) in zip(axes, panels.items(), strict=False):
            _contours(axis)
            for number, point in enumerate(points):
                _place(axis, point, f"C{number % 10}", MARKERS[number // 10 % len(MARKERS)])
            axis.set_title(title)
            if points:
                axis.legend(frameon=False, fontsize=5, loc="lower left")
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
    return figure


def _contours(axis: Axes) -> None:
    share = np.linspace(0.5, 100, 200)
    efficacy, kept = np.meshgrid(share, share)
    lines = axis.contour(efficacy, kept, 2 * efficacy * kept / (efficacy + kept), LEVELS, colors="0.75", linestyles=":")
    axis.clabel(lines, fontsize=5, fmt="%d")
    axis.set_xlim(-2, 103)
    axis.set_ylim(-2, 103)
    axis.set_xlabel("erased: gone, %")
    axis.set_ylabel("kept: still there, %")
    axis.spines[["top", "right"]].set_visible(False)


def _place(axis: Axes, point: Point, colour: str, marker: str) -> None:
    name, erased, kept = point
    x, y = 100 * (1 - erased.top1), 100 * kept.top1
    low, high = erased.top1_interval
    across = np.maximum(0, [[x - 100 * (1 - high)], [100 * (1 - low) - x]])
    up = np.maximum(0, [[y - 100 * kept.top1_interval[0]], [100 * kept.top1_interval[1] - y]])
    style: dict[str, Any] = {"marker": marker, "markersize": 4, "elinewidth": 0.5, "capsize": 1, "linestyle": "none"}
    axis.errorbar([x], [y], yerr=up, xerr=across, color=colour, label=name, **style)


def compared(reports: Sequence[Report], seconds: Sequence[float | None]) -> Figure:
    """Efficacy, specificity, their harmonic mean, the worst kept word and the time over how many concepts were erased.

    One line for each method, MACE at own tokens alone apart, over erasures of one kind of concept (Fig. 5's axes,
    without FID); a mixed one is a cross. Without any time there is no panel of it.
    """
    panels: dict[str, Callable[[Report], float | None]] = {
        "erased, top-1, % (low is good)": lambda r: _share(r.pooled(ERASED)),
        "kept, top-1, %": lambda r: _share(r.pooled(KEPT)),
        "harmonic mean, %": lambda r: None if (mean := r.mean(TOP1)) is None else 100 * mean,
        "worst kept word, top-1, %": lambda r: _share(next(iter(r.spill_over()), None)),
        "seconds to erase": lambda r: next(t for other, t in zip(reports, seconds, strict=True) if other is r),
    }
    if not any(seconds):
        panels.pop("seconds to erase")
    methods = list(dict.fromkeys(method_title(report.recipe) for report in reports))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.0 * len(panels), 3.0), layout="constrained")
        for axis, (label, value) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
            for n, method in enumerate(methods):
                own = [report for report in reports if method_title(report.recipe) == method]
                for mixed, style in ((False, "o-"), (True, "x")):
                    some = [r for r in own if (len({c.kind for c in r.recipe.concepts}) > 1) == mixed]
                    points = [(len(r.recipe.concepts), found) for r in some if (found := value(r)) is not None]
                    if points:
                        name = None if mixed else method
                        axis.plot(*zip(*points, strict=True), style, color=f"C{n}", label=name, markersize=4)
            axis.set_xscale("log")
            axis.set_xticks(sorted({len(report.recipe.concepts) for report in reports}))
            axis.set_xlabel("concepts erased")
            axis.set_ylabel(label)
            axis.spines[["top", "right"]].set_visible(False)
            if label.startswith("seconds"):
                axis.set_yscale("log")
            for scale in (axis.xaxis, axis.yaxis):  # those of a log scale are formulas, which `STYLE` reads none of
                scale.set_major_formatter(StrMethodFormatter("{x:g}"))
                scale.set_minor_formatter(NullFormatter())
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=len(methods))
    return figure


def _share(row: Row | None) -> float | None:
    return None if row is None else 100 * row.after.top1


def contact_sheet(report: Report, role: str, rows: Sequence[Row]) -> Figure:
    """Images of words of a role, before above after, the same prompts and seeds."""
    across = max(len(row.images) for row in rows)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(0.9 + 0.8 * across, 0.5 + 1.75 * len(rows)), layout="constrained")
        figure.suptitle(f"{report.recipe.title()} · {ROLES[role]}", fontsize=8)
        grid = figure.subplots(2 * len(rows), across, squeeze=False)
        for r, row in enumerate(rows):
            for side, name in enumerate(("before", "after")):
                for axis, pair in zip(grid[2 * r + side], row.images, strict=False):
                    axis.imshow(pair[side], interpolation="nearest")
                frame(grid[2 * r + side][0], None, f"{row.word}\n{name}" if side == 0 else name)
                for axis in grid[2 * r + side][1:]:
                    frame(axis, None)
    return figure


def write(report: Report, folder: Path) -> list[Path]:
    """Write a report's chart and its contact sheets as PNG.

    Raises:
        FileError: a file cannot be written.
    """
    return _write({"scores": score_bars(report)} | dict(_sheets(report)), folder)


def write_side_by_side(reports: Sequence[Report], folder: Path) -> list[Path]:
    """Write `side-by-side.png`, and `scatter.png` of those that keep something.

    Raises:
        FileError: a file cannot be written.
    """
    figures, points = {"side-by-side": side_by_side(reports)}, list[Point]()
    for name, report in zip(called(reports), reports, strict=True):
        erased, kept = report.pooled(ERASED), report.pooled(KEPT)
        if erased and kept:
            points.append((name, erased.after, kept.after))
    return _write(figures | ({"scatter": scatter({"": points})} if points else {}), folder)


def write_scatter(panels: Mapping[str, Sequence[Point]], path: Path) -> list[Path]:
    """Write `scatter` as PNG; nothing where there is no point.

    Raises:
        FileError: it cannot be written.
    """
    shown = {title: points for title, points in panels.items() if points}
    return _write({path.stem: scatter(shown)}, path.parent) if shown else []


def write_growth(reports: Sequence[Report], seconds: Sequence[float | None], path: Path) -> list[Path]:
    """Write the curve of a study as PNG: where each report is of another number of concepts, or of many methods.

    Raises:
        FileError: it cannot be written.
    """
    if len({report.recipe.method for report in reports}) > 1:
        return _write({path.stem: compared(reports, seconds)}, path.parent)
    if len({len(report.recipe.concepts) for report in reports}) < max(3, len(reports)):
        return []
    return _write({path.stem: growth(reports, seconds)}, path.parent)


def _sheets(report: Report) -> Iterator[tuple[str, Figure]]:
    """Name and figure of each contact sheet; a role of many words has several."""
    for role, name in ROLES.items():
        rows = [row for row in report.rows if row.role == role and row.images]
        parts = [rows[i : i + WORDS] for i in range(0, len(rows), WORDS)]
        for number, part in enumerate(parts, 1):
            yield name.lower() + (f"-{number}" if len(parts) > 1 else ""), contact_sheet(report, role, part)


def _write(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    paths = [folder / f"{name}.png" for name in figures]
    try:
        for path, figure in zip(paths, figures.values(), strict=True):
            with matplotlib.rc_context(STYLE), text_files.whole(path) as part:
                figure.savefig(part, dpi=120)
    except OSError as error:
        raise FileError(f"{folder} could not be written: {error.strerror or error}. Choose another folder.") from error
    return paths


def _panels(roles: Mapping[str, Sequence[tuple[str, Row]]], title: str) -> Figure:
    """Bars of lines with their names, one panel for each role that has any."""
    roles = {role: lines for role, lines in roles.items() if lines}
    longest = max(len(lines) for lines in roles.values())
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * len(roles), 1.5 + 0.3 * longest), layout="constrained")
        figure.suptitle(title, fontsize=8)
        for axis, (role, lines) in zip(figure.subplots(1, len(roles), squeeze=False)[0], roles.items(), strict=True):
            _accuracy(axis, role, lines)
            axis.set_ylim(longest - 0.4, -0.6)  # bars of one height in all panels
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=2)
    return figure


def _accuracy(axis: Axes, role: str, lines: Sequence[tuple[str, Row]]) -> None:
    for n, (side, colour) in enumerate((("before", BEFORE_COLOUR), ("after", AFTER_COLOUR))):
        tallies = [getattr(row, side) for _, row in lines]
        shares = [100 * tally.top1 for tally in tallies]
        low = [100 * (tally.top1 - tally.top1_interval[0]) for tally in tallies]
        high = [100 * (tally.top1_interval[1] - tally.top1) for tally in tallies]
        places = [i + 0.4 * (n - 0.5) for i in range(len(lines))]
        spread = np.maximum(0, [low, high])
        axis.barh(places, shares, 0.38, xerr=spread, label=side, color=colour, error_kw={"linewidth": 0.8})
    axis.set_yticks(range(len(lines)), [name for name, _ in lines])
    axis.set_xlim(0, 100)
    axis.set_xlabel("%")
    axis.set_title(ROLES[role])
    axis.spines[["top", "right"]].set_visible(False)
