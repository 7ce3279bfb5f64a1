"""From a concept to sentences: the same templates filled with the concept and with its mapping, in step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from types import MappingProxyType

from mace_studio.paths import ASSETS
from mace_studio.presets import known_kinds
from mace_studio.recipe import Concept, Recipe

TEMPLATES = ASSETS / "prompts"
SUGGESTED = 4

# What an erasure is tested with, by kind; the forms of people and styles are those of the paper's appendix C.1.
TESTS = {
    "object": ("a photo of the {}",),
    "celebrity": (
        "a portrait of {}",
        "a sketch of {}",
        "an oil painting of {}",
        "{} in an official photo",
        "an image capturing {} at a public event",
    ),
    "style": (
        "Image in the style of {}",
        "Art inspired by {}",
        "Painting in the style of {}",
        "A reproduction of art by {}",
        "A famous artwork by {}",
    ),
    "explicit": ("a photo of the {}",),
}


@cache
def templates(kind: str) -> tuple[str, ...]:
    """Prompt templates of a kind of concept, each with one {} for the phrase."""
    lines = (TEMPLATES / f"{kind}.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def about(concept: Concept) -> list[str]:
    """Prompts about the concept."""
    return [t.format(concept.phrase.strip()) for t in templates(concept.kind)]


def mapped(concept: Concept) -> list[str]:
    """The same prompts about the concept's mapping, in the same order as `about`."""
    return [t.format(concept.mapping.strip()) for t in templates(concept.kind)]


def image_prompt(phrase: str, kind: str) -> str:
    """The prompt of a training image: things are named with an article, people by the name alone, styles as styles.

    What a phrase such as “the Beatles” or “style of Monet” begins with is not said twice.
    """
    forms = {"style": "a photo in the style of", "celebrity": "a photo of"}
    head, first = forms.get(kind, "a photo of the").split(), phrase.casefold().split()
    twice = next((n for n in range(len(head), 0, -1) if head[-n:] == first[:n]), 0)
    return " ".join([*head[: len(head) - twice], phrase.strip()])


def preserved(recipe: Recipe) -> Iterator[str]:
    """Prompts about what must stay: each phrase once, in the templates of its kind."""
    for phrase in recipe.kept:
        yield from (t.format(phrase) for t in templates(kept_kind(phrase, recipe)))


def kept_kind(phrase: str, recipe: Recipe) -> str:
    """The kind of a phrase that must stay.

    Where the recipe erases one kind, that one, so that kept and erased prompts differ in the phrase only. Where it
    erases several, the kind that the presets know the phrase as, else the kind of the recipe's first concept.
    """
    kinds = list(dict.fromkeys(concept.kind for concept in recipe.concepts))
    return known_kinds().get(phrase.strip().lower(), kinds[0]) if len(kinds) > 1 else kinds[0]


def count(recipe: Recipe) -> int:
    """How many different prompts a run encodes about concepts, mappings and what must stay."""
    sets = {
        (kind, phrase.strip()) for c in recipe.concepts for kind, phrase in ((c.kind, c.phrase), (c.kind, c.mapping))
    }
    return sum(len(templates(kind)) for kind, _ in sets) + sum(1 for _ in preserved(recipe))


def suggestions(recipe: Recipe, kinds: Mapping[str, str] = MappingProxyType({})) -> list[tuple[str, str]]:
    """Prompts worth comparing, each as (role, prompt); the role is "erased", "synonym" or "kept".

    Args:
        recipe: of the erasure.
        kinds: phrase in lower case -> kind, for what is kept; the first concept's kind for any other phrase.
    """
    erased = [("erased", image_prompt(c.phrase, c.kind)) for c in recipe.concepts[:SUGGESTED]]
    synonyms = [("synonym", image_prompt(s, c.kind)) for c in recipe.concepts for s in c.synonyms]
    kind = recipe.concepts[0].kind if recipe.concepts else "object"
    kept = [("kept", image_prompt(p, kinds.get(p.strip().lower(), kind))) for p in recipe.kept[:SUGGESTED]]
    return [*erased, *synonyms[:SUGGESTED], *kept]
