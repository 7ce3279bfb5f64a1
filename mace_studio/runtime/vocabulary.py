"""What a model is known to have learned, so that words which it cannot show are named before a run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mace_studio import neighbours, presets, prompts
from mace_studio.errors import RecipeError
from mace_studio.evaluation.plan import Plan, make_sample
from mace_studio.miniature import vocabulary as miniature
from mace_studio.paths import BUILT_IN
from mace_studio.recipe import Recipe

WORD = re.compile(r"[^\W\d_]+")
NAMED = 8  # unknown phrases that a warning names


@dataclass(frozen=True)
class Vocabulary:
    """The words of a model.

    Attributes:
        kinds: phrase that prompts can call for -> its kind, one of `recipe.KINDS`; "" for scenes and the like.
        words: every word that the model was trained with, in lower case.
    """

    kinds: dict[str, str]
    words: frozenset[str]

    def unknown(self, phrases: Iterable[str]) -> list[str]:
        """Those of some phrases that have a word which the model was not trained with."""
        return [p for p in dict.fromkeys(phrases) if not set(WORD.findall(p.lower())) <= self.words]

    def unknown_words(self, texts: Iterable[str]) -> list[str]:
        """Those words of some prompts, of two letters and more, that the model was not trained with."""
        found = dict.fromkeys(word for text in texts for word in WORD.findall(text.lower()) if len(word) > 1)
        return [word for word in found if word not in self.words]

    def unknown_in(self, recipe: Recipe) -> list[str]:
        """The unknown phrases among a recipe's concepts, mappings and preserve list."""
        return self.unknown(
            [*(text for c in recipe.concepts for text in (c.phrase, c.mapping)), *recipe.preserve],
        )

    def warning(self, recipe: Recipe) -> str:
        """Sentences about the unknown phrases and synonyms of a recipe, with the rows of several concepts; or ""."""
        numbered = [*enumerate(recipe.concepts, 1)] if len(recipe.concepts) > 1 else []
        rows = {text: f" (row {i})" for i, c in reversed(numbered) for text in (*c.synonyms, c.phrase, c.mapping)}
        unknown, synonyms = self.unknown_in(recipe), self.unknown(s for c in recipe.concepts for s in c.synonyms)
        named, also = (
            ", ".join(f"“{phrase}”{rows.get(phrase, '')}" for phrase in some[:NAMED])
            + (f" and {len(some) - NAMED} more" if len(some) > NAMED else "")
            for some in (unknown, [synonym for synonym in synonyms if synonym not in unknown])
        )
        said = f"The model has not learned {named}: nothing of it can be erased or shown. Use words that it knows."
        tests = f"The model has not learned {also}: as a synonym that tests nothing."
        return " ".join([*([said] if named else []), *([tests] if also else [])])


def known(own: Vocabulary | None) -> dict[str, str]:
    """Phrase -> kind of all that can be suggested: what the model has learned, or else what the presets name."""
    return own.kinds if own else presets.known_phrases()


def sample(recipe: Recipe, own: Vocabulary | None, words: int, beyond: int, pairs: int) -> Plan:
    """The plan of a look at a few images.

    Args:
        recipe: of the erasure.
        own: what the model, and with it its judge, has learned; None where that is not known.
        words: at most so many of what is erased, of its synonyms, and of what is kept.
        beyond: so many neighbours that are not kept.
        pairs: about so many images of each side.

    Raises:
        RecipeError: the judge knows none of the words.
    """
    kinds = {phrase.lower(): kind for phrase, kind in known(own).items()}
    beside = neighbours.of(recipe, known(own), only=own is not None, count=beyond)
    judged = kinds if own else None
    plan = make_sample(recipe, neighbours=beside, words=words, pairs=pairs, kinds=kinds, known=judged)
    if not plan.probes:
        raise RecipeError("plan", "The judge knows nothing of this erasure; use Compare to see what changed.")
    return plan


def clip_beside(source: str) -> str | None:
    """The folder of a CLIP model, called `clip`, beside the folder or file of a model; None where there is none."""
    folder = Path(source).parent / "clip"
    return str(folder) if Path(source).exists() and (folder / "config.json").is_file() else None


@cache
def built_in() -> Vocabulary:
    """The vocabulary of the built-in model: what its judge knows, its captions and the prompts it is tested with.

    The judge and not the world says which people and artists: the world may be ahead of the model that is shipped.
    """
    judge = json.loads((BUILT_IN.parent / "judge" / "judge.json").read_text(encoding="utf-8"))
    things, artists = (answers[:-1] for answers in (judge["heads"]["thing"], judge["heads"]["artist"]))  # none is last
    kinds = {
        **dict.fromkeys((*miniature.THINGS, *(s for names in miniature.OBJECTS.values() for s in names)), "object"),
        **dict.fromkeys((name for name in things if name not in miniature.THINGS), "celebrity"),
        **dict.fromkeys(artists, "style"),
        **dict.fromkeys((*miniature.SCENES, "a person", "art"), ""),
    }
    captions = (BUILT_IN / "captions.txt").read_text(encoding="utf-8")
    forms = [form for group in prompts.TESTS.values() for form in group]
    texts = [captions, *forms, *kinds, *miniature.COLOURS, *miniature.PASSERS_BY]
    return Vocabulary(kinds, frozenset(WORD.findall(" ".join(texts).lower())))
