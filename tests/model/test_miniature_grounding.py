"""Tokens that are left out, the grounding loss, and contexts that are remembered."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mace_studio.miniature import diffusion, grounding, latents, tokenizer, world
from mace_studio.miniature.grounding import Hidden
from mace_studio.miniature.latents import Batch

T = 6


def batch(own, end, told=True, side=16, number=1):
    """A mask over the left half; `own` are positions of the concept."""
    mask = torch.zeros(number, side, side)
    mask[:, :, : side // 2] = 1
    own_NT = torch.zeros(number, T, dtype=torch.bool)
    own_NT[:, list(own)] = True
    return Batch(
        latent_NCHW=torch.zeros(number, 8, side, side),
        context_NTD=torch.zeros(number, T, 4),
        own_NT=own_NT,
        end_N=torch.full((number,), end),
        mask_NHW=mask,
        told_N=torch.full((number,), told),
    )


def attention(left, right, side=16):
    """Maps of two heads that look at the six tokens as said in the left half and in the right one."""
    rows = torch.tensor([left] * (side // 2) + [right] * (side // 2))
    return rows.repeat(side, 1)[None, None].expand(1, 2, -1, -1)


def test_grounding_by_hand():
    one, sees = batch([2], 4), torch.ones(1, T)
    # All of the concept's attention, 0.7 of each pixel, lies in the mask, and little is left for end and padding.
    good = attention([0.2, 0, 0.7, 0, 0.05, 0.05], [0.9, 0, 0, 0, 0.05, 0.05])
    assert grounding.loss([good], one, sees, torch.ones(1)).item() == pytest.approx(0, abs=1e-6)
    # 0.2 everywhere: half of it outside (.5^2), .4 too little inside (2 * .4^2), padding .35 (2 * .2^2).
    even = attention([0.45, 0, 0.2, 0, 0.2, 0.15], [0.45, 0, 0.2, 0, 0.2, 0.15])
    assert grounding.loss([even], one, sees, torch.ones(1)).item() == pytest.approx(0.25 + 0.32 + 0.08, rel=1e-4)
    assert grounding.contrast([even], one).item() == pytest.approx(1)
    twice = attention([0.5, 0, 0.4, 0, 0.1, 0], [0.7, 0, 0.2, 0, 0.1, 0])
    assert grounding.contrast([twice], one).item() == pytest.approx(2)


def test_grounding_takes_the_mean_over_layers_and_leaves_coarse_ones_out():
    one, sees = batch([2], 4), torch.ones(1, T)
    even = [0.45, 0, 0.2, 0, 0.2, 0.15]
    maps = [attention(even, even), attention(even, even, 8), attention([1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], 4)]
    assert grounding.loss(maps, one, sees, torch.ones(1)).item() == pytest.approx(0.65, rel=1e-4)


def test_nothing_is_asked_of_captions_without_a_concept_or_with_a_hidden_one():
    even = attention([0.45, 0, 0.2, 0, 0.2, 0.15], [0.45, 0, 0.2, 0, 0.2, 0.15])
    assert grounding.loss([even], batch([], 4), torch.ones(1, T), torch.ones(1)).item() == 0
    hidden = torch.tensor([[1, 1, 0, 1, 1, 1.0]])
    assert grounding.loss([even], batch([2], 4), hidden, torch.ones(1)).item() == 0


def test_what_is_left_out():
    many = batch([2], 4, number=4000)
    seen = grounding.seen(many, Hidden(), torch.Generator().manual_seed(0))
    words_only = torch.tensor([1, 1, 1, 1, 0, 0.0])
    without = torch.tensor([1, 1, 0, 1, 1, 1.0])
    shares = [(seen == row).all(dim=1).float().mean().item() for row in (words_only, without, torch.ones(T))]
    assert shares == pytest.approx([0.5, 0.1, 0.4], abs=0.032)  # four standard deviations of 4000
    assert sum(shares) == pytest.approx(1)
    untold = batch([], 1, told=False, number=50)
    assert grounding.seen(untold, Hidden(), torch.Generator().manual_seed(0)).all()
    never = grounding.seen(many, Hidden(only_words=0.0, without_concept=0.0), torch.Generator().manual_seed(0))
    assert never.all()


def test_foreign_ends():
    many = batch([2], 4, number=4000)
    many = replace(many, context_NTD=torch.randn(4000, T, 3))
    assert torch.equal(grounding.foreign_ends(many, Hidden(), torch.Generator().manual_seed(0)), many.context_NTD)
    given = grounding.foreign_ends(many, Hidden(foreign_end=0.3), torch.Generator().manual_seed(0))
    changed = (given != many.context_NTD).any(dim=2)
    assert not changed[:, :4].any(), "the words stay"
    assert changed[:, 4:].float().mean().item() == pytest.approx(0.3, abs=0.029)  # four standard deviations of 4000
    row = changed[:, 4].nonzero()[0].item()
    assert torch.equal(given[row, 4], many.context_NTD[row - 1, -1]) and torch.equal(given[row, 5], given[row, 4])


def test_listening_changes_nothing_but_what_is_heard():
    unet = diffusion.build_unet(24).eval()
    noisy, context = torch.randn(2, 8, 16, 16), torch.randn(2, T, 24)
    seen = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 0, 1, 1, 1.0]])
    with torch.no_grad():
        usual = unet(noisy, 5, context, encoder_attention_mask=seen).sample
        with grounding.listening(unet) as ear:
            heard = unet(noisy, 5, context, encoder_attention_mask=seen).sample
        again = unet(noisy, 5, context, encoder_attention_mask=seen).sample
    torch.testing.assert_close(heard, usual, atol=1e-5, rtol=1e-4)
    assert torch.equal(again, usual)
    assert {m.shape[1:] for m in ear.maps} == {(4, 256, T), (4, 64, T), (4, 16, T)}
    for map_NHQT in ear.maps:
        torch.testing.assert_close(map_NHQT.sum(dim=-1), torch.ones(map_NHQT.shape[:-1]))
        assert map_NHQT[0, ..., 4:].max() < 1e-6 and map_NHQT[1, ..., 2].max() < 1e-6


def test_a_unet_for_another_width_keeps_everything_but_its_keys_and_values():
    unet = diffusion.build_unet(24, seed=3)
    assert diffusion.fitted(unet, 24) is unet
    wider = diffusion.fitted(unet, 40)
    before, after = unet.state_dict(), wider.state_dict()
    fresh = {name for name in after if "attn2.to_k" in name or "attn2.to_v" in name}
    assert all(torch.equal(after[name], before[name]) for name in after if name not in fresh)
    assert {name for name in after if after[name].shape != before[name].shape} == fresh
    assert all(after[name].shape[1] == 40 for name in fresh)


def test_of_a_pair_one_thing_is_told_with_its_half_of_the_mask():
    pair = next(s for s in world.samples(400, 0) if len(s.concepts) == 2)
    (left, mask_left), (right, mask_right) = latents.told(pair, 0), latents.told(pair, 1)
    assert (left, right) == pair.words
    assert np.array_equal(mask_left | mask_right, pair.mask_HW)
    assert not mask_left[:, 32:].any() and not mask_right[:, :32].any()
    alone = next(s for s in world.samples(40, 0) if len(s.concepts) == 1 and s.words[0])
    assert latents.told(alone, 1)[0] == alone.words[0]
    assert latents.told(next(s for s in world.samples(400, 0) if not s.concepts), 0)[0] == ""


def test_contexts_are_made_once():
    asked = []

    def text(ids):
        asked.append(ids.tolist())
        return (ids[..., None].float() * torch.tensor([1.0, 2.0]),)

    text.config, text.device = SimpleNamespace(hidden_size=2), torch.device("cpu")
    contexts = latents.Contexts(text, torch.tensor([[1, 2], [3, 4], [5, 6]], dtype=torch.int16))
    first = contexts.of(torch.tensor([2, 0, 2]))
    assert first.tolist() == [[[5, 10], [6, 12]], [[1, 2], [2, 4]], [[5, 10], [6, 12]]]
    assert torch.equal(contexts.of(torch.tensor([0, 2])), first[1:])
    assert asked == [[[1, 2], [5, 6]]]


def test_drawn_samples_lose_their_caption_now_and_then():
    words = tokenizer.build()
    ids = latents.tokens(words, ["a photo of the cat", ""]).short()
    own = torch.zeros(3, 32, dtype=torch.bool)
    own[:, 5] = True
    data = latents.Latents(
        latent_NCHW=torch.zeros(3, 8, 16, 16).half(), mask_NHW=torch.full((3, 16, 16), 255, dtype=torch.uint8),
        own_NT=own, caption_N=torch.zeros(3, dtype=torch.int32), ids_KT=ids,
    )  # fmt: skip
    contexts = SimpleNamespace(of=lambda caption_N: caption_N[:, None, None].expand(-1, 32, 4).float())
    for empty in (0.0, 1.0):
        drawn = data.draw(contexts, 5, empty, torch.Generator().manual_seed(0))
        assert drawn.told_N.all() == (empty == 0.0)
        assert drawn.context_NTD.unique().tolist() == [empty]  # the caption 0, or the last, which is 1
        assert drawn.end_N.tolist() == [6 if empty == 0 else 1] * 5  # start a photo of the cat, end
        assert drawn.own_NT.any(dim=1).all() == (empty == 0)
        assert drawn.mask_NHW.unique().tolist() == [1]
