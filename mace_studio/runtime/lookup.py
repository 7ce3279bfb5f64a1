"""Recipes and erasures by path or by name, as they are given in the terminal."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from mace_studio import presets
from mace_studio.errors import FileError
from mace_studio.recipe import Recipe
from mace_studio.runtime import library

DIGEST = re.compile(r"-[0-9a-f]{8}$")  # at the end of an erasure's name
LISTED = 5


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file.

    Raises:
        FileError: the file cannot be read.
        RecipeError: it is no recipe; the message names the field.
    """
    try:
        return Recipe.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path} cannot be read as text: {error}") from error


def find_preset(name: str) -> presets.Preset:
    """The preset of a name, which may be shortened to its last parts: "miniature/cat", or "cat".

    Raises:
        FileError: there is none, or several; the message names the nearest.
    """
    known = {preset.name: preset for preset in presets.presets()}
    parts = {whole: whole.split("/") for whole in known}
    short = {whole: {"/".join(some[i:]) for i in range(1, len(some))} for whole, some in parts.items()}
    return known[_match(name, short, "preset")]


def find_erasure(name: str, folders: Sequence[Path]) -> Path:
    """The file of an erasure's name, which may be shortened by the digits at its end: "cat-0f3a9b12", or "cat".

    Args:
        name: without the folder and the suffix.
        folders: where to look, in this order; the first that has one of the name counts.

    Raises:
        FileError: there is none, or several; the message names the nearest.
    """
    known: dict[str, Path] = {}
    for folder in folders:
        paths = {path.stem: path for path in sorted(folder.glob(f"*{library.SUFFIX}"))}
        known = paths | known
        if any(name in (stem, DIGEST.sub("", stem)) for stem in paths):
            known = paths
            break
    return known[_match(name, {stem: {DIGEST.sub("", stem)} for stem in known}, "erased model")]


def _match(name: str, known: Mapping[str, Collection[str]], what: str) -> str:
    """The one whole name that `name` is or is short for.

    Args:
        name: as it was asked for.
        known: whole name -> its short forms.
        what: these are the names of, for messages.
    """
    if name in known:
        return name
    found = [whole for whole, short in known.items() if name in short]
    if len(found) == 1:
        return found[0]
    if found:
        raise FileError(f"“{name}” may be {' or '.join(found)}; give the whole name.")
    forms = {form: whole for whole, short in known.items() for form in (whole, *short)}
    near = list(dict.fromkeys(forms[form] for form in get_close_matches(name, forms, LISTED, 0.5)))
    remedy = f"the nearest are {', '.join(near)}" if near else "check the spelling, or give the path of a file"
    raise FileError(f"There is no {what} and no file “{name}”; {remedy}.")
