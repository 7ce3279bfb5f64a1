"""The study of methods: which rows it has, that all methods get the same, and what its tables say."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from mace_studio import cli, presets, prompts
from mace_studio.errors import RecipeError
from mace_studio.evaluation import methods_search, methods_study, plan, report, study
from mace_studio.evaluation.plan import ERASED, KEPT
from mace_studio.evaluation.study import Outcome
from mace_studio.methods import METHODS
from mace_studio.methods.settings import EsdSettings, OceSettings, SldSettings, SpeedSettings, UceSettings
from mace_studio.presets import Preset
from mace_studio.recipe import Recipe
from mace_studio.settings import KeepWeights, LoraSettings

QUICK = ("mace-free", "uce", "sld")


@pytest.fixture
def few_images(monkeypatch):
    """Two words each are enough for a test: one synonym and one that is kept, in the first form of a prompt.

    A function sets the steps of each image, of which there are two: enough where nobody asks what is on them.
    """
    monkeypatch.setitem(plan.CAPTIONS, "quick", 2)
    monkeypatch.setitem(plan.IMAGES, "quick", 2)
    monkeypatch.setitem(prompts.TESTS, "object", prompts.TESTS["object"][:1])
    presets.known_kinds()  # which remembers what it has read
    small = []
    for preset in presets.presets():
        if preset.name in ("miniature/cat", "miniature/ship"):
            (own,) = preset.recipe.concepts
            concept, keep = replace(own, synonyms=own.synonyms[:1]), KeepWeights(general=0.0)  # encodes no captions
            recipe = replace(preset.recipe, concepts=(concept,), preserve=("dog",))
            small.append(replace(preset, recipe=recipe.with_settings(refine=keep, fuse=keep)))
    monkeypatch.setattr(presets, "presets", lambda: small)

    def steps(count):
        monkeypatch.setattr(study, "STEPS", count)

    steps(2)
    return steps


def test_each_task_has_its_subjects():
    assert len(methods_study.subjects("objects")) == 10 and "cat" in methods_study.subjects("objects")
    people = methods_study.subjects("people")
    largest = max(len(recipe.concepts) for recipe in people.values())
    assert list(people)[:3] == ["1 person", "5 people", "10 people"]
    assert {len(recipe.preserve) for recipe in people.values()} == {len(people["1 person"].preserve)}
    assert all(len(recipe.concepts) in methods_study.COUNTS for recipe in people.values()) and largest >= 10
    for task in ("artists", "weapons", "mixed"):
        assert list(methods_study.subjects(task)) == [task]
    with pytest.raises(RecipeError, match="“cars” is not known; use one of objects"):
        methods_study.subjects("cars")


@pytest.mark.parametrize("task", methods_study.TASKS)
def test_every_method_is_given_the_same(task):
    rows = methods_study.cases(task)
    groups = {}
    for case in rows:
        case.recipe.check()
        groups.setdefault(case.label.rpartition(" · ")[0], []).append(case)
    assert groups.keys() == methods_study.subjects(task).keys()
    for group in groups.values():
        assert list(dict.fromkeys(case.recipe.method for case in group)) == list(METHODS)
        assert len({(c.recipe.concepts, c.recipe.preserve, c.recipe.seed, c.guidance) for c in group}) == 1
        assert all(getattr(c.recipe.settings, "image_guidance", c.guidance) == c.guidance == 4.0 for c in group)


def test_some_methods_and_some_subjects_are_enough():
    rows = methods_study.cases("objects", ["uce", "mace"], ["cat", "dog"])
    assert [case.label for case in rows] == ["cat · UCE", "cat · MACE", "dog · UCE", "dog · MACE"]
    with pytest.raises(RecipeError, match="“Van Gogh” is not in this task; use some of"):
        methods_study.cases("objects", only=["Van Gogh"])


def test_the_published_fusion_stands_beside_ours(monkeypatch):
    own = [
        replace(preset, recipe=preset.recipe.with_settings(lora=LoraSettings(own_tokens=True)))
        for preset in presets.presets()
        if preset.name in ("miniature/people-5", "miniature/people-100")
    ]
    monkeypatch.setattr(presets, "presets", lambda: own)
    published, ours, uce = methods_study.cases("people", ["mace", "uce"], ["5 people"])
    assert [case.label.rpartition(" · ")[2] for case in (published, ours, uce)] == ["MACE", "MACE, own tokens", "UCE"]
    assert ours.recipe.settings.lora.own_tokens and not published.recipe.settings.lora.own_tokens
    assert replace(published.recipe, settings=ours.recipe.settings) == ours.recipe


def test_settings_are_published_ones_until_a_search_has_others(monkeypatch):
    unsearched = [preset for preset in presets.presets() if "/methods/" not in preset.name]
    monkeypatch.setattr(presets, "presets", lambda: unsearched)
    cat, people = methods_study.subjects("objects")["cat"], methods_study.subjects("people")["5 people"]
    assert methods_study.with_method(cat, "mace") == cat
    assert methods_study.with_method(cat, "esd").settings == EsdSettings(select="u")
    assert methods_study.with_method(cat, "esd", "x").settings == EsdSettings()
    assert methods_study.with_method(people, "esd").settings == EsdSettings()
    assert methods_study.with_method(cat, "speed").settings == SpeedSettings(anchor="mapping")
    assert methods_study.with_method(people, "speed").settings.tau == 1e-4
    assert methods_study.with_method(cat, "uce").settings == UceSettings(form="tail")
    assert methods_study.with_method(cat, "mace-free").settings.fuse == cat.settings.fuse
    assert methods_study.with_method(cat, "sld").settings == SldSettings(guidance=4.0)
    hundred = replace(people, concepts=people.concepts * 20)
    assert methods_study.with_method(people, "oce").settings.erase_scale == 3500
    assert methods_study.with_method(hundred, "oce").settings.erase_scale == 800
    found = Preset("miniature/methods/cat-oce", replace(cat, method="oce", settings=OceSettings(keep_scale=7.0)))
    monkeypatch.setattr(presets, "presets", lambda: [*unsearched, found])
    assert methods_study.with_method(cat, "oce").settings.keep_scale == 7
    assert methods_study.with_method(people, "oce").settings.keep_scale == 5  # the search was for objects


@pytest.mark.parametrize("preset", ["cat", "people-10"])
@pytest.mark.parametrize("name", METHODS)
def test_a_recipe_that_a_search_writes_is_read_as_it_was(name, preset, tmp_path):
    for case in methods_search.candidates(name, preset):
        path = methods_search.write_recipe(case.recipe, preset, tmp_path)
        assert Recipe.from_json(path.read_text(encoding="utf-8")).settings == case.recipe.settings


def test_both_forms_of_esd_stand_in_a_table_with_the_best_settings_of_each(tmp_path):
    rows = methods_study.cases("objects", ["esd"], ["cat"])
    assert [case.label for case in rows] == ["cat · ESD-x", "cat · ESD-u"]
    assert methods_study.cases("objects", ["esd-u"], ["cat"]) == rows[1:]
    found = methods_search.candidates("esd", "cat")
    measured = [Outcome(case, None, problem="no memory") for case in found]
    with pytest.raises(RecipeError, match="None of the settings"):
        methods_search.winners(measured, "esd")
    means = [SimpleNamespace(mean={report.TOP1: i, report.PROBABILITY: i}.get) for i in (1, 5, 3, 4, 2, 6)]
    measured = [Outcome(case, mean) for case, mean in zip(found, means, strict=True)]
    won = [one.case for one in methods_search.winners(measured, "esd")]
    assert won == [found[2], found[5]]
    names = [methods_search.write_recipe(case.recipe, "cat", tmp_path).name for case in won]
    assert names == ["cat-esd-x.json", "cat-esd-u.json"]


def test_every_method_has_the_same_budget_and_its_candidates_can_be_run():
    assert list(methods_search.SEARCHED) == list(METHODS)
    for name in methods_search.SEARCHED:
        found = methods_search.candidates(name, "cat")
        assert len(found) == len({case.recipe for case in found}) == 6
        assert all(case.recipe.check().method == name and case.guidance == 4.0 for case in found)
    tried = methods_search.candidates("mace", "cat")[4].recipe.settings
    assert (tried.fuse.preserve, tried.lora.own_tokens, tried.lora.learning_rate) == (0.1, True, 6e-3)
    for asked in (("nothing", "cat"), ("uce", "nothing")):
        with pytest.raises(RecipeError, match="is not known; use one of"):
            methods_search.candidates(*asked)


def test_a_study_is_measured_and_told(few_images, tmp_path, capsys):
    command = ["study", "methods", "--only", "cat", "ship", "--methods", *QUICK, "--out", str(tmp_path)]
    assert cli.main(command) == 0
    (path,) = tmp_path.glob("methods-objects-quick-*.md")  # of a part; the whole table keeps its name
    text = path.read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## Average", "## cat", "## ship"]
    average = text[text.index("## Average") : text.index("## cat")].splitlines()
    assert average[4].startswith("| original model |") and average[7].startswith("| SLD † |")
    assert average[5].startswith("| MACE without training | ")
    data = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert [(row["subject"], row["method"]) for row in data] == [(s, m) for s in ("cat", "ship") for m in QUICK]
    assert f"| {2 * data[0][ERASED]['count']} / {2 * data[0][KEPT]['count']} / " in average[5]
    assert [row["reads_keep_list"] for row in data[:3]] == [True, True, False]
    assert all(row["seconds"] > 0 for row in data)
    assert all(row["memory"] > 1e8 for row in data) == (sys.platform == "linux")
    assert path.with_suffix(".png").stat().st_size > 10_000
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    assert len(made) == 6
    assert cli.main(command) == 0  # goes on where it was: nothing is made twice
    again = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert again == data
    assert {path: path.stat().st_mtime_ns for path in made} == made


def test_averages_are_over_all_images_and_seconds_over_all_concepts(few_images, tmp_path):
    rows = methods_study.cases("objects", ["uce"], ["cat"])
    (one,) = study.run(rows, "quick", tmp_path)
    first = replace(one, seconds=2.0, memory=1_000_000_000)
    second = replace(one, seconds=6.0, memory=2_500_000_000, case=replace(one.case, label="dog · UCE"))
    whole = methods_study.tally([first, second], KEPT)
    own = one.report.pooled(KEPT).after
    assert (whole.correct, whole.count) == (2 * own.correct, 2 * own.count)
    assert whole.top1 == own.top1 and whole.probability == pytest.approx(own.probability)
    low, high = whole.top1_interval
    assert low >= own.top1_interval[0] and high - low < own.top1_interval[1] - own.top1_interval[0]
    text = methods_study.markdown("T", "objects", [first, second])
    average = text[text.index("## Average") : text.index("## cat")].splitlines()
    assert average[2].endswith("| seconds per concept | times MACE | peak memory |")
    assert average[5].endswith("| 4.00 |  | 2.50 GB |")  # the mean, and the largest
    assert {len(line.split(" | ")) for line in average[2:6]} == {len(average[2].split(" | "))}
    assert "| 2.00 |  |  |" in methods_study.markdown("T", "objects", [replace(first, memory=None)])
    failed = Outcome(
        replace(one.case, label="cat · ESD-x", recipe=methods_study.cases("objects", ["esd"])[0].recipe), None
    )
    assert "| ESD-x † | no memory |" in methods_study.markdown(
        "T", "objects", [first, replace(failed, problem="no memory")]
    )


def test_a_search_writes_what_won_as_a_preset(few_images, tmp_path, monkeypatch):
    few_images(10)
    monkeypatch.setitem(methods_search.SEARCHED, "uce", {"ridge": (0.5, 1e6)})  # the second erases nothing
    assert (
        cli.main(["study", "search", "--method", "uce", "--out", str(tmp_path), "--recipes", str(tmp_path / "r")]) == 0
    )
    (path,) = (tmp_path / "r").glob("*.json")
    written = json.loads(path.read_text(encoding="utf-8"))
    assert path.name == "cat-uce.json" and written["method"] == "uce" and written["settings"] == {"form": "tail"}
    recipe = Recipe.from_json(path.read_text(encoding="utf-8")).check()
    assert recipe.settings.ridge == 0.5 and recipe.preserve == ("dog",)
    assert (tmp_path / "search-cat-uce-quick.md").is_file()


def test_why_a_method_failed_does_not_break_its_table():
    case = methods_study.cases("objects", ["uce"], ["cat"])[0]
    text = methods_study.markdown("A", "objects", [Outcome(case, None, problem="a | b\n# <script>")])
    assert "| a \\| b \\# \\<script\\> |" in text and "\n# <script>" not in text


def test_a_search_without_a_result_says_why():
    case = methods_search.candidates("uce", "cat")[0]
    with pytest.raises(RecipeError, match="None of the settings could be measured: no memory"):
        methods_search.best([Outcome(case, None, problem="no memory")])


def test_the_best_has_the_largest_mean_or_erases_most_where_all_are_0():
    def measured(top1, probability, erased):
        means = {report.TOP1: top1, report.PROBABILITY: probability}
        after = SimpleNamespace(probability=erased)
        return SimpleNamespace(report=SimpleNamespace(mean=means.get, pooled=lambda _: SimpleNamespace(after=after)))

    equal = [measured(0.9, 0.8, 0.1), measured(0.9, 0.85, 0.2), measured(0.7, 0.9, 0.0), measured(0.0, 0.0, 0.0)]
    assert methods_search.best(equal) is equal[1]
    nothing = [measured(0.0, 0.02, 0.99), measured(0.0, 0.01, 0.75), measured(None, None, 0.98)]
    assert methods_search.best(nothing) is nothing[1]
