"""Where phrases stand, with the vocabulary that Stable Diffusion has: 49,408 tokens and punctuation that is merged."""

import json
import os
import unicodedata
from importlib.util import find_spec

import pytest
import torch
from diffusers import PNDMScheduler, StableDiffusionPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTextConfig, CLIPTextModel

from mace_studio.errors import RecipeError
from mace_studio.paths import PRESETS
from mace_studio.recipe import Concept, Recipe
from mace_studio.sd import text
from mace_studio.sd.model import Model
from tests import clip_vocabulary, families

PAPER = sorted((PRESETS / "paper").glob("*-100.json"))
FORMS = (
    "{}", "{}, smiling", "{}. Smiling", "{}'s house", "({})", '"{}"', "a photo of {}", "a photo of ({}).",
    '"{}", smiling', "a photo of {}'s dog", "[{}]!", "'{}'", "{}; {}", "{}...", "{}?!", "a man ({}, 1970)", "— {} —",
    "#{}", "“{}”, they said", "portrait of {}:1.2", "({}:1.2)", "{}/{}", "{}_{}", "{}-like",
)  # fmt: skip


def names():
    """All celebrities and artists of the paper: erased and kept."""
    found = {}
    for path in PAPER:
        told = json.loads(path.read_text(encoding="utf-8"))
        found |= dict.fromkeys([*(concept["phrase"] for concept in told["concepts"]), *told["preserve"]])
    return list(found)


NAMES = names()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A pipeline with CLIP's real tokenizer; the rest of it is small and random."""
    if find_spec("open_clip") is None and not os.environ.get("CI"):
        pytest.skip("needs CLIP's vocabulary: pip install --no-deps 'open-clip-torch>=3.2,<4'")
    tokens = clip_vocabulary.save(tmp_path_factory.mktemp("clip-vocabulary"))
    torch.manual_seed(0)
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokens), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
            max_position_embeddings=77, bos_token_id=49406, eos_token_id=49407, pad_token_id=49407,
        )
    )  # fmt: skip
    parts = (families.vae(), encoder, tokens, families.unet(8), PNDMScheduler(**families.BETAS), None, None)
    return Model(StableDiffusionPipeline(*parts, requires_safety_checker=False), "clip")


def pieces(model, sentence, phrase):
    row = text.ids(model, [sentence])[0]
    tokens = model.pipeline.tokenizer.convert_ids_to_tokens(row)
    return [[tokens[i] for i in run] for run in text.occurrences(model, sentence, phrase)]


def test_the_vocabulary_is_clips(clip):
    assert len(clip.pipeline.tokenizer) == 49408
    assert text.ids(clip, ["a photo of cat"]) == [[49406, 320, 1125, 539, 2368, 49407]]


@pytest.mark.parametrize(
    ("sentence", "phrase", "expected"),
    [
        ("Robert Downey Jr., smiling", "Robert Downey Jr.", [["robert</w>", "downey</w>", "jr</w>", ".,</w>"]]),
        ("a photo of Robert Downey Jr.", "Robert Downey Jr.", [["robert</w>", "downey</w>", "jr</w>", ".</w>"]]),
        ("a bobcat", "cat", []),
        ("cats and categories", "cat", []),
        ("a cat's tail and a (cat)", "cat", [["cat</w>"], ["cat</w>"]]),
        ("grand  piano", "Grand Piano", [["grand</w>", "piano</w>"]]),
        ("the cat's", "s", []),
    ],
)
def test_where_a_phrase_stands(clip, sentence, phrase, expected):
    assert pieces(clip, sentence, phrase) == expected


def letters(pieces):
    return "".join(character for piece in pieces for character in piece.removesuffix("</w>") if character.isalnum())


@pytest.mark.parametrize("form", FORMS)
def test_every_name_of_the_paper_is_found_between_any_punctuation(clip, form):
    decode = {letter: byte for letter, byte in zip(clip_vocabulary.alphabet(), byte_order(), strict=True)}
    assert len(NAMES) > 390
    for name in NAMES:
        found = pieces(clip, form.replace("{}", name), name)
        assert len(found) == form.count("{}"), name
        for run in found:
            plain = bytes(decode[c] for piece in run for c in piece.removesuffix("</w>")).decode("utf-8")
            expected = unicodedata.normalize("NFC", name).lower()
            # CLIP splits 'd, 's, ... off even where a quote begins: the token that begins with the quote counts.
            assert letters(plain) == letters(expected), name


def byte_order():
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [*printable, *(byte for byte in range(256) if byte not in printable)]


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    before=st.text("., '\"()[]!?;:-_/#“”’—…&+*0123456789\t\n", max_size=6),
    after=st.text("., '\"()[]!?;:-_/#“”’—…&+*\t\n", max_size=6),
)
def test_a_name_is_found_whatever_punctuation_is_around(clip, name, before, after):
    sentence = f"{before}{name}{after}"
    row = text.ids(clip, [sentence])[0]
    found = text.positions(clip, sentence, name)
    assert found == list(range(found[0], found[-1] + 1)) and found[0] > 0 and found[-1] < len(row) - 1


def test_both_unicode_forms_are_one_phrase(clip):
    for name in (n for n in NAMES if unicodedata.normalize("NFD", n) != n):
        whole = text.positions(clip, f"a photo of {name}", name)
        decomposed = unicodedata.normalize("NFD", name)
        assert text.positions(clip, f"a photo of {decomposed}", name) == whole
        assert text.positions(clip, f"a photo of {name}", decomposed) == whole


def test_every_vector_of_a_textual_inversion_counts(clip):
    tokens = clip.pipeline.tokenizer
    tokens.add_tokens(["<my-cat>", "<my-cat>_1", "<my-cat>_2"])
    sentence = "a photo of <my-cat>, smiling"
    assert pieces(clip, sentence, "<my-cat>") == [["<my-cat>", "<my-cat>_1", "<my-cat>_2"]]
    assert text.count(clip, sentence) == 10  # start, a photo of, three vectors, comma, smiling, end
    (word,) = [word for word in text.words(clip, sentence, ["<my-cat>"]) if word.role == "concept"]
    assert word.positions == (4, 5, 6)


# What a model cannot tell apart


def recipe(*concepts, preserve=()):
    return Recipe(concepts=[Concept(*concept) for concept in concepts], preserve=preserve)


@pytest.mark.parametrize(
    ("asked", "field", "says"),
    [
        (recipe(("grand piano", "flute"), ("grand  piano", "drum")), "concepts[1].phrase", "Rows 1 and 2"),
        (recipe(("caf\u00e9", "bar"), ("cafe\u0301", "pub")), "concepts[1].phrase", "Rows 1 and 2"),
        (recipe(("cat", "dog"), ("Cat ", "fox")), "concepts[1].phrase", "Rows 1 and 2"),
        (recipe(("cat", " CAT")), "concepts[0].mapping", "itself"),
        (recipe(("dog", "fox"), ("cat", "cat")), "concepts[1].mapping", "itself"),
        (recipe(("grand piano", "flute"), preserve=["drum", "grand   piano"]), "preserve[1]", "row 1"),
    ],
)
def test_what_is_the_same_is_refused_with_and_without_a_tokenizer(clip, asked, field, says):
    for check in (Recipe.check, lambda asked: text.check(clip, asked)):
        with pytest.raises(RecipeError, match=says) as error:
            check(asked)
        assert error.value.field == field


def test_what_only_the_tokenizer_knows_to_be_the_same_is_refused(clip):
    twins = recipe(("don't", "do"), ("don 't", "did"))
    assert text.ids(clip, ["don't"]) == text.ids(clip, ["don 't"])
    twins.check()
    with pytest.raises(RecipeError, match="Rows 1 and 2"):
        text.check(clip, twins)
    kept = recipe(("don't", "do"), preserve=["x", "don 't"])
    kept.check()
    with pytest.raises(RecipeError, match="erased in row 1"):
        text.check(clip, kept)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (recipe(("<|endoftext|>", "dog")), "concepts[0].phrase"),
        (recipe(("fox", "dog"), ("cat <|endoftext|> fish", "sky")), "concepts[1].phrase"),
        (recipe(("cat", "<|startoftext|> sky")), "concepts[0].mapping"),
        (recipe(("cat", "sky<|endoftext|>sea")), "concepts[0].mapping"),
        (recipe(("cat", "sky"), preserve=["fox", "dog <|endoftext|> x"]), "preserve[1]"),
    ],
)
def test_what_ends_a_prompt_is_no_word(clip, asked, field):
    with pytest.raises(RecipeError, match="begins or ends a prompt") as error:
        text.check(clip, asked)
    assert error.value.field == field


LONG = "very " * 80 + "long"


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (recipe((LONG, "dog")), "concepts[0].phrase"),
        (recipe(("fox", "dog"), ("cat", LONG)), "concepts[1].mapping"),
        (recipe(("cat", "dog"), preserve=["fox", LONG]), "preserve[1]"),
        (recipe(("cat", "dog"), preserve=[*(f"thing {i}" for i in range(40)), LONG]), "preserve[40]"),
    ],
)
def test_what_is_too_long_is_refused_wherever_it_stands(clip, asked, field):
    with pytest.raises(
        RecipeError, match=r"is too long: a prompt about it has \d+ tokens, and this model reads 77"
    ) as error:
        text.check(clip, asked)
    assert error.value.field == field and len(str(error.value)) < 300


def test_what_just_fits_is_taken(clip):
    for kind in ("object", "celebrity", "style"):
        around = max(text.count(clip, t.format("cat")) - 1 for t in text.prompts.templates(kind))
        fits = "cat " * (77 - around)
        text.check(clip, Recipe(concepts=[Concept("dog", fits, kind)], preserve=[fits]))
        with pytest.raises(RecipeError, match="too long"):
            text.check(clip, Recipe(concepts=[Concept("dog", fits + "cat", kind)]))
        with pytest.raises(RecipeError, match="too long"):
            text.check(clip, Recipe(concepts=[Concept("dog", "fox", kind)], preserve=[fits + "cat"]))


def test_the_presets_of_the_paper_pass(clip):
    for path in sorted((PRESETS / "paper").glob("*.json")):
        text.check(clip, Recipe.from_json(path.read_text(encoding="utf-8")))
