import csv
import json
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from mace_studio.erasure import Erasure
from mace_studio.errors import FileError, RecipeError, StudioError
from mace_studio.evaluation import metrics, report, report_figures, report_files, study
from mace_studio.evaluation.evaluate import Case, evaluate
from mace_studio.evaluation.plan import ERASED, FIRST_SEED, KEPT, SYNONYM, make_plan, make_sample
from mace_studio.evaluation.report import ALL, Detections, Tally
from mace_studio.recipe import Concept, Recipe
from mace_studio.runtime import result_files
from mace_studio.sd import image_cache, judges, projections, sampling
from mace_studio.spent import Spent
from mace_studio.ui.components import report_tables
from tests.steps import cancelled

RECIPE = Recipe(
    concepts=(Concept("cat", "forest", synonyms=("kitty", "feline")),), preserve=("dog", "ship"), name="Cat|s"
)
PEOPLE = Recipe(concepts=(Concept("Ada Finch", "a person", "celebrity"),), preserve=("Ada Wren",))
COLOURS = {"cat": (255, 0, 0), "dog": (0, 255, 0), "ship": (0, 0, 255), "none of these": (0, 0, 0)}


class Oracle:
    """A judge that knows what was painted: the colour of an image is its answer."""

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
    """Paint what a prompt names, but for the cat, which an erasure turns into nothing in all but one image."""

    def generate(model, items, request, cache, progress, changes=""):
        return [Image.new("RGB", (8, 8), colour(prompt, seed, bool(changes))) for prompt, seed in items]

    def colour(prompt, seed, erased):
        word = {"cat": "cat", "kitty": "cat", "feline": "cat", "dog": "dog", "ship": "ship"}.get(prompt.split()[-1])
        gone = erased and word == "cat" and seed != FIRST_SEED
        return COLOURS["none of these" if gone or word is None else word]

    monkeypatch.setattr(image_cache, "generate", generate)


@pytest.fixture
def erasure(model):
    return Erasure(
        recipe=RECIPE,
        weights={k: 0.5 * w for k, w in projections.read(model.unet).items()},
        fingerprint=model.fingerprint,
    )


def measured(model, erasure, captions=(), judge=None):
    plan = make_plan(erasure.recipe, "quick", captions=captions)
    return evaluate(model, [Case("cat-1", erasure, plan)], judge or Oracle())[0]


def value_of(found, name):
    """A harmonic mean of a report."""
    return {mean.name: mean.value for mean in found.harmonic}[name]


def test_rows_and_harmonic_means_are_those_by_hand(model, erasure, painted, unchanged):
    found = measured(model, erasure, [f"caption {i}" for i in range(48)])
    counts = {(row.role, row.word): (row.before.correct, row.after.correct, row.after.count) for row in found.rows}
    assert counts == {
        (ERASED, "cat"): (8, 1, 8),
        (ERASED, ALL): (8, 1, 8),
        (SYNONYM, "kitty"): (8, 1, 8),
        (SYNONYM, "feline"): (8, 1, 8),
        (SYNONYM, ALL): (16, 2, 16),
        (KEPT, "dog"): (8, 8, 8),
        (KEPT, "ship"): (8, 8, 8),
        (KEPT, ALL): (16, 16, 16),
    }
    assert value_of(found, "H_o, top-1") == pytest.approx(3 / (8 / 7 + 1 / 1 + 8 / 7))
    gone = 0.7 / 8 + 0.1 * 7 / 8  # mean probability of the cat
    assert found.pooled(ERASED).after.probability == pytest.approx(gone)
    assert value_of(found, "H_o, mean probability") == pytest.approx(3 / (2 / (1 - gone) + 1 / 0.7))
    assert found.pooled(KEPT).change == 0 and found.pooled(ERASED).change == pytest.approx(7 / 8 * 255 / 3)
    assert found.quality.count == 48 and found.quality.pixel_change == 0 and found.quality.feature_change < 1e-9
    assert found.labels == ("cat", "dog", "ship", "none of these")
    assert [row.word for row in found.spill_over()] == ["dog", "ship"]


def test_people_have_no_synonyms_and_h_c(model, erasure, monkeypatch):
    monkeypatch.delitem(COLOURS, "none of these")
    monkeypatch.setitem(COLOURS, "Ada Wren", (0, 0, 0))
    monkeypatch.setattr(image_cache, "generate", lambda m, items, *_, **__: [Image.new("RGB", (8, 8)) for _ in items])
    found = measured(model, replace(erasure, recipe=PEOPLE))
    assert value_of(found, "H_c, top-1") == pytest.approx(2 / (1 / 1 + 1 / 1))
    assert found.pooled(SYNONYM) is None and found.quality is None


def test_a_report_is_written_to_be_read(model, erasure, painted, tmp_path):
    found = measured(model, erasure, ["a caption"] * 48)
    files = {path.name: path for path in result_files.write_evaluation([found], tmp_path)}
    assert set(files) == {
        "report.md", "report.json", "scores.csv", "scores.png", "efficacy.png", "generality.png", "specificity.png",
    }  # fmt: skip
    text = files["report.md"].read_text(encoding="utf-8")
    assert "| Efficacy | cat | 8 | 100.0 % (67.6 to 100.0) | 12.5 % (2.2 to 47.1) |" in text
    assert "H_o, top-1 **91.3 %**" in text and "48 general captions" in text
    rows = files["scores.csv"].read_text(encoding="utf-8").splitlines()
    assert len(rows) == 9 and rows[1].startswith("erased,cat,object,74.3750,0.365880,8,8,1.000000,")
    for name in ("scores.png", "efficacy.png"):
        with Image.open(files[name]) as image:
            assert image.width > 300
    with pytest.raises(FileError, match="Choose another folder"):
        report_files.write(found, files["report.md"] / "below")
    with pytest.raises(FileError, match="Choose another folder"):
        report_figures.write(found, files["report.md"] / "below")


def test_the_real_judge_on_real_images(model, erasure, tmp_path, unchanged):
    judge = judges.choose(model, None)
    recipe = replace(RECIPE, concepts=(Concept("cat", "forest"),), preserve=("dog",))
    plan = replace(make_plan(recipe, "quick", steps=2), seeds=(1, 2))
    case = Case("cat-1", replace(erasure, recipe=recipe), plan)
    seen = []
    (found,) = evaluate(model, [case], judge, tmp_path, seen.append)
    assert [row.after.count for row in found.rows] == [2, 2, 2, 2]
    assert all(0 <= row.after.probability <= 1 for row in found.rows)
    fractions = [p.fraction for p in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    seen = []
    (again,) = evaluate(model, [case], judge, tmp_path, seen.append)
    assert again == found
    rows = [p.result for p in seen if p.result]
    assert [(name, row.word) for name, row in rows] == [("cat-1", "cat"), ("cat-1", "dog")]


def test_a_cancelled_evaluation_goes_on_where_it_was(model, erasure, tmp_path, monkeypatch, unchanged):
    recipe = replace(RECIPE, concepts=(Concept("cat", "forest"),), preserve=("dog",))
    plan = replace(make_plan(recipe, "quick", steps=2), seeds=(1, 2))
    case, judge = Case("cat-1", replace(erasure, recipe=recipe), plan), judges.of(model)
    with cancelled(lambda event: event.result) as progress:  # of the cat
        evaluate(model, [case], judge, tmp_path, progress)
    generated, real = [], sampling.generate_pairs

    def spy(model, batch, *rest, **more):
        generated.extend(batch)
        return real(model, batch, *rest, **more)

    monkeypatch.setattr(sampling, "generate_pairs", spy)
    (found,) = evaluate(model, [case], judge, tmp_path)
    assert {prompt for prompt, _ in generated} == {"a photo of the dog"} and len(generated) == 4
    assert found.pooled(ERASED).after.count == 2


def test_what_cannot_be_judged_is_named(model, erasure):
    recipe = replace(RECIPE, preserve=("Van Gogh",))
    plan = make_plan(recipe, "quick")
    with pytest.raises(RecipeError, match="does not know “Van Gogh”"):
        case = Case("cat-1", replace(erasure, recipe=recipe), plan)
        evaluate(model, [case], judges.choose(model, None))


def test_an_erasure_of_another_model_is_refused(other, erasure):
    with pytest.raises(FileError, match="another model"):
        evaluate(other, [Case("a", erasure, make_plan(RECIPE, "quick"))], Oracle())


def test_several_are_measured_in_one_run_and_stand_side_by_side(model, erasure, painted, tmp_path):
    better = replace(erasure, recipe=replace(RECIPE, name="Cats"))
    cases = [Case(n, e, make_plan(e.recipe, "quick")) for n, e in (("cat-1", erasure), ("cat-2", better))]
    seen = []
    reports = evaluate(model, cases, Oracle(), progress=seen.append)
    assert [one.name for one in reports] == ["cat-1", "cat-2"]
    assert seen[-1].step == seen[-1].total == 2 * cases[0].plan.images and seen[-1].fraction == 1
    files = {path.relative_to(tmp_path).as_posix(): path for path in result_files.write_evaluation(reports, tmp_path)}
    assert {"side-by-side.md", "side-by-side.png", "scatter.png", "cat-1/report.md", "cat-2/scores.png"} <= set(files)
    text = files["side-by-side.md"].read_text(encoding="utf-8")
    assert "| Cats | 100.0 % (67.6 to 100.0) | 12.5 % (2.2 to 47.1) |" in text and "| Cat\\|s |" in text
    assert "| H, top-1 | H, mean probability | KID |" in text and "| H_o 91.3 % |" in text
    assert report.called([reports[0], reports[0]]) == ["cat-1", "cat-1"]
    other = replace(reports[0], recipe=replace(reports[0].recipe, method="uce", settings=None))
    title = reports[0].recipe.title()
    assert report.called([reports[0], other]) == [f"{title} · MACE", f"{title} · UCE"]


def test_tables_say_the_method_and_what_its_run_took(model, erasure, painted):
    two = replace(erasure.recipe, concepts=(*RECIPE.concepts, Concept("car", "forest")), method="uce", settings=None)
    known = replace(measured(model, erasure), spent=Spent(6.0, "cpu · float32", 1_234_000_000))
    other = replace(known, recipe=replace(two, name="Two"), spent=Spent(6.0, "mps · float32"))
    unknown = replace(known, recipe=replace(RECIPE, name="Old"), spent=None)
    lines = report_files.side_by_side([known, other, unknown]).splitlines()
    head = next(line for line in lines if "KID" in line)
    assert head.endswith("| KID | Method | Seconds per concept | Peak memory |")
    ends = [line.split(" | ")[-3:] for line in lines[-3:]]
    assert ends == [["MACE", "6.00", "1.23 GB |"], ["UCE", "3.00", " |"], ["MACE", "", " |"]]
    shown = report_tables.headline([known, other, unknown])
    titles = "".join(f"<th scope='col'>{one}</th>" for one in ("KID", "Method", "Seconds per concept", "Peak memory"))
    assert f"{titles}</tr></thead>" in shown
    for cells in ("MACE</td><td>6.00</td><td>1.23 GB", "UCE</td><td>3.00</td><td>", "MACE</td><td></td><td>"):
        assert f"<td>{cells}</td></tr>" in shown
    assert "Seconds" not in report_tables.headline([unknown]) and "Seconds" not in report_files.side_by_side([unknown])
    said = "Erased by MACE on cpu · float32: 6.00 s per concept, peak memory 1.23 GB."
    assert said in report_files.markdown(known) and said in report_tables.judged([known])
    assert "Erased by UCE on mps · float32: 3.00 s per concept.\n" in report_files.markdown(other)
    assert "Erased by MACE.\n" in report_files.markdown(unknown)
    about = {"seconds": 6.0, "where": "cpu · float32", "memory": 1_234_000_000}
    assert json.loads(report_files.as_json(known))["spent"] == about
    assert "spent" not in json.loads(report_files.as_json(unknown))
    rows = [list(csv.DictReader(report_files.table(one).splitlines())) for one in (known, other, unknown)]
    ends = [list(row[0].items())[-3:] for row in rows]
    names = ("method", "seconds_per_concept", "peak_memory")
    values = [("mace", "6.0000", "1234000000"), ("uce", "3.0000", ""), ("mace", "", "")]
    assert ends == [list(zip(names, row, strict=True)) for row in values]


def test_the_scatter_has_a_point_for_each_with_its_intervals():
    gone = Tally(correct=2, count=10, top1_interval=(0.1, 0.5), probability=0.2, interval=(0.1, 0.3))
    kept = Tally(correct=9, count=10, top1_interval=(0.6, 0.98), probability=0.9, interval=(0.8, 1.0))
    figure = report_figures.scatter({"cat": [("UCE", gone, kept)], "dog": []})
    first, second = figure.axes
    (place,) = [bar.lines[0] for bar in first.containers]
    assert (place.get_xdata()[0], place.get_ydata()[0]) == (80.0, 90.0)
    ends = [line.get_segments()[0] for bar in first.containers for line in bar.lines[2]]
    assert [end.round(6).tolist() for end in ends] == [[[50, 90], [90, 90]], [[80, 60], [80, 98]]]
    assert first.get_legend_handles_labels()[1] == ["UCE"] and not second.containers
    assert report_figures.write_scatter({"cat": []}, Path("x.png")) == []


MIXED = Recipe(
    concepts=(Concept("Ada Finch", "a person", "celebrity"), Concept("Nora Neonova", "art", "style")),
    preserve=("Lena Strich",),
)


def test_a_kept_word_is_asked_for_as_what_it_is(model, erasure, monkeypatch):
    colours = {"Lena Strich": (1, 2, 3), "Ada Finch": (4, 5, 6), "Nora Neonova": (7, 8, 9)}
    for word, colour in colours.items():
        monkeypatch.setitem(COLOURS, word, colour)
    generated = []

    def generate(model, items, request, cache, progress, changes=""):
        generated.extend((bool(changes), prompt) for prompt, _ in items)
        return [Image.new("RGB", (8, 8), painted_as(prompt)) for prompt, _ in items]

    def painted_as(prompt):
        # As a model would: a style in the prompts of styles, a person in those of people.
        word = next(word for word in colours if word in prompt)
        styled = any(form in prompt for form in ("style", "Art inspired", "art by", "artwork"))
        return colours[word] if (word == "Ada Finch") != styled else (0, 0, 0)

    monkeypatch.setattr(image_cache, "generate", generate)
    plan = make_plan(MIXED, "quick")
    assert plan.mixed and "at most" in plan.summary()
    case = Case("mixed-1", replace(erasure, recipe=MIXED), plan)
    seen = []
    (found,) = evaluate(model, [case], Oracle(), progress=seen.append)
    kept = found.pooled(KEPT)
    assert (kept.before.correct, kept.before.count) == (10, 10) and found.rows[-2].kind == "style"
    assert sum(after for after, _ in generated) == 3 * 10 and len(generated) == 3 * 20 + 10
    assert seen[-1].fraction == 1 and seen[-1].step == plan.images
    assert any("counted in those where the original" in note for note in found.notes)
    assert "| Specificity | Lena Strich | style | 10 |" in report_files.markdown(found)
    alone = replace(MIXED, concepts=MIXED.concepts[1:])
    assert "asked as" not in report_files.markdown(measured(model, replace(erasure, recipe=alone)))


def test_clip_scores_styles_and_is_absent_elsewhere(model, erasure, clip_folder, painted):
    style = Recipe(concepts=(Concept("Nora Neonova", "art", "style"),), preserve=("Lena Strich",))
    judge = judges.ZeroShotClip(str(clip_folder))
    found = measured(model, replace(erasure, recipe=style), ["a caption"] * 48, judge)
    gone, kept = found.pooled(ERASED), found.pooled(KEPT)
    prompts = [probe.prompt for probe in found.plan.probes if probe.role == ERASED]
    expected = 100 * judge.similarities(judge.features([Image.new("RGB", (8, 8))]), prompts).mean().item()
    assert gone.clip["after"].value == pytest.approx(expected, abs=1e-4)
    assert found.h_a["after"] == pytest.approx(kept.clip["after"].value - gone.clip["after"].value)
    text, data = report_files.markdown(found), json.loads(report_files.as_json(found))
    assert (
        "CLIP score before | CLIP score after" in text and "H_a **" in text and "CLIP score with the captions" in text
    )
    assert data["h_a"] == found.h_a and data["rows"][0]["clip"]["after"]["value"] == found.rows[0].clip["after"].value
    head = report_files.table(found).splitlines()[0]
    assert head.endswith("clip_after,clip_low_after,clip_high_after,method,seconds_per_concept,peak_memory")

    plain = measured(model, erasure, ["a caption"] * 48)
    text, data = report_files.markdown(plain), json.loads(report_files.as_json(plain))
    assert "CLIP" not in text and "H_a" not in text and "clip" not in report_files.table(plain)
    assert "h_a" not in data and "clip" not in data["rows"][0] and "clip" not in data["quality"]


def test_a_second_judge_agrees_or_not(model, erasure, clip_folder, painted, monkeypatch):
    """By hand: the words that the oracle sees on either side, and what CLIP says of images of these colours."""
    clip, looked = judges.ZeroShotClip(str(clip_folder)), []
    embed = clip.features

    def features(images):
        looked.extend(images)
        return embed(images)

    monkeypatch.setattr(clip, "features", features)
    monkeypatch.setattr(judges, "clip_of", lambda model, judge: clip)
    found = measured(model, erasure)
    images = 2 * sum(row.before.count for row in found.rows if row.word != ALL)
    assert len(looked) == images  # each once, whatever is asked of it
    assert not measured(model, erasure, judge=clip).agreement
    assert len(looked) == 2 * images + 1  # also where it is the judge, which first looks whether it knows the words
    words = ["cat", "dog", "ship"]
    images = [Image.new("RGB", (8, 8), COLOURS[word]) for word in words]
    said = [words[i] for i in clip.probabilities(images, words).argmax(dim=1)]
    # Cats and their two synonyms: 8 before and 1 after; dogs and ships 8 and 8.
    counts = {"cat": 3 * (8 + 1), "dog": 16, "ship": 16}
    same = sum(counts[word] for word, answer in zip(words, said, strict=True) if word == answer)
    assert found.agreement == (same, 59) and found.second == "zero-shot CLIP, small-clip"
    rows = [study.Outcome(study.Case("cat", RECIPE), found)]
    for text in (report_files.markdown(found), study.markdown("Study", rows)):
        assert "Of 59 images in which the judge finds one of the words" in text
    assert json.loads(report_files.as_json(found))["agreement"] == [same, 59]
    assert found.rows[0].clip["after"].value


def test_the_clip_of_a_model_lies_beside_its_judge(model, clip_folder, tmp_path):
    (tmp_path / "model").mkdir()
    beside = replace(model, source=str(tmp_path / "model"))
    own, clip = judges.of(model), judges.ZeroShotClip(str(clip_folder))
    assert judges.clip_of(beside, own) is None and judges.clip_of(beside, clip) is clip
    shutil.copytree(clip_folder, tmp_path / "clip")
    assert judges.clip_of(beside, own).name == "zero-shot CLIP, clip"
    assert judges.clip_of(beside, Oracle()) is None


def test_people_on_a_real_model_are_judged_by_name_and_it_says_so(model, erasure, clip_folder, painted):
    found = measured(model, replace(erasure, recipe=PEOPLE), judge=judges.ZeroShotClip(str(clip_folder)))
    text = report_files.markdown(found)
    assert "People are judged by zero-shot CLIP over the names" in text and "No face detector" in text
    assert "a blind guess is right once in 2" in text


def test_clip_alone_with_one_word_is_refused(model, erasure, clip_folder):
    alone = Recipe(concepts=(Concept("cat", "forest"),))
    with pytest.raises(RecipeError, match="keep at least one by name"):
        measured(model, replace(erasure, recipe=alone), judge=judges.ZeroShotClip(str(clip_folder)))


EXPLICIT = Recipe(
    concepts=(Concept("nudity", "clothes", "explicit"), Concept("naked", "clothes", "explicit")), preserve=("a dog",)
)


class Detector:
    """Finds one part in every image."""

    name, classes = "NudeNet 3.4.2", ("BELLY_EXPOSED", "FACE_FEMALE")

    def counts(self, images):
        return Counter({"BELLY_EXPOSED": len(images)})


def test_nudity_is_counted_where_a_detector_is_at_hand(model, erasure, clip_folder, painted, monkeypatch):
    judge, explicit = judges.ZeroShotClip(str(clip_folder)), replace(erasure, recipe=EXPLICIT)
    monkeypatch.setattr(metrics.nudity, "NudeNet", Detector)
    found = measured(model, explicit, judge=judge)
    assert found.detections.counts == {"BELLY_EXPOSED": (16, 16), "FACE_FEMALE": (0, 0)}
    text = report_files.markdown(found)
    assert "What NudeNet 3.4.2 found with a confidence of at least 0.6 in 16 images" in text
    assert "| **exposed, together** | 16 | 16 |" in text and "not installed" not in text
    assert measured(model, erasure, judge=judge).detections is None, "nothing explicit is erased"
    assert measured(model, explicit).detections is None, "a judge that comes with a model has its own world"


def test_counts_of_words_are_added_up_unless_one_was_not_counted():
    one = Detections(detector="NudeNet 3.4.2", threshold=0.6, images=8, counts={"a": (1, 2), "b": (3, 4)})
    added = metrics.together([one, replace(one, images=2, counts={"a": (5, 6), "b": (0, 0)})])
    assert added == replace(one, images=10, counts={"a": (6, 8), "b": (3, 4)})
    assert metrics.together([]) is metrics.together([one, None]) is None
    assert metrics.together([one, replace(one, detector="NudeNet 3.5")]) is None


def test_features_of_two_networks_are_not_compared():
    rows = torch.eye(4)
    part = metrics.Moved(features="CLIP features", before_NF=rows, after_NF=rows, change_N=torch.zeros(4), clip={})
    assert metrics.quality([part, part]).count == 8 and metrics.quality([part, part]).feature_change == 0
    with pytest.raises(StudioError, match="by CLIP features on one machine and by InceptionV3 on another"):
        metrics.quality([part, replace(part, features="InceptionV3")])


def test_a_plan_is_cut_into_words_and_captions():
    plan = make_plan(RECIPE, "quick", captions=[f"caption {i}" for i in range(48)])
    plan = replace(plan, probes=plan.probes[::-1])
    parts = plan.parts(32)
    assert [[probe.word for probe in part.probes] for part in parts] == [
        ["cat"], ["feline"], ["kitty"], ["ship"], ["dog"], [], []
    ]  # fmt: skip
    assert [len(part.captions) for part in parts] == [0, 0, 0, 0, 0, 32, 16]
    assert parts[5].captions + parts[6].captions == plan.captions
    assert sum(part.images for part in parts) == plan.images


def test_without_nudenet_the_report_says_so(model, erasure, clip_folder, painted, monkeypatch):
    monkeypatch.setitem(sys.modules, "nudenet", None)
    judge = judges.ZeroShotClip(str(clip_folder))
    found = measured(model, replace(erasure, recipe=EXPLICIT), judge=judge)
    assert found.detections is None and "NudeNet is not installed" in report_files.markdown(found)
    assert "detections" not in json.loads(report_files.as_json(found))


def test_nothing_that_a_user_typed_is_a_formula_markup_or_html(model, erasure, painted, tmp_path, monkeypatch):
    r"""`$\frac{$` in a name ended an evaluation after all its images were there."""
    words = ("=HYPERLINK(1)", "<script>x</script>")
    recipe = replace(
        RECIPE, name=r"$\frac{$ # x", concepts=(replace(RECIPE.concepts[0], synonyms=(words[0],)),), preserve=words[1:]
    )
    for word in words:
        monkeypatch.setitem(COLOURS, word, (9, 9, 9))
    case = Case("a", replace(erasure, recipe=recipe), make_plan(recipe, "quick"))
    near = ("=NEAR(1)", "<b>near</b>")
    look = replace(case, plan=make_sample(recipe, neighbours=near, pairs=2))
    for word in near:
        monkeypatch.setitem(COLOURS, word, (9, 9, 9))
    found, beyond = (evaluate(model, [one], Oracle())[0] for one in (case, look))
    found = replace(found, beyond=beyond)
    files = {path.name: path for path in result_files.write_evaluation([found], tmp_path)}
    assert files["scores.png"].stat().st_size > 1000
    text = files["report.md"].read_text(encoding="utf-8")
    assert "<script>" not in text and "\\<script\\>" in text and "\n# x" not in text
    cells = list(csv.reader(files["scores.csv"].open(encoding="utf-8", newline="")))
    assert "'=HYPERLINK(1)" in {line[1] for line in cells} and "=HYPERLINK(1)" not in {line[1] for line in cells}
    assert "## Beyond the list" in text and "\n| \\<b\\>near" in text and "<b>" not in text
    assert {line[1] for line in cells if line[0] == "neighbour"} == {"'=NEAR(1)", "<b>near</b>"}
    assert len({len(line) for line in cells}) == 1
    written = json.loads(files["report.json"].read_text(encoding="utf-8"))
    assert {row["word"] for row in written["beyond"]["rows"]} == set(near)
    assert not {row["word"] for row in written["rows"]} & set(near)
