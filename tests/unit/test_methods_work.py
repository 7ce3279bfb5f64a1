"""What a run of each method takes, and that pages and limits know of every method."""

import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from mace_studio import masks, prompts
from mace_studio.errors import RecipeError
from mace_studio.evaluation.plan import make_plan
from mace_studio.masks import MaskSheet
from mace_studio.methods import METHODS, find, usual_guidance
from mace_studio.methods.settings import Work
from mace_studio.progress import Progress
from mace_studio.recipe import Concept, Recipe
from mace_studio.runtime import quota
from mace_studio.runtime.estimate import Status, estimate
from mace_studio.runtime.jobs import Job
from mace_studio.runtime.library import Entry
from mace_studio.runtime.perform import Place
from mace_studio.settings import KeepWeights, LoraSettings
from mace_studio.ui import form
from mace_studio.ui.cards import preview
from mace_studio.ui.components import mask_grid, model_list, progress

TWO = (Concept("cat", "forest"), Concept("ship", "ground"))
OTHERS = [name for name in METHODS if name != "mace"]


def recipe_of(name, **settings):
    return Recipe(concepts=TWO, method=name).with_settings(**settings)


def previewed(recipe):
    """The images that the page asks for when a recipe is previewed."""
    asked = []

    def of(recipe, request):
        asked.append(request)
        raise RecipeError("method", "No more is asked.")

    card = SimpleNamespace(studio=SimpleNamespace(preview=of))
    shown = list(preview.PreviewCard.on_edit(card, {}, True, "a cat", *form.values_from(recipe)))
    assert "No more is asked." in shown[-1] and len(asked) == 1 and asked[0].prompts == ("a cat",)
    return asked[0]


def test_work_is_counted_by_hand():
    def work(name, **settings):
        return find(name).work(recipe_of(name, **settings))

    assert work("uce") == work("oce", general_scale=0.0) == Work(sentences=4)  # two concepts, two anchors
    assert work("sld") == work("adavd") == work("rece") == Work(sentences=2)
    assert work("oce") == Work(captions=True, sentences=4)
    kept = replace(recipe_of("speed"), preserve=("dog", "bird", "deer"))
    assert find("speed").work(kept).sentences == 7 and work("speed").sentences == 4
    assert find("rece").work(replace(kept, method="rece", settings=None)).sentences == 2
    mace = work("mace")
    assert (mace.images, mace.image_steps, mace.guidance, mace.training_steps) == (2 * 8, 15, 7.5, 2 * 50)
    assert (mace.side_by_side, mace.at_once, mace.captions) == (2, 4, True)
    assert (mace.rank, mace.kept_samples) == (LoraSettings().rank, 0)
    kept_twice = work("mace", lora=LoraSettings(rank=3, kept_samples=2))
    assert (kept_twice.rank, kept_twice.kept_samples) == (3, 2)
    assert not any(work(name).rank or work(name).kept_samples for name in OTHERS)
    assert not work("mace", refine=KeepWeights(), lora=LoraSettings(steps=0)).captions  # nothing is fused
    assert work("mace", refine=KeepWeights()).captions and work("mace", lora=LoraSettings(steps=0)).captions
    assert work("esd", steps=10) == Work(images=10, image_steps=26, guidance=3.0, training_steps=10, sentences=3)
    read = 4 * len(prompts.templates("object"))
    assert work("ac", steps=5, batch=4) == Work(
        images=2 * 40, image_steps=15, guidance=6.0, training_steps=20, sentences=read
    )
    assert work("ac", steps=0).training_steps == work("ac", steps=0).images == 0
    fmn = work("fmn", steps=5, inversion_steps=100)
    assert (fmn.images, fmn.training_steps) == (2 * 8, 2 * 105)
    assert work("fmn", real_images=False).images == 0
    # 40 replayed images at every 100th of 1,000 timesteps, and two forwards and backwards in each of 400 steps
    assert work("sa").training_steps == 40 * 10 + 2 * 400 and work("sa").images == 2 * 8 + 40


@pytest.mark.parametrize("name", list(METHODS))
def test_estimate_and_quota_know_every_method(name, tmp_path):
    recipe, work = recipe_of(name), find(name).work(recipe_of(name))
    halves = 2 if work.guidance > 1 else 1
    counted = estimate(recipe, None, None, tmp_path)
    assert counted.prompts == (prompts.count(recipe) if work.sentences is None else work.sentences)
    assert counted.unet_forwards == work.images * work.image_steps * halves + work.training_steps
    assert quota.START <= quota.seconds("erase", Place(source="model"), recipe) <= quota.LONGEST
    assert make_plan(recipe, "quick", captions=("a",) * 500).guidance == usual_guidance(recipe) >= 1


def test_a_long_training_is_refused_on_a_shared_server():
    with pytest.raises(RecipeError, match="lent to a user at once"):
        quota.check("erase", recipe_of("esd"))


@pytest.mark.parametrize("name", list(METHODS))
def test_every_part_of_the_page_shows_an_erasure_of_every_method(name, monkeypatch):
    monkeypatch.setattr(preview, "PAUSE", 0)
    recipe = recipe_of(name)
    made = datetime(2020, 3, 1, 9, 5)
    entry = Entry(name="x", path=Path("x"), recipe=recipe, made=made, size=1, conditions={}, warnings=())
    status = Status(name="model", state="ready")
    shown = model_list.details(entry, status)
    assert model_list.rows([entry], status) and "cat → forest" in shown
    assert METHODS[name].title in model_list.choices([entry])[0][0]
    if name != "mace":
        assert f"Made by {METHODS[name].title}: only models of MACE can be composed." in shown
        assert METHODS[name].title in shown
    assert previewed(recipe).guidance == usual_guidance(recipe)
    changed = "The form has changed" in mask_grid.status(MaskSheet(Recipe(concepts=TWO), []), recipe)
    assert changed == (name != "mace")


class Training:
    """A job that has trained for three steps."""

    events = (
        *(Progress("train", "cat", i, 9, loss=1.0 / i) for i in (1, 2)),
        Progress("train", "ship", 3, 9, loss=1.0),
    )
    over = False


@pytest.mark.parametrize(
    ("name", "titles"),
    [
        ("mace", ["Images", "Masks", "Refine", "LoRA", "Fuse"]),
        ("uce", ["Refine"]),
        ("oce", ["Captions", "Refine"]),
        ("esd", ["Training"]),
        ("fmn", ["Images", "Tokens", "Training"]),
        ("sa", ["Images", "Fisher", "Training"]),
    ],
)
def test_the_run_shows_the_stages_of_its_method(name, titles):
    shown = progress.idle(name)
    assert re.findall("<b>(.*?)</b>", shown) == titles and shown.count("waiting") == len(titles)


def test_a_stage_that_was_passed_over_is_left_out():
    job = Job("Erase", recipe_of("fmn"))
    job.events = [Progress("images", step=8, total=8), Progress("train", step=1, total=9)]
    at = progress.run(job, None)
    assert at.count("is-done") == 2 and at.count("left out") == 1 and at.count("is-now") == 1


def test_the_losses_of_another_method_are_drawn_as_its_own():
    shown = progress.losses(Training(), recipe_of("esd"))
    assert "Training loss" in shown and "cat: 1 to" in shown and "Attention loss" not in shown


@pytest.mark.parametrize("name", OTHERS)
def test_other_methods_take_no_masks(name, tmp_path):
    assert masks.image_settings(recipe_of(name)) == {}
    with pytest.raises(RecipeError, match="no other method takes any"):
        masks.read(tmp_path, recipe_of(name))
