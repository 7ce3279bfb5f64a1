"""What is on disk: erasures, one safetensors file each with the recipe in its header, and the project's presets."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from safetensors import SafetensorError, safe_open

from mace_studio.errors import FileError, RecipeError
from mace_studio.paths import PRESETS
from mace_studio.recipe import Recipe

log = logging.getLogger(__name__)

SUFFIX = ".safetensors"
NAME = re.compile(r"\w(?:[\w .,+()-]*[\w)])?")
LONGEST = 80
KEPT_SOURCES = 8

_changes = threading.Lock()  # between looking whether a name is free and taking it


@dataclass(frozen=True)
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
        composable: whether it has all that it takes to fuse it again; a file of an older version has not.
        scores: name -> harmonic mean of its last evaluation, 0 to 1.
    """

    name: str
    path: Path
    recipe: Recipe
    made: datetime
    size: int
    conditions: dict[str, float]
    warnings: tuple[str, ...]
    fingerprint: str = ""
    composable: bool = False
    scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Preset:
    """A recipe that comes with the project; `recipe.about` says in a sentence what it is."""

    name: str
    recipe: Recipe


def presets() -> list[Preset]:
    """The recipes that come with the project, by folder and name."""
    found = []
    for path in sorted(PRESETS.rglob("*.json")):
        name = path.relative_to(PRESETS).with_suffix("").as_posix()
        found.append(Preset(name, Recipe.from_json(path.read_text(encoding="utf-8"))))
    return found


def known_kinds() -> dict[str, str]:
    """Phrase in lower case -> the kind that the presets know it as: erased as one, or kept where only one is erased."""
    recipes = [preset.recipe for preset in presets()]
    alone = [recipe for recipe in recipes if len({concept.kind for concept in recipe.concepts}) == 1]
    kept = {phrase.lower(): recipe.concepts[0].kind for recipe in alone for phrase in recipe.preserve}
    return kept | {concept.phrase.lower(): concept.kind for recipe in recipes for concept in recipe.concepts}


def entries(folder: Path) -> list[Entry]:
    """Every erasure in a folder, newest first; files that are none are passed over."""
    found = []
    for path in folder.glob(f"*{SUFFIX}"):
        try:
            found.append(read(path))
        except FileError as error:
            log.warning("%s", error)
    return sorted(found, key=lambda e: e.made, reverse=True)


def named(folder: Path, name: str) -> Entry:
    """The erasure of this name in a folder.

    Raises:
        FileError: there is none.
    """
    if not name or Path(name).name != name:
        raise FileError("Choose an erased model first; the Erase tab makes one.")
    return read(folder / f"{name}{SUFFIX}")


def exists(folder: Path, name: str) -> bool:
    """Whether a folder holds a file of this name."""
    return Path(name).name == name and (folder / f"{name}.safetensors").is_file()


def read(path: Path) -> Entry:
    """Read an erasure's recipe from its header, without its tensors and without torch.

    Raises:
        FileError: there is no such file, or it is no erasure.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads(file.metadata()["mace_studio"])
        recipe = Recipe.from_json(json.dumps(header["recipe"]))
        conditions = {str(stage): float(number) for stage, number in header["conditions"].items()}
        warnings, fingerprint = tuple(map(str, header["warnings"])), str(header["fingerprint"])
        composable = not recipe.settings.lora.steps or {c.phrase for c in recipe.concepts} <= set(
            header.get("origins", ())
        )
        stat = path.stat()
    except FileNotFoundError as error:
        raise FileError(f"There is no erased model “{path.stem}” any more; erase again or choose another.") from error
    except (SafetensorError, OSError, KeyError, AttributeError, TypeError, ValueError, RecipeError) as error:
        raise FileError(f"{path.name} is not an erasure made by MACE Studio.") from error
    made, scores = datetime.fromtimestamp(stat.st_mtime), _scores(path, recipe)
    return Entry(path.stem, path, recipe, made, stat.st_size, conditions, warnings, fingerprint, composable, scores)


def add(folder: Path, path: Path, name: str) -> Entry:
    """Copy an erasure from elsewhere into a folder.

    Args:
        folder: of the erasures.
        path: the file.
        name: what its owner calls it, with or without the suffix.

    Raises:
        FileError: it is no erasure, or cannot be written.
        RecipeError: there is an erasure of this name already, or the name cannot be one; the field is "upload".
    """
    try:
        read(path).recipe.check()
    except (FileError, RecipeError) as error:
        raise FileError(f"{name} is not an erasure made by MACE Studio.") from error
    target = folder / f"{_checked(name.removesuffix(SUFFIX), 'upload')}{SUFFIX}"
    part = folder / f".{target.name}.part"
    with _taking(target, "upload"):
        try:
            shutil.copyfile(path, part)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
    return read(target)


def rename(folder: Path, name: str, new: str) -> Entry:
    """Give an erasure another name.

    Raises:
        FileError: there is no erasure of this name, or it cannot be renamed.
        RecipeError: the new name is taken, or cannot be one; the field is "rename".
    """
    path = named(folder, name).path
    target = folder / f"{_checked(new, 'rename')}{SUFFIX}"
    if target == path:
        return read(path)
    with _taking(target, "rename"):
        os.rename(path, target)
        if _note(path).is_file():
            os.replace(_note(path), _note(target))
    return read(target)


def delete(folder: Path, name: str) -> None:
    """Remove an erasure and what is noted of it.

    Raises:
        FileError: there is no erasure of this name, or it cannot be removed.
    """
    path = named(folder, name).path
    with _writing(path):
        path.unlink()
        _note(path).unlink(missing_ok=True)


def note_scores(entry: Entry, scores: Mapping[str, float]) -> None:
    """Keep the harmonic means of an erasure's last evaluation, for `Entry.scores`."""
    path = _note(entry.path)
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"recipe": entry.recipe.digest(), "scores": dict(scores)}), encoding="utf-8")


def sources(folder: Path) -> list[str]:
    """The base models that were loaded before, newest first."""
    try:
        read = json.loads((folder / "models.json").read_text(encoding="utf-8"))
        return [str(source) for source in read][:KEPT_SOURCES]
    except (OSError, ValueError, TypeError):
        return []


def remember(folder: Path, source: str) -> None:
    """Put a base model first among `sources`."""
    path = folder / "models.json"
    listed = [source, *(other for other in sources(folder) if other != source)]
    with _writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(listed[:KEPT_SOURCES], ensure_ascii=False), encoding="utf-8")


def _note(path: Path) -> Path:
    """Where the scores of an erasure are kept."""
    return path.parent / "reports" / f"{path.stem}.json"


def _scores(path: Path, recipe: Recipe) -> dict[str, float]:
    try:
        noted = json.loads(_note(path).read_text(encoding="utf-8"))
        # The name may have been another erasure's.
        return {str(k): float(v) for k, v in noted["scores"].items()} if noted["recipe"] == recipe.digest() else {}
    except (OSError, KeyError, AttributeError, TypeError, ValueError):
        return {}


def _checked(name: str, where: str) -> str:
    """A name that can be a file's, and no path."""
    name = name.strip()
    if len(name.encode()) > 2 * LONGEST or not NAME.fullmatch(name):
        raise RecipeError(
            where,
            f"“{name[:LONGEST]}” cannot be a name. Use letters, digits, spaces and . , + - _ ( ), beginning with a "
            f"letter or digit, {LONGEST} characters at most.",
        )
    return name


@contextmanager
def _taking(target: Path, where: str) -> Iterator[None]:
    """Take a name that no other file has."""
    with _changes, _writing(target):
        if target.exists() or target.is_symlink():
            raise RecipeError(where, f"There is an erased model “{target.stem}” already; choose another name.")
        yield


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileError(f"{path.name} could not be written or removed: {error.strerror or error}.") from error
