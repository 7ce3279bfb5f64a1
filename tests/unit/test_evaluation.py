from dataclasses import replace

import pytest
import torch
from PIL import Image

from mace_studio import evaluation, outputs, report_figures, report_text
from mace_studio.erasure import Erasure
from mace_studio.errors import FileError, RecipeError
from mace_studio.recipe import Concept, Recipe
from mace_studio.report import ALL, ERASED, KEPT, SYNONYM
from mace_studio.sd import classify, projections
from tests.steps import finish

RECIPE = Recipe((Concept("cat", "forest", synonyms=("kitty", "feline")),), ("dog", "ship"), name="Cat|s")
PEOPLE = Recipe((Concept("Ada Finch", "a person", "celebrity"),), ("Ada Wren",))
COLOURS = {"cat": (255, 0, 0), "dog": (0, 255, 0), "ship": (0, 0, 255), "none of these": (0, 0, 0)}


class Oracle:
    """A judge that knows what was drawn: the colour of a picture is its answer."""

    name, none = "oracle", "none of these"

    def probabilities(self, images, labels):
        rows = []
        for image in images:
            row = [0.7 if image.getpixel((0, 0)) == COLOURS.get(label, (9, 9, 9)) else 0.1 for label in labels]
            rows.append(torch.tensor(row).double())
        return torch.stack(rows)

    def features(self, images):
        return torch.stack([torch.tensor(image.getpixel((0, 0))).float() + 1 for image in images])


@pytest.fixture
def painted(monkeypatch):
    """Draw what a prompt names, but for the cat, which an erasure turns into nothing in all but one picture."""

    def drawn(model, weights, items, drawing, cache):
        yield 0
        return [Image.new("RGB", (8, 8), colour(prompt, seed, bool(weights))) for prompt, seed in items]

    def colour(prompt, seed, erased):
        word = {"cat": "cat", "kitty": "cat", "feline": "cat", "dog": "dog", "ship": "ship"}.get(prompt.split()[-1])
        gone = erased and word == "cat" and seed != evaluation.FIRST_SEED
        return COLOURS["none of these" if gone or word is None else word]

    monkeypatch.setattr(evaluation.gallery, "drawn", drawn)


@pytest.fixture
def erasure(model):
    return Erasure(RECIPE, {k: 0.5 * w for k, w in projections.read(model.unet).items()}, model.fingerprint)


def measured(model, erasure, captions=()):
    plan = evaluation.make_plan(erasure.recipe, "quick", captions=captions)
    return finish(evaluation.evaluate(model, erasure, plan, Oracle(), None))[0]


def test_a_plan_counts_what_it_draws():
    plan = evaluation.make_plan(RECIPE, "quick", captions=[f"caption {i}" for i in range(100)])
    assert [(p.role, p.word, p.label) for p in plan.probes] == [
        (ERASED, "cat", "cat"),
        (SYNONYM, "kitty", "cat"),
        (SYNONYM, "feline", "cat"),
        (KEPT, "dog", "dog"),
        (KEPT, "ship", "ship"),
    ]
    assert plan.seeds == tuple(range(10_000, 10_008)) and len(plan.captions) == 48
    assert plan.images == 2 * (5 * 8 + 48) and plan.forwards == plan.images * 20 * 2
    people = evaluation.make_plan(PEOPLE, "full")
    assert len(people.probes) == 10 and len(people.seeds) == 12 and people.images == 2 * 120
    assert "5 prompts with 8 seeds and 48 general captions" in plan.summary()
    with pytest.raises(RecipeError, match="use one of quick, full"):
        evaluation.make_plan(RECIPE, "huge")


def test_rows_and_harmonic_means_are_those_by_hand(model, erasure, painted, unchanged):
    found = measured(model, erasure, [f"caption {i}" for i in range(48)])
    told = {(row.role, row.word): (row.before.correct, row.after.correct, row.after.count) for row in found.rows}
    assert told == {
        (ERASED, "cat"): (8, 1, 8),
        (ERASED, ALL): (8, 1, 8),
        (SYNONYM, "kitty"): (8, 1, 8),
        (SYNONYM, "feline"): (8, 1, 8),
        (SYNONYM, ALL): (16, 2, 16),
        (KEPT, "dog"): (8, 8, 8),
        (KEPT, "ship"): (8, 8, 8),
        (KEPT, ALL): (16, 16, 16),
    }
    assert found.harmonic["H_o, top-1"] == pytest.approx(3 / (8 / 7 + 1 / 1 + 8 / 7))
    gone = 0.7 / 8 + 0.1 * 7 / 8  # mean probability of the cat
    assert found.pooled(ERASED).after.probability == pytest.approx(gone)
    assert found.harmonic["H_o, mean probability"] == pytest.approx(3 / (2 / (1 - gone) + 1 / 0.7))
    assert found.pooled(KEPT).change == 0 and found.pooled(ERASED).change == pytest.approx(7 / 8 * 255 / 3)
    assert found.quality.count == 48 and found.quality.pixel_change == 0 and found.quality.feature_change < 1e-9
    assert found.labels == ("cat", "dog", "ship", "none of these")
    assert [row.word for row in found.spill_over()] == ["dog", "ship"]


def test_people_have_no_synonyms_and_h_c(model, erasure, monkeypatch):
    monkeypatch.delitem(COLOURS, "none of these")
    monkeypatch.setitem(COLOURS, "Ada Wren", (0, 0, 0))
    monkeypatch.setattr(evaluation.gallery, "drawn", lambda m, w, items, *_: blank(items))
    found = measured(model, replace(erasure, recipe=PEOPLE))
    assert found.harmonic["H_c, top-1"] == pytest.approx(2 / (1 / 1 + 1 / 1))
    assert found.pooled(SYNONYM) is None and found.quality is None


def blank(items):
    yield 0
    return [Image.new("RGB", (8, 8)) for _ in items]


def test_a_report_is_written_to_be_read(model, erasure, painted, tmp_path):
    found = measured(model, erasure, ["a caption"] * 48)
    files = {path.name: path for path in outputs.evaluation(found, tmp_path)}
    assert set(files) == {
        "report.md", "report.json", "scores.csv", "scores.png", "efficacy.png", "generality.png", "specificity.png",
    }  # fmt: skip
    text = files["report.md"].read_text(encoding="utf-8")
    assert "| Efficacy | cat | 8 | 100.0 % (67.6 to 100.0) | 12.5 % (2.2 to 47.1) |" in text
    assert "H_o, top-1 **91.3 %**" in text and "48 general captions" in text
    rows = files["scores.csv"].read_text(encoding="utf-8").splitlines()
    assert len(rows) == 9 and rows[1].startswith("erased,cat,74.3750,8,8,1.000000,")
    for name in ("scores.png", "efficacy.png"):
        with Image.open(files[name]) as picture:
            assert picture.width > 300
    with pytest.raises(FileError, match="Choose another folder"):
        report_text.write(found, files["report.md"] / "below")
    with pytest.raises(FileError, match="Choose another folder"):
        report_figures.write(found, files["report.md"] / "below")


def test_the_real_judge_on_real_images(model, erasure, tmp_path, unchanged):
    judge = classify.choose(model, None)
    recipe = replace(RECIPE, concepts=(Concept("cat", "forest"),), preserve=("dog",))
    plan = replace(evaluation.make_plan(recipe, "quick", steps=2), seeds=(1, 2))
    found, seen = finish(evaluation.evaluate(model, replace(erasure, recipe=recipe), plan, judge, tmp_path))
    assert [row.after.count for row in found.rows] == [2, 2, 2, 2]
    assert all(0 <= row.after.probability <= 1 for row in found.rows)
    fractions = [p.fraction for p in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    again, seen = finish(evaluation.evaluate(model, replace(erasure, recipe=recipe), plan, judge, tmp_path))
    assert again == found
    assert [p.result.word for p in seen if p.result] == ["cat", "dog"]


def test_what_cannot_be_judged_is_named(model, erasure):
    recipe = replace(RECIPE, preserve=("Van Gogh",))
    plan = evaluation.make_plan(recipe, "quick")
    with pytest.raises(RecipeError, match="does not know “Van Gogh”"):
        next(evaluation.evaluate(model, replace(erasure, recipe=recipe), plan, classify.choose(model, None), None))


def test_an_erasure_of_another_model_is_refused(other, erasure):
    with pytest.raises(FileError, match="another model"):
        next(evaluation.evaluate(other, erasure, evaluation.make_plan(RECIPE, "quick"), Oracle(), None))
