from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from mace_studio.sd import lora, projections, text
from mace_studio.settings import LoraSettings
from tests.steps import cancelled

FAST = LoraSettings(steps=3, learning_rate=1e-3, rank=2, alpha=2.0)


def subject(model, phrase, masked=True):
    sentences = [f"a photo of the {phrase}", f"the {phrase} in the snow"]
    ids = text.ids(model, sentences)
    positions = [text.positions(model, row, phrase) + text.closing(row, model.length) for row in ids]
    channels, size = model.unet.config.in_channels, model.unet.config.sample_size
    latents = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(len(phrase)))
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[: size // 2] = True
    return lora.Subject(
        phrase=phrase,
        latents_NCHW=latents,
        masks=[mask if masked else None] * 2,
        context_MTD=text.embed(model, sentences),
        positions=positions,
        seed=0,
    )


def test_each_sample_of_a_batch_goes_through_its_own_lora():
    """Three LoRAs in one forward against W x + (alpha / rank) B A x by hand, their gradients too."""
    torch.manual_seed(0)
    weight_PD, x_BTD = torch.randn(4, 5), torch.randn(3, 2, 5)
    pairs = [(torch.randn(4, 2), torch.randn(2, 5)) for _ in range(3)]
    names, module = ["a", "b", "c"], torch.nn.Sequential(torch.nn.Linear(5, 4, bias=False))
    module[0].weight.data.copy_(weight_PD)
    wrapped = get_peft_model(module, LoraConfig(r=2, lora_alpha=3.0, target_modules=["0"]), "a")
    for name, (up_PR, down_RD) in zip(names, pairs, strict=True):
        if name != "a":
            wrapped.add_adapter(name, LoraConfig(r=2, lora_alpha=3.0, target_modules=["0"]))
        module[0].lora_B[name].weight.data.copy_(up_PR)
        module[0].lora_A[name].weight.data.copy_(down_RD)
        module[0].lora_B[name].weight.requires_grad_()
    with lora.each_its_own([module[0]], names):
        out_BTP = module(x_BTD)
    out_BTP.square().sum().backward()
    for name, (up_PR, down_RD), x_TD, out_TP in zip(names, pairs, x_BTD, out_BTP, strict=True):
        expected_TP = x_TD @ (weight_PD + 1.5 * up_PR @ down_RD).T
        torch.testing.assert_close(out_TP, expected_TP)
        gradient_PR = 2 * expected_TP.T @ (1.5 * x_TD @ down_RD.T)
        torch.testing.assert_close(module[0].lora_B[name].weight.grad, gradient_PR)
    assert not module[0]._forward_pre_hooks


def test_together_is_the_same_as_one_after_another(model, unchanged):
    subjects = [subject(model, "cat"), subject(model, "ship", masked=False), subject(model, "Ada Finch")]
    seen = []
    together = lora.train(model, subjects, FAST, progress=seen.append)
    for i, alone in enumerate(subjects):
        steps = []
        (delta,) = lora.train(model, [alone], FAST, progress=steps.append)
        assert [s.loss for s in steps] == pytest.approx([s.loss for s in seen[i::3]], rel=1e-5)
        for key, (up_PR, down_RD) in delta.pairs.items():
            torch.testing.assert_close(together[i].pairs[key][0], up_PR, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(together[i].pairs[key][1], down_RD, atol=1e-5, rtol=1e-4)


def test_steps_come_in_order_and_carry_the_losses_of_the_delta(model, unchanged):
    seen = []
    deltas = lora.train(model, [subject(model, "cat"), subject(model, "dog")], FAST, seen.append)
    assert [(p.stage, p.concept) for p in seen] == [("lora", "cat"), ("lora", "dog")] * 3
    assert [(p.step, p.total) for p in seen] == [(i, 6) for i in range(1, 7)]
    assert [d.losses for d in deltas] == [tuple(p.loss for p in seen[i::2]) for i in (0, 1)]


def test_training_lowers_the_attention_that_it_is_trained_on(model, unchanged):
    one = subject(model, "cat")
    seen = []
    _ = lora.train(model, [one], replace(FAST, steps=40, learning_rate=3e-3), progress=seen.append)
    losses = [s.loss for s in seen]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_the_value_projection_of_the_last_layer_gets_no_gradient_and_every_other_one_does(model, unchanged):
    (delta,) = lora.train(model, [subject(model, "cat")], FAST)
    still = [key for key, (up_PR, _) in delta.pairs.items() if not up_PR.any()]
    last = [n for n in projections.names(model.unet, "value") if n.startswith("up_blocks")][-1]
    assert still == [last + projections.WEIGHT]


@pytest.mark.parametrize("tune", ["key", "value", "both"])
def test_only_what_is_tuned_has_a_lora(model, unchanged, tune):
    (delta,) = lora.train(model, [subject(model, "cat")], replace(FAST, steps=1, tune=tune))
    assert list(delta.pairs) == [name + projections.WEIGHT for name in projections.names(model.unet, tune)]
    assert all(up.shape[1] == down.shape[0] == 2 for up, down in delta.pairs.values())


def test_alpha_over_rank_scales_the_lora(model, unchanged):
    """At the first step only `up` moves, by the learning rate whatever the scale (AdamW): the delta is linear in it."""
    one = [subject(model, "cat")]
    (small,) = lora.train(model, one, replace(FAST, steps=1, alpha=2.0))
    (large,) = lora.train(model, one, replace(FAST, steps=1, alpha=6.0))
    key = next(iter(small.pairs))
    torch.testing.assert_close(large.pairs[key][0], 3 * small.pairs[key][0], rtol=1e-3, atol=1e-7)


def test_the_start_and_the_draws_do_not_touch_the_global_generator(model, unchanged):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    lora.train(model, [subject(model, "cat")], FAST)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("at", [1, 3])
def test_cancelling_unwraps_the_model(model, unchanged, at):
    with cancelled(lambda p: p.step == at) as progress:
        lora.train(model, [subject(model, "cat"), subject(model, "dog")], FAST, progress)


def test_an_error_unwraps_the_model(model, unchanged):
    broken = replace(subject(model, "cat"), positions=[[10_000], [10_000]])
    with pytest.raises(IndexError):
        lora.train(model, [broken], FAST)
