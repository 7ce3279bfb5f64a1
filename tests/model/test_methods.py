"""Every method of the table on the built-in model: it erases, cancels, and leaves the model as it was."""

import math
from dataclasses import replace

import pytest
import torch

from mace_studio import erasure as erasures
from mace_studio import methods
from mace_studio.erasure import Erasure
from mace_studio.errors import RecipeError
from mace_studio.methods import METHODS
from mace_studio.methods.settings import PUBLISHED, DoubleProjectionSettings, OceSettings, UceSettings
from mace_studio.progress import Cancelled
from mace_studio.recipe import Concept, Recipe
from mace_studio.sd import projections
from mace_studio.settings import ImageSettings, LoraSettings

CLOSED = ("mace-free", "uce", "rece", "speed", "oce", "dp")
CAT = (Concept("cat", "forest"), Concept("ship", "ground"))


def recipe_of(method, **settings):
    recipe = Recipe(concepts=CAT, preserve=("dog", "horse", "truck"), method=method)
    return recipe.with_settings(**settings) if settings else recipe


@pytest.fixture(scope="module")
def model(model, few_captions):
    """The built-in one with few general captions."""
    return replace(model, captions=few_captions)


@pytest.fixture(scope="module")
def erased(model):
    return {name: METHODS[name].erase(model, recipe_of(name)) for name in CLOSED}


@pytest.mark.parametrize("name", CLOSED)
def test_a_closed_form_changes_projections_and_nothing_else(model, unchanged, erased, name):
    originals = projections.read(model.unet)
    weights = erased[name].weights
    assert weights and set(weights) <= set(originals)
    assert all(torch.isfinite(weight_PD).all() for weight_PD in weights.values())
    assert any(not torch.equal(weights[key], originals[key]) for key in weights)
    assert erased[name].recipe.method == name and erased[name].fingerprint == model.fingerprint


@pytest.mark.parametrize("name", CLOSED)
def test_the_same_recipe_gives_the_same_weights(model, erased, name):
    again = METHODS[name].erase(model, recipe_of(name))
    assert all(torch.equal(again.weights[key], weight) for key, weight in erased[name].weights.items())


@pytest.mark.parametrize("name", CLOSED)
def test_it_comes_back_from_its_file_and_is_put_in_place(model, unchanged, erased, name, tmp_path):
    erased[name].save(tmp_path / "x.safetensors")
    back = erasures.load(tmp_path / "x.safetensors")
    assert back.recipe == erased[name].recipe
    key = next(
        key for key, weight in back.weights.items() if not torch.equal(weight, projections.read(model.unet)[key])
    )
    with back.applied(model):
        assert torch.equal(projections.read(model.unet)[key], erased[name].weights[key])


@pytest.mark.parametrize("name", CLOSED)
def test_it_reports_to_the_end_and_can_be_cancelled(model, unchanged, name):
    seen = []
    METHODS[name].erase(model, recipe_of(name), seen.append)
    fractions = [event.fraction for event in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1

    def cancel(event):
        raise Cancelled

    with pytest.raises(Cancelled):
        METHODS[name].erase(model, recipe_of(name), cancel)


@pytest.mark.parametrize("name", ["uce", "oce"])
def test_no_strength_gives_the_weights_back(model, name):
    originals = projections.read(model.unet)
    weights = METHODS[name].erase(model, recipe_of(name, erase_scale=0.0)).weights
    assert all(torch.equal(weight, originals[key]) for key, weight in weights.items())


def test_double_projection_holds_what_is_kept_exactly(model, erased):
    originals = projections.read(model.unet)
    context_TD = model.pipeline.encode_prompt("dog", model.device, 1, False)[0][0].double()
    last = len(model.pipeline.tokenizer("dog").input_ids) - 2
    for key, weight_PD in erased["dp"].weights.items():
        moved_P = (weight_PD.double() - originals[key].double()) @ context_TD[last]
        assert moved_P.norm() < 1e-5 * (originals[key].double() @ context_TD[last]).norm()


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        (UceSettings(form="whole"), "form"),
        (UceSettings(ridge=-1.0), "ridge"),
        (OceSettings(erase_scale=math.nan), "erase_scale"),
        (DoubleProjectionSettings(directions=-1), "directions"),
    ],
)
def test_settings_are_checked_by_name(settings, field):
    with pytest.raises(RecipeError) as caught:
        settings.check()
    assert caught.value.field == field


def test_every_published_setting_passes_its_own_check():
    assert len([settings.check() for each in PUBLISHED.values() for settings in each.values()]) == 23


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_refuses_what_is_too_long_and_doubts_what_is_erased_both_ways(model, name, monkeypatch):
    ran = []
    row = replace(METHODS[name], erase=lambda *args: ran.append(args))
    monkeypatch.setattr(methods, "METHODS", {**METHODS, name: row})
    long = Recipe(concepts=[Concept("cat " * 60, "forest")], method=name)
    with pytest.raises(RecipeError, match="too long: a prompt about it has"):
        methods.erase(model, long)
    assert not ran
    made = Erasure(recipe=long, weights={}, fingerprint="", warnings=("another",))
    monkeypatch.setattr(methods, "METHODS", {**METHODS, name: replace(row, erase=lambda *args: made)})
    both = Recipe(concepts=[Concept("cat", "dog"), Concept("dog", "cat")], method=name)
    first, *rest = methods.erase(model, both).warnings
    assert "“cat” maps to “dog” and the other way round" in first and rest == ["another"]


def test_mace_says_its_doubts_once(other):
    settings = {"images": ImageSettings(per_concept=1, steps=1), "lora": LoraSettings(steps=0), "masks": "none"}
    both = Recipe(concepts=[Concept("cat", "dog"), Concept("dog", "cat")]).with_settings(**settings)
    assert sum("the other way round" in warning for warning in methods.erase(other, both).warnings) == 1


@pytest.mark.parametrize("name", list(METHODS))
def test_a_recipe_of_each_method_comes_back_from_json(name):
    recipe = Recipe(concepts=CAT, method=name).check()
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert replace(recipe, seed=1).digest() != recipe.digest()
