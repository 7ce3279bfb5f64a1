"""The recipes that come with the project, as files."""

import json

from mace_studio.methods import METHODS
from mace_studio.presets import PRESETS, presets
from mace_studio.recipe import Recipe


def test_every_preset_is_a_whole_recipe_that_says_what_it_is():
    found = presets()
    assert len(found) == len(list(PRESETS.rglob("*.json"))) >= 5
    for preset in found:
        assert preset.recipe.check() and preset.recipe.about.endswith(".") and preset.recipe.name


def test_presets_hold_only_what_differs_from_the_defaults():
    for path in PRESETS.rglob("*.json"):
        written = json.loads(path.read_text(encoding="utf-8"))
        method = written.pop("method")
        assert method == "mace" or "methods" in path.parts
        defaults = json.loads(Recipe(method=method, settings=METHODS[method].settings()).to_json())
        for key, value in written.pop("settings", {}).items():
            assert value != defaults["settings"][key], f"{path.name}: {key} is the default"
        for key, value in written.items():
            assert value != defaults[key], f"{path.name}: {key} is the default"
