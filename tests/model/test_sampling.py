from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DPMSolverMultistepScheduler

from mace_studio.core import attention
from mace_studio.errors import RecipeError
from mace_studio.methods.mace import train_loras
from mace_studio.methods.mace.erase import erase
from mace_studio.progress import Cancelled
from mace_studio.recipe import Concept, ImageRequest, Recipe
from mace_studio.sd import model as sd_model
from mace_studio.sd import pixels, sampling, schedules, text
from mace_studio.settings import ImageSettings, KeepWeights, LoraSettings
from tests.steps import cancelled

SHORT = ImageSettings(per_concept=2, steps=2, guidance=3.0)
CAT = [sampling.TrainingImage("a photo of the cat", "cat", seed) for seed in (0, 1)]


def test_generating_is_the_pipelines_own_call(model, unchanged):
    request = ImageRequest(("a photo of the cat", "a ship"), (3, 4), steps=2, guidance=4.0, negative="a dog")
    seen = []
    images = sampling.generate(model, request, progress=seen.append)
    expected = model.pipeline(
        prompt=["a photo of the cat"] * 2 + ["a ship"] * 2,
        negative_prompt=["a dog"] * 4,
        generator=[torch.Generator().manual_seed(s) for s in (3, 4, 3, 4)],
        num_inference_steps=2,
        guidance_scale=4.0,
    ).images
    assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(images, expected, strict=True))
    assert [(p.stage, p.step, p.total) for p in seen] == [("generate", 2, 4), ("generate", 4, 4)]


def test_progress_counts_on_over_batches(model, unchanged):
    count = sd_model.BATCH + 1
    seen = []
    sampling.generate(model, ImageRequest(("a cat",), tuple(range(count)), steps=2), progress=seen.append)
    assert [p.step for p in seen] == [sd_model.BATCH / 2, sd_model.BATCH, sd_model.BATCH + 0.5, count]
    assert {p.total for p in seen} == {count}


@pytest.mark.parametrize("steps_seen", [1, 2])
def test_cancelling_stops_the_pipeline_at_its_step(model, unchanged, steps_seen):
    forwards = []
    handle = model.unet.register_forward_pre_hook(lambda *_: forwards.append(1))
    try:
        with cancelled(lambda p: p.step >= steps_seen / 6) as progress:
            sampling.generate(model, ImageRequest(("a cat",), (0,), steps=6), progress)
        assert len(forwards) == steps_seen
    finally:
        handle.remove()


def test_an_error_in_the_pipeline_reaches_the_caller(model, unchanged):
    def broken(*_):
        raise FloatingPointError("broken")

    handle = model.unet.register_forward_pre_hook(broken)
    try:
        with pytest.raises(FloatingPointError, match="broken"):
            sampling.generate(model, ImageRequest(("a cat",), (0,), steps=2))
    finally:
        handle.remove()


def test_training_images_use_dpm_solver_and_record_where_the_phrase_is(model, unchanged):
    drawn = sampling.training_images(model, CAT, SHORT, None)
    usual = model.pipeline.scheduler
    model.pipeline.scheduler = DPMSolverMultistepScheduler.from_config(usual.config)
    try:
        expected = model.pipeline(
            prompt=["a photo of the cat"] * 2,
            generator=[torch.Generator().manual_seed(s) for s in (0, 1)],
            num_inference_steps=2,
            guidance_scale=3.0,
            output_type="latent",
        ).images
    finally:
        model.pipeline.scheduler = usual
    for mine, theirs in zip(drawn, expected, strict=True):
        assert torch.equal(mine.latent_CHW, theirs)
        assert mine.heat_HW.shape == mine.latent_CHW.shape[1:]
        assert mine.heat_HW.min() >= 0 and 0 < mine.heat_HW.mean() < 1
    assert not torch.equal(drawn[0].heat_HW, drawn[1].heat_HW)


@pytest.mark.parametrize("phrase", ["cat", "ship", "airplane", "Ada Finch"])
def test_the_mask_is_where_the_image_is_not_background(model, unchanged, phrase):
    wanted = [sampling.TrainingImage(f"a {phrase} on a red background", phrase, seed) for seed in (0, 1)]
    drawn = sampling.training_images(model, wanted, ImageSettings(steps=10), None)
    vae = model.pipeline.vae
    latents_NCHW = torch.stack([image.latent_CHW for image in drawn])
    with torch.no_grad():
        pixels_NCHW = vae.decode(latents_NCHW / vae.config.scaling_factor).sample.clamp(-1, 1)
    red_NC11 = pixels_NCHW[:, :, 0].median(dim=-1).values[..., None, None]  # of the first row
    shown_NHW = (pixels_NCHW - red_NC11).abs().amax(dim=1) > 0.3
    shown_NIJ = F.avg_pool2d(shown_NHW.float(), shown_NHW.shape[-1] // latents_NCHW.shape[-1]) > 0.5
    mask_NIJ = torch.stack([attention.mask(image.heat_HW) for image in drawn])
    shared_N, either_N = ((of(mask_NIJ, shown_NIJ)).sum(dim=(1, 2)) for of in (torch.logical_and, torch.logical_or))
    assert (shared_N / either_N > 0.7).all()


def test_heat_is_the_phrase_s_own_or_else_that_of_the_padding_that_stands_out(model):
    rows, columns = sampling.latent_size(model)
    cat = sampling.TrainingImage("a photo of the cat", "cat", 0)
    own, pad = text.positions(model, cat.prompt, "cat"), text.count(model, cat.prompt) + 3
    small_QT = torch.full((rows * columns // 4, model.length), 0.01)  # a layer of half the size
    large_QT = torch.full((rows * columns, model.length), 0.01)
    small_QT.unflatten(0, (rows // 2, -1))[: rows // 4, :, pad] = 0.2
    large_QT.unflatten(0, (rows, -1))[: rows // 2, :, pad] = 0.2
    top_IJ = torch.arange(rows)[:, None].expand(rows, columns) < rows // 2
    assert torch.equal(attention.mask(sampling.phrase_heat(model, cat, [small_QT, large_QT])), top_IJ)
    large_QT.unflatten(0, (rows, -1))[:, : columns // 2, own] = 0.9
    assert torch.equal(attention.mask(sampling.phrase_heat(model, cat, [small_QT, large_QT])), top_IJ.T)


def test_training_images_are_generated_once(model, unchanged, tmp_path):
    seen = []
    first = sampling.training_images(model, CAT, SHORT, tmp_path, seen.append)
    assert [p.step for p in seen] == [0, 1, 2, 2] and len(list(tmp_path.iterdir())) == 2
    # An image of the batch can be seen before all are there.
    assert (seen[-1].concept, seen[-1].result.mode) == (CAT[0].phrase, "RGB")
    assert max(seen[-1].result.size) <= pixels.THUMBNAIL and [p.result for p in seen[:-1]] == [None] * 3
    seen = []
    again = sampling.training_images(model, CAT, SHORT, tmp_path, seen.append)
    assert [(p.step, p.total) for p in seen] == [(2, 2)]
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.latent_CHW, b.latent_CHW) and torch.equal(a.heat_HW, b.heat_HW)
    more = [sampling.TrainingImage(p.prompt, p.phrase, p.seed + 9) for p in CAT]
    seen = []
    sampling.training_images(model, more, SHORT, tmp_path, seen.append)
    assert [p.step for p in seen] == [0, 1, 2, 2], "another seed is another image"


def test_the_scheduler_returns_when_training_images_are_cancelled(model, unchanged):
    during = []

    def progress(event):
        during.append(type(model.pipeline.scheduler))
        if event.step:
            raise Cancelled

    with pytest.raises(Cancelled):
        sampling.training_images(model, CAT, SHORT, None, progress)
    assert during[-1] is DPMSolverMultistepScheduler and type(model.pipeline.scheduler) is not during[-1]


def test_the_librarys_call_is_the_same_for_one_prompt_and_several(model, unchanged):
    request = ImageRequest(("a cat", "a ship"), (3, 4), steps=2, guidance=4.0)
    expected, seen = sampling.generate(model, request), []
    images = model.generate(["a cat", "a ship"], seeds=[3, 4], steps=2, guidance=4.0, progress=seen.append)
    assert len(images) == 4 and seen[-1].step == seen[-1].total == 4
    assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(images, expected, strict=True))
    (cat,) = model.generate("a cat", seeds=[3], steps=2, guidance=4.0)
    assert np.abs(np.asarray(cat, float) - np.asarray(images[0], float)).max() <= 1  # a batch of another size rounds
    with pytest.raises(RecipeError, match="prompt"):
        model.generate([])


def test_images_on_their_way_are_those_that_a_whole_run_passes_and_cost_fewer_forwards(model, unchanged, tmp_path):
    settings, window, forwards, latents = ImageSettings(steps=10, guidance=3.0, path=True), (200, 400), [], {}
    scheduler = schedules.for_training(model.pipeline.scheduler)
    scheduler.set_timesteps(10)
    inside = [int(t) for t in scheduler.timesteps if 200 <= t <= 400]
    assert sampling.passed(model, settings, window) == inside and inside
    # By the whole run: what goes into the UNet at a timestep, the conditional half of each image.
    handle = model.unet.register_forward_pre_hook(
        lambda _, args, kwargs: (forwards.append(1), latents.setdefault(int(args[1]), args[0][2:].clone()))[0],
        with_kwargs=True,
    )
    try:
        (whole, _) = sampling.training_images(model, CAT, settings, None)
        expected, taken = {t: latents[t] for t in inside}, len(forwards)
        forwards.clear()
        images = sampling.training_images(model, CAT, settings, tmp_path, window=window)
    finally:
        handle.remove()
    assert whole.path_SCHW is None and taken == 10
    assert len(forwards) == sampling.steps_until(model, settings, window) == list(scheduler.timesteps).index(inside[-1])
    assert len(forwards) < 10
    for n, image in enumerate(images):
        assert torch.equal(image.path_SCHW, torch.stack([expected[t][n] for t in inside]))
    again = sampling.training_images(model, CAT, settings, tmp_path, window=window)
    assert all(torch.equal(a.path_SCHW, b.path_SCHW) for a, b in zip(images, again, strict=True))
    # Where no timestep of so few steps lies inside: the one nearest to the middle.
    scheduler.set_timesteps(3)
    later = [int(timestep) for timestep in scheduler.timesteps][1:]
    assert not any(400 <= timestep <= 440 for timestep in later)
    nearest = min(later, key=lambda timestep: abs(timestep - 420))
    assert sampling.passed(model, replace(settings, steps=3), (400, 440)) == [nearest]


def test_a_lora_trains_on_what_is_on_its_way(model, unchanged, tmp_path):
    recipe = Recipe(concepts=[Concept("cat", "forest")]).with_settings(
        refine=KeepWeights(identity=1.0), fuse=KeepWeights(identity=1.0),
        images=ImageSettings(per_concept=2, steps=10, guidance=3.0, path=True), lora=LoraSettings(steps=3),
    )  # fmt: skip
    result = erase(model, recipe.check(), cache=tmp_path)
    plain = erase(model, recipe.with_settings(images=replace(recipe.settings.images, path=False)), cache=tmp_path)
    assert len(result.loras["cat"].losses) == 3
    assert train_loras.forwards(model, plain.recipe, plain.loras) == 2 * 10 * 2 + 3
    steps = sampling.steps_until(model, recipe.settings.images, (200, 400))
    assert train_loras.forwards(model, recipe, result.loras) == 2 * steps * 2 + 3 < 43
    assert result.loras["cat"].losses != plain.loras["cat"].losses
    with pytest.raises(RecipeError, match=r"images\.path: Masks by clipseg need finished images"):
        recipe.with_settings(masks="clipseg").check()
