"""Per-request limits on a shared server."""

import time
from dataclasses import fields, replace
from pathlib import Path

import pytest

from mace_studio.errors import RecipeError
from mace_studio.evaluation.plan import Plan
from mace_studio.exports.formats import ExportRequest
from mace_studio.masks import MaskSheet
from mace_studio.methods import METHODS, find
from mace_studio.methods.mace import MaceSettings
from mace_studio.presets import presets
from mace_studio.recipe import Concept, ImageRequest, Recipe
from mace_studio.runtime import quota
from mace_studio.runtime.perform import Place
from mace_studio.runtime.studio import Studio
from mace_studio.settings import ImageSettings, LoraSettings

PLACE = Place(source="model")
ONE = Recipe(
    concepts=(Concept("cat", "forest"),),
    settings=MaceSettings(images=ImageSettings(8, 15), lora=LoraSettings(steps=50)),
)
OWN = {p.name.removeprefix("miniature/"): p.recipe for p in presets() if p.name.startswith("miniature/")}
HUGE = ONE.with_settings(lora=LoraSettings(steps=5000))
LONG = ImageRequest(("a cat",) * 40, tuple(range(40)), steps=50)


def test_seconds_grow_with_the_work_and_are_bounded():
    """Eight images of 15 steps with guidance are 240 samples: 10 + 240 * 0.004 + 50 * 0.07 = 14.46."""
    assert quota.seconds("erase", PLACE, ONE) == 15
    assert quota.seconds("erase", PLACE, ONE.with_settings(lora=LoraSettings(steps=0))) == 10
    assert quota.seconds("erase", PLACE, HUGE) == quota.LONGEST
    assert quota.seconds("compare", PLACE, (Path("e"),), ImageRequest(("a", "b"), (0, 1), steps=25)) == 12
    assert quota.seconds("export", PLACE, Path("e"), ExportRequest("unet", Path("f"))) == quota.START


@pytest.mark.parametrize(
    "call, field",
    [
        (("erase", HUGE), "concepts"),
        (("masks", ONE.with_settings(images=ImageSettings(per_concept=500))), "concepts"),
        (("compose", (Path("e"),), (), HUGE, ""), "concepts"),
        (("compare", (Path("e"),), LONG), "prompt"),
        (("inspect", Path("e"), ImageRequest(("a",) * 9, tuple(range(9)), steps=999), ()), "steps"),
        (("residual", Path("e"), ImageRequest(("a",) * 9, tuple(range(9)), steps=999)), "steps"),
        (("preview", ONE, ImageRequest(("a",) * 9, tuple(range(9)), steps=999)), "steps"),
        (
            (
                "evaluate",
                [(Path("e"), Plan(probes=(), captions=("a",) * 900, seeds=(0,), steps=20, guidance=4.0))],
                None,
            ),
            "plan",
        ),
    ],
)
def test_too_much_is_refused_with_a_remedy(call, field):
    with pytest.raises(RecipeError, match=r"lent to a user at once; .*On your own machine") as error:
        quota.check(*call)
    assert error.value.field == field


def test_every_limit_has_a_remedy():
    assert set(quota.COUNTS) == set(quota.REMEDIES)


@pytest.mark.parametrize("name", ["cat", "people-1", "people-5", "weapons", "mixed"])
def test_these_presets_fit(name):
    quota.check("erase", OWN[name])


def test_users_of_a_shared_studio_choose_no_judge(tmp_path):
    with pytest.raises(RecipeError, match="own judge"):
        Studio(output=tmp_path, fixed=True).evaluate(["cat"], judge="/home/someone/clip")


def test_rank_phrases_and_pixels_count():
    """A rank of 256 makes a step 1.7 times as long; sentences beyond 500 take 2.5 ms each."""
    long = ONE.with_settings(lora=LoraSettings(steps=500))
    assert quota.seconds("erase", PLACE, long) == 46  # 10 + 0.96 + 35
    wide = ONE.with_settings(lora=LoraSettings(steps=500, rank=256))
    # 10 + 0.96 + 35 * (1 + 0.7 * 255 / 256) = 70.4
    with pytest.raises(RecipeError, match="about 70 s"):
        quota.check("erase", wide)
    with pytest.raises(RecipeError, match="lent to a user at once"):
        quota.check("erase", replace(ONE, preserve=tuple(f"thing {i}" for i in range(4000))))
    one = ImageRequest(("a cat",), steps=20)
    assert quota.seconds("compare", PLACE, (Path("e"),), one) == 11
    with pytest.raises(RecipeError, match="lent to a user"):
        quota.check("compare", (Path("e"),), replace(one, size=(2048, 2048)))


def test_images_are_counted_before_they_are_listed():
    recipe = Recipe(concepts=[Concept(f"thing {i}", "forest") for i in range(1001)])
    many = recipe.with_settings(images=ImageSettings(per_concept=1000), lora=LoraSettings(steps=0))
    for name, settings in {"mace": {}, "ac": {"images": 2000}, "sa": {"surrogates": 2000}}.items():
        asked = many if name == "mace" else Recipe(concepts=recipe.concepts, method=name).with_settings(**settings)
        with pytest.raises(RecipeError, match="training images are too many; at most 100000"):
            asked.check()
    begun = time.process_time()
    with pytest.raises(RecipeError):
        quota.check("masks", many)
    assert MaskSheet(many, []).fitting(many) == {}
    assert time.process_time() - begun < 0.2


@pytest.mark.parametrize("method", [name for name in METHODS if name != "mace"])
def test_every_number_of_every_method_has_bounds(method):
    settings = find(method).settings()
    for part in fields(settings):
        value = getattr(settings, part.name)
        for odd in (1e300, -1e300, 10**400) if isinstance(value, int | float) and not isinstance(value, bool) else ():
            with pytest.raises(RecipeError) as refused:
                replace(settings, **{part.name: odd}).check()
            assert refused.value.field == part.name


def test_memory_is_lent_too():
    """A LoRA of rank 256 takes 13 + 256 * 0.16 = 54 MB, and 64 of them train together."""
    many = tuple(Concept(f"c{i}", "sky") for i in range(64))
    wide = ONE.with_settings(lora=LoraSettings(steps=1, rank=256), images=ImageSettings(1, 1), concepts_at_once=64)
    with pytest.raises(RecipeError, match=r"3\.5 GB of memory"):
        quota.check("erase", replace(wide, concepts=many))
    quota.check("erase", replace(wide.with_settings(concepts_at_once=2), concepts=many))


def test_images_and_maps_take_memory_where_they_are_quick():
    """One image of 2048 x 2048 takes 2,124 bytes a pixel, and 3 runs of 999 steps 650 kB a step of each."""
    large = ImageRequest(("a cat",), steps=1, size=(2048, 2048))
    assert quota.seconds("compare", PLACE, (Path("e"),), large) < quota.LONGEST
    with pytest.raises(RecipeError, match=r"8\.9 GB of memory.*smaller images"):
        quota.check("compare", (Path("e"),), large)
    long = ImageRequest(("a cat",), steps=999)
    assert quota.seconds("residual", PLACE, Path("e"), long) < quota.LONGEST
    with pytest.raises(RecipeError, match=r"2\.0 GB of memory.*fewer steps"):
        quota.check("residual", Path("e"), long)
