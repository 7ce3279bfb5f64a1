"""Where a concept stands among the tokens of a caption, and captions with another concept in its place."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from mace_studio.miniature.vocabulary import ARTISTS, OBJECTS, PASSERS_BY, PEOPLE, THINGS

# Concepts that may take each other's place in a caption.
KINDS: tuple[tuple[str, ...], ...] = (
    (*THINGS, *(word for words in OBJECTS.values() for word in words)),
    (*PEOPLE, *PASSERS_BY, "person"),
    tuple(ARTISTS),
)


class Spans:
    """The tokens of every concept.

    Args:
        tokenizer: what captions are tokenized with.
    """

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        self._ids = {phrase: tokenizer(phrase, add_special_tokens=False).input_ids for kind in KINDS for phrase in kind}
        self._others: dict[str, list[str]] = {}
        for kind in KINDS:
            for phrase in kind:
                equal = [other for other in kind if len(self._ids[other]) == len(self._ids[phrase]) and other != phrase]
                self._others[phrase] = equal

    def own(self, ids_NT: Tensor, phrases: Sequence[str]) -> Tensor:
        """True at the tokens of each caption's phrase where it stands first, (N, T); nowhere for ""."""
        own_NT = torch.zeros(ids_NT.shape, dtype=torch.bool)
        for row, (ids, phrase) in enumerate(zip(ids_NT.tolist(), phrases, strict=True)):
            if not phrase:
                continue
            sought = self._ids[phrase]
            starts = (i for i in range(len(ids) - len(sought) + 1) if ids[i : i + len(sought)] == sought)
            first = next(starts, None)
            if first is not None:
                own_NT[row, first : first + len(sought)] = True
        return own_NT

    def swapped(self, ids_NT: Tensor, own_NT: Tensor, phrases: Sequence[str], random: Random) -> tuple[Tensor, Tensor]:
        """Captions with their phrase exchanged for another of its kind that has as many tokens.

        Args:
            ids_NT: of the captions.
            own_NT: where the phrases stand, as `own` says.
            phrases: one for each caption, or "".
            random: chooses what takes a phrase's place.

        Returns:
            (N, T) token ids, and (N,) whether something was exchanged.
        """
        swapped_NT, done_N = ids_NT.clone(), own_NT.any(dim=1)
        for row, phrase in enumerate(phrases):
            done_N[row] &= bool(phrase and self._others[phrase])
            if done_N[row]:
                swapped_NT[row, own_NT[row]] = torch.tensor(self._ids[random.choice(self._others[phrase])])
        return swapped_NT, done_N
