"""Each prompt of a run is encoded once, and a Gram that was computed is read from the cache."""

import logging
from dataclasses import replace

import pytest
import torch

from mace_studio import prompts
from mace_studio.methods.mace import MaceSettings, erase, refine
from mace_studio.recipe import Concept, Recipe
from mace_studio.sd import grams, text
from mace_studio.sd import model as sd_model
from mace_studio.sd.embeddings import Embeddings
from mace_studio.settings import ImageSettings, KeepWeights, LoraSettings

KEEP = KeepWeights(preserve=1.0, identity=10.0)
RECIPE = Recipe(
    concepts=(Concept("cat", "sky"), Concept("Ada Finch", "a person", "celebrity"), Concept("dog", "sky")),
    preserve=("ship", "Iris Finch"),
    settings=MaceSettings(
        refine=KEEP, fuse=KEEP, masks="none", lora=LoraSettings(steps=1), images=ImageSettings(per_concept=1, steps=1)
    ),
)
ONE = ["a photo of the cat", "a cat"]


@pytest.fixture
def encoded(monkeypatch):
    """All sentences that the text encoder is given, in order."""
    seen, real = [], text.encode

    def counting(model, sentences, *rest):
        seen.extend(sentences)
        return real(model, sentences, *rest)

    monkeypatch.setattr(text, "encode", counting)
    return seen


def test_a_run_encodes_every_prompt_once(model, unchanged, encoded, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "mace_studio"):
        first = erase.erase(model, RECIPE, cache=tmp_path)
    assert len(encoded) == len(set(encoded)) == prompts.count(RECIPE) == 30 * (3 + 2 + 2)
    encoded.clear()
    again = erase.erase(model, replace(RECIPE, concepts=RECIPE.concepts[::-1]), cache=tmp_path)
    assert len(encoded) == len(set(encoded)) == 30 * (3 + 2)  # what must stay is known
    for key, weight_PD in first.weights.items():
        torch.testing.assert_close(again.weights[key], weight_PD, atol=1e-4, rtol=1e-3)
    said = caplog.text
    assert "preserve: 60 sentences encoded" in said
    # five phrases encoded in the refinement, three of them asked for again by the LoRAs and by the fusion
    assert "150 encoded" in said and "180 used again from memory" in said


def test_another_preserve_list_has_another_gram(model, encoded, tmp_path):
    def gather(preserve):
        encoded.clear()
        sums = refine.gather(model, replace(RECIPE, preserve=preserve), tmp_path)
        return sums.preserve.gram_DD, len(encoded) - 150

    first_DD, count = gather(("ship",))
    assert count == 30
    other_DD, count = gather(("tree",))
    assert count == 30 and not torch.equal(first_DD, other_DD)
    same_DD, count = gather(("ship",))
    assert count == 0 and torch.equal(first_DD, same_DD)


def test_the_gram_of_the_cache_is_the_one_that_was_computed(model, tmp_path):
    computed = grams.cached(model, "preserve", ONE, tmp_path)
    read = grams.cached(model, "preserve", ONE, tmp_path)
    assert torch.equal(computed.gram_DD, read.gram_DD) and computed.count == read.count == 2 * model.length


def test_the_gram_of_the_general_captions_is_remembered(model, encoded, tmp_path):
    captions = tmp_path / "captions.txt"
    before = "a cat\na photo of the ship\nsomething else"
    captions.write_text(before)
    own, seen = replace(model, captions=captions), []
    grams.forget()
    first = grams.general(own, None, seen.append)
    assert len(encoded) == 3 and [event.step for event in seen] == [3]
    # Also by another run, with a cache, which has it afterwards.
    again = grams.general(replace(own), tmp_path, seen.append)
    assert len(encoded) == 3 and len(seen) == 1 and torch.equal(again.gram_DD, first.gram_DD)
    (kept,) = tmp_path.glob("general-*.safetensors")
    for cache in (tmp_path, None):  # read from the cache, and computed anew: the same bits
        grams.forget()
        assert torch.equal(grams.general(own, cache).gram_DD, first.gram_DD)
    assert len(encoded) == 6
    captions.write_text("a cat\na photo of the dog\nsomething else")
    assert not torch.equal(grams.general(own, None).gram_DD, first.gram_DD) and len(encoded) == 9
    half = sd_model.load(model.source, "cpu", "float16")
    other = grams.general(replace(half, captions=captions), None)
    assert half.fingerprint == model.fingerprint and len(encoded) == 12
    grams.general(own, None)
    assert len(encoded) == 12 and grams.REMEMBERED == 2
    assert not torch.equal(other.gram_DD, grams.general(own, None).gram_DD) and kept.is_file()
    captions.write_text(before)
    grams.general(own, None)
    assert len(encoded) == 15, "only the last two are remembered"


def test_without_loras_no_captions_are_read_for_the_fusion(model, encoded):
    asking = RECIPE.with_settings(lora=LoraSettings(steps=0), fuse=KeepWeights(general=1.0))
    assert refine.gather(model, asking, None).general is None
    assert len(encoded) == prompts.count(asking)


def test_s_is_the_gram_of_all_positions_of_the_concepts_prompts(model):
    sums = refine.gather(model, RECIPE, None)
    expected = grams.gram(model, [s for concept in RECIPE.concepts for s in prompts.about(concept)]).gram_DD
    torch.testing.assert_close(sums.all_DD, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_what_does_not_fit_is_encoded_again(model, encoded):
    embeddings = Embeddings(model, limit=2 * model.length * model.width * 4)
    first = embeddings.of(ONE)
    other = embeddings.of(["a dog"])
    assert embeddings.of(ONE) is first
    assert encoded == [*ONE, "a dog"]
    torch.testing.assert_close(embeddings.of(["a dog"]).context_NTD, other.context_NTD)
    assert encoded == [*ONE, "a dog", "a dog"]
    assert first.context_NTD.shape == (2, model.length, model.width) and first.pooled_NP is None


def test_refined_weights_are_not_rounded_to_half_precision(model):
    sums = refine.gather(model, RECIPE, None)
    for weight_PD in refine.weights(model, refine.solve(sums, KEEP)).values():
        assert weight_PD.dtype == torch.float32
