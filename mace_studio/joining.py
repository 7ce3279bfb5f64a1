"""Recipes of erased models -> the recipe of the model that they make together."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from mace_studio.errors import RecipeError
from mace_studio.recipe import Concept, Recipe


def joined(
    recipes: Sequence[Recipe], remove: Collection[str] = (), add: Recipe | None = None, name: str = ""
) -> Recipe:
    """All concepts and preserve lists; every setting is that of the first recipe.

    Args:
        recipes: of the erased models, at least one.
        remove: phrases among their concepts that are erased no longer.
        add: its concepts are erased beside them; of its settings none counts.
        name: what to call the result. If nothing changes, it is the first recipe as it is, name and all.

    Raises:
        RecipeError: no recipe, a concept in two of them, one to remove that is in none, nothing left to erase, or what
            `Recipe.check` says; the field is "models", "remove", "add" or one of the recipe.
    """
    if not recipes:
        raise RecipeError("models", "Choose at least one erased model.")
    concepts = _without(_all(recipes), remove)
    if add is not None:
        add.check()
        concepts = _together(concepts, add.concepts, "add", "to be added, and erased already")
    if not concepts:
        raise RecipeError("remove", "Nothing would be left to erase; keep at least one concept.")
    erased, first = {_key(c.phrase) for c in concepts}, recipes[0]
    kept = list(first.preserve)
    for phrase in (p for recipe in [*recipes[1:], *([add] if add else [])] for p in recipe.preserve):
        if _key(phrase) not in map(_key, kept):
            kept.append(phrase)
    preserve = tuple(phrase for phrase in kept if _key(phrase) not in erased)
    result = replace(first, concepts=tuple(concepts), preserve=preserve)
    if result != first:
        result = replace(result, name="", about="")
    return (replace(result, name=name.strip()) if name.strip() else result).check()


def _all(recipes: Sequence[Recipe]) -> list[Concept]:
    concepts: list[Concept] = []
    for recipe in recipes:
        concepts = _together(concepts, recipe.concepts, "models", "erased in two of the chosen models")
    return concepts


def _together(concepts: Sequence[Concept], more: Sequence[Concept], field: str, twice: str) -> list[Concept]:
    known = {_key(c.phrase) for c in concepts}
    for concept in more:
        if _key(concept.phrase) in known:
            remedy = "take it out of one" if field == "add" else "remove it from one of them first"
            raise RecipeError(field, f"“{concept.phrase}” is {twice}; {remedy}.")
    return [*concepts, *more]


def _without(concepts: Sequence[Concept], remove: Collection[str]) -> list[Concept]:
    unwanted = {_key(phrase) for phrase in remove}
    for phrase in remove:
        if _key(phrase) not in {_key(c.phrase) for c in concepts}:
            erased = ", ".join(c.phrase for c in concepts)
            raise RecipeError("remove", f"“{phrase}” is not among what is erased: {erased}.")
    return [c for c in concepts if _key(c.phrase) not in unwanted]


def _key(phrase: str) -> str:
    return phrase.strip().lower()
