"""Another method than MACE on the page: chosen, set, erased, and read back from its file."""

import re

import pytest

from mace_studio.methods import METHODS
from mace_studio.recipe import Concept, Recipe
from mace_studio.settings import KeepWeights
from tests.steps import field

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
expect.set_options(timeout=30_000)

pytestmark = pytest.mark.browser


def choose_method(page, title):
    field(page, "method").click()
    page.get_by_role("option", name=title, exact=True).click()


def test_a_method_is_chosen_set_and_run(page, fast, open_recipe, saved_recipe):
    open_recipe(page, fast)
    expect(page.locator("#mace-about")).to_contain_text("λ weigh what must stay")
    choose_method(page, "UCE")
    expect(page.locator("#uce-about")).to_contain_text("It reads what each concept maps to and your keep list.")
    expect(page.locator("#weights, #esd-about")).to_have_count(0)
    expect(page.locator("#estimate")).to_contain_text("1 concept · 3 prompts · about ")
    field(page, "uce-ridge").fill("0.05")
    expect(page.locator("#uce-ridge")).to_contain_text("Weight of leaving the projections as they are.")
    page.get_by_label("Expand:").check()
    saved = saved_recipe(page)
    assert (saved.method, saved.settings.ridge, saved.settings.expand) == ("uce", 0.05, True)
    page.locator("#erase").click()
    expect(page.locator("#summary")).to_contain_text("Saved as ")
    expect(page.locator("#erase-progress .stages b")).to_have_text(["Refine"])
    choose_method(page, "MACE")
    expect(page.locator("#mace-about")).to_be_visible()
    assert saved_recipe(page) == fast


@pytest.mark.parametrize("name", ["esd", "speed", "mace-free"])
def test_a_recipe_of_another_method_fills_its_controls(page, upload, saved_recipe, name):
    changes = {
        "esd": {"select": "u", "steps": 7, "learning_rate": 3e-5},
        "speed": {"tau": 1e-4, "filtered": False, "tune": "both"},
        "mace-free": {"fusion": False, "refine": KeepWeights(1e-3, 2.0, 0.25)},
    }
    recipe = Recipe(concepts=(Concept("car", "ground"),), preserve=("ship",), method=name, seed=5)
    full = recipe.with_settings(**changes[name])
    upload(page, "#open-recipe", "recipe.json", full.to_json().encode())
    expect(page.locator(f"#{name}-about")).to_contain_text(METHODS[name].about)
    assert saved_recipe(page) == full


def test_a_wrong_setting_of_a_method_is_shown_at_its_control(page, upload):
    recipe = Recipe(concepts=(Concept("car", "ground"),), method="esd")
    upload(page, "#open-recipe", "recipe.json", recipe.to_json().encode())
    expect(page.locator("#esd-about")).to_be_visible()
    field(page, "esd-learning-rate").fill("fast")
    expect(page.locator("#estimate")).to_contain_text(re.compile("“fast” is not a number"))
    page.locator("#erase").click()
    expect(field(page, "esd-learning-rate")).to_have_attribute("aria-invalid", "true")
