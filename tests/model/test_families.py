"""Every use case on every family of models, with small random pipelines of the real classes; see docs/models.md."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
)

from mace_studio import erasure
from mace_studio.analysis import attention
from mace_studio.analysis import compare as comparison
from mace_studio.errors import FileError, RecipeError
from mace_studio.methods.mace import MaceSettings, erase, preview
from mace_studio.methods.mace import refine as refinement
from mace_studio.recipe import Concept, ImageRequest, Recipe
from mace_studio.sd import lora, projections, sampling, text
from mace_studio.sd import model as sd_model
from mace_studio.settings import ImageSettings, KeepWeights, LoraSettings
from tests import families, single_file
from tests.steps import untouched

SINGLE_FILES = [name for name in families.FAMILIES if name != "lcm"]
KEEP = KeepWeights(preserve=1.0, identity=1.0)
RECIPE = Recipe(
    concepts=(Concept("cat", "forest"), Concept("Ada Finch", "a person", "celebrity")),
    preserve=("dog",),
    settings=MaceSettings(
        refine=KEEP,
        fuse=KEEP,
        lora=LoraSettings(steps=1, learning_rate=1e-2),
        images=ImageSettings(per_concept=1, steps=6, guidance=3.0),
    ),
)
REQUEST = ImageRequest(("a photo of the cat",), (0,), steps=2, guidance=3.0)
HALVES = {"sd1": 2, "sd2": 2, "lcm": 1, "turbo": 1, "sdxl": 2}


@pytest.fixture(scope="session", params=families.FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def model(family, models):
    """One model of each family, which a test must leave bit for bit as it was."""
    with untouched(models[family]):
        yield models[family]


@pytest.fixture(scope="session")
def erasures(models):
    return {name: erase.erase(model, RECIPE) for name, model in models.items()}


def drawing_of(family):
    return replace(REQUEST, guidance=1.0) if family == "turbo" else REQUEST


def pixels(image):
    return np.asarray(image, np.float64)


def test_load(model, family):
    widths = {"sd1": 32, "sd2": 48, "lcm": 32, "turbo": 48, "sdxl": 32 + 24}
    assert (model.width, model.length) == (widths[family], families.LENGTH)
    assert (model.distilled, model.embeds_guidance) == (family in ("lcm", "turbo"), family == "lcm")
    assert text.embed(model, ["a cat", "a dog"]).shape == (2, model.length, model.width)


@pytest.mark.parametrize("name", SINGLE_FILES)
def test_load_single_file(name, models, folders, tmp_path):
    path = tmp_path / "one.safetensors"
    single_file.save(models[name].pipeline, folders[name], path)
    again = sd_model.load(str(path), "cpu", "float32")
    assert again.fingerprint == models[name].fingerprint
    (expected,), (image,) = (sampling.generate(m, REQUEST) for m in (models[name], again))
    assert (pixels(image) == pixels(expected)).all()


def test_erase(model, family, erasures, tmp_path):
    seen = []
    result = erase.erase(model, RECIPE, progress=seen.append)
    original = projections.read(model.unet)
    assert list(result.weights) == list(original)
    for key, weight_PD in result.weights.items():
        assert weight_PD.isfinite().all() and not torch.equal(weight_PD, original[key])
    curves = {phrase: delta.losses for phrase, delta in result.loras.items()}
    assert {phrase: len(curve) for phrase, curve in curves.items()} == {"cat": 1, "Ada Finch": 1}
    assert all(curve[0] > 0 for curve in curves.values())
    assert list(dict.fromkeys(p.stage for p in seen)) == ["images", "masks", "refine", "lora", "fuse"]
    result.save(tmp_path / "one.safetensors")
    erasures[family].save(tmp_path / "two.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_the_lora_has_its_part_in_the_erasure(model, family, erasures):
    without = erase.erase(model, RECIPE.with_settings(lora=LoraSettings(steps=0)))
    assert any(not torch.allclose(erasures[family].weights[k], w, atol=1e-6) for k, w in without.weights.items())


def test_compare(model, family, erasures):
    drawing = drawing_of(family)
    (pair,) = comparison.compare(model, erasures[family], drawing)
    (before,) = sampling.generate(model, drawing)
    with projections.swapped(model.unet, erasures[family].weights):
        (after,) = sampling.generate(model, drawing)
    assert (pixels(pair.before) == pixels(before)).all() and (pixels(pair.after) == pixels(after)).all()
    assert pair.change > 0


def test_inspect(model, family, erasures):
    result = attention.inspect(model, drawing_of(family), erasures[family])
    assert [word.text for word in result.words] == ["start", "a", "photo", "of", "the", "cat", "end", "padding"]
    layers = sum(name.endswith("attn2") for name, _ in model.unet.named_modules())
    for run in result.runs.values():
        sides = [side for side in (run.conditional, run.unconditional) if side is not None]
        assert len(sides) == HALVES[family]
        for side in sides:
            assert sum(side.layers.values()) == layers
            for maps_SHTIJ in side.maps.values():
                assert len(maps_SHTIJ) == REQUEST.steps and maps_SHTIJ.min() >= 0
                total_SHIJ = maps_SHTIJ.sum(dim=2)
                torch.testing.assert_close(total_SHIJ, torch.ones_like(total_SHIJ), atol=1e-4, rtol=0)


def test_inspect_residual(model, family, erasures):
    result = attention.residual(model, drawing_of(family), erasures[family])
    images = [pixels(run.image) for run in result.runs.values()]
    assert len(images) == 3 and not (images[0] == images[2]).all()


def test_preview_draws_what_refined_weights_draw(model, family):
    drawing = drawing_of(family)
    shown = preview.preview(model, RECIPE, drawing, preview.PreviewCache())
    sums = refinement.gather(model, RECIPE, None)
    with projections.swapped(model.unet, refinement.weights(model, refinement.solve(sums, RECIPE.settings.refine))):
        (refined,) = sampling.generate(model, drawing)
    assert np.abs(pixels(shown.after) - pixels(refined)).max() <= 2
    assert not (pixels(shown.after) == pixels(shown.before)).all()


# What the parts of a family need


@pytest.mark.parametrize("negative", ["", "a dog"])
def test_drawing_is_the_pipelines_own_call(model, family, negative):
    drawing = replace(REQUEST, prompts=("a photo of the cat", "a ship"), negative=negative, size=(32, 48))
    images = sampling.generate(model, drawing)
    against = {"negative_prompt": [negative] * 2} if negative and family != "lcm" else {}
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    options = {"num_inference_steps": 2, "guidance_scale": 3.0, "height": 32, "width": 48}
    expected = model.pipeline(list(drawing.prompts), generator=generators, **options, **against).images
    assert all((pixels(a) == pixels(b)).all() for a, b in zip(images, expected, strict=True))


def unet_inputs(model, run):
    """What the UNet is given in the first forward of `run`: by name, without latents and timestep."""
    seen = []

    def note(_, args, kwargs):
        names = ("latents", "timestep", "encoder_hidden_states")
        seen.append(dict(zip(names, args, strict=False)) | kwargs)

    handle = model.unet.register_forward_pre_hook(note, with_kwargs=True)
    try:
        run()
    finally:
        handle.remove()
    return seen[0]


def test_training_gives_the_unet_what_drawing_gives_it(model):
    prompt, guidance = "a photo of the cat", 3.0
    options = {"guidance_scale": guidance, "num_inference_steps": 1, "height": 32, "width": 48}
    drawn = unet_inputs(model, lambda: model.pipeline([prompt], output_type="latent", **options))
    context_MTD, pooled_MP = text.encode(model, [prompt])
    subject = lora.Subject(
        phrase="cat",
        latents_NCHW=torch.zeros(1, 4, 8, 12),
        masks=[None],
        context_MTD=context_MTD,
        positions=[[1]],
        seed=0,
        pooled_MP=pooled_MP,
        guidance=guidance,
    )
    trained = unet_inputs(model, lambda: lora.train(model, [subject], RECIPE.settings.lora))
    name = "encoder_hidden_states"
    torch.testing.assert_close(trained[name], drawn[name][-1:])
    added = drawn.get("added_cond_kwargs") or {}
    assert set(trained.get("added_cond_kwargs", {})) == set(added)
    for key, value in added.items():
        torch.testing.assert_close(trained["added_cond_kwargs"][key], value[-1:])
    torch.testing.assert_close(trained.get("timestep_cond"), drawn.get("timestep_cond"))


def test_training_images_are_drawn_with_a_scheduler_that_fits(model, family):
    """As the pipeline draws them by itself, with DPM-Solver++ for the same prediction, or its own few steps."""
    usual = model.pipeline.scheduler
    settings = sampling.with_defaults(model, RECIPE.settings.images)
    assert settings.steps == (sampling.FEW_STEPS if model.distilled else RECIPE.settings.images.steps)
    assert settings.guidance == (1.0 if family == "turbo" else RECIPE.settings.images.guidance)
    cat = sampling.TrainingImage("a photo of the cat", "cat", 5)
    (drawn,) = sampling.training_images(model, [cat], settings, None)
    if family not in ("lcm", "turbo"):
        kind = "v_prediction" if family == "sd2" else "epsilon"
        model.pipeline.scheduler = DPMSolverMultistepScheduler.from_config(usual.config, prediction_type=kind)
    try:
        expected = model.pipeline(
            cat.prompt, generator=torch.Generator().manual_seed(5), num_inference_steps=settings.steps,
            guidance_scale=settings.guidance, output_type="latent",
        ).images  # fmt: skip
    finally:
        model.pipeline.scheduler = usual
    torch.testing.assert_close(drawn.latent_CHW, expected[0])
    assert 0 < drawn.heat_HW.mean() < 1


@pytest.mark.parametrize(
    ("kind", "settings", "distilled"),
    [
        (LCMScheduler, {}, True),  # Stable Diffusion with the LCM LoRA fused in
        (EulerAncestralDiscreteScheduler, {"timestep_spacing": "trailing"}, True),  # SDXL-Turbo
        (EulerDiscreteScheduler, {"timestep_spacing": "trailing", "prediction_type": "v_prediction"}, False),
        (EulerDiscreteScheduler, {"timestep_spacing": "leading"}, False),  # SDXL
        (DDIMScheduler, {"timestep_spacing": "trailing"}, False),
    ],
)
def test_a_scheduler_tells_whether_a_model_is_distilled(kind, settings, distilled):
    pipeline = families.sd1()
    pipeline.scheduler = kind(**settings)
    assert sd_model.Model(pipeline, "").distilled is distilled


@pytest.mark.parametrize("name", ["lcm", "turbo"])
def test_an_erasure_says_that_it_drew_in_few_steps(name, erasures):
    (said,) = [w for w in erasures[name].warnings if "few steps" in w]
    assert "took 4 steps" in said and erasures[name].recipe == RECIPE


def test_more_steps_than_an_lcm_has_are_said(models):
    with pytest.raises(RecipeError, match="no more than 50 steps"):
        sampling.generate(models["lcm"], replace(REQUEST, steps=51))


def test_the_context_of_sdxl_is_both_encoders_side_by_side(models):
    pipeline, sentence = models["sdxl"].pipeline, "a photo of the cat"
    context_NTD, pooled_NC = text.encode(models["sdxl"], [sentence, "a ship"])
    sides = []
    for tokens, encoder in (
        (pipeline.tokenizer, pipeline.text_encoder),
        (pipeline.tokenizer_2, pipeline.text_encoder_2),
    ):
        ids = tokens(sentence, padding="max_length", return_tensors="pt").input_ids
        sides.append(encoder(ids, output_hidden_states=True))
    torch.testing.assert_close(context_NTD[:1], torch.cat([side.hidden_states[-2] for side in sides], dim=-1))
    torch.testing.assert_close(pooled_NC[:1], sides[1].text_embeds)


def test_the_final_end_token_is_one_for_both_tokenizers(models):
    ends = {name: text.final_end(m, text.ids(m, ["a photo of the cat"])[0]) for name, m in models.items()}
    first, last = 6, families.LENGTH - 1
    assert ends == {"sd1": last, "sd2": first, "lcm": last, "turbo": first, "sdxl": first}


def test_v_prediction_draws_other_training_images_than_noise_prediction(models):
    model = models["sd2"]
    kept, cat = model.pipeline.scheduler, sampling.TrainingImage("a cat", "cat", 0)
    (v,) = sampling.training_images(model, [cat], RECIPE.settings.images, None)
    model.pipeline.scheduler = type(kept).from_config(kept.config, prediction_type="epsilon")
    try:
        (noise,) = sampling.training_images(model, [cat], RECIPE.settings.images, None)
    finally:
        model.pipeline.scheduler = kept
    assert not torch.allclose(v.latent_CHW, noise.latent_CHW, atol=0.1)


# Half precision, and little memory


def test_bfloat16_solves_as_float32_does(folders, family, models):
    model = sd_model.load(str(folders[family]), "cpu", "bfloat16")
    with untouched(model):
        seen = []
        result = erase.erase(model, RECIPE, progress=seen.append)
        (pair,) = comparison.compare(model, result, drawing_of(family))
    assert pair.change > 0 and all(math.isfinite(p.loss) for p in seen if p.loss is not None)
    assert all(w.dtype == torch.bfloat16 and w.isfinite().all() for w in result.weights.values())
    with pytest.raises(FileError, match="load the model that it was made from, in bfloat16"):
        erasure.check_fits(result, models[family])
    refined = erase.erase(model, RECIPE.with_settings(lora=LoraSettings(steps=0)))
    expected = erase.erase(models[family], RECIPE.with_settings(lora=LoraSettings(steps=0)))
    for key, weight_PD in refined.weights.items():
        torch.testing.assert_close(weight_PD.float(), expected.weights[key], atol=0.02, rtol=0.05)


def test_float16_makes_an_erasure_that_fits_the_model_in_float32(folders, models):
    model = sd_model.load(str(folders["sd1"]), "cpu", "float16")
    with untouched(model):
        seen = []
        result = erase.erase(model, RECIPE, progress=seen.append)
        (pair,) = comparison.compare(model, result, REQUEST)
    assert pair.change > 0 and all(math.isfinite(p.loss) for p in seen if p.loss is not None)
    assert all(w.dtype == torch.float16 and w.isfinite().all() for w in result.weights.values())
    erasure.check_fits(result, models["sd1"])


def test_low_memory_changes_no_result(folders, family, erasures, models):
    model = sd_model.load(str(folders[family]), "cpu", "float32", low_memory=True)
    assert model.pipeline.vae.use_slicing and model.pipeline.vae.use_tiling
    assert model.batches.size == 1
    # On a graphics card the parts take turns; the same hooks, on the CPU, move nothing but must not be in the way.
    model.pipeline.enable_model_cpu_offload(device="cpu")
    result = erase.erase(model, RECIPE)
    for key, weight_PD in erasures[family].weights.items():
        torch.testing.assert_close(result.weights[key], weight_PD, atol=1e-5, rtol=1e-4)
    both = replace(drawing_of(family), seeds=(0, 1))
    for old, new in zip(*(sampling.generate(m, both) for m in (models[family], model)), strict=True):
        assert np.abs(pixels(old) - pixels(new)).max() <= 1


def test_attention_slicing_changes_no_map(model, family):
    usual = dict(model.unet.attn_processors)
    whole = attention.inspect(model, drawing_of(family))
    try:
        model.pipeline.enable_attention_slicing(1)
        sliced = attention.inspect(model, drawing_of(family))
    finally:
        model.unet.set_attn_processor(usual)
    for group, maps_SHTIJ in whole.runs["before"].conditional.maps.items():
        torch.testing.assert_close(sliced.runs["before"].conditional.maps[group], maps_SHTIJ, atol=1e-4, rtol=1e-3)
