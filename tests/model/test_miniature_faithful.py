"""Whether the built-in model behaves as Stable Diffusion does: how it is counted."""

from random import Random

import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from mace_studio.miniature import autoencoder, clip, diffusion, faithful, folders, latents, tokenizer, world
from mace_studio.miniature.faithful import Finding
from mace_studio.miniature.spans import Spans
from mace_studio.miniature.vocabulary import PEOPLE, PEOPLE_TO_ERASE, SCENES


@pytest.fixture(scope="module")
def whole():
    words = tokenizer.build()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text = clip.build(words).text_model
    built = folders.pipeline(autoencoder.build(), text, diffusion.build_unet(320), words)
    assert isinstance(built.scheduler, DDIMScheduler)
    return built


def test_concepts_are_things_and_people_of_both_groups():
    things, people = faithful.concepts(10)
    assert (len(things), len(people)) == (10, 10)
    assert set(people) <= set(PEOPLE)
    assert 0 < len(set(people) & set(PEOPLE_TO_ERASE)) < 10


@pytest.mark.parametrize("concept", ["cat", "Ada Finch"])
@pytest.mark.parametrize("told", [True, False])
def test_a_concept_is_shown_with_and_without_words_after_it(concept, told):
    sample = world.shown(concept, Random(3), told)
    after = sample.caption.partition(concept)[2]
    assert after == (f" {SCENES[sample.scene]}" if told else "")
    assert sample.words == sample.concepts == (concept,)
    assert 0.05 < sample.mask_HW.mean() < 0.8
    assert sample.image_HWC.tobytes() == world.shown(concept, Random(3), told).image_HWC.tobytes()


def test_geometry_by_hand(whole, monkeypatch):
    """Two animals, a line: what the end token carries is half of it and turned by 60 degrees."""
    monkeypatch.setattr(faithful, "ANIMALS", ("cat", "dog"))
    ids_NT = latents.tokens(whole.tokenizer, ["a photo of the cat", "a photo of the dog"])
    cat, dog = ids_NT[0][5].item(), ids_NT[1][5].item()

    def encode(ids_NT):
        state_NTD = torch.zeros(*ids_NT.shape, 3)
        for row_T, state_TD in zip(ids_NT, state_NTD, strict=True):
            side = 1.0 if cat in row_T else -1.0 if dog in row_T else 0.0
            state_TD[:, 0], state_TD[:, 1] = side * 0.25, side * 0.25 * 3**0.5  # of length 0.5, 60 degrees away
            state_TD[(row_T == cat) | (row_T == dog)] = torch.tensor([side, 0.0, 0.0])
        return (state_NTD + torch.randn(state_NTD.shape, generator=torch.Generator().manual_seed(0)) * 1e-6,)

    monkeypatch.setattr(whole, "text_encoder", encode)
    end, word, people, things, artists = faithful.geometry(whole)
    assert end.value == word.value == "0.50 (0.50 to 0.50), 0.50" and end.count == 1
    assert (people.count, things.count, artists.count) == (200, 70, 40)
    assert things.value == "1" and things.held is False  # cat and dog lie on one line, all else on its middle


def test_own_word_counts_images_and_shares_of_attention(whole):
    found = list(faithful.own_word(whole, ["cat", "Ada Finch"], 2, "things"))
    assert [f.count for f in found] == [4] * 6
    assert [f.behaviour.rsplit(", ")[-1] for f in found] == ["words after it"] * 3 + ["no word after it"] * 3
    # A UNet that has learnt nothing looks everywhere alike: 1 of 32 tokens is the start, most are padding.
    assert found[0].held is False and found[0].value.startswith("0.0%")
    start, _, end, padding = (float(part.strip(" %")) for part in found[2].value.split(","))
    assert (start, end) == pytest.approx((100 / 32, 100 / 32), abs=1.5)
    assert padding > 50 and found[2].held is False


class Judge:
    """Says "cat" of every image."""

    def names(self, images, head):
        assert all(isinstance(image, Image.Image) for image in images) and head == "thing"
        return ["cat"] * len(images)


def test_residual_replaces_the_concept_s_own_tokens_by_the_last_end_token(whole, monkeypatch):
    asked = []

    def generate(self, prompt_embeds=None, **options):
        asked.append((prompt_embeds, [g.initial_seed() for g in options["generator"]]))
        return type("Output", (), {"images": [Image.new("RGB", (64, 64))] * len(prompt_embeds)})()

    monkeypatch.setattr(type(whole), "__call__", generate)
    found = list(faithful.residual(whole, Judge(), ["cat", "Ada Finch"], 2))
    assert [f.value.split()[0] for f in found] == ["50.0%", "50.0%"]
    assert [f.count for f in found] == [4, 4]
    assert (found[0].held, found[1].held) == (None, True)
    (before, seeds), (after, same) = asked
    assert seeds == same == [0, 1, 2, 3]
    changed = (before != after).any(dim=2)
    ids = latents.tokens(whole.tokenizer, ["a photo of the cat", "a photo of the cat in the forest"])
    own = Spans(whole.tokenizer).own(ids, ["cat"] * 2)
    assert torch.equal(changed[:2], own)
    assert torch.equal(after[0][own[0]], before[0][-1:])


def test_the_table_marks_what_held():
    rows = [
        Finding(behaviour="1", measured="a", value="1.0", count=3, wanted="b", held=True),
        Finding(behaviour="1", measured="c", value="2.0", count=4, wanted="d"),
    ]
    assert faithful.table(rows).splitlines()[2:] == ["| 1 | a | 1.0 | 3 | b | yes |", "| 1 | c | 2.0 | 4 | d |  |"]
