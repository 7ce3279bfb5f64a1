"""What a run takes, counted by hand and against what it took."""

from dataclasses import replace

import pytest
import torch

from mace_studio import prompts
from mace_studio.methods.mace import MaceSettings
from mace_studio.recipe import Concept, Recipe
from mace_studio.runtime import tasks
from mace_studio.runtime.estimate import Estimate, estimate
from mace_studio.runtime.studio import Studio
from mace_studio.sd import costs, counting, grams, sampling
from mace_studio.sd import model as sd_model
from mace_studio.sd.costs import Costs, Line
from mace_studio.settings import ImageSettings, KeepWeights, LoraSettings
from tests import families
from tests.steps import cancelled, untouched

COSTS = Costs(
    forward_flops=10.0,
    step_flops=30.0,
    sentence_flops=1.0,
    sample_bytes=5.0,
    step_bytes=20.0,
    image_seconds=Line(1, 2),
    step_seconds=Line(3, 1),
    sentence_seconds=0.5,
    halves=2,
    most_steps=1000,
    at_once=8,
    captions=100,
    gram="gram.safetensors",
    fingerprint="ab" * 32,
)
RECIPE = Recipe(
    concepts=tuple(Concept(str(i), "x") for i in range(5)),
    settings=MaceSettings(
        refine=KeepWeights(identity=1.0),
        fuse=KeepWeights(identity=1.0),
        lora=LoraSettings(steps=7),
        images=ImageSettings(per_concept=2, steps=3, guidance=4.0),
        concepts_at_once=2,
    ),
)


def test_a_run_is_added_up_from_its_parts(tmp_path):
    """10 images, 3 steps, 2 halves; 8 and 2 at once; 5 concepts, 7 steps; 2, 2 and 1 at once; 180 prompts."""
    run = estimate(RECIPE, 1000, COSTS, tmp_path)
    assert (run.concepts, run.prompts, run.unet_forwards) == (5, 180, 60 + 5 * 7)
    assert run.flops == 60 * 10 + 5 * 7 * 30 + 180
    assert run.seconds == ((1 + 16) + (1 + 4)) * 3 + ((3 + 2) * 2 + (3 + 1)) * 7 + 180 / 2
    assert run.memory == 1000 + 16 * 5 > 1000 + 2 * 20
    assert estimate(RECIPE.with_settings(concepts_at_once=9), 1000, COSTS, tmp_path).memory == 1000 + 5 * 20


def test_without_guidance_or_loras_or_in_few_steps_it_is_less(tmp_path):
    def forwards(recipe, costs=COSTS):
        return estimate(recipe, 0, costs, tmp_path).unet_forwards - 5 * 7

    plain = RECIPE.with_settings(images=replace(RECIPE.settings.images, guidance=1.0))
    assert forwards(plain) == forwards(RECIPE, replace(COSTS, halves=1)) == 30
    assert forwards(RECIPE, replace(COSTS, most_steps=2)) == 40
    refined = estimate(RECIPE.with_settings(lora=LoraSettings(steps=0)), 0, COSTS, tmp_path)
    assert (refined.unet_forwards, refined.memory, refined.seconds) == (0, 0, 180 / 2)


def test_each_sentence_is_encoded_once_and_none_whose_gram_is_known(tmp_path):
    """30 templates: five concepts, their one mapping, two phrases to keep; 100 captions."""

    def read(recipe):
        # Sentences alone take an operation each.
        return int(estimate(recipe, 0, only, tmp_path).flops)

    only = replace(COSTS, forward_flops=0.0, step_flops=0.0, sentence_flops=1.0)
    assert read(RECIPE) == 30 * 6
    asking = replace(RECIPE, preserve=("y", "z")).with_settings(fuse=KeepWeights(general=1.0))
    assert read(asking) == 30 * 8 + 100
    (tmp_path / COSTS.gram).touch()
    assert read(asking) == 30 * 8
    (tmp_path / grams.file_name("preserve", "ab" * 32, list(prompts.preserved(asking)))).touch()
    assert read(asking) == 30 * 6
    assert read(replace(asking, preserve=("z",))) == 30 * 7


def test_a_line_goes_through_two_points_and_never_falls():
    assert Line.through(3.0, 4, 9.0) == Line(1.0, 2.0)
    assert Line.through(3.0, 4, 3.0) == Line.through(3.0, 1, 7.0) == Line(0.0, 3.0)  # several were not timed
    assert Line.through(3.0, 4, 2.0) == Line(3.0, 0.0)
    assert Line.through(1.0, 4, 8.0) == Line(0.0, 1.0)


def test_memory_is_what_is_held_at_one_time(model):
    """Of three tensors of 4 kB at most two are alive at once, and the model's own weights do not count."""

    def work():
        one = torch.zeros(1000)
        two = one + 1
        del one
        return float((two + 1).sum() + model.unet.conv_in.weight.detach()[0, 0, 0, 0])

    _, most = counting.counted(model, work)
    assert 8000 <= most < 8100


@pytest.mark.parametrize(("family", "dtype"), [("sd1", "float32"), ("lcm", "bfloat16"), ("sdxl", "bfloat16")])
def test_measuring_works_for_every_family_and_leaves_the_model_alone(family, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "QUICK", float("inf"))  # however busy the machine is
    model, seen = sd_model.load(str(families.save(family, tmp_path / family)), "cpu", dtype), []
    with untouched(model):
        found = costs.measure(model, seen.append)
    assert list(dict.fromkeys(p.concept for p in seen)) == list(costs.PARTS)
    assert all(p.stage == "measure" and 0 <= p.step < p.total == len(costs.PARTS) for p in seen)
    assert found.step_flops > found.forward_flops > 0 and found.sentence_flops > 0
    assert found.step_bytes > found.sample_bytes > 0
    assert found.image_seconds.of(1, 1) > 0 and found.step_seconds.of(1, 1) > 0 and found.sentence_seconds > 0
    assert found.halves == (1 if model.distilled else 2)
    with untouched(model), cancelled(lambda p: p.concept == "several LoRAs") as progress:
        costs.measure(model, progress)


def test_operations_are_those_of_one_forward(model, unchanged):
    noisy = torch.zeros(1, model.unet.config.in_channels, *sampling.latent_size(model))
    context = torch.zeros(1, model.length, model.width)
    with torch.no_grad():
        counts, _ = counting.counted(model, lambda: model.unet(noisy, 0, context))
    found = costs.measure(model)
    assert found.forward_flops == pytest.approx(counts["Global"], rel=0.02)
    # A forward that ends at the last attention, and the way back to the first one.
    assert found.forward_flops < found.step_flops < 2 * found.forward_flops


def test_memory_for_one_at_a_time_is_enough_to_measure(model, unchanged, monkeypatch):
    monkeypatch.setattr(costs, "QUICK", float("inf"))

    def refuse(_, args, kwargs):
        if len(args[0]) in (costs.CONCEPTS, 2 * sd_model.BATCH):
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = model.unet.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        found = costs.measure(model)
        assert found.at_once == model.batches.size < sd_model.BATCH
    finally:
        handle.remove()
        model.batches.size = sd_model.BATCH
    assert found.step_seconds.of(1, 1) > 0 and found.image_seconds.of(1, 1) > 0


def test_the_studio_estimates_once_the_model_is_loaded(tmp_path):
    fresh = Studio(output=tmp_path)
    assert fresh.estimate(RECIPE).seconds is None
    fresh.measure().wait()
    counted = fresh.estimate(RECIPE)
    assert (
        counted.seconds > 0 and counted.flops > 0 and counted.memory > tasks.process_model(fresh.place).model.memory()
    )
    more = fresh.estimate(RECIPE.with_settings(lora=LoraSettings(steps=70)))
    assert more.seconds > counted.seconds and more.memory == counted.memory


def test_an_estimate_is_one_line():
    whole = Estimate(concepts=2, prompts=1920, unet_forwards=30, memory=5.1e9, flops=1.25e15, seconds=250.0)
    line = whole.summary()
    assert line == (
        "2 concepts · 1,920 prompts · 30 UNet forwards · 1,250.0 TFLOP · about 5.1 GB of memory · about 4 min 10 s"
    )
    counted = Estimate(concepts=1, prompts=90, unet_forwards=6, memory=None)
    assert counted.summary() == "1 concept · 90 prompts · 6 UNet forwards"
    assert replace(counted, unet_forwards=0, flops=0.0).summary() == "1 concept · 90 prompts"
    assert (whole.brief(), counted.brief()) == ("2 concepts · about 4 min 10 s", "1 concept")
