"""Sentences -> token ids and the context embeddings that the UNet reads."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mace_studio import phrases, prompts, sources
from mace_studio.core import tokens
from mace_studio.errors import RecipeError
from mace_studio.progress import Progress, Report, silent
from mace_studio.recipe import Recipe
from mace_studio.sd import finite
from mace_studio.sd.model import Model

BATCH = 32
NEAR = 4  # tokens by which a phrase may be longer in a sentence than alone
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


@dataclass(frozen=True)
class Reader:
    """How a model splits sentences, apart from the model: another thread may read while a task runs.

    Attributes:
        tokenizer: the model's, or a copy.
        length: T, how many tokens it reads, with the start and the end token.
        convert: puts every vector of a textual inversion into a sentence, as the model's pipeline does.
    """

    tokenizer: PreTrainedTokenizerBase
    length: int
    convert: Callable[[str, PreTrainedTokenizerBase], str]

    @staticmethod
    def of(model: Model) -> Reader:
        """What reads text for a model.

        Args:
            model: its first tokenizer.
        """
        return Reader(model.pipeline.tokenizer, model.length, model.pipeline.maybe_convert_prompt)

    def written(self, sentence: str) -> str:
        """A sentence as it is tokenized: NFC, and a textual inversion of several vectors with a token for each.

        Args:
            sentence: as the user wrote it.
        """
        return self.convert(unicodedata.normalize("NFC", sentence), self.tokenizer)

    def offsets(self, written: str) -> list[tuple[int, int]]:
        """For every token of a sentence, also those that are cut, its first character and the one after its last.

        Args:
            written: from `written`.
        """
        return self.tokenizer(written, return_offsets_mapping=True, verbose=False)["offset_mapping"]


def ids(model: Model | Reader, sentences: Sequence[str]) -> list[list[int]]:
    """Token ids of each sentence from the start to the end token, without padding, cut at T.

    Args:
        model: or the reader of its text.
        sentences: as the user wrote them.
    """
    reader = _reader(model)
    tokenizer = reader.tokenizer
    found = tokenizer([reader.written(s) for s in sentences], truncation=True, max_length=reader.length).input_ids
    return [tokens.without_padding(row, tokenizer.eos_token_id) for row in found]


def count(model: Model | Reader, sentence: str) -> int:
    """How many tokens a sentence has, with the start and the end token; more than T are cut.

    Args:
        model: or the reader of its text.
        sentence: as the user wrote it.
    """
    reader = _reader(model)
    return len(reader.tokenizer(reader.written(sentence), verbose=False).input_ids)


def unread(model: Model | Reader, sentence: str) -> str:
    """The end of a sentence that the model does not read, since only T tokens fit; "" where all of it does.

    Args:
        model: or the reader of its text.
        sentence: as the user wrote it.
    """
    reader = _reader(model)
    written = reader.written(sentence)
    kept = len(ids(reader, [sentence])[0]) - 1
    offsets = reader.offsets(written)
    return written[offsets[kept][0] :].strip() if kept < len(offsets) - 1 else ""


def embed(model: Model, sentences: Sequence[str], progress: Report = silent) -> Tensor:
    """The text context of each sentence, context_NTD, on the model's device, as its pipeline makes it.

    Args:
        model: its text encoders are read.
        sentences: N of them.
        progress: called with stage "encode" after every batch of `BATCH` sentences: sentences done of all.
    """
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
        # Without guidance: it would encode a negative prompt for each sentence, which nobody reads here.
        context_BTD, _, *more = model.pipeline.encode_prompt(
            prompt=batch, device=model.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        finite.check(context_BTD, "What the text encoder makes of the prompts")
        contexts.append(context_BTD)
        pooled += more[:1]
        progress(Progress("encode", step=start + len(batch), total=len(sentences)))
    return torch.cat(contexts), torch.cat(pooled) if pooled else None


def positions(model: Model | Reader, sentence: str, phrase: str) -> list[int]:
    """Every position in a prompt where a token of the phrase stands, from left to right.

    A token counts that has any character of the phrase: punctuation right after a phrase may be one token with its end.

    Args:
        model: its tokenizer splits.
        sentence: the prompt.
        phrase: in any case and spacing; it stands only where a word begins.

    Raises:
        RecipeError: the phrase is not in the prompt, or not as far as the model reads it.
    """
    found = [position for run in occurrences(model, sentence, phrase) for position in run]
    if not found:
        reader = _reader(model)
        if phrases.spans(reader.written(sentence), reader.written(phrase)):
            raise RecipeError("concepts", too_long(reader, phrase))
        raise RecipeError(
            "concepts", f"“{sources.shown(phrase)}” is no word of its own in “{sources.shown(sentence)}”."
        )
    return found


def occurrences(model: Model | Reader, sentence: str, phrase: str) -> list[tuple[int, ...]]:
    """The positions of each place where a phrase stands in a prompt; those that are cut off are left out.

    Args:
        model: or the reader of its text.
        sentence: the prompt.
        phrase: matched as whole words, in any case.

    Returns:
        For each place its token positions, counted from the start token at 0.
    """
    reader = _reader(model)
    written = reader.written(sentence)
    offsets = reader.offsets(written)
    # The end token of what is read; a phrase that reaches it is cut off.
    last = len(ids(reader, [sentence])[0]) - 1
    found = []
    for start, end in phrases.spans(written, reader.written(phrase)):
        run = tuple(i for i, (begin, stop) in enumerate(offsets) if begin < end and stop > start)
        if run and run[-1] < last:
            found.append(run)
    return found


def too_long(reader: Reader, phrase: str) -> str:
    """The sentence against a phrase that does not fit.

    Args:
        reader: whose length T is named.
        phrase: is shown, shortened where it is long.
    """
    return f"“{sources.shown(phrase)}” is too long for this model, which reads {reader.length} tokens."


def check(model: Model | Reader, recipe: Recipe) -> None:
    """Raise a RecipeError, before anything is generated, unless the model can tell all phrases of a recipe apart.

    Every concept, mapping and phrase to keep must fit the longest template of its kind, and no two of them may be the
    same tokens where they must differ.

    Args:
        model: or the reader of its text.
        recipe: all of its phrases are looked at.
    """
    reader = _reader(model)
    # Each phrase is put into the longest template only: thousands of them are checked before every run.
    templates = {  # of each kind the one with the most tokens
        kind: max(prompts.templates(kind), key=lambda template: count(reader, template.format("x")))
        for kind in {concept.kind for concept in recipe.concepts}
    }
    erased: dict[tuple[int, ...], int] = {}
    for i, concept in enumerate(recipe.concepts):
        for field, phrase in (("phrase", concept.phrase), ("mapping", concept.mapping)):
            _check_plain(reader, f"concepts[{i}].{field}", phrase)
            _check_fits(reader, f"concepts[{i}].{field}", phrase, [templates[concept.kind]])
        own, mapping = (tuple(row) for row in ids(reader, [concept.phrase, concept.mapping]))
        if own == mapping:
            raise RecipeError(f"concepts[{i}].mapping", f"“{concept.phrase}” maps to itself; choose another mapping.")
        if own in erased:
            other = erased[own]
            raise RecipeError(
                f"concepts[{i}].phrase",
                f"Rows {other + 1} and {i + 1}, “{recipe.concepts[other].phrase}” and “{concept.phrase}”, are the "
                "same to this model; remove one.",
            )
        erased[own] = i
    _check_preserve(reader, recipe, erased, list(templates.values()))


def _check_preserve(
    reader: Reader, recipe: Recipe, erased: Mapping[tuple[int, ...], int], templates: Sequence[str]
) -> None:
    around = max((count(reader, template.format("x")) for template in templates), default=0)
    for start in range(0, len(recipe.preserve), BATCH):
        batch = recipe.preserve[start : start + BATCH]
        for i, (phrase, row) in enumerate(zip(batch, ids(reader, batch), strict=True), start):
            _check_plain(reader, f"preserve[{i}]", phrase)
            if (other := erased.get(tuple(row))) is not None:
                raise RecipeError(
                    f"preserve[{i}]",
                    f"“{phrase}” is to be kept, and is the same to this model as “{recipe.concepts[other].phrase}”, "
                    f"which is erased in row {other + 1}; remove it from one list.",
                )
            if around + len(row) > reader.length - NEAR:  # the others fit whatever they are put into
                _check_fits(reader, f"preserve[{i}]", phrase, templates)


def _check_plain(reader: Reader, field: str, phrase: str) -> None:
    """Raise a RecipeError where a phrase holds the token by which a prompt begins or ends: the rest is not read."""
    for token in (reader.tokenizer.bos_token, reader.tokenizer.eos_token):
        if str(token) in phrase:
            raise RecipeError(field, f"{token} begins or ends a prompt of this model, and is no word; leave it out.")


def _check_fits(reader: Reader, field: str, phrase: str, templates: Iterable[str]) -> None:
    found = max(count(reader, template.format(phrase.strip())) for template in templates)
    if found > reader.length:
        raise RecipeError(
            field,
            f"“{sources.shown(phrase.strip())}” is too long: a prompt about it has {found} tokens, and this model "
            f"reads {reader.length}.",
        )


def closing(sentence_ids: Sequence[int], length: int) -> list[int]:
    """The positions of the end token and of the padding after it.

    Args:
        sentence_ids: of one prompt, from the start to the end token.
        length: T, positions of the model.
    """
    return list(range(len(sentence_ids) - 1, length))


def words(model: Model, sentence: str, wanted: Iterable[str] = ()) -> list[Word]:
    """A prompt in words from the start token to the padding; together they hold each of the T positions once.

    Args:
        model: its tokenizer splits.
        sentence: the prompt, cut where it is longer than the model reads.
        wanted: phrases that count as one word, such as "Ada Finch".
    """
    row = ids(model, [sentence])[0]
    pieces = model.pipeline.tokenizer.convert_ids_to_tokens(row)
    found: dict[tuple[int, ...], Word] = {}
    for phrase in wanted:
        for run in occurrences(model, sentence, phrase):
            if not any(position in other for other in found for position in run):
                found[run] = Word(phrase.strip(), tuple(pieces[i] for i in run), run, "concept")
    taken = {position for run in found for position in run}
    plain = []
    for places in _runs(pieces, range(1, len(row) - 1), taken):
        parts = tuple(pieces[i] for i in places)
        plain.append(Word("".join(part.removesuffix(WORD_END) for part in parts), parts, tuple(places)))
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

    Args:
        model: all of its tokenizers are looked at.
        sentence_ids: of one prompt, from the start to the end token.
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


def _reader(model: Model | Reader) -> Reader:
    return model if isinstance(model, Reader) else Reader.of(model)
