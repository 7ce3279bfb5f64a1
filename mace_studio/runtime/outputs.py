"""Results -> files under a name that says what they show."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mace_studio.analysis import figures
from mace_studio.evaluation import report_figures, report_files
from mace_studio.paths import slug
from mace_studio.recipe import Recipe
from mace_studio.runtime.engine import engine

if TYPE_CHECKING:
    from mace_studio.analysis.attention import Inspection
    from mace_studio.analysis.compare import Pair
    from mace_studio.evaluation.report import Report
    from mace_studio.export.export import Exported


def recipe(asked: Recipe, folder: Path) -> Path:
    """The recipe as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{slug(asked.title())}-{asked.digest()}.json"
    path.write_text(asked.to_json(), encoding="utf-8")
    return path


def pair(drawn: Pair, folder: Path) -> Path:
    """Before and after side by side as a PNG with the settings in it."""
    path = folder / f"{slug(drawn.prompt)}-{drawn.seed}.png"
    engine().comparison.save_pair(drawn, path)
    return path


def inspection(read: Inspection, folder: Path) -> list[Path]:
    """Data of an inspection, its figures (PNG and PDF) and its images."""
    about = read.settings
    name = f"{slug(about['prompts'][0])}-{about['seeds'][0]}-{about['kind']}"
    return [engine().inspection.save(read, folder / f"{name}.npz"), *figures.write(read, folder, name)]


def exported(written: Exported) -> tuple[Path, Path]:
    """An export as a file to download, a folder as an archive, and its model card."""
    path = written.path
    if not path.is_dir():
        return path, path.with_suffix(".md")
    archive = path.with_name(f"{path.name}.zip")
    if not archive.is_file() or archive.stat().st_mtime < path.stat().st_mtime:
        part = archive.with_suffix(".part")
        # Stored as they are: weights hardly shrink, and gigabytes take minutes to try.
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as made:
            for file in sorted(p for p in path.rglob("*") if p.is_file()):
                made.write(file, Path(path.name) / file.relative_to(path))
        part.replace(archive)
    return archive, path / "README.md"


def evaluation(measured: Sequence[Report], folder: Path) -> list[Path]:
    """A report as Markdown, JSON and CSV, its chart and its contact sheets; several in a folder each, and a summary."""
    if len(measured) == 1:
        return [*report_files.write(measured[0], folder), *report_figures.write(measured[0], folder)]
    together = report_files.write_side_by_side(measured, folder) + report_figures.write_side_by_side(measured, folder)
    return [*together, *(path for one in measured for path in evaluation([one], folder / one.name))]


def study(text: str, reports: Sequence[Report], seconds: Sequence[float | None], path: Path) -> list[Path]:
    """A study's table as Markdown, and a curve where its rows erase more and more."""
    path.write_text(text, encoding="utf-8")
    return [path, *report_figures.write_growth(reports, seconds, path.with_suffix(".png"))]
