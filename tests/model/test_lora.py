from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, get_peft_model

from mace_studio.core import attention
from mace_studio.sd import attention_hooks, lora, projections, text
from mace_studio.sd import model as sd_model
from mace_studio.settings import LoraSettings
from tests import families
from tests.steps import cancelled

FAST = LoraSettings(steps=3, learning_rate=1e-4, rank=2, alpha=2.0)


def subject(model, phrase, masked=True):
    sentences = [f"a photo of the {phrase}", f"the {phrase} in the snow"]
    ids = text.ids(model, sentences)
    positions = [
        text.positions(model, sentence, phrase) + text.closing(row, model.length)
        for sentence, row in zip(sentences, ids, strict=True)
    ]
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


@contextmanager
def forwards_of(model):
    """What the UNet is given in each forward inside of the block: noisy latents, timesteps and contexts."""
    seen = []
    hook = model.unet.register_forward_pre_hook(lambda _, arguments: seen.append(arguments))
    yield seen
    hook.remove()


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
    one_BTP = module(x_BTD).detach()
    out_BTP.square().sum().backward()
    for name, (up_PR, down_RD), x_TD, out_TP in zip(names, pairs, x_BTD, out_BTP, strict=True):
        expected_TP = x_TD @ (weight_PD + 1.5 * up_PR @ down_RD).T
        torch.testing.assert_close(out_TP, expected_TP)
        gradient_PR = 2 * expected_TP.T @ (1.5 * x_TD @ down_RD.T)
        torch.testing.assert_close(module[0].lora_B[name].weight.grad, gradient_PR)
    up_PR, down_RD = pairs[0]  # after it every sample goes through peft's active LoRA again
    torch.testing.assert_close(one_BTP, x_BTD @ (weight_PD + 1.5 * up_PR @ down_RD).T)


def test_together_is_the_same_as_one_after_another(models):
    model = models["sd1"]
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


def test_a_lora_acts_where_it_is_asked_to(model, unchanged):
    """Its loss from the second step on is that of a context to which B A was added at these positions alone."""
    settings, own = replace(FAST, steps=2, learning_rate=1e-2, tune="key"), subject(model, "cat")
    own = replace(own, context_MTD=own.context_MTD[:1], positions=own.positions[:1], acts_at=[[5]])
    seen, pairs = [], {}

    def progress(event):
        if not seen:  # after the first step
            for name in projections.names(model.unet, "key"):
                layer = model.unet.get_submodule(name)
                parts = (layer.lora_B["concept0"].weight, layer.lora_A["concept0"].weight)
                pairs[name] = tuple(part.detach().clone() for part in parts)
        seen.append(event)

    with forwards_of(model) as forwards:
        lora.train(model, [own], settings, progress)
    first, second = forwards
    assert [len(part) for part in second] == [1, 1, 1] and not torch.equal(first[0], second[0])
    handles = []
    for name, (up_PR, down_RD) in pairs.items():

        def added(module, args, out_BTP, change_PD=up_PR @ down_RD):
            moved_BTP = out_BTP.clone()
            moved_BTP[:, 5] += args[0][:, 5] @ change_PD.T  # alpha is the rank
            return moved_BTP

        handles.append(model.unet.get_submodule(name).register_forward_hook(added))
    with torch.no_grad():
        layers = attention_hooks.of_forward(model.unet, lambda: model.unet(*second))
    for handle in handles:
        handle.remove()
    expected = attention.masked_loss([layer_BHQT[0] for layer_BHQT in layers], own.masks[0], own.positions[0])
    assert seen[1].loss == pytest.approx(expected.item(), rel=1e-4)
    everywhere = []
    lora.train(model, [replace(own, acts_at=None)], settings, progress=everywhere.append)
    assert everywhere[0].loss == seen[0].loss and abs(everywhere[1].loss - seen[1].loss) > 1e-5


@pytest.mark.parametrize("rank", [1, 4])
def test_a_lora_starts_with_a_normal_down_of_one_over_the_rank_and_no_up(model, unchanged, rank):
    still = LoraSettings(rank=rank, steps=1, learning_rate=0.0)
    (start,) = lora.train(model, [subject(model, "cat")], still)
    downs = torch.cat([down_RD.flatten() for _, down_RD in start.pairs.values()])
    assert not any(up_PR.any() for up_PR, _ in start.pairs.values())
    count = len(downs)
    assert count >= 14 * rank * model.width
    # Standard errors of a mean and of a standard deviation of n normal numbers: 1 / sqrt(n) and 1 / sqrt(2 n) of it.
    assert downs.mean().item() == pytest.approx(0, abs=4 / rank / count**0.5)
    assert downs.std().item() == pytest.approx(1 / rank, abs=4 / rank / (2 * count) ** 0.5)


def test_steps_come_in_order_and_carry_the_losses_of_the_delta(model, unchanged):
    seen = []
    deltas = lora.train(model, [subject(model, "cat"), subject(model, "dog")], FAST, seen.append)
    assert [(p.stage, p.concept) for p in seen] == [("lora", "cat"), ("lora", "dog")] * 3
    assert [(p.step, p.total) for p in seen] == [(i, 6) for i in range(1, 7)]
    assert [d.losses for d in deltas] == [tuple(p.loss for p in seen[i::2]) for i in (0, 1)]


def test_training_lowers_the_attention_that_it_is_trained_on(model, unchanged):
    one = subject(model, "cat")
    seen = []
    _ = lora.train(model, [one], replace(FAST, steps=20, learning_rate=6e-3), progress=seen.append)
    losses = [s.loss for s in seen]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


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


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory):
    """A random model with the widths of SD's first block, on latents of 8 x 8, stored in float16."""
    torch.manual_seed(0)
    tokens = families.tokenizer()
    denoiser = UNet2DConditionModel(
        sample_size=8, block_out_channels=(320,), layers_per_block=1, down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",), cross_attention_dim=768, attention_head_dim=8,
    )  # fmt: skip
    encoder = families.text_encoder(tokens, 768)
    pipeline = families.plain(StableDiffusionPipeline, tokens, encoder, denoiser, DDIMScheduler(**families.BETAS))
    folder = tmp_path_factory.mktemp("wide")
    pipeline.to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)
    return folder


def clipped(monkeypatch, train):
    """The gradients of each parameter, as they are when they are clipped in the first step."""
    seen, clip = [], torch.nn.utils.clip_grad_norm_

    def watched(group, norm):
        seen.append([None if p.grad is None else p.grad.clone() for p in group])
        return clip(group, norm)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", watched)
        train()
    return seen[0]


def gradients(loaded, monkeypatch):
    """What is clipped in the first step, as one vector."""
    own = clipped(monkeypatch, lambda: lora.train(loaded, [subject(loaded, "cat")], replace(FAST, steps=1)))
    return torch.cat([gradient.flatten() for gradient in own if gradient is not None])


def test_gradients_in_float16_are_those_of_float32(wide_folder, monkeypatch):
    exact = gradients(sd_model.load(str(wide_folder), "cpu", "float32"), monkeypatch)
    half = sd_model.load(str(wide_folder), "cpu", "float16")
    scaled = gradients(half, monkeypatch)
    assert scaled.dtype == torch.float32
    assert (scaled - exact).norm() < 0.02 * exact.norm()
    # What underflow does: gradients 1,024 times smaller, as larger maps and more tokens make them, are noise.
    monkeypatch.setattr(lora, "LOSS_SCALE", 2.0**-10)
    assert (gradients(half, monkeypatch) - exact).norm() > 0.5 * exact.norm()


def test_a_step_that_overflows_leaves_its_concept_as_it_is_and_halves_the_scale():
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([6.0, 8.0])
    assert lora.clip([parameter], 2.0) == 2.0
    assert parameter.grad.tolist() == pytest.approx([0.6, 0.8], abs=1e-5)  # (3, 4) has a norm of 5
    parameter.grad = torch.tensor([1.0, float("inf")])
    assert lora.clip([parameter], 2.0) == 1.0
    assert parameter.grad is None


def test_a_concept_whose_loss_is_flat_stops_and_the_other_trains_as_alone(model, monkeypatch):
    slow = replace(FAST, steps=5, learning_rate=1e-9)
    monkeypatch.setattr(lora, "WINDOW", 2)
    subjects = [replace(one, seed=34) for one in (subject(model, "cat"), subject(model, "dog", masked=False))]
    whole = lora.train(model, subjects, slow)
    # No window is 99 % below the one before, so both end after two windows, as if they had been asked for four steps.
    stopped = lora.train(model, subjects, replace(slow, flat=0.99))
    assert [len(delta.losses) for delta in stopped] == [4, 4]
    assert [delta.losses for delta in stopped] == [delta.losses[:4] for delta in whole]
    # By how much of itself the second window of each lies below its first; between the two one stops and one goes on.
    falls = [1 - sum(delta.losses[2:4]) / sum(delta.losses[:2]) for delta in whole]
    between, on = sum(falls) / 2, falls.index(max(falls))
    assert 0.02 < between < max(falls) - 0.02
    mixed = lora.train(model, subjects, replace(slow, flat=between))
    assert [len(delta.losses) for delta in mixed] == [5 if i == on else 4 for i in (0, 1)]
    assert mixed[on].losses == pytest.approx(whole[on].losses, rel=1e-4)
    for key, pair in mixed[on].pairs.items():
        for tensor, expected in zip(pair, whole[on].pairs[key], strict=True):
            assert torch.allclose(tensor, expected, rtol=1e-3, atol=1e-9)


def test_kept_samples_train_keys_without_the_unet_and_begin_as_a_forward_would(model, unchanged):
    asked = replace(FAST, steps=12, learning_rate=1e-3, tune="key")
    subjects = [subject(model, "cat"), subject(model, "dog", masked=False)]
    (first, _), (expected, _) = (
        [delta.losses for delta in lora.train(model, subjects, one)]
        for one in (replace(asked, kept_samples=1), replace(asked, steps=1))
    )
    assert first[0] == pytest.approx(expected[0], rel=1e-5)  # the same sample, by a LoRA that changes nothing yet
    forwards = []
    hook = model.unet.register_forward_pre_hook(lambda *_: forwards.append(1))
    deltas = lora.train(model, subjects, replace(asked, kept_samples=2))
    hook.remove()
    assert len(forwards) == 2
    (alone,) = lora.train(model, subjects[1:], replace(asked, kept_samples=2))
    for delta in deltas:
        assert len(delta.losses) == 12 and min(delta.losses[-4:]) < min(delta.losses[:4])
        assert all("to_k" in key and up_PR.any() for key, (up_PR, _) in delta.pairs.items())
    assert deltas[1].losses == pytest.approx(alone.losses, rel=1e-3)  # what trains beside it does not count


def test_a_kept_sample_has_the_gradient_of_its_layer_alone(model, monkeypatch):
    """Of one layer, with queries that nothing changes: the loss by hand, differentiated by torch."""
    settings, one = replace(FAST, steps=1, tune="key", kept_samples=1, learning_rate=0.0), subject(model, "cat")
    one = replace(one, context_MTD=one.context_MTD[:1], positions=one.positions[:1])
    name = "mid_block.attentions.0.transformer_blocks.0.attn2"
    layer = model.unet.get_submodule(name)
    seen = {}
    hooks = [  # what a hook returns would take the place of the output
        layer.to_q.register_forward_hook(lambda module, inputs, output: seen.update(query=output.detach())),
        layer.to_k.register_forward_hook(lambda module, inputs, output: seen.update(context=inputs[0].detach())),
    ]
    deltas = []
    with forwards_of(model) as forwards:
        own = clipped(monkeypatch, lambda: deltas.extend(lora.train(model, [one], settings)))
    for hook in hooks:
        hook.remove()
    assert len(forwards) == 1
    key = f"{name}.to_k.weight"
    found, (_, start_RD) = own[2 * list(deltas[0].pairs).index(key)], deltas[0].pairs[key]  # each up before its down
    with torch.no_grad():
        layers = attention_hooks.anew(model.unet, attention_hooks.read_by(model.unet, lambda: model.unet(*forwards[0])))
    for maps in layers:
        assert torch.allclose(maps.sum(dim=-1), torch.ones(()), atol=1e-5)
    up = torch.zeros_like(found, requires_grad=True)
    key = seen["context"] @ (layer.to_k.weight + settings.alpha / settings.rank * up @ start_RD).T
    maps_HQT = attention.probabilities(seen["query"], key, layer.heads, layer.scale)[0]
    expected = attention.masked_loss([maps_HQT], one.masks[0], one.positions[0])
    torch.testing.assert_close(found, torch.autograd.grad(expected, [up])[0], rtol=1e-4, atol=1e-7)
