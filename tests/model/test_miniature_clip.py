"""The small CLIP: which tokens are exchanged, its two losses, and its folder."""

from random import Random

import pytest
import torch
from PIL import Image

from mace_studio.miniature import clip, latents, tokenizer, world
from mace_studio.miniature.spans import KINDS, Spans
from mace_studio.sd.judges import ZeroShotClip


@pytest.fixture(scope="module")
def words():
    return tokenizer.build()


@pytest.fixture(scope="module")
def spans(words):
    return Spans(words)


def test_own_tokens_are_those_of_the_phrase(words, spans):
    captions = ["a photo of the cat in the forest", "Ada Finch walking", "a man", "the sky", "a photo of the dog"]
    ids = latents.tokens(words, captions)
    own = spans.own(ids, ["cat", "Ada Finch", "man", "", "cat"])
    assert words.decode(ids[0][own[0]]).strip() == "cat"
    assert words.decode(ids[1][own[1]]).strip() == "ada finch"
    assert [row.sum().item() for row in own] == [1, len(words.tokenize("Ada Finch")), 1, 0, 0]
    assert own[2].nonzero().flatten().tolist() == [2]  # start, a, man


def test_a_concept_is_exchanged_for_one_of_its_kind_and_length(words, spans):
    captions = ["a photo of the cat in the forest", "a sketch of Ada Finch", "art inspired by Mosa Pixley", "the sky"]
    phrases = ["cat", "Ada Finch", "Mosa Pixley", ""]
    ids = latents.tokens(words, captions)
    own = spans.own(ids, phrases)
    seen = set()
    for seed in range(20):
        swapped, done = spans.swapped(ids, own, phrases, Random(seed))
        assert done.tolist() == [True, True, True, False]
        assert torch.equal(swapped[~own], ids[~own])
        assert (swapped[:3] != ids[:3]).any(dim=1).all()
        seen |= {words.decode(row[mask]).strip() for row, mask in zip(swapped[:3], own[:3], strict=True)}
    known = {phrase.lower() for kind in KINDS for phrase in kind}
    assert seen <= known
    assert len(seen) > 40
    assert torch.equal(ids, latents.tokens(words, captions))


def test_contrast_by_hand():
    # Images and texts agree in pairs; cosines 1 and 0, scale ln 3: three quarters on the right, both ways.
    eye = torch.eye(2)
    right = clip.contrast(3 * eye, eye, torch.tensor(3.0).log(), torch.eye(2))
    assert right.item() == pytest.approx(-torch.tensor(0.75).log().item())
    # All captions alike: every answer is right by a half, and the best is to be undecided.
    same = torch.ones(2, 2)
    undecided = clip.contrast(torch.ones(2, 2), torch.ones(2, 2), torch.tensor(5.0), same)
    assert undecided.item() == pytest.approx(torch.tensor(2.0).log().item())


def geometry(later, padding):
    """A caption of start, concept, word, end and one padding; the concept's change is (1, 0)."""
    change = torch.tensor([[0.0, 0.0], [1.0, 0.0], later, later, padding])[None]
    own = torch.tensor([[False, True, False, False, False]])
    return clip.geometry(torch.zeros(1, 5, 2), change, own, torch.tensor([3]))


def test_geometry_by_hand():
    good = geometry([0.2, 0.5], [0.2, 0.5])  # a cosine of .37 and a size of .54
    assert good.loss.item() == pytest.approx(0, abs=1e-9)
    assert (good.cosine, good.ratio) == pytest.approx((0.2 / 0.29**0.5, 0.29**0.5))
    along = geometry([0.6, 0.0], [0.2, 0.5])  # right in size, but along: .55 too much, for half of the positions
    assert along.loss.item() == pytest.approx(0.55**2 / 2, rel=1e-5)
    assert (along.cosine, along.padding_cosine) == pytest.approx((1, 0.2 / 0.29**0.5))
    across = geometry([0.0, 0.6], [0.2, 0.5])  # a cosine of 0 is .25 too little, which counts a fifth
    assert across.loss.item() == pytest.approx(0.2 * 0.25**2 / 2, rel=1e-5)
    large = geometry([0.4, 1.0], [0.2, 0.5])
    assert large.loss.item() == pytest.approx((1.16**0.5 - 0.8) ** 2 / 2, rel=1e-4)
    small = geometry([0.2, 0.5], [0.04, 0.1])
    assert small.loss.item() == pytest.approx((0.4 - 0.0116**0.5) ** 2 / 2, rel=1e-4)


def test_spread_and_directions_by_hand():
    corners_ND = torch.eye(4) + 7  # four corners about their middle: cosines of -1/3 in three directions
    alike_NN = torch.eye(4, dtype=torch.bool)
    assert clip.spread(corners_ND, alike_NN).item() == pytest.approx(1 / 9)
    assert clip.directions(corners_ND) == pytest.approx(3)
    line_ND = torch.arange(4.0)[:, None] * torch.ones(4)
    assert clip.spread(line_ND, alike_NN).item() == pytest.approx(1)
    assert clip.directions(line_ND) == pytest.approx(1)
    # Three of one concept and one of another: what is alike may point into one direction, and is not counted.
    pair_ND = torch.eye(2)[[0, 0, 0, 1]]
    assert clip.spread(pair_ND, pair_ND @ pair_ND.T > 0).item() == pytest.approx(1)


def test_a_caption_that_ends_with_its_concept_counts_by_its_end_and_padding():
    change = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.6, 0.0], [0.2, 0.5]])[None]
    found = clip.geometry(torch.zeros(1, 4, 2), change, torch.tensor([[False, True, False, False]]), torch.tensor([2]))
    assert (found.cosine, found.padding_cosine) == pytest.approx((1, 0.2 / 0.29**0.5))


def test_a_step_has_gradients_on_both_sides(words, spans):
    model = clip.build(words)
    clip.loss(model, words, spans, world.samples(8, 1), 1).backward()
    for part in (model.text_model, model.vision_model, model.text_projection, model.visual_projection):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())


def test_the_folder_is_a_clip_for_the_studio(words, tmp_path):
    clip.write(clip.build(words), tokenizer.build(), tmp_path / "clip")
    judge = ZeroShotClip(str(tmp_path / "clip"))
    images = [Image.fromarray(sample.image_HWC) for sample in world.samples(2, 0)]
    assert judge.probabilities(images, ["cat", "Ada Finch", "sky"]).sum(dim=1).tolist() == pytest.approx([1, 1])
    ids = latents.tokens(tokenizer.build(), ["a cat"])
    assert ids.shape == (1, 32)
