"""A byte-level BPE tokenizer in CLIP's format: plain words are one token, names are several, any text can be spelt."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

from mace_studio.miniature import world
from mace_studio.miniature.vocabulary import ARTISTS, COLOURS, OBJECTS, PASSERS_BY, PEOPLE, SCENES, THINGS

LENGTH = 32
END_OF_WORD = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"
PIECES = 2  # tokens of a word of a name, at most

Word = list[str]


def build() -> CLIPTokenizer:
    """The tokenizer; the same in every run."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = [*alphabet, *(letter + END_OF_WORD for letter in alphabet)]
    merges = _merges()
    tokens = dict.fromkeys([*letters, *("".join(pair) for pair in merges), START, END])
    vocabulary = {token: i for i, token in enumerate(tokens)}
    pairs: Any = merges  # declared as texts, and handed to a BPE that takes pairs
    return CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=LENGTH)


def words() -> list[str]:
    """Every word that a caption can have, but for names, in lower case, in the order of the alphabet."""
    forms = (
        *world.THING_FORMS, world.SMALL_FORM, *world.IDLE_FORMS, *world.SCENE_FORMS, world.PAIR_FORM,
        *world.PORTRAIT_FORMS, *world.IDLE_PORTRAIT_FORMS, world.OFFICIAL_FORM, world.CROWD_FORM, world.SKETCH_FORM,
        world.OIL_FORM, *world.PERSON_BY_FORMS, *world.THING_BY_FORMS, *world.ART_FORMS, *SCENES.values(),
        world.COLOUR_FORM,
    )  # fmt: skip
    others = (word for called in (*OBJECTS.values(), *PASSERS_BY.values()) for word in called)
    return _split((*(re.sub(r"\{\w*\}", " ", form) for form in forms), *THINGS, *SCENES, *COLOURS, *others))


def names() -> list[str]:
    """Every word of a person's or an artist's name, in lower case, in the order of the alphabet."""
    return _split((*PEOPLE, *ARTISTS))


def _split(texts: Iterable[str]) -> list[str]:
    return sorted(set(re.findall(r"[^\W\d_]+|[^\w\s]", " ".join(texts).lower())))


def _merges() -> list[tuple[str, str]]:
    """Merges that make one token of every plain word, then those that leave no word of a name more than two.

    Always of the most frequent pair, the first in the alphabet: the trainer of `tokenizers` breaks ties by chance.
    """
    plain, named = _spelt(words()), _spelt(names())
    merges: list[tuple[str, str]] = []
    while pairs := _pairs(plain, 1) or _pairs(named, PIECES):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        plain, named = ([_merged(word, best) for word in spelt] for spelt in (plain, named))
        merges.append(best)
    return merges


def _spelt(texts: Iterable[str]) -> list[Word]:
    return [[*text[:-1], text[-1] + END_OF_WORD] for text in texts]


def _pairs(spelt: Iterable[Word], pieces: int) -> Counter[tuple[str, str]]:
    """How often two symbols are neighbours, in the words of more pieces than are allowed."""
    return Counter(pair for word in spelt if len(word) > pieces for pair in pairwise(word))


def _merged(word: Word, pair: tuple[str, str]) -> Word:
    merged: Word = []
    for symbol in word:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged
