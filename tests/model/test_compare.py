import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mace_studio.analysis import compare as comparison
from mace_studio.erasure import Erasure
from mace_studio.errors import FileError, RecipeError
from mace_studio.recipe import Concept, ImageRequest, Recipe
from mace_studio.sd import image_cache, projections
from tests.steps import cancelled

RECIPE = Recipe(concepts=(Concept("cat", "forest"),))
REQUEST = ImageRequest(prompts=("a photo of the cat", "a ship"), seeds=(0, 7), steps=2, guidance=4.0)


def erasure_of(model, factor):
    weights = {key: factor * weight_PD for key, weight_PD in projections.read(model.unet).items()}
    return Erasure(recipe=RECIPE, weights=weights, fingerprint=model.fingerprint)


def test_the_same_weights_give_the_same_images_and_others_do_not(model, unchanged):
    seen = []
    pairs = comparison.compare(model, erasure_of(model, 1.0), REQUEST, seen.append)
    assert [(p.prompt, p.seed) for p in pairs] == [(p, s) for p in REQUEST.prompts for s in REQUEST.seeds]
    assert all(p.change == 0 for p in pairs)
    assert (seen[-1].step, seen[-1].total, seen[-1].fraction) == (8, 8, 1.0)
    reported = [event.result for event in seen if event.result is not None]
    assert len(reported) == 4 and all(one is other for one, other in zip(reported, pairs, strict=True))
    steps = [event.step for event in seen]
    assert steps == sorted(steps) and {event.stage for event in seen} == {"generate"}
    others = comparison.compare(model, erasure_of(model, 0.0), REQUEST)
    assert all(p.change > 1 for p in others)
    assert all(np.array_equal(a.before, b.before) for a, b in zip(pairs, others, strict=True))


def test_pairs_are_reported_before_all_are_there(model, unchanged, monkeypatch):
    monkeypatch.setattr(comparison, "PAIRS_AT_ONCE", 1)
    seen = []
    pairs = comparison.compare(model, erasure_of(model, 0.0), REQUEST, seen.append)
    assert [event.step for event in seen if event.result is not None] == [2, 4, 6, 8]
    together = comparison.compare(model, erasure_of(model, 0.0), replace(REQUEST, seeds=(7,)))
    apart = [pair for pair in pairs if pair.seed == 7]
    assert all(np.array_equal(a.after, b.after) for a, b in zip(apart, together, strict=True))


@pytest.mark.parametrize("images", [0.5, 1.5])
def test_cancelling_restores_the_model(model, unchanged, images):
    request = replace(REQUEST, prompts=("a cat",), seeds=(0,))
    with cancelled(lambda event: event.step >= images) as progress:
        comparison.compare(model, erasure_of(model, 0.0), request, progress)


def test_an_erasure_of_another_model_is_refused(other, model):
    with pytest.raises(FileError, match="another model"):
        comparison.compare(other, erasure_of(model, 1.0), REQUEST)


def test_a_request_without_a_prompt_is_refused(model):
    with pytest.raises(RecipeError, match="prompt"):
        comparison.compare(model, erasure_of(model, 1.0), replace(REQUEST, prompts=(" ",)))


def test_change_is_the_mean_absolute_difference():
    black, grey = Image.new("RGB", (2, 1)), Image.new("RGB", (2, 1))
    grey.putpixel((0, 0), (30, 0, 0))
    assert image_cache.difference(black, grey) == 5.0


def test_a_saved_pair_can_be_generated_again_from_what_is_in_it(tmp_path):
    before, after = Image.new("RGB", (3, 2), "red"), Image.new("RGB", (3, 2), "blue")
    settings = {"prompt": "a “cat”", "seed": 3, "recipe": {"concepts": []}}
    pair = comparison.Pair(prompt="a “cat”", seed=3, before=before, after=after, change=170.0, settings=settings)
    comparison.save_pair(pair, tmp_path / "pairs" / "cat.png")
    with Image.open(tmp_path / "pairs" / "cat.png") as image:
        assert image.size == (6, 2)
        assert image.getpixel((0, 0)) == (255, 0, 0) and image.getpixel((5, 1)) == (0, 0, 255)
        assert json.loads(image.text["mace_studio"]) == settings
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="could not be written"):
        comparison.save_pair(pair, tmp_path / "file" / "cat.png")


def test_several_erasures_stand_beside_the_same_original_and_make_one_sheet(model, tmp_path):
    request = replace(REQUEST, prompts=("a cat", "a boat"), seeds=(1, 2, 3), steps=1)
    both = comparison.compare(model, erasure_of(model, 1.0), request, others=[erasure_of(model, 0.0)])
    assert [(p.prompt, p.seed, p.erasure) for p in both] == [(*one, i) for one in request.pairs() for i in (0, 1)]
    alone = comparison.compare(model, erasure_of(model, 1.0), request)
    assert [p.after.tobytes() for p in both[::2]] == [p.after.tobytes() for p in alone]
    assert both[0].before.tobytes() == both[1].before.tobytes()
    comparison.save_sheet(both, ["A", "B"], tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        about = json.loads(sheet.text["mace_studio"])
        size = both[0].before.size
        assert (about["seeds"], about["prompts"]) == ([1, 2, 3], ["a cat", "a boat"])
        assert list(about["recipes"]) == ["A", "B"] and "recipe" not in about
        # Column 3 of the last row: erasure B of the second prompt with seed 3.
        step, line = size[0] + 4, comparison.LINE
        x, y = comparison.LABEL + 2 * step, line * 2 + (line + 3 * step) + 2 * step
        assert sheet.crop((x, y, x + size[0], y + size[1])).tobytes() == both[-1].after.tobytes()
        below = sheet.crop((sheet.width - 3, y + size[1], sheet.width, sheet.height))
        assert below.getextrema() == ((255, 255),) * 3  # no line of the settings is cut
    comparison.save_sheet(both, ["A", "b" * 40], tmp_path / "long.png")
    with Image.open(tmp_path / "long.png") as long:
        assert long.width > sheet.width + 100  # nor is a name
