"""What is on disk: erasures, one safetensors file each with the recipe in its header, and the project's presets."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from safetensors import SafetensorError, safe_open

from mace_studio.errors import FileError, RecipeError
from mace_studio.recipe import Recipe

log = logging.getLogger(__name__)

PRESETS = Path(__file__).parents[1] / "presets"


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
    """

    name: str
    path: Path
    recipe: Recipe
    made: datetime
    size: int
    conditions: dict[str, float]
    warnings: tuple[str, ...]


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


def entries(folder: Path) -> list[Entry]:
    """Every erasure in a folder, newest first; files that are none are passed over."""
    found = []
    for path in folder.glob("*.safetensors"):
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
    return read(folder / f"{name}.safetensors")


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
        conditions, warnings = header["conditions"], tuple(header["warnings"])
        stat = path.stat()
    except FileNotFoundError as error:
        raise FileError(f"There is no erased model “{path.stem}” any more; erase again or choose another.") from error
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecipeError) as error:
        raise FileError(f"{path.name} is not an erasure made by MACE Studio.") from error
    made = datetime.fromtimestamp(stat.st_mtime)
    return Entry(path.stem, path, recipe, made, stat.st_size, conditions, warnings)


def slug(title: str) -> str:
    """A file name that still reads like the title, in any script."""
    return re.sub(r"\W+", "-", title.lower()).strip("-_")[:48] or "untitled"
