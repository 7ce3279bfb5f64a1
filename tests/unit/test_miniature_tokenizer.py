"""The built-in model's tokenizer."""

import pytest

from mace_studio.miniature import tokenizer, world
from mace_studio.miniature.vocabulary import ARTISTS, PEOPLE, THINGS, WEAPONS
from mace_studio.prompts import templates

TEMPLATES = {"object": THINGS, "celebrity": PEOPLE, "style": tuple(ARTISTS), "explicit": WEAPONS}


@pytest.fixture(scope="module")
def built():
    return tokenizer.build()


def test_every_word_of_the_world_is_one_token(built):
    for word in tokenizer.words():
        assert len(built.tokenize(word)) == 1, word


def test_every_word_of_a_name_is_one_token_or_two_and_no_two_names_are_alike(built):
    for name in (*PEOPLE, *ARTISTS):
        assert 2 < len(built.tokenize(name)) <= 4, name
    spelt = {tuple(built(name).input_ids) for name in (*PEOPLE, *ARTISTS)}
    assert len(spelt) == len(PEOPLE) + len(ARTISTS)


def test_captions_and_prompts_fit_and_know_no_case(built):
    longest = max(map(len, built([sample.caption for sample in world.samples(2000, 0)]).input_ids))
    prompts = [t.format(name) for kind, names in TEMPLATES.items() for t in templates(kind) for name in names]
    assert max(longest, *map(len, built(prompts).input_ids)) <= 24 < built.model_max_length
    assert built("A CAT by Lena Strich").input_ids == built("a cat by lena strich").input_ids


@pytest.mark.parametrize("text", ["xylophone", "zürich", "日本 🙂", "don't stop!", "r2-d2", "q", ""])
def test_any_text_can_be_spelt(built, text):
    ids = built(text).input_ids
    assert (ids[0], ids[-1]) == (built.bos_token_id, built.eos_token_id)
    assert built.unk_token_id not in ids[1:-1]
    assert built.decode(ids[1:-1]).replace(" ", "") == text.replace(" ", "")


def test_special_tokens_are_the_last_two(built):
    assert (built.bos_token_id, built.eos_token_id) == (len(built) - 2, len(built) - 1)
    assert built.pad_token_id == built.eos_token_id
    assert built.model_max_length == 32


def test_it_is_the_same_in_every_run(built, tmp_path):
    assert tokenizer.build().get_vocab() == built.get_vocab()
    built.save_pretrained(tmp_path)
    loaded = type(built).from_pretrained(tmp_path)
    assert loaded("a portrait of Ada Finch").input_ids == built("a portrait of Ada Finch").input_ids
