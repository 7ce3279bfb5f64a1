import pytest
import torch

from mace_studio.errors import RecipeError
from mace_studio.sd import text


def test_embeddings_are_what_the_text_encoder_gives_the_unet(other):
    tokenizer = other.pipeline.tokenizer
    sentences = ["a cat", "Ada Finch walking in the snow"]
    ids = tokenizer(sentences, padding="max_length", max_length=24, return_tensors="pt").input_ids
    expected = other.pipeline.text_encoder(ids)[0]
    torch.testing.assert_close(text.embed(other, sentences), expected)
    assert text.embed(other, sentences).shape == (2, other.length, other.width)


def test_many_sentences_are_encoded_as_few_are(model):
    sentences = [f"a photo of {n}" for n in range(text.BATCH + 3)]
    together = text.embed(model, sentences)
    torch.testing.assert_close(together[-1:], text.embed(model, sentences[-1:]))


@pytest.mark.parametrize("which", ["model", "other"])
@pytest.mark.parametrize(
    "sentence, phrase",
    [
        ("a photo of Ada Finch", "ada finch"),
        ("Ada Finch and Ada Finch", "Ada Finch"),
        ("the xylophone, red", "xylophone"),
    ],
)
def test_positions_decode_to_the_phrase(which, sentence, phrase, request):
    model = request.getfixturevalue(which)
    ids = text.ids(model, [sentence])[0]
    found = text.positions(model, sentence, phrase)
    times = sentence.lower().count(phrase.lower())
    decoded = model.pipeline.tokenizer.decode([ids[p] for p in found]).strip()
    assert decoded == " ".join([phrase.lower()] * times)


def test_ids_end_at_the_first_end_token_whatever_the_padding(other, model):
    for m in (other, model):
        end = m.pipeline.tokenizer.eos_token_id
        ids = text.ids(m, ["a cat"])[0]
        assert ids[-1] == end and ids.count(end) == 1
        assert text.closing(ids, m.length) == list(range(len(ids) - 1, m.length))


def test_a_phrase_that_is_cut_off_is_said(other):
    sentence = "cat " * 40 + "dog"
    assert len(text.ids(other, [sentence])[0]) == other.length
    with pytest.raises(RecipeError, match="too long for this model, which reads 24 tokens"):
        text.positions(other, sentence, "dog")


def test_what_is_not_read_is_told(other):
    assert text.count(other, "a cat") == 4 and text.unread(other, "a cat") == ""
    fits, long = "cat " * 22, "cat " * 25 + "and a dog, smiling"
    assert text.count(other, fits) == other.length and text.unread(other, fits) == ""
    assert text.count(other, long) > other.length
    assert text.unread(other, long) == "cat cat cat and a dog, smiling"
