"""A distilled model is drawn with its own few steps, unless the user chose others."""

import json

import pytest
from PIL import Image

from mace_studio import cli
from mace_studio.methods.mace import MaceSettings
from mace_studio.recipe import Concept, ImageRequest, Recipe
from mace_studio.runtime.studio import Studio
from mace_studio.settings import ImageSettings, KeepWeights, LoraSettings
from mace_studio.ui import form
from tests import families

KEEP = KeepWeights(identity=1.0)
RECIPE = Recipe(
    concepts=(Concept("cat", "forest"),), settings=MaceSettings(refine=KEEP, fuse=KEEP, lora=LoraSettings(steps=0))
)
SUITED = {"sd1": (20, 7.5), "turbo": (4, 1.0), "lcm": (4, 7.5)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {name: str(families.save(name, root / name)) for name in SUITED}


@pytest.mark.parametrize("family", SUITED)
def test_the_page_begins_with_what_suits_the_model(folders, tmp_path, family):
    studio = Studio(folders[family], output=tmp_path)

    def settle(steps, guidance):
        shown, usual = zip(*form.usual_settings(studio, steps, guidance, "7.5"), strict=True)
        assert shown == (steps, guidance)
        return usual

    assert settle("20", "7.5") == ("20", "7.5")  # nothing is known of it yet
    studio.load().wait()
    steps, guidance = settle("20", "7.5")
    assert (int(steps), float(guidance)) == SUITED[family]
    assert settle("12", "7.5") == ("12", "7.5") and settle("20", "3") == ("20", "3")


def test_plans_and_previews_are_suited_too(folders, tmp_path):
    studio = Studio(folders["turbo"], output=tmp_path)
    entry = studio.erase(RECIPE).wait()
    plan = studio.plan(entry.name)
    assert (plan.steps, plan.guidance) == (4, 1.0)
    preview = studio.preview(RECIPE, ImageRequest(("a cat",), steps=20))
    preview.wait()
    assert sum(event.stage == "generate" for event in preview.events) == 2 * 4
    assert studio.with_defaults(ImageSettings(steps=3)).steps == 3


def test_the_terminal_draws_in_few_steps_unless_told_otherwise(folders, tmp_path, capsys):
    recipe = tmp_path / "cat.json"
    recipe.write_text(RECIPE.to_json(), encoding="utf-8")
    model = ["--model", folders["turbo"]]
    assert cli.main(["erase", str(recipe), *model, "--out", str(tmp_path)]) == 0
    erasure = capsys.readouterr().out.strip()
    for flags, expected in (([], (4, 1.0)), (["--steps", "2"], (2, 1.0)), (["--guidance", "1.5"], (4, 1.5))):
        out = tmp_path / "-".join(flags or ["none"])
        assert cli.main(["compare", erasure, *model, "--prompt", "a cat", *flags, "--out", str(out)]) == 0
        with Image.open(*out.glob("a-cat-0-*.png")) as picture:
            settings = json.loads(picture.text["mace_studio"])
        assert (settings["steps"], settings["guidance"]) == expected
