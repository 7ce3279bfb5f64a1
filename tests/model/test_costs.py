"""What a run takes, counted by hand and against what it took."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from mace_studio.methods.mace import MaceSettings
from mace_studio.recipe import Concept, Recipe
from mace_studio.runtime import tasks
from mace_studio.runtime.estimate import Estimate
from mace_studio.runtime.studio import Studio
from mace_studio.sd import costs as cost
from mace_studio.sd import model as sd_model
from mace_studio.sd.costs import Costs, Line
from mace_studio.settings import ImageSettings, KeepWeights, LoraSettings
from tests import families
from tests.steps import untouched

COSTS = Costs(
    forward_flops=10.0,
    step_flops=30.0,
    sentence_flops=1.0,
    draw_bytes=Line(0, 5),
    step_bytes=Line(2, 20),
    draw_seconds=Line(1, 2),
    step_seconds=Line(3, 1),
    sentence_seconds=0.5,
    halves=2,
    most_steps=1000,
    at_once=8,
    captions=100,
    gram="gram.safetensors",
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


def test_a_run_is_added_up_from_its_parts():
    """10 pictures, 3 steps, 2 halves; 8 and 2 at once; 5 concepts, 7 steps; 2, 2 and 1 at once."""
    assert COSTS.samples(RECIPE) == 60
    assert COSTS.flops(RECIPE, 4) == 60 * 10 + 5 * 7 * 30 + 4
    assert COSTS.seconds(RECIPE, 4) == ((1 + 16) + (1 + 4)) * 3 + ((3 + 2) * 2 + (3 + 1)) * 7 + 2
    assert COSTS.memory(RECIPE) == max(16 * 5, 2 + 2 * 20)
    assert COSTS.memory(RECIPE.with_settings(concepts_at_once=9)) == 2 + 5 * 20


def test_without_guidance_or_loras_or_in_few_steps_it_is_less():
    plain = RECIPE.with_settings(images=replace(RECIPE.settings.images, guidance=1.0))
    assert COSTS.samples(plain) == replace(COSTS, halves=1).samples(RECIPE) == 30
    assert replace(COSTS, most_steps=2).samples(RECIPE) == 40
    refined = RECIPE.with_settings(lora=LoraSettings(steps=0))
    assert (COSTS.samples(refined), COSTS.memory(refined), COSTS.seconds(refined, 4)) == (0, 0, 2)


def test_general_captions_are_read_when_they_are_asked_for_and_not_known(tmp_path):
    asking = RECIPE.with_settings(fuse=KeepWeights(general=1.0))
    assert (COSTS.unread(RECIPE, tmp_path), COSTS.unread(asking, tmp_path)) == (0, 100)
    (tmp_path / COSTS.gram).touch()
    assert COSTS.unread(asking, tmp_path) == 0


def test_a_line_goes_through_two_points_and_never_falls():
    assert Line.through((1, 3.0), (4, 9.0)) == Line(1.0, 2.0)
    assert Line.through((1, 3.0), None) == Line(0.0, 3.0)
    assert Line.through((1, 3.0), (4, 2.0)) == Line(3.0, 0.0)
    assert Line.through((1, 1.0), (4, 8.0)).fixed == 0.0


def test_memory_is_what_is_held_at_one_time():
    """Of three tensors of 4 kB at most two are alive at once, and the layer's own weights do not count."""
    layer = nn.Linear(1000, 1)
    with cost._Held(layer) as held:
        one = torch.zeros(1000)
        two = one + 1
        del one
        three = two + 1
        layer(three)
        del two, three
    assert 8000 <= held.most < 8100 and held.now < 100


@pytest.mark.parametrize(("family", "dtype"), [("sd1", "float32"), ("lcm", "bfloat16"), ("sdxl", "bfloat16")])
def test_measuring_works_for_every_family_and_leaves_the_model_alone(family, dtype, tmp_path):
    model = sd_model.load(str(families.save(family, tmp_path / family)), "cpu", dtype)
    with untouched(model):
        seen = []
        costs = cost.measure(model, progress=seen.append)
    assert len(seen) >= 6  # whoever waits can leave after every part
    assert costs.step_flops > costs.forward_flops > 0 and costs.sentence_flops > 0
    assert costs.draw_bytes.each > 0 and costs.step_bytes.each > costs.draw_bytes.each
    assert costs.draw_seconds.at(1) > 0 and costs.step_seconds.at(1) > 0
    assert costs.halves == (1 if model.distilled else 2)
    steps = cost.measure(model)
    with untouched(model):
        for _ in range(len(seen) - 1):  # in the middle of the LoRA steps
            next(steps)
        steps.close()


def test_operations_are_those_of_a_real_forward(model):
    """The same count as on the UNet itself, which does the very same operations on the CPU."""
    subject = cost._subject(model)
    counted, _, _, _ = cost._counted(model, subject)
    real, held = cost._tracked(model, lambda: cost.lora.trial_forward(model, [subject]))
    assert counted == real
    assert held == pytest.approx(cost._counted(model, subject)[1].at(1), rel=0.05)


def test_memory_for_one_at_a_time_is_enough_to_measure(model, unchanged):
    def refuse(_, args, kwargs):
        if len(args[0]) in (cost.MANY, 2 * sd_model.BATCH):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "_counted", lambda *_: (1.0, Line(0, 1), 2.0, Line(0, 2)))
        handle = model.unet.register_forward_pre_hook(refuse, with_kwargs=True)
        try:
            costs = cost.measure(model)
        finally:
            handle.remove()
            model.batches.size = sd_model.BATCH
    assert costs.step_seconds.fixed == 0 < costs.step_seconds.each


def test_the_studio_estimates_once_the_model_is_loaded(tmp_path):
    fresh = Studio(output=tmp_path)
    assert fresh.estimate(RECIPE).seconds is None
    fresh.measure().wait()
    estimate = fresh.estimate(RECIPE)
    assert estimate.seconds > 0 and estimate.flops > 0 and estimate.memory > tasks.held(fresh.place).model.memory()
    more = fresh.estimate(RECIPE.with_settings(lora=LoraSettings(steps=70)))
    assert more.seconds > estimate.seconds and more.memory == estimate.memory


def test_an_estimate_is_one_line():
    line = Estimate(2, 1920, 30, 5.1e9, 1.25e15, 250.0).summary()
    assert line == (
        "2 concepts · 1,920 prompts · 30 UNet forwards · 1,250.0 TFLOP · about 5.1 GB of memory · about 4 min 10 s"
    )
    assert Estimate(1, 90, 6, None).summary() == "1 concept · 90 prompts · 6 UNet forwards"
