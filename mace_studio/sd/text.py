"""Sentences -> token ids and the context embeddings that the UNet reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mace_studio import prompts
from mace_studio.core import tokens
from mace_studio.errors import RecipeError
from mace_studio.progress import Progress, Report, silent
from mace_studio.recipe import Recipe
from mace_studio.sd.model import Model

BATCH = 32
WORD_END = "</w>"  # how CLIP's tokenizers mark the last token of a word


@dataclass(frozen=True)
class Word:
    """What belongs together in a prompt as the text encoder reads it.

    Attributes:
        text: the word, or a whole phrase; "start", "end" or "padding" for what surrounds the prompt.
        tokens: as the tokenizer split it.
        positions: of the tokens.
        role: "word", "concept" for a phrase that was asked for, or "start", "end", "padding".
    """

    text: str
    tokens: tuple[str, ...]
    positions: tuple[int, ...]
    role: str = "word"


def ids(model: Model, sentences: Sequence[str]) -> list[list[int]]:
    """Token ids of each sentence from the start to the end token, without padding, cut at T."""
    tokenizer = model.pipeline.tokenizer
    found = tokenizer(list(sentences), truncation=True, max_length=model.length).input_ids
    return [tokens.without_padding(row, tokenizer.eos_token_id) for row in found]


def embed(model: Model, sentences: Sequence[str], progress: Report = silent) -> Tensor:
    """The text context of each sentence, context_NTD, on the model's device, as its pipeline makes it."""
    return encode(model, sentences, progress)[0]


@torch.no_grad()
def encode(model: Model, sentences: Sequence[str], progress: Report = silent) -> tuple[Tensor, Tensor | None]:
    """The text context of each sentence, and what SDXL reads beside it.

    Args:
        model: its pipeline encodes.
        sentences: at least one; cut where one is longer than the model reads.
        progress: called with stage "encode" after every batch of `BATCH` sentences: sentences done of all.

    Returns:
        context_NTD and pooled_NP, on the model's device; None in place of the latter for other models than SDXL.
    """
    contexts, pooled = [], []
    for start in range(0, len(sentences), BATCH):
        batch = list(sentences[start : start + BATCH])
        context_BTD, _, *more = model.pipeline.encode_prompt(
            prompt=batch, device=model.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        contexts.append(context_BTD)
        pooled += more[:1]
        progress(Progress("encode", step=start + len(batch), total=len(sentences)))
    return torch.cat(contexts), torch.cat(pooled) if pooled else None


def positions(model: Model, sentence_ids: Sequence[int], phrase: str) -> list[int]:
    """Every position in a prompt where a token of the phrase stands.

    Raises:
        RecipeError: the phrase is not in the prompt, because the prompt is longer than the model reads.
    """
    runs = tokens.occurrences(sentence_ids, spellings(model.pipeline.tokenizer, phrase))
    found = [position for run in runs for position in run]
    if not found:
        raise RecipeError("concepts", f"“{phrase}” is too long for this model, which reads {model.length} tokens.")
    return found


def check_lengths(tokenizer: Any, length: int, recipe: Recipe) -> None:
    """Check that every prompt about a recipe's phrases is read to its end.

    Args:
        tokenizer: of the model.
        length: T, how many tokens the model reads, start and end token included.
        recipe: whose concepts, mappings and preserve list are checked.

    Raises:
        RecipeError: a prompt would be cut; the field is the first phrase that is too long.
    """
    phrases = [
        (f"concepts[{i}].{name}", getattr(concept, name), concept.kind)
        for i, concept in enumerate(recipe.concepts)
        for name in ("phrase", "mapping")
    ]
    kinds = [concept.kind for concept in recipe.concepts]
    phrases += [(f"preserve[{i}]", phrase, kind) for i, phrase in enumerate(recipe.preserve) for kind in set(kinds)]
    sentences = [max(prompts.templates(kind), key=len).format(phrase.strip()) for _, phrase, kind in phrases]
    counts = [len(row) for row in tokenizer(sentences).input_ids] if sentences else []
    for (field, phrase, _), count in zip(phrases, counts, strict=True):
        if count > length:
            short = phrase.strip() if len(phrase) < 40 else f"{phrase.strip()[:40]} …"
            raise RecipeError(
                field, f"“{short}” is too long: a prompt about it has {count} tokens, and this model reads {length}."
            )


def closing(sentence_ids: Sequence[int], length: int) -> list[int]:
    """The positions of the end token and of the padding after it."""
    return list(range(len(sentence_ids) - 1, length))


def words(model: Model, sentence: str, phrases: Iterable[str] = ()) -> list[Word]:
    """A prompt in words from the start token to the padding; together they hold each of the T positions once.

    Args:
        model: its tokenizer splits.
        sentence: the prompt, cut where it is longer than the model reads.
        phrases: what counts as one word, such as "Ada Finch".
    """
    row = ids(model, [sentence])[0]
    pieces = model.pipeline.tokenizer.convert_ids_to_tokens(row)
    found: dict[range, Word] = {}
    for phrase in phrases:
        for run in tokens.occurrences(row, spellings(model.pipeline.tokenizer, phrase)):
            if not any(position in other for other in found for position in run):
                found[run] = Word(phrase.strip(), tuple(pieces[i] for i in run), tuple(run), "concept")
    taken = {position for run in found for position in run}
    plain = [_word(pieces, run) for run in _runs(pieces, range(1, len(row) - 1), taken)]
    inner = sorted([*found.values(), *plain], key=lambda word: word.positions)
    last = len(row) - 1
    around = [Word("end", (pieces[last],), (last,), "end")]
    if last + 1 < model.length:
        padding = tuple(range(last + 1, model.length))
        around.append(Word("padding", (model.pipeline.tokenizer.pad_token,), padding, "padding"))
    return [Word("start", (pieces[0],), (0,), "start"), *inner, *around]


def final_end(model: Model, sentence_ids: Sequence[int]) -> int:
    """The position of the last end token: the very last where the padding is made of end tokens, as in SD 1.x.

    Of two tokenizers, as in SDXL, both must pad so.
    """
    tokenizers = [part for name, part in model.pipeline.components.items() if name.startswith("tokenizer")]
    padded = all(tokenizer.pad_token_id == tokenizer.eos_token_id for tokenizer in tokenizers)
    return model.length - 1 if padded else len(sentence_ids) - 1


def _runs(pieces: Sequence[str], inside: range, taken: set[int]) -> list[list[int]]:
    """The positions that are not taken, one list for each word."""
    runs, run = [], []
    for position in inside:
        if position in taken:
            continue
        run.append(position)
        if pieces[position].endswith(WORD_END) or position + 1 in taken:
            runs.append(run)
            run = []
    return [*runs, run] if run else runs


def _word(pieces: Sequence[str], run: Sequence[int]) -> Word:
    parts = tuple(pieces[i] for i in run)
    return Word("".join(part.removesuffix(WORD_END) for part in parts), parts, tuple(run))


@lru_cache(maxsize=256)
def spellings(tokenizer: PreTrainedTokenizerBase, phrase: str) -> tuple[tuple[int, ...], ...]:
    """The phrase alone and between other words, where a tokeniser may split it differently."""

    def plain(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False).input_ids)

    edge = len(plain("x"))
    return plain(phrase.strip()), plain(f"x {phrase.strip()} x")[edge:-edge]
