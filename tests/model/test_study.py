import json
from dataclasses import replace

import pytest

from mace_studio.errors import RecipeError
from mace_studio.evaluation import plan, report_figures, study
from mace_studio.evaluation.report import KEPT
from mace_studio.evaluation.study import Case
from mace_studio.methods.mace import MaceSettings, erase
from mace_studio.paths import BUILT_IN
from mace_studio.recipe import Concept, Recipe
from mace_studio.sd import sampling
from mace_studio.settings import ImageSettings, KeepWeights, LoraSettings
from tests.steps import cancelled

QUICK = Recipe(
    concepts=(Concept("cat", "forest"),),
    preserve=("dog",),
    settings=MaceSettings(
        refine=KeepWeights(preserve=1.0, identity=1.0),
        fuse=KeepWeights(preserve=1.0, identity=1.0),
        lora=LoraSettings(steps=0),
        images=ImageSettings(guidance=4.0),
    ),
)


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    """A plan that is quick for a test too."""
    monkeypatch.setitem(plan.CAPTIONS, "quick", 4)
    monkeypatch.setitem(plan.IMAGES, "quick", 2)
    monkeypatch.setattr(study, "STEPS", 2)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("objects", 10),
        ("people", 4),
        ("others", 3),
        ("ablation", 5),
        ("keys-values", 5),
        ("scaling", 6),
        ("search", 18),
        # 1, 5, 10, 25, 50 and 100 people, and all kinds at once, by seven methods, one of them with two fusions
        ("mass", 56),
        ("fast", 9 * (4 + 10)),
    ],
)
def test_every_study_has_its_rows_and_all_can_be_run(name, count):
    rows = study.cases(name)
    assert len(rows) == len({case.label for case in rows}) == len({case.recipe for case in rows}) == count
    assert all(case.recipe.check() for case in rows)


def test_the_ablation_adds_one_part_after_the_other():
    refined, summed, closed, whole, own = (case.recipe for case in study.cases("ablation"))
    assert len(whole.concepts) == 20 and len(whole.preserve) == 100
    assert refined.settings.lora.steps == 0
    assert summed.settings.fusion == "weighted-sum" and summed.settings.lora.uniform and summed.settings.lora.steps > 0
    assert closed == summed.with_settings(fusion="closed-form")
    assert whole == closed.with_settings(lora=replace(closed.settings.lora, uniform=False))
    assert own == whole.with_settings(lora=replace(whole.settings.lora, own_tokens=True)) != whole


def test_some_rows_are_enough():
    found = study.cases("mass", only=["MACE, 5 people", "UCE"])
    assert [case.label for case in found][:2] == ["MACE, 5 people", "UCE, 1 person"] and len(found) == 8
    with pytest.raises(RecipeError, match="No row has that in its name; the rows are airplane"):
        study.cases("objects", only=["unicorn"])


@pytest.mark.parametrize("asked", [("nothing", "cat"), ("search", "Van Gogh")])
def test_an_unknown_study_or_preset_is_named(asked):
    with pytest.raises(RecipeError, match="use one of"):
        study.cases(*asked)


def test_a_study_makes_measures_and_goes_on(tmp_path, monkeypatch):
    rows = [Case("gone", QUICK), Case("impossible", replace(QUICK, preserve=("Van Gogh",)))]
    seen = []
    first = study.run(rows, "quick", tmp_path, progress=seen.append)
    assert [outcome.problem != "" for outcome in first] == [False, True]
    assert first[0].seconds > 0 and first[0].report.pooled(KEPT).after.count == 2
    fractions = [event.fraction for event in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    assert list(dict.fromkeys(event.stage for event in seen)) == ["gone", "impossible"]
    assert [event.result for event in seen if event.result] == first
    monkeypatch.setattr(erase, "erase", None)
    monkeypatch.setattr(sampling, "generate_pairs", None)
    again = study.run(rows[:1], "quick", tmp_path)
    assert again[0].seconds == first[0].seconds and again[0].report == first[0].report
    assert again[0].memory == first[0].memory
    # As studies kept it before.
    (tmp_path / f"cat-{QUICK.digest()}.seconds").write_text("2.5", encoding="utf-8")
    older = study.run(rows[:1], "quick", tmp_path)[0]
    assert (older.seconds, older.memory) == (2.5, None)
    text = study.markdown("A study", [*again, first[1]])
    assert "| gone | 1 |" in text and "| impossible | 1 |" in text and "does not know “Van Gogh”" in text
    assert "average" not in text
    assert "| average | | | | | |" in study.markdown("A study", again, averaged=True)
    grown = [replace(again[0].report, recipe=replace(QUICK, concepts=QUICK.concepts * n)) for n in (1, 5, 12)]
    (path,) = report_figures.write_growth(grown, [1.0, None, 3.0], tmp_path / "people.png")
    assert path.is_file()
    assert report_figures.write_growth(grown[:1] * 3, [None] * 3, tmp_path / "objects.png") == []
    other = replace(grown[0], recipe=replace(QUICK, method="uce", settings=None))
    drawn = report_figures.compared([*grown, other], [1.0, None, 3.0, 0.5])
    drawn.canvas.draw()
    for axis in drawn.axes:
        told = [label.get_text() for label in (*axis.get_xticklabels(), *axis.get_yticklabels())]
        assert all(not text or float(text.replace("−", "-")) >= -100 for text in told), told  # numbers, no formulas
    (path,) = report_figures.write_growth([*grown, other], [1.0, None, 3.0, 0.5], tmp_path / "mass.png")
    assert path.stat().st_size > 10_000
    assert f"| dog {100 * first[0].report.spill_over()[0].after.top1:.1f} % |" in text


def test_the_study_over_many_people_erases_and_keeps_what_the_judge_knows():
    rows = {case.label: case.recipe for case in study.cases("mass")}
    everything = rows["MACE, 180 of all kinds"]
    assert [sum(c.kind == kind for c in everything.concepts) for kind in ("object", "celebrity", "style")] == [
        60,
        100,
        20,
    ]
    assert len(everything.preserve) == 10 + 100 + 20
    heads = json.loads((BUILT_IN.parent / "judge" / "judge.json").read_text(encoding="utf-8"))["heads"]
    named = {*(c.phrase for c in everything.concepts), *everything.preserve}
    assert named == {*heads["thing"], *heads["artist"]} - {"none of these"}
    people = [rows[f"UCE, {count}"] for count in ("1 person", *(f"{n} people" for n in (5, 10, 25, 50, 100)))]
    assert [len(recipe.concepts) for recipe in people] == [1, 5, 10, 25, 50, 100]
    assert all(recipe.preserve == rows["MACE, 1 person"].preserve for recipe in people)


def test_no_row_of_the_scaling_study_finds_training_images_of_another():
    recipes = [case.recipe for case in study.cases("scaling")]
    assert len({recipe.seed for recipe in recipes}) == len(recipes)


def test_a_cancelled_study_goes_on_where_it_was(tmp_path):
    rows = [Case("first", QUICK), Case("second", replace(QUICK, seed=1))]
    with cancelled(lambda event: event.stage == "second") as progress:
        study.run(rows, "quick", tmp_path, progress=progress)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == [f"cat-{QUICK.digest()}.safetensors"]
    made = next(tmp_path.glob("*.safetensors")).stat().st_mtime_ns
    assert [outcome.seconds > 0 for outcome in study.run(rows, "quick", tmp_path)] == [True, True]
    assert (tmp_path / f"cat-{QUICK.digest()}.safetensors").stat().st_mtime_ns == made
