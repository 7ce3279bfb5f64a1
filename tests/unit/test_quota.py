"""What a visitor of a shared page may ask for at once."""

from dataclasses import replace
from pathlib import Path

import pytest

from mace_studio.errors import RecipeError
from mace_studio.evaluation.report import Plan
from mace_studio.export.formats import ExportRequest
from mace_studio.methods.mace import MaceSettings
from mace_studio.recipe import Concept, ImageRequest, Recipe
from mace_studio.runtime import quota, tasks
from mace_studio.runtime.library import presets
from mace_studio.runtime.studio import Studio
from mace_studio.settings import ImageSettings, LoraSettings

PLACE = tasks.Place("model")
ONE = Recipe(
    concepts=(Concept("cat", "forest"),),
    settings=MaceSettings(images=ImageSettings(8, 15), lora=LoraSettings(steps=50)),
)
OWN = {p.name.removeprefix("miniature/"): p.recipe for p in presets() if p.name.startswith("miniature/")}
HUGE = ONE.with_settings(lora=LoraSettings(steps=5000))
LONG = ImageRequest(("a cat",) * 40, tuple(range(40)), steps=50)


def test_seconds_grow_with_the_work_and_are_bounded():
    """Eight images of 15 steps with guidance are 240 samples: 10 + 240 * 0.004 + 50 * 0.07 = 14.46."""
    assert quota.seconds(tasks.erase, PLACE, ONE) == 15
    assert quota.seconds(tasks.erase, PLACE, ONE.with_settings(lora=LoraSettings(steps=0))) == 10
    assert quota.seconds(tasks.erase, PLACE, HUGE) == quota.LONGEST
    assert quota.seconds(tasks.compare, PLACE, Path("e"), ImageRequest(("a", "b"), (0, 1), 25)) == 12
    assert quota.seconds(tasks.export, PLACE, Path("e"), ExportRequest("unet", Path("f"))) == quota.START


@pytest.mark.parametrize(
    "call, field",
    [
        ((tasks.erase, HUGE), "concepts"),
        ((tasks.masks, ONE.with_settings(images=ImageSettings(per_concept=500))), "concepts"),
        ((tasks.compose, (Path("e"),), (), HUGE, ""), "concepts"),
        ((tasks.compare, Path("e"), LONG), "prompt"),
        ((tasks.inspect, Path("e"), ImageRequest(("a",) * 9, tuple(range(9)), 999), ()), "steps"),
        ((tasks.residual, Path("e"), ImageRequest(("a",) * 9, tuple(range(9)), 999)), "steps"),
        ((tasks.preview, ONE, ImageRequest(("a",) * 9, tuple(range(9)), 999)), "steps"),
        ((tasks.evaluate, [(Path("e"), Plan((), ("a",) * 900, (0,), 20, 4.0))], None), "plan"),
    ],
)
def test_too_much_is_refused_with_a_remedy(call, field):
    with pytest.raises(RecipeError, match=r"lent to a visitor at once; .*On your own machine") as error:
        quota.check(*call)
    assert error.value.field == field


def test_every_kind_of_work_is_counted():
    assert set(quota.COUNTS) == set(quota.REMEDIES)
    public = {name: value for name, value in vars(tasks).items() if not name.startswith("_")}
    own = {f for f in public.values() if getattr(f, "__module__", "") == tasks.__name__ and callable(f)}
    kinds = {tasks.Place, tasks.Loaded, tasks.Done, tasks.Failed, tasks.Held}
    unbounded = own - kinds - {tasks.held, tasks.perform, tasks.outcome, tasks.with_defaults} - set(quota.COUNTS)
    assert unbounded == {tasks.load, tasks.measure, tasks.export}


@pytest.mark.parametrize("name", ["cat", "people-1", "people-5", "artists-5", "weapons", "mixed"])
def test_these_presets_fit(name):
    quota.check(tasks.erase, OWN[name])


def test_only_a_studio_that_visitors_share_is_bounded(tmp_path):
    with pytest.raises(RecipeError, match="60 s are lent"):
        Studio(output=tmp_path, fixed=True).erase(HUGE)
    Studio(output=tmp_path).erase(HUGE).cancel()


def test_visitors_of_a_shared_studio_choose_no_judge(tmp_path):
    with pytest.raises(RecipeError, match="own judge"):
        Studio(output=tmp_path, fixed=True).evaluate(["cat"], judge="/home/someone/clip")


def test_each_visitor_has_a_folder_beside_what_all_see(tmp_path):
    asking = "ann"
    studio = Studio(output=tmp_path, fixed=True, visitor=lambda: asking)
    quick = ONE.with_settings(lora=LoraSettings(steps=0))
    everyones = Studio(output=tmp_path).erase(quick).wait()
    assert studio.entries() == [everyones]
    anns = studio.erase(replace(quick, name="anns")).wait()
    assert anns.path.parent == studio.output == tmp_path / "visitors" / "ann"
    assert [e.name for e in studio.entries()] == [anns.name, everyones.name]
    assert studio.entry(anns.name) == anns and studio.entry(everyones.name) == everyones
    job = studio.erase(replace(quick, name="anns too"))
    asking = "bob"
    assert job.wait().path.parent == tmp_path / "visitors" / "ann"
    assert studio.entries() == [everyones]
    with pytest.raises(tasks.StudioError, match="no erased model"):
        studio.entry(anns.name)
    with pytest.raises(tasks.StudioError):
        studio.entry(f"../ann/{anns.name}")
