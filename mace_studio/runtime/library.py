"""The erasures on disk, one safetensors file each with the recipe in its header."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mace_studio import erasure_header, text_files
from mace_studio.errors import FileError, RecipeError
from mace_studio.evaluation.report import Harmonic, harmonic_from
from mace_studio.recipe import Recipe
from mace_studio.spent import Spent, from_json

log = logging.getLogger(__name__)

SUFFIX = ".safetensors"
NAME = re.compile(r"\w(?:[\w .,+()-]*[\w)])?")
LONGEST = 80
RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{i}" for port in ("COM", "LPT") for i in range(1, 10))}  # on Windows
KEPT_SOURCES = 8

_changes = threading.Lock()  # between looking whether a name is free and taking it


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An erasure on disk.

    Attributes:
        name: its file's name without the suffix; unique.
        path: one safetensors file.
        recipe: what made it.
        made: when the file was written.
        size: in bytes.
        conditions: "refine" and "fuse" -> condition number of the solve.
        warnings: what the user should know, in sentences.
        fingerprint: of the model that it was made from.
        unet: of that model's UNet alone; "" where an older version made it.
        composable: whether it has all that it takes to fuse it again; a file of an older version has not.
        scores: harmonic means of its last evaluation.
        spent: what the run took that made it; None where that is not known, as of a file from elsewhere.
    """

    name: str
    path: Path
    recipe: Recipe
    made: datetime
    size: int
    conditions: Mapping[str, float]
    warnings: tuple[str, ...]
    fingerprint: str = ""
    unet: str = ""
    composable: bool = False
    scores: tuple[Harmonic, ...] = ()
    spent: Spent | None = None


def listing(folder: Path) -> tuple[list[Entry], list[str]]:
    """Every erasure in a folder, newest first, and a sentence for each file that was passed over, by its name."""
    found, passed_over = [], []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            found.append(read(path))
        except FileError as error:
            log.warning("%s", error)
            passed_over.append(str(error))
    return sorted(found, key=lambda e: e.made, reverse=True), passed_over


def entries(folder: Path) -> list[Entry]:
    """Every erasure in a folder, newest first; files that are none are passed over."""
    return listing(folder)[0]


def find(folder: Path, name: str) -> Entry:
    """The erasure of this name in a folder.

    Raises:
        FileError: there is none.
    """
    if not name or Path(name).name != name:
        raise FileError("Choose an erased model first; the Erase tab makes one.")
    return read(folder / f"{name}{SUFFIX}")


def exists(folder: Path, name: str) -> bool:
    """Whether a folder holds a file of this name."""
    # That of Path fails for a name that is too long.
    return Path(name).name == name and os.path.isfile(folder / f"{name}{SUFFIX}")


def read(path: Path) -> Entry:
    """Read an erasure's recipe from its header, without its tensors and without torch.

    Raises:
        FileError: there is no such file, or it is no erasure.
    """
    try:
        stat = path.stat()
    # ValueError: a name with a null byte. The name alone is told: on a shared page the folder is nobody's business.
    except (OSError, ValueError) as error:
        raise FileError(f"There is no erased model “{path.stem}” any more; erase again or choose another.") from error
    header = erasure_header.read(path)
    note = _note(path, header.recipe)
    return Entry(
        name=path.stem,
        path=path,
        recipe=header.recipe,
        made=_made(stat.st_mtime),
        size=stat.st_size,
        conditions=header.conditions,
        warnings=header.warnings,
        fingerprint=header.fingerprint,
        unet=header.unet,
        composable=header.composable,
        scores=_scores(note),
        spent=from_json(note.get("spent")),
    )


def add(folder: Path, path: Path, name: str) -> Entry:
    """Copy an erasure from elsewhere into a folder.

    Args:
        folder: of the erasures.
        path: the file.
        name: of the file in the folder, with or without the suffix.

    Raises:
        FileError: it is no erasure, or cannot be written.
        RecipeError: there is an erasure of this name already, or the name cannot be one; the field is "upload".
    """
    try:
        read(path).recipe.check()
    except (FileError, RecipeError) as error:
        raise FileError(f"{name} is not an erasure made by MACE Studio.") from error
    target = folder / f"{_checked_name(name.removesuffix(SUFFIX), 'upload')}{SUFFIX}"
    with _new_file(target, "upload"), text_files.whole(target) as part:
        shutil.copyfile(path, part)
    return read(target)


def rename(folder: Path, name: str, new: str) -> Entry:
    """Give an erasure another name.

    Raises:
        FileError: there is no erasure of this name, or it cannot be renamed.
        RecipeError: the new name is taken, or cannot be one; the field is "rename".
    """
    path = find(folder, name).path
    target = folder / f"{_checked_name(new, 'rename')}{SUFFIX}"
    if target == path:
        return read(path)
    with _new_file(target, "rename"):
        os.rename(path, target)
        for beside in (_note_path, _recipe):
            if beside(path).is_file():
                os.replace(beside(path), beside(target))
    return read(target)


def delete(folder: Path, name: str) -> None:
    """Remove an erasure, its scores and what its run took.

    Raises:
        FileError: there is no erasure of this name, or it cannot be removed.
    """
    path = find(folder, name).path
    with _writing(path):
        path.unlink()
        _note_path(path).unlink(missing_ok=True)
        _recipe(path).unlink(missing_ok=True)


def write_scores(entry: Entry, scores: Sequence[Harmonic]) -> None:
    """Keep the harmonic means of an erasure's last evaluation, for `Entry.scores`."""
    _write_note(entry, {"scores": [asdict(mean) for mean in scores]})


def write_spent(entry: Entry, spent: Spent) -> None:
    """Keep what a run took that made an erasure, for `Entry.spent`.

    Of several in the same place the longest counts: those that came later found images and LoRAs in the cache.
    """
    known = _note(entry.path, entry.recipe)
    before = from_json(known.get("spent"))
    if before is None or before.where != spent.where or before.seconds < spent.seconds:
        _write_note(entry, {"spent": asdict(spent)})


def sources(folder: Path) -> list[str]:
    """The base models that were loaded before, newest first."""
    listed = text_files.note(folder / "models.json")
    return [source for source in listed if isinstance(source, str)][:KEPT_SOURCES] if isinstance(listed, list) else []


def remember(folder: Path, source: str) -> None:
    """Put a base model first in the list of `sources`."""
    listed = [source, *(other for other in sources(folder) if other != source)]
    _write(folder / "models.json", json.dumps(listed[:KEPT_SOURCES], ensure_ascii=False))


def write_recipe(entry: Entry) -> Path:
    """Write the recipe of an erasure as JSON, under the erasure's name, which it keeps to when that is renamed."""
    path = _recipe(entry.path)
    _write(path, entry.recipe.to_json())
    return path


def _recipe(path: Path) -> Path:
    return path.parent / "recipes" / f"{path.stem}.json"


def _note_path(path: Path) -> Path:
    """Where the scores of an erasure are kept, and what its run took."""
    return path.parent / "reports" / f"{path.stem}.json"


def _note(path: Path, recipe: Recipe) -> dict[str, Any]:
    """What is kept of an erasure; nothing where its name was another erasure's before."""
    written = text_files.note(_note_path(path))
    return written if isinstance(written, dict) and written.get("recipe") == recipe.digest() else {}


def _write_note(entry: Entry, more: Mapping[str, Any]) -> None:
    known = _note(entry.path, entry.recipe)
    _write(_note_path(entry.path), json.dumps({**known, "recipe": entry.recipe.digest(), **more}))


def _scores(note: Mapping[str, Any]) -> tuple[Harmonic, ...]:
    try:
        return harmonic_from(note["scores"])
    except (KeyError, AttributeError, TypeError, ValueError, OverflowError):
        return ()


def _write(path: Path, text: str) -> None:
    with _writing(path):
        text_files.write(path, text)


def _made(seconds: float) -> datetime:
    """When a file was written; the file system may say a year that there is not."""
    try:
        return datetime.fromtimestamp(seconds)
    except (OverflowError, ValueError, OSError):
        return datetime.fromtimestamp(0)


def _checked_name(name: str, where: str) -> str:
    """A name that can be a file's, and no path."""
    name = name.strip()
    reserved = name.partition(".")[0].strip().upper() in RESERVED
    if reserved or not NAME.fullmatch(name) or len(name.encode()) > 2 * LONGEST:
        raise RecipeError(
            where,
            f"“{name[:LONGEST]}” cannot be a name. Use letters, digits, spaces and . , + - _ ( ), beginning with a "
            f"letter or digit, {LONGEST} characters at most, and no name of a device of Windows such as CON.",
        )
    return name


@contextmanager
def _new_file(target: Path, where: str) -> Iterator[None]:
    """Write a file of a name that no other has."""
    with _changes, _writing(target):
        if target.exists() or target.is_symlink():
            raise RecipeError(where, f"There is an erased model “{target.stem}” already; choose another name.")
        yield


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    # UnicodeEncodeError: a letter of which this machine's file system takes no names.
    except (OSError, UnicodeEncodeError) as error:
        said = getattr(error, "strerror", None) or error
        raise FileError(f"{path.name} could not be written or removed: {said}.") from error
