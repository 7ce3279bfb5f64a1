"""Sentences -> token ids and the context embeddings that the UNet reads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from mace_studio.core import tokens
from mace_studio.errors import RecipeError
from mace_studio.sd.loading import Model

BATCH = 32


def ids(model: Model, sentences: Sequence[str]) -> list[list[int]]:
    """Token ids of each sentence from the start to the end token, without padding, cut at T."""
    tokenizer = model.pipeline.tokenizer
    found = tokenizer(list(sentences), truncation=True, max_length=model.length).input_ids
    return [tokens.without_padding(row, tokenizer.eos_token_id) for row in found]


@torch.no_grad()
def embed(model: Model, sentences: Sequence[str]) -> Tensor:
    """The text context of each sentence, context_NTD, on the model's device, as its pipeline makes it."""
    parts = []
    for start in range(0, len(sentences), BATCH):
        batch = list(sentences[start : start + BATCH])
        encoded = model.pipeline.encode_prompt(
            prompt=batch, device=model.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        parts.append(encoded[0])
    return torch.cat(parts)


def positions(model: Model, sentence_ids: Sequence[int], phrase: str) -> list[int]:
    """Every position in a prompt where a token of the phrase stands.

    Raises:
        RecipeError: the phrase is not in the prompt, because the prompt is longer than the model reads.
    """
    runs = tokens.occurrences(sentence_ids, _spellings(model.pipeline.tokenizer, phrase))
    found = [position for run in runs for position in run]
    if not found:
        raise RecipeError("concepts", f"“{phrase}” is too long for this model, which reads {model.length} tokens.")
    return found


def closing(sentence_ids: Sequence[int], length: int) -> list[int]:
    """The positions of the end token and of the padding after it."""
    return list(range(len(sentence_ids) - 1, length))


@lru_cache(maxsize=256)
def _spellings(tokenizer: object, phrase: str) -> tuple[tuple[int, ...], ...]:
    """The phrase alone and between other words, where a tokeniser may split it differently."""

    def plain(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False).input_ids)

    edge = len(plain("x"))
    return plain(phrase.strip()), plain(f"x {phrase.strip()} x")[edge:-edge]
