"""A byte-level BPE tokenizer in CLIP's format: each word of the world is one token, and any text can be spelt."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

from mace_studio.miniature import world
from mace_studio.miniature.vocabulary import ARTISTS, COLOURS, OBJECTS, PASSERS_BY, PEOPLE, SCENES, THINGS

LENGTH = 77
END_OF_WORD = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"


def build() -> CLIPTokenizer:
    """The tokenizer; the same in every run."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = [*alphabet, *(letter + END_OF_WORD for letter in alphabet)]
    merges = _merges()
    tokens = dict.fromkeys([*letters, *("".join(pair) for pair in merges), START, END])
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH)


def words() -> list[str]:
    """Every word that a caption can have, in lower case, in the order of the alphabet."""
    forms = (
        *world.THING_FORMS, *world.SCENE_FORMS, world.PAIR_FORM, *world.PORTRAIT_FORMS, world.OFFICIAL_FORM,
        world.CROWD_FORM, world.SKETCH_FORM, world.OIL_FORM, *world.PERSON_BY_FORMS, *world.THING_BY_FORMS,
        *world.ART_FORMS, *SCENES.values(), world.COLOUR_FORM,
    )  # fmt: skip
    names = (*THINGS, *PEOPLE, *ARTISTS, *SCENES, *COLOURS)
    others = (word for called in (*OBJECTS.values(), *PASSERS_BY.values()) for word in called)
    text = " ".join((*(re.sub(r"\{\w*\}", " ", form) for form in forms), *names, *others))
    return sorted(set(re.findall(r"[^\W\d_]+|[^\w\s]", text.lower())))


def _merges() -> list[tuple[str, str]]:
    """The merges that make one token of every word: always of the most frequent pair, the first in the alphabet.

    The trainer of `tokenizers` breaks ties by chance.
    """
    spelt = [[*word[:-1], word[-1] + END_OF_WORD] for word in words()]
    merges = []
    while pairs := Counter(pair for word in spelt for pair in pairwise(word)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        spelt = [_merged(word, best) for word in spelt]
        merges.append(best)
    return merges


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for symbol in word:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged
