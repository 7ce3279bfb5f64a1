"""One step of each trained method on a small UNet: loss and gradients against the equation, written out."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch

from mace_studio.methods import concept_ablation, esd, forget_me_not, selective_amnesia
from mace_studio.sd import attention_hooks
from tests import families

TOKENS = 7


@pytest.fixture(scope="module")
def parts():
    """A UNet of random weights, noisy latents, a timestep, and the contexts of three prompts."""
    torch.manual_seed(0)
    unet = families.unet(32).eval()
    latents = {name: torch.randn(2, 4, 8, 8) for name in ("x", "noise", "other", "other_noise")}
    contexts = {name: torch.randn(2, TOKENS, 32) for name in ("null", "concept", "anchor")}
    return SimpleNamespace(unet=unet, timestep=torch.tensor([300, 700]), **latents, **contexts)


def predict(unet, parts, context, x=None):
    return unet(parts.x if x is None else x, parts.timestep, context).sample


def gradients(value, unet):
    """Of every parameter that has an influence."""
    names, tensors = zip(*unet.named_parameters(), strict=True)
    found = torch.autograd.grad(value, tensors, allow_unused=True)
    return {name: gradient for name, gradient in zip(names, found, strict=True) if gradient is not None}


def assert_same(found, expected, unet, tolerance=1e-5):
    assert found.item() == pytest.approx(expected.item(), rel=tolerance)
    first, second = gradients(found, unet), gradients(expected, unet)
    assert first.keys() == second.keys() and first
    largest = max(gradient.abs().max() for gradient in second.values())
    for name, gradient in second.items():
        assert (first[name] - gradient).abs().max() <= tolerance * largest, name


@pytest.mark.parametrize(("eta", "form"), [(1.0, "old"), (2.0, "new")])
def test_a_step_of_esd(parts, eta, form):
    frozen = copy.deepcopy(parts.unet)
    with torch.no_grad():
        for parameter in frozen.parameters():
            parameter.mul_(1.05)  # so that the student is not the base
        null, concept = (predict(frozen, parts, c) for c in (parts.null, parts.concept))
    found = esd.loss(predict(parts.unet, parts, parts.concept), esd.target(null, concept, eta, form))
    # with the published strength both forms mean 2 e(n) - e(c)
    student = predict(parts.unet, parts, parts.concept)
    expected = ((student - 2 * null + concept) ** 2).sum() / student.numel()
    assert_same(found, expected, parts.unet)


@pytest.mark.parametrize(("form", "prior"), [("compvis", 0.0), ("compvis", 0.2), ("diffusers", 1.0)])
def test_a_step_of_concept_ablation(parts, form, prior):
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, :, 1:7, 1:7], mask[1, :, :4] = 1, 1
    concept, anchor = (predict(parts.unet, parts, c) for c in (parts.concept, parts.anchor))
    found = concept_ablation.loss(concept, anchor, mask, noise_BCHW=parts.noise, prior_weight=prior, form=form)
    concept, anchor = (predict(parts.unet, parts, c) for c in (parts.concept, parts.anchor))
    difference = concept - anchor.detach()
    expected = ((difference[0, :, 1:7, 1:7] ** 2).sum() / 36 + (difference[1, :, :4] ** 2).sum() / 32) / 2
    rest = (anchor - parts.noise) ** 2
    expected = expected + prior * (rest.sum() / (2 * 64) if form == "compvis" else rest.mean())
    assert_same(found, expected, parts.unet)


def test_a_step_of_forget_me_not(parts):
    positions = [2, 3, 6]
    layers = attention_hooks.of_forward(parts.unet, lambda: predict(parts.unet, parts, parts.concept))
    found = forget_me_not.loss(layers, positions)

    projected = {}
    handles = [
        module.register_forward_hook(lambda _, inputs, output, name=name: projected.__setitem__(name, output))
        for name, module in parts.unet.named_modules()
        if name.endswith(("attn2.to_q", "attn2.to_k"))
    ]
    predict(parts.unet, parts, parts.concept)
    for handle in handles:
        handle.remove()
    total = 0
    for name in [name for name in projected if name.endswith("to_q")]:
        heads = parts.unet.get_submodule(name.removesuffix(".to_q")).heads
        queries, keys = projected[name], projected[name.replace("to_q", "to_k")]
        for query, key in zip(queries.chunk(heads, dim=-1), keys.chunk(heads, dim=-1), strict=True):
            scores = torch.einsum("bqc,btc->bqt", query, key) / math.sqrt(query.shape[-1])
            total = total + (scores.softmax(dim=-1)[:, :, positions] ** 2).sum()
    assert_same(found, total.sqrt(), parts.unet)


def test_a_step_of_selective_amnesia(parts):
    unet = parts.unet
    start = {name: parameter.detach() * 0.9 for name, parameter in unet.named_parameters()}
    weights = {name: parameter.detach().abs() for name, parameter in unet.named_parameters()}
    found = selective_amnesia.loss(
        predict(unet, parts, parts.concept), parts.noise, predict(unet, parts, parts.anchor, parts.other),
        parts.other_noise, dict(unet.named_parameters()), start, weights, replay_weight=0.5, fisher_weight=2.0,
    )  # fmt: skip
    forget = (parts.noise - predict(unet, parts, parts.concept)) ** 2
    replay = (parts.other_noise - predict(unet, parts, parts.anchor, parts.other)) ** 2
    expected = forget.mean() + 0.5 * replay.mean()
    for name, parameter in unet.named_parameters():
        expected = expected + 2 * (weights[name] * (parameter - start[name]) ** 2).sum()
    assert_same(found, expected, unet)


def test_the_fisher_information_of_a_unet(parts):
    unet, chosen = parts.unet, "conv_out.weight"

    def losses():
        for sample in range(2):
            yield (
                (predict(unet, parts, context)[sample] - parts.noise[sample]).square().mean()
                for context in (parts.concept, parts.anchor)
            )

    found = selective_amnesia.fisher(losses(), {chosen: unet.get_parameter(chosen)}, stride=3)[chosen]
    expected = 0
    for sample in losses():
        (gradient,) = torch.autograd.grad(sum(sample), [unet.get_parameter(chosen)])
        expected = expected + 9 * gradient**2 / 2
    assert torch.allclose(found, expected, rtol=1e-4, atol=0)


def names(unet, select):
    return set(esd.parameters(unet, select))


def test_what_esd_trains(parts):
    every = {name for name, _ in parts.unet.named_parameters()}
    cross = {name for name in every if ".attn2." in name}
    assert names(parts.unet, "x") == cross
    strict = names(parts.unet, "x-strict")
    assert {name.split("attn2.")[1] for name in strict} == {"to_k.weight", "to_v.weight"} and len(strict) == 2 * 4
    skipped = {name for name in every if name.split(".")[0] in ("time_embedding", "conv_norm_out", "conv_out")}
    assert len(skipped) == 4 + 2 + 2
    assert names(parts.unet, "u") == every - cross - skipped


def test_what_the_new_code_of_esd_trains(parts):
    new = names(parts.unet, "u-new")
    assert {"time_embedding.linear_1.weight", "conv_in.bias", "conv_out.weight"} <= new
    assert not [name for name in new if "attn2" in name or "norm" in name.split(".")[-2]]
    every = {name for name, _ in parts.unet.named_parameters()}
    assert all("norm" in name.split(".")[-2] for name in every - new - names(parts.unet, "x"))


def test_an_unknown_selection_is_refused(parts):
    with pytest.raises(ValueError, match="everything"):
        esd.parameters(parts.unet, "everything")
