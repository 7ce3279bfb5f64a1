from dataclasses import replace

import pytest
import torch

from mace_studio.recipe import LoraSettings
from mace_studio.sd import lora, projections, text
from tests.steps import finish

FAST = LoraSettings(steps=3, learning_rate=1e-4, rank=2, alpha=2.0)


def subject(model, phrase, masked=True):
    sentences = [f"a photo of the {phrase}", f"the {phrase} in the snow"]
    ids = text.ids(model, sentences)
    positions = [text.positions(model, row, phrase) + text.closing(row, model.length) for row in ids]
    channels, size = model.unet.config.in_channels, model.unet.config.sample_size
    latents = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(len(phrase)))
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[: size // 2] = True
    return lora.Subject(phrase, latents, [mask if masked else None] * 2, text.embed(model, sentences), positions, 0)


def test_together_is_the_same_as_one_after_another(model, unchanged):
    subjects = [subject(model, "cat"), subject(model, "ship", masked=False), subject(model, "Ada Finch")]
    together, seen = finish(lora.train(model, subjects, FAST))
    for i, alone in enumerate(subjects):
        (delta,), steps = finish(lora.train(model, [alone], FAST))
        assert [s.loss for s in steps] == pytest.approx([s.loss for s in seen if s.subject == i], rel=1e-5)
        for key, (up_PR, down_RD) in delta.pairs.items():
            torch.testing.assert_close(together[i].pairs[key][0], up_PR, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(together[i].pairs[key][1], down_RD, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rank", [1, 4])
def test_a_lora_starts_with_a_normal_down_of_one_over_the_rank_and_no_up(model, unchanged, rank):
    settings = LoraSettings(rank=rank)
    with lora._wrapped(model.unet, settings, [torch.Generator().manual_seed(0)]) as (adapter,):
        downs = torch.cat([down_RD.detach().flatten() for _, down_RD in adapter.values()])
        assert not any(up_PR.any() for up_PR, _ in adapter.values())
    count = len(downs)
    assert count >= 14 * rank * model.width
    # Standard errors of a mean and of a standard deviation of n normal numbers: 1 / sqrt(n) and 1 / sqrt(2 n) of it.
    assert downs.mean().item() == pytest.approx(0, abs=4 / rank / count**0.5)
    assert downs.std().item() == pytest.approx(1 / rank, abs=4 / rank / (2 * count) ** 0.5)


def test_steps_come_in_order_and_carry_the_losses_of_the_delta(model, unchanged):
    deltas, seen = finish(lora.train(model, [subject(model, "cat"), subject(model, "dog")], FAST))
    assert [(s.subject, s.number) for s in seen] == [(0, 1), (1, 1), (0, 2), (1, 2), (0, 3), (1, 3)]
    assert [d.losses for d in deltas] == [tuple(s.loss for s in seen if s.subject == i) for i in (0, 1)]


def test_training_lowers_the_attention_that_it_is_trained_on(model, unchanged):
    one = subject(model, "cat")
    _, seen = finish(lora.train(model, [one], replace(FAST, steps=40, learning_rate=3e-4)))
    losses = [s.loss for s in seen]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_the_value_projection_of_the_last_layer_gets_no_gradient_and_every_other_one_does(model, unchanged):
    (delta,), _ = finish(lora.train(model, [subject(model, "cat")], FAST))
    still = [key for key, (up_PR, _) in delta.pairs.items() if not up_PR.any()]
    last = [n for n in projections.names(model.unet, "value") if n.startswith("up_blocks")][-1]
    assert still == [last + projections.WEIGHT]


@pytest.mark.parametrize("tune", ["key", "value", "both"])
def test_only_what_is_tuned_has_a_lora(model, unchanged, tune):
    (delta,), _ = finish(lora.train(model, [subject(model, "cat")], replace(FAST, steps=1, tune=tune)))
    assert list(delta.pairs) == [name + projections.WEIGHT for name in projections.names(model.unet, tune)]
    assert all(up.shape[1] == down.shape[0] == 2 for up, down in delta.pairs.values())


def test_alpha_over_rank_scales_the_lora(model, unchanged):
    """At the first step only `up` moves, by the learning rate whatever the scale (AdamW): the delta is linear in it."""
    one = [subject(model, "cat")]
    (small,), _ = finish(lora.train(model, one, replace(FAST, steps=1, alpha=2.0)))
    (large,), _ = finish(lora.train(model, one, replace(FAST, steps=1, alpha=6.0)))
    key = next(iter(small.pairs))
    torch.testing.assert_close(large.pairs[key][0], 3 * small.pairs[key][0], rtol=1e-3, atol=1e-7)


def test_the_start_and_the_draws_do_not_touch_the_global_generator(model, unchanged):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    finish(lora.train(model, [subject(model, "cat")], FAST))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("at", [1, 3])
def test_leaving_early_unwraps_the_model(model, unchanged, at):
    steps = lora.train(model, [subject(model, "cat"), subject(model, "dog")], FAST)
    for _ in range(at):
        next(steps)
    steps.close()


def test_an_error_unwraps_the_model(model, unchanged):
    broken = replace(subject(model, "cat"), positions=[[10_000], [10_000]])
    with pytest.raises(IndexError):
        finish(lora.train(model, [broken], FAST))
