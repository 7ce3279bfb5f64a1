"""What the built-in model is said to know."""

from dataclasses import replace

import pytest

from mace_studio.presets import presets
from mace_studio.recipe import Concept, Recipe
from mace_studio.runtime.vocabulary import built_in
from mace_studio.ui.components.preset_select import groups_of


@pytest.mark.parametrize("preset", [p for p in presets() if p.name.startswith("miniature/")], ids=lambda p: p.name)
def test_it_knows_every_phrase_of_its_presets(preset):
    assert built_in().warning(preset.recipe) == ""


def test_other_words_are_found_in_any_case_and_only_once():
    recipe = Recipe(concepts=(Concept("Mickey Mouse", "a xylophone"), Concept("CAT", "art")), preserve=("xylophone",))
    assert built_in().unknown_in(recipe) == ["Mickey Mouse", "a xylophone", "xylophone"]
    told = replace(recipe, concepts=(Concept("cat", "forest", synonyms=("feline", "moggy")), Concept("dog", "art")))
    assert built_in().warning(replace(told, preserve=())) == (
        "The model has not learned “moggy” (row 1): as a synonym that tests nothing."
    )
    many = Recipe(concepts=tuple(Concept(f"xylophone {i}", "forest") for i in range(100)))
    assert "“xylophone 7” (row 8) and 92 more: nothing" in built_in().warning(many)
    assert built_in().unknown_words(["a cat's xylophone", "A Xylophone and a moggy"]) == ["xylophone", "moggy"]
    assert built_in().kinds["Ada Finch"] == "celebrity" and built_in().kinds["forest"] == ""


def test_presets_are_grouped_by_model_and_kind_and_say_which_model_they_need():
    listed = {preset.name: preset.recipe for preset in presets()}
    groups = groups_of(listed, built_in=True)
    labels = [group["label"] for group in groups]
    assert labels[0] == "Built-in model · objects" and "Built-in model · people" in labels
    assert "Stable Diffusion 1.4 · styles (not for the loaded model: needs Stable Diffusion 1.4)" in labels
    assert {name for group in groups for name, _ in group["options"]} == set(listed)
    real = [group["label"] for group in groups_of(listed, built_in=False)]
    assert real[0].startswith("Stable Diffusion 1.4") and real[-1].endswith("needs the built-in model)")
