"""The kind of a concept, guessed from its phrase. The page guesses by the same rules while a phrase is typed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import cache

from mace_studio.presets import known_kinds
from mace_studio.recipe import KINDS, Recipe
from mace_studio.runtime import vocabulary

# Painters whom people name first when they think of a style, by how their names end; the presets know hundreds more.
PAINTERS = (
    "[Vv]an Gogh", "[Dd]a Vinci", "Monet", "Manet", "Picasso", "Rembrandt", "Vermeer", "Klimt", "Munch", "Matisse",
    "Renoir", "Degas", "Gauguin", "C[eé]zanne", "Dal[ií]", "Magritte", "Mir[oó]", "Kandinsky", "Mondrian", "Klee",
    "Warhol", "Banksy", "Hokusai", "Mucha", "Michelangelo", "Botticelli", "Caravaggio", "Rutkowski", "Kinkade",
)  # fmt: skip

# (pattern, kind), of which the first that is found counts. They are read by Python and by JavaScript (with its flag u):
# `\p{Lu}`, a capital letter of any alphabet, is the one thing of JavaScript alone, which `_found` writes out.
RULES = (
    (r"(?:^|\s)(?:[Ss]tyle|[Pp]ainting|[Aa]rt)\s(?:[Oo]f|[Bb]y)(?:\s|$)", "style"),
    (r"[\s-][Ss]tyle$", "style"),
    (rf"(?:^|\s)(?:{'|'.join(PAINTERS)})$", "style"),
    (r"^\p{Lu}\S+(?: \p{Lu}\S+)+$", "celebrity"),
)


def guess(phrase: str, known: Mapping[str, str] | None = None) -> str:
    """What a phrase is known as, or else what it looks like: a style or a painter, a name of several words, or a thing.

    Args:
        phrase: of the concept.
        known: phrase in lower case -> its kind, or ""; None: what the presets know.
    """
    plain = phrase.strip()
    own = (known_kinds() if known is None else known).get(plain.lower())
    return own or next((kind for pattern, kind in _patterns() if pattern.search(plain)), KINDS[0])


def of_kept(recipe: Recipe, own: vocabulary.Vocabulary | None) -> dict[str, str]:
    """Phrase in lower case -> kind of all that a recipe keeps, as `prompts.suggestions` takes it.

    What the model and the presets do not know is guessed; beside people or styles a name is one of them.

    Args:
        recipe: of the erasure.
        own: what the model has learned; None where that is not known.
    """
    known = {**known_kinds(), **{phrase.lower(): kind for phrase, kind in vocabulary.known(own).items()}}
    first = recipe.concepts[0].kind
    found = {}
    for phrase in recipe.kept:
        plain = phrase.strip()
        named = plain[:1].isupper() and first in ("celebrity", "style")
        found[plain.lower()] = first if named and not known.get(plain.lower()) else guess(plain, known)
    return found


@cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    capitals = "".join(letter for letter in map(chr, range(0x10000)) if unicodedata.category(letter) == "Lu")
    return [(re.compile(pattern.replace(r"\p{Lu}", f"[{capitals}]")), kind) for pattern, kind in RULES]
