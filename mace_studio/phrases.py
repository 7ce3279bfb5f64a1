"""Phrases as text: when two are the same to a model, and where one stands in a sentence. Without a tokenizer."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Protocol


class Pair(Protocol):
    """What is erased and what takes its place, such as a `recipe.Concept`."""

    @property
    def phrase(self) -> str: ...

    @property
    def mapping(self) -> str: ...


def folded(phrase: str) -> str:
    """A phrase in the form in which phrases are equal that a tokenizer of Stable Diffusion reads alike.

    That is NFC, without case, with one blank between words.
    """
    composed = unicodedata.normalize("NFC", phrase)
    return unicodedata.normalize("NFC", " ".join(composed.casefold().split()))


def distinct(phrases: Iterable[str]) -> list[str]:
    """The first of the phrases that are the same, in their order."""
    first: dict[str, str] = {}
    for phrase in phrases:
        first.setdefault(folded(phrase), phrase)
    return list(first.values())


def spans(sentence: str, phrase: str) -> list[tuple[int, int]]:
    """Where a phrase stands in a sentence, each as first character and the one after the last, from left to right.

    It stands there as whole words: “cat” is not in “bobcat” nor in “cats”, but in “cat’s”, “(cat)” and “Cat,”.
    “Keeffe” is not in “O’Keeffe”.

    Args:
        sentence: in NFC.
        phrase: in any case, form and spacing.
    """
    text, origins = _lowered(sentence)
    sought, _ = _lowered(unicodedata.normalize("NFC", phrase).strip())
    found, start = [], 0
    while sought and (start := text.find(sought, start)) >= 0:
        end = start + len(sought)
        # Behind an apostrophe within a word, as in “cat’s” and “O’Keeffe”.
        contracted = start > 1 and text[start - 1] in "'’" and text[start - 2].isalpha() and text[start].isalpha()
        if contracted or _joined(text, start) or _joined(text, end):
            start += 1
        else:
            found.append((origins[start], origins[end - 1] + 1))
            start = end
    return found


def doubts(pairs: Sequence[Pair]) -> list[str]:
    """Sentences on concepts that can be erased but rarely mean what was meant."""
    mappings = {folded(pair.phrase): folded(pair.mapping) for pair in pairs}
    found = []
    for pair in pairs:
        phrase, mapping = folded(pair.phrase), folded(pair.mapping)
        if mapping != phrase and spans(mapping, phrase):
            found.append(
                f"“{pair.phrase}” maps to “{pair.mapping}”, which contains it; what is erased may be kept by its "
                "mapping. Choose a mapping without it."
            )
        elif mapping in mappings and mapping != phrase:
            other = mappings[mapping]
            if other != phrase:
                found.append(
                    f"“{pair.phrase}” maps to “{pair.mapping}”, which is erased too; choose a mapping that stays."
                )
            elif phrase < mapping:  # said once of the two
                found.append(
                    f"“{pair.phrase}” maps to “{pair.mapping}” and the other way round, so each moves towards what "
                    "is erased; choose a mapping that stays."
                )
    return found


def _lowered(text: str) -> tuple[str, list[int]]:
    """A text in lower case with one blank between words, and for each of its characters where it was before."""
    letters: list[str] = []
    origins: list[int] = []
    for i, character in enumerate(text):
        if character.isspace():
            if letters and letters[-1] == " ":
                continue
            character = " "
        for lower in character.lower():  # one letter may become two
            letters.append(lower)
            origins.append(i)
    return "".join(letters), origins


def _joined(text: str, at: int) -> bool:
    """Whether the characters before and after a place belong to one word or number."""
    if not 0 < at < len(text):
        return False
    before, after = (unicodedata.category(c)[0] for c in text[at - 1 : at + 1])
    return after == "M" or (before in ("L", "M") and after == "L") or (before == after == "N")
