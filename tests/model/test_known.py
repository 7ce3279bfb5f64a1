"""A concept of which the training images show nothing is told, with what to do, on real small pipelines."""

import shutil
from dataclasses import replace

import pytest
import torch
from transformers import CLIPModel

from mace_studio import erasure as erasure_file
from mace_studio import methods, presets
from mace_studio.methods.mace import MaceSettings, erase, masks, training_images
from mace_studio.methods.settings import ForgetMeNotSettings
from mace_studio.recipe import Concept, Recipe
from mace_studio.sd import known, segment
from mace_studio.sd import model as sd_model
from mace_studio.sd.judges import ZeroShotClip
from mace_studio.settings import ImageSettings, KeepWeights, LoraSettings

RECIPE = Recipe(
    concepts=(Concept("cat", "forest"), Concept("Ada Finch", "a person", "celebrity"), Concept("art", "sky", "style")),
    settings=MaceSettings(
        refine=KeepWeights(identity=10.0),
        fuse=KeepWeights(identity=10.0),
        lora=LoraSettings(steps=1),
        images=ImageSettings(per_concept=2, steps=2, guidance=4.0),
        masks="none",
    ),
)


@pytest.fixture(scope="module")
def undecided(clip_folder, tmp_path_factory):
    """The folder of a CLIP of random weights for which every answer is as probable as any other."""
    folder = tmp_path_factory.mktemp("undecided") / "clip"
    shutil.copytree(clip_folder, folder)
    model = CLIPModel.from_pretrained(folder)
    model.logit_scale.data.fill_(-100.0)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def clip(undecided, monkeypatch):
    monkeypatch.setenv(known.VARIABLE, str(undecided))


@pytest.mark.parametrize("family", ["sd1", "sdxl", "lcm"])
def test_what_a_judge_does_not_see_is_told_and_kept_and_changes_no_weight(
    models, family, undecided, tmp_path, monkeypatch
):
    """The judge chooses among sixteen answers: 1 / 16 is 6 %."""
    without = erase.erase(models[family], RECIPE)
    monkeypatch.setenv(known.VARIABLE, str(undecided))
    told = erase.erase(models[family], RECIPE)
    said = [
        f"In the training images of “{concept.phrase}” the judge sees it with a probability of 6%. {known.REMEDY}"
        for concept in RECIPE.concepts
    ]
    assert list(told.warnings) == [*without.warnings, *said]
    assert all(torch.equal(weight, told.weights[key]) for key, weight in without.weights.items())
    told.save(tmp_path / "one.safetensors")
    assert erasure_file.load(tmp_path / "one.safetensors").warnings == told.warnings
    assert training_images.show(models[family], RECIPE).warnings == said


def test_what_a_judge_sees_is_not_told(models, clip, monkeypatch):
    monkeypatch.setattr(known, "LOW", 0.01)
    assert erase.erase(models["sd1"], RECIPE).warnings == ()


def test_the_judge_is_the_clip_beside_the_model_and_one_that_is_broken_is_told(folders, clip_folder, tmp_path):
    shutil.copytree(folders["sd1"], tmp_path / "sd1")
    model, warnings = sd_model.load(str(tmp_path / "sd1"), "cpu", "float32"), []
    assert known.judge(model, warnings) is None and warnings == []
    shutil.copytree(clip_folder, tmp_path / "clip")
    assert isinstance(known.judge(model, warnings), ZeroShotClip) and warnings == []
    (tmp_path / "clip" / "model.safetensors").write_bytes(b"cut")
    result = erase.erase(model, RECIPE)
    assert len(result.warnings) == 1 and result.warnings[0].startswith("No judge looked at the training images. The ")


def test_explicit_words_and_images_on_their_way_are_not_judged(models, clip):
    explicit = replace(RECIPE, concepts=(Concept("bomb", "a person", "explicit"),))
    assert erase.erase(models["sd1"], explicit).warnings == ()
    images = replace(RECIPE.settings.images, path=True, steps=5)
    assert (
        training_images.make(models["sd1"], RECIPE.with_settings(images=images), None, warnings := []) and not warnings
    )


def test_a_model_with_a_judge_and_a_vocabulary_of_its_own_takes_no_other(model, clip):
    assert known.judge(model, []) is None


@pytest.mark.parametrize(("empty", "doubted"), [(1, False), (2, False), (3, True), (4, True)])
def test_few_images_with_a_mask_are_a_doubt(models, monkeypatch, empty, doubted):
    found = [None] * empty + [torch.ones(8, 8, dtype=torch.bool)] * (4 - empty)
    monkeypatch.setattr(segment, "source", lambda model, name: lambda images, *_: found)
    images = replace(RECIPE.settings.images, per_concept=4)
    one = replace(RECIPE.with_settings(masks="attention", images=images), concepts=RECIPE.concepts[:1])
    (said,) = erase.erase(models["sd1"], one).warnings
    assert said.startswith(f"In {empty} of 4 training images of “cat” no part stood out")
    assert said.endswith(known.REMEDY) == doubted


def test_both_doubts_about_a_concept_are_one_sentence_after_the_other_with_one_remedy(models):
    doubts, warnings = {"cat": "In the training images of “cat” the judge sees it with a probability of 6%."}, []
    one = replace(RECIPE.with_settings(masks="attention"), concepts=RECIPE.concepts[:1])
    masks.combined(models["sd1"], one, [[None, None]], {}, warnings, doubts=doubts)
    (said,) = warnings
    assert said.count("The model may not know it") == 1 and "no part stood out" in said and "probability of 6%" in said


def test_the_methods_that_look_at_images_of_the_concept_tell_it_too(models, clip):
    settings = ForgetMeNotSettings(steps=1, images=1, image_steps=2, inversion_steps=0)
    recipe = Recipe(concepts=RECIPE.concepts[:1], method="fmn", settings=settings)
    (said,) = methods.erase(models["sd1"], recipe).warnings
    assert "“cat” the judge sees it" in said and said.endswith(known.REMEDY)


def test_every_kind_that_is_judged_has_others_to_choose_from():
    kinds = presets.known_phrases().values()
    assert all(list(kinds).count(kind) > known.OTHERS for kind in ("celebrity", "style"))
