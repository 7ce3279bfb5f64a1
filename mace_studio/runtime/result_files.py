"""Results as files, under names that say what they show."""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL.Image import DecompressionBombError
from PIL.Image import open as open_image
from safetensors import SafetensorError, safe_open

from mace_studio import text_files
from mace_studio.analysis import figures
from mace_studio.errors import FileError
from mace_studio.evaluation import report_figures, report_files
from mace_studio.exports.formats import HEADER
from mace_studio.paths import slug
from mace_studio.runtime.library import Entry

if TYPE_CHECKING:
    from PIL import Image

    from mace_studio.analysis.attention import Inspection
    from mace_studio.analysis.compare import Pair
    from mace_studio.evaluation.report import Report
    from mace_studio.evaluation.study import Outcome
    from mace_studio.exports.export import Exported

LOOKED_AT = 500  # the newest files of a folder


def _digits(settings: dict[str, Any], images: Sequence[Image.Image]) -> str:
    """Digits that differ between results of other settings or another erasure, so that no file replaces another's."""
    said = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode("utf-8", "surrogatepass"))
    for image in images:
        said.update(repr(image.size).encode() + image.tobytes())
    return said.hexdigest()[:8]


def write_pair(pair: Pair, folder: Path) -> Path:
    """Before and after side by side as a PNG with the settings in it."""
    from mace_studio.analysis.compare import save_pair  # noqa: PLC0415 - needs torch, as whatever made the pair did

    path = folder / f"{slug(pair.prompt)}-{pair.seed}-{_digits(pair.settings, [pair.before, pair.after])}.png"
    save_pair(pair, path)
    return path


def write_sheet(pairs: Sequence[Pair], names: Sequence[str], folder: Path) -> Path:
    """All pairs of a comparison as one PNG with the settings in it; `names` are those of its erasures."""
    from mace_studio.analysis.compare import save_sheet  # noqa: PLC0415 - needs torch, as whatever made the pairs did

    digits = _digits(pairs[0].settings, [image for pair in pairs for image in (pair.before, pair.after)])
    path = folder / f"{slug(pairs[0].prompt)}-sheet-{digits}.png"
    save_sheet(pairs, names, path)
    return path


def write_inspection(inspection: Inspection, folder: Path) -> list[Path]:
    """Data of an inspection, its figures (PNG and PDF) and its images."""
    from mace_studio.analysis.attention import save  # noqa: PLC0415 - needs torch, as whatever made the inspection did

    settings: dict[str, Any] = inspection.settings
    digits = _digits(settings, [run.image for run in inspection.runs.values()])
    name = f"{slug(settings['prompts'][0])}-{settings['seeds'][0]}-{settings['kind']}-{digits}"
    return [save(inspection, folder / f"{name}.npz"), *figures.write(inspection, folder, name)]


def write_evaluation(reports: Sequence[Report], folder: Path) -> list[Path]:
    """A report as Markdown, JSON and CSV, its chart and its contact sheets; several in a folder each, and a summary.

    Where the folder holds what was found of another erasure, or by another plan or judge, a folder in it is used.
    """
    keys = [_key(json.loads(report_files.as_json(one))) for one in reports]
    numbers = [sum(other.name == one.name for other in reports[: i + 1]) for i, one in enumerate(reports)]
    names = [one.name if n == 1 else f"{one.name}-{n}" for one, n in zip(reports, numbers, strict=True)]
    alone = len(reports) == 1
    taken = (folder / (report_files.REPORT if alone else report_files.SIDE_BY_SIDE)).exists()
    found = [folder / name / report_files.REPORT for name in names] if not alone else [folder / report_files.REPORT]
    if taken and [_key(text_files.note(path)) for path in found] != keys:
        digits = hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:8]
        folder = folder / f"{names[0] if alone else 'side-by-side'}-{digits}"
    if alone:
        return [*report_files.write(reports[0], folder), *report_figures.write(reports[0], folder)]
    together = report_files.write_side_by_side(reports, folder) + report_figures.write_side_by_side(reports, folder)
    parts = [write_evaluation([one], folder / name) for one, name in zip(reports, names, strict=True)]
    return [*together, *(path for part in parts for path in part)]


def read_report(written: Sequence[Path]) -> dict[str, Any]:
    """A report as JSON, from the files that `write_evaluation` made of one, or the table of several side by side."""
    data = next(path for path in written if path.suffix == ".json")
    return json.loads(data.read_text(encoding="utf-8"))


def _key(report: Any) -> list[Any]:
    """What tells apart reports that may not replace each other, from JSON."""
    own = report if isinstance(report, dict) else {}
    return [own.get(name) for name in ("name", "recipe", "plan", "judge", "fingerprint")]


def write_archive(folder: Path) -> Path:
    """All files of a folder as one ZIP file beside it."""
    archive = folder.with_name(f"{folder.name}.zip")
    with text_files.whole(archive) as part, _zip(part, zipfile.ZIP_DEFLATED) as made:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            made.write(file, file.relative_to(folder))
    return archive


def _zip(path: Path, compression: int) -> zipfile.ZipFile:
    """A new archive, also of files that a machine without a clock has dated before 1980, which ZIP cannot say."""
    return zipfile.ZipFile(path, "w", compression, strict_timestamps=False)


def write_study(text: str, reports: Sequence[Report], seconds: Sequence[float | None], path: Path) -> list[Path]:
    """A study's table as Markdown, and a curve where its rows erase more and more."""
    text_files.write(path, text)
    return [path, *report_figures.write_growth(reports, seconds, path.with_suffix(".png"))]


def write_methods(text: str, outcomes: Sequence[Outcome], path: Path) -> list[Path]:
    """The tables of a study of methods as Markdown, their numbers as JSON, and the scatter of each subject."""
    from mace_studio.evaluation import methods_study  # noqa: PLC0415 - which reads the table of methods

    with text_files.whole(path) as part:
        part.write_text(text, encoding="utf-8")
    data = path.with_suffix(".json")
    with text_files.whole(data) as part:
        part.write_text(json.dumps(list(methods_study.rows(outcomes)), indent=1) + "\n", encoding="utf-8")
    return [path, data, *report_figures.write_scatter(methods_study.points(outcomes), path.with_suffix(".png"))]


def pack_export(exported: Exported) -> tuple[Path, Path]:
    """An export as one file to download, a folder as a zip archive beside it, and its model card."""
    path = exported.path
    if not path.is_dir():
        return path, path.with_suffix(".md")
    archive = path.with_name(f"{path.name}.zip")
    if archive.is_dir():
        raise FileError(f"{archive} is a folder, where the archive of {path.name} belongs; rename one of them.")
    files = sorted(p for p in path.rglob("*") if p.is_file())
    contents = _contents(path, files)
    inside = {file: Path(path.name) / file.relative_to(path) for file in files}
    if not _holds(archive, contents, [name.as_posix() for name in inside.values()]):
        with text_files.whole(archive) as part, _zip(part, zipfile.ZIP_STORED) as made:
            # Stored as they are: weights hardly shrink, and gigabytes take minutes to try.
            made.comment = contents
            for file, name in inside.items():
                made.write(file, name)
    return archive, path / "README.md"


def made_from(entry: Entry, output: Path) -> dict[str, str]:
    """What was made from an erasure: reports, pairs, figures of attention and exports, and in which folder.

    Args:
        entry: the erasure; the files are told by its recipe, so that they stay with it whatever it is called. Exports
            are of the same base model too, and are named, since they may have the name that it had then.
        output: the folder of results.
    """
    recipe = json.loads(entry.recipe.to_json())

    def found_in(folder: str, names: str, recipes: Callable[[Path], list[Any]]) -> list[Path]:
        there = [path for path in (output / folder).glob(names) if path.exists()]  # no link to nowhere
        paths = sorted(there, key=lambda path: path.stat().st_mtime)[-LOOKED_AT:]
        return [path for path in paths if recipe in recipes(path)]

    def count(folder: str, names: str, recipes: Callable[[Path], list[Any]]) -> str:
        number = len(found_in(folder, f"**/{names}", recipes))
        return f"{number} in {output / folder}" if number else ""

    exports = found_in("exports", "*", lambda path: _recipes_of_export(path, entry.fingerprint))
    found = {
        "Reports": count("reports", report_files.REPORT, lambda path: [_part(text_files.note(path), "recipe")]),
        "Pairs and sheets": count("pairs", "*.png", _recipes_of_image),
        "Attention": count(
            "attention", "*.json", lambda path: [_part(_part(text_files.note(path), "settings"), "recipe")]
        ),
        "Exports": f"{', '.join(sorted(path.name for path in exports))} in {output / 'exports'}" if exports else "",
    }
    return {what: said for what, said in found.items() if said}


def _part(data: Any, key: str) -> Any:
    return data.get(key) if isinstance(data, dict) else None


def _recipes_of_image(path: Path) -> list[Any]:
    """The recipes that a pair or a sheet is of; its pixels are not read."""
    try:
        if not path.is_file():  # to open a pipe would wait for its writer
            return []
        with open_image(path) as image:
            settings = json.loads(image.info.get("mace_studio", "null"))
    except (OSError, ValueError, SyntaxError, TypeError, RecursionError, DecompressionBombError):
        return []
    several = _part(settings, "recipes")
    return [_part(settings, "recipe"), *(several.values() if isinstance(several, dict) else ())]


def _recipes_of_export(path: Path, fingerprint: str) -> list[Any]:
    """The recipe that an export was made of, where it was of the base model of this fingerprint."""
    found = []
    for file in sorted((path / "unet").glob("*.safetensors")) if path.is_dir() else [path]:
        if file.suffix != ".safetensors" or not file.is_file():  # to open a pipe would wait for its writer
            continue
        try:
            with safe_open(file, framework="numpy") as opened:
                about = json.loads((opened.metadata() or {}).get(HEADER, "null"))
        except (OSError, SafetensorError, ValueError, RecursionError):
            continue
        if _part(about, "fingerprint") == fingerprint:
            found.append(_part(about, "recipe"))
    return found


def _contents(folder: Path, files: Sequence[Path]) -> bytes:
    """A digest of the names and contents of a folder and its files, by which an archive of them is known again."""
    said = hashlib.sha256(f"{folder.name}\n".encode("utf-8", "surrogateescape"))
    for file in files:
        with file.open("rb") as opened:
            said.update(
                f"{file.relative_to(folder).as_posix()} {hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode(
                    "utf-8", "surrogateescape"
                )
            )
    return said.hexdigest().encode()


def _holds(archive: Path, contents: bytes, names: Sequence[str]) -> bool:
    """Whether an archive says that it holds these contents, and is whole, too."""
    try:
        with zipfile.ZipFile(archive) as made:
            return made.comment == contents and made.namelist() == names and made.testzip() is None
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, zlib.error):
        return False
