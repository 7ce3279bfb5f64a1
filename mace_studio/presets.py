"""The recipes that come with the project."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mace_studio.paths import PRESETS
from mace_studio.recipe import Recipe

TWINS = "as_published_code"


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
        found.append(Preset(name, _recipe(path, path.stat().st_mtime_ns)))
    return found


@cache
def _recipe(path: Path, changed: int) -> Recipe:
    """A file's recipe, read once as long as the file does not change: reading all takes half a second."""
    return Recipe.from_json(path.read_text(encoding="utf-8"))


@cache
def known_kinds() -> dict[str, str]:
    """As `known_phrases`, in lower case."""
    return {phrase.lower(): kind for phrase, kind in known_phrases().items()}


@cache
def known_phrases() -> dict[str, str]:
    """Phrase -> the kind that the presets know it as: erased as one, or kept where only one is erased.

    What is kept beside explicit content is not explicit, so such recipes say nothing of it.
    """
    # The twins of the published code call people objects, since its runs took the templates of objects.
    recipes = [preset.recipe for preset in presets() if TWINS not in preset.name]
    kinds = [{concept.kind for concept in recipe.concepts} for recipe in recipes]
    alone = [recipe for recipe, own in zip(recipes, kinds, strict=True) if len(own) == 1 and own != {"explicit"}]
    kept = {phrase: recipe.concepts[0].kind for recipe in alone for phrase in recipe.preserve}
    return kept | {concept.phrase: concept.kind for recipe in recipes for concept in recipe.concepts}
