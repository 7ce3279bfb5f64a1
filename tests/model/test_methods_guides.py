"""The methods that act while images are generated, against loops written out here."""

import logging

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from mace_studio import erasure as erasures
from mace_studio.analysis import attention
from mace_studio.errors import FileError
from mace_studio.exports.export import export
from mace_studio.exports.formats import ExportRequest
from mace_studio.methods import METHODS, sld
from mace_studio.recipe import Concept, ImageRequest, Recipe
from mace_studio.sd import attention_hooks
from tests.steps import untouched

GUIDES = ("sld", "adavd")
PROMPT = "a photo of a cat"
# So that it acts at once and everywhere where the two predictions differ in one direction.
STRONG = {"sld": {"warmup": 1, "threshold": 1.0, "safety_scale": 5000.0}, "adavd": {"token_sim": False}}


def erasure_of(model, name, **settings):
    recipe = Recipe(concepts=[Concept("cat", "forest"), Concept("ship", "ground")], method=name)
    return METHODS[name].erase(model, recipe.with_settings(**STRONG[name] | settings))


@pytest.fixture
def small(models):
    return models["sd1"]


def latents_of(model, steps=3, guidance=5.0, seed=0):
    return model.pipeline(
        PROMPT,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
    ).images


@pytest.fixture
def ddim(small, monkeypatch):
    """The small model with a scheduler of plain steps."""
    scheduler = DDIMScheduler.from_config(small.pipeline.scheduler.config, clip_sample=False)
    monkeypatch.setattr(small.pipeline, "scheduler", scheduler)
    return small


@torch.no_grad()
def written_out(model, predict, steps=3):
    """x after each timestep of DDIM from the pipeline's own noise; `predict` gives the guided noise."""
    scheduler = DDIMScheduler.from_config(model.pipeline.scheduler.config)
    scheduler.set_timesteps(steps)
    x, abar = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0)), scheduler.alphas_cumprod
    for i, t in enumerate(scheduler.timesteps):
        eps, below = predict(x, t, i), t - 1000 // steps
        clean = (x - (1 - abar[t]).sqrt() * eps) / abar[t].sqrt()
        after = abar[below] if below >= 0 else scheduler.final_alpha_cumprod
        x = after.sqrt() * clean + (1 - after).sqrt() * eps
    return x


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_acts_inside_the_block_and_leaves_the_model(small, name):
    before = latents_of(small)
    erasure = erasure_of(small, name)
    assert erasure.weights == {}
    with untouched(small):
        with erasure.applied(small):
            after = latents_of(small)
        assert not torch.equal(before, after) and torch.isfinite(after).all()
        assert torch.equal(latents_of(small), before)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_three_steps_of_sld_are_the_equations(ddim, momentum):
    erasure = erasure_of(ddim, "sld", momentum_scale=momentum, guidance=6.0, safety_scale=100.0)
    with erasure.applied(ddim):
        found = [latents_of(ddim), latents_of(ddim)]  # the momentum of a run does not reach the next one
    context = ddim.pipeline.encode_prompt(["", PROMPT, "cat, ship"], ddim.device, 1, False)[0]
    nu = torch.zeros(1, 4, 8, 8)

    def predict(x, t, step):
        nonlocal nu
        null, prompt, safety = (ddim.unet(x, t, context[row : row + 1]).sample for row in range(3))
        scale = torch.where(prompt - safety >= 1.0, 0, (100 * (prompt - safety).abs()).clamp(max=1))
        away = scale * (safety - null) + momentum * nu
        nu = 0.4 * nu + 0.6 * away
        return null + 6.0 * (prompt - null - (away if step >= 1 else 0))

    expected = written_out(ddim, predict)
    assert all(torch.allclose(latents, expected, atol=1e-4) for latents in found)


@pytest.mark.parametrize("token_sim", [False, True])
def test_three_steps_of_adavd_are_the_equations(ddim, token_sim):
    settings = {"token_sim": token_sim, "threshold": 0.2, "steepness": 5.0}
    with erasure_of(ddim, "adavd", **settings).applied(ddim):
        found = latents_of(ddim)
    context = ddim.pipeline.encode_prompt(["", PROMPT], ddim.device, 1, False)[0]
    targets = ddim.pipeline.encode_prompt(["cat", "ship"], ddim.device, 1, False)[0][:, 1]  # one token each

    def hook(module, args, values):
        first, second = targets @ module.weight.T
        unit = first / first.norm()
        other = second - (second @ unit) * unit
        out = values.clone()
        for target, axis in ((first, unit), (second, other / other.norm())):
            cosine = torch.cosine_similarity(values, target.expand_as(values), dim=-1)
            share = 2 / (1 + torch.exp(-5 * (cosine - 0.2))) if token_sim else torch.ones_like(cosine)
            out = out - (share * (values @ axis))[..., None] * axis
        out[:, 0] = values[:, 0]
        return out

    layers = [module for name, module in ddim.unet.named_modules() if name.endswith("attn2.to_v")]
    handles = [layer.register_forward_hook(hook) for layer in layers]

    def predict(x, t, step):
        null, prompt = (ddim.unet(x, t, context[row : row + 1]).sample for row in range(2))
        return null + 5.0 * (prompt - null)

    expected = written_out(ddim, predict)
    for handle in handles:
        handle.remove()
    assert torch.allclose(found, expected, atol=1e-4)


def test_three_steps_of_adavd_jointly_are_the_equations(ddim):
    recipe = Recipe(concepts=[Concept("cat", "forest")], method="adavd")
    recipe = recipe.with_settings(jointly=True, threshold=0.2, steepness=5.0)
    with METHODS["adavd"].erase(ddim, recipe).applied(ddim):
        found = latents_of(ddim)
    context = ddim.pipeline.encode_prompt(["", PROMPT, "cat"], ddim.device, 1, False)[0]
    empty, cat = context[0], context[2, 1]

    def hook(module, args, values):
        both = torch.cat([values[0], values[1]], dim=-1)
        target = torch.cat([empty @ module.weight.T, (cat @ module.weight.T).expand(len(empty), -1)], dim=-1)
        cosine = torch.cosine_similarity(both, target, dim=-1)
        share = 2 / (1 + torch.exp(-5 * (cosine - 0.2))) * (both * target).sum(dim=-1) / target.square().sum(dim=-1)
        share[0] = 0
        return torch.stack((both - share[:, None] * target).chunk(2, dim=-1))

    layers = [module for name, module in ddim.unet.named_modules() if name.endswith("attn2.to_v")]
    handles = [layer.register_forward_hook(hook) for layer in layers]

    def predict(x, t, step):
        null, prompt = ddim.unet(x.expand(2, -1, -1, -1), t, context[:2]).sample.split(1)
        return null + 5.0 * (prompt - null)

    expected = written_out(ddim, predict)
    for handle in handles:
        handle.remove()
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "nothing"), [("sld", {"warmup": 99}), ("sld", {"safety_scale": 0.0}), ("adavd", {"scale": 0.0})]
)
def test_without_strength_the_image_is_that_of_the_model(small, name, nothing):
    same = {"guidance": 5.0} if name == "sld" else {"token_sim": True}
    with erasure_of(small, name, **nothing, **same).applied(small):
        found = latents_of(small, guidance=5.0)
    # SLD writes e_p anew from its own sum, so the last digits may differ; AdaVD takes out exactly nothing.
    assert torch.allclose(found, latents_of(small), atol=1e-5 if name == "sld" else 0)


def test_a_timestep_that_comes_twice_is_two_steps_of_one_run():
    run, counted = sld._Run(), []
    for timestep in (981, 961, 961, 941, 981, 981):  # PNDM's second timestep, then two runs of one step
        run.begin(timestep, first=981)
        counted.append(run.step)
        run.step += 1
    assert counted == [0, 1, 2, 3, 0, 0]


def test_sld_says_that_it_does_nothing_without_guidance(small, models, caplog):
    with caplog.at_level(logging.WARNING), erasure_of(small, "sld").applied(small):
        found = latents_of(small, guidance=1.0)
    assert torch.equal(found, latents_of(small, guidance=1.0))
    assert [record.message for record in caplog.records if "SLD" in record.message] == [sld.UNGUIDED]
    assert erasure_of(models["lcm"], "sld").warnings == (sld.UNGUIDED,)


def test_sld_says_which_names_it_does_not_read(small):
    concepts = [Concept("cat" + " cat" * i, "forest") for i in range(20)]
    (warning,) = METHODS["sld"].erase(small, Recipe(concepts=concepts, method="sld")).warnings
    assert "longer than this model reads" in warning and "away from “cat cat" in warning and len(warning) < 400


@pytest.mark.parametrize("name", GUIDES)
def test_both_work_for_sdxl(models, name):
    model = models["sdxl"]
    with untouched(model):
        before = latents_of(model, steps=2)
        with erasure_of(model, name, **({"warmup": 0} if name == "sld" else {})).applied(model):
            after = latents_of(model, steps=2)
    assert torch.isfinite(after).all() and not torch.equal(before, after)


def test_the_attention_of_a_guided_image_is_that_of_its_own_forwards(small):
    calls = []
    with (
        erasure_of(small, "sld").applied(small),
        attention_hooks.attention(small.unet, lambda name, _: calls.append(name)),
    ):
        latents_of(small, steps=2)
    steps = small.pipeline.num_timesteps
    assert len(calls) == steps * len(set(calls))
    inspection = attention.inspect(
        small, ImageRequest((PROMPT,), (0,), steps=2, guidance=5.0), erasure_of(small, "sld")
    )
    assert np.isfinite(np.asarray(inspection.masses("after")[0].total))


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_is_saved_and_read_but_never_exported(small, name, tmp_path):
    erasure = erasure_of(small, name)
    erasure.save(tmp_path / "x.safetensors")
    back = erasures.load(tmp_path / "x.safetensors")
    assert back == erasure
    with pytest.raises(FileError, match="has no weights to write"):
        back.apply(small.pipeline)
    with pytest.raises(FileError, match="has no weights to write"):
        export(small, back, ExportRequest("unet", tmp_path / "out.safetensors"))
    other = erasure_of(small, name, **({"warmup": 2} if name == "sld" else {"scale": 1.0}))
    assert erasure.checksum() != other.checksum()  # by which images are kept
