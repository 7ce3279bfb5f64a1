"""Files that version 0.1 wrote: a recipe, and two erasures of the small random model beside them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from mace_studio import erasure, erasure_header
from mace_studio.analysis.compare import compare
from mace_studio.errors import FileError
from mace_studio.methods.mace import MaceSettings
from mace_studio.methods.mace.compose import compose
from mace_studio.recipe import Concept, ImageRequest, Recipe
from mace_studio.runtime import library
from mace_studio.sd import files as sd_files
from mace_studio.sd import model as sd_model
from mace_studio.settings import ImageSettings, KeepWeights, LoraSettings
from tests.steps import untouched

FOLDER = Path(__file__).parents[1] / "golden" / "version-0.1"
CAT, SHIP = FOLDER / "cat.safetensors", FOLDER / "ship.safetensors"
RECIPE = Recipe(
    concepts=[Concept("cat", "forest", synonyms=["kitty"])],
    preserve=["dog"],
    name="No cats",
    settings=MaceSettings(
        refine=KeepWeights(preserve=1.0, identity=2.0),
        fuse=KeepWeights(preserve=0.5, identity=3.0),
        lora=LoraSettings(steps=2, learning_rate=1e-3, rank=2, alpha=3.0),
        images=ImageSettings(2, 2, 4.0),
        masks="none",
    ),
    seed=3,
)
REQUEST = ImageRequest(("a photo of the cat",), (0,), steps=2, guidance=4.0)


@pytest.fixture(scope="module")
def old_model():
    model = sd_model.load(str(FOLDER / "model"), "cpu", "float32")
    with untouched(model):
        yield model


def test_a_recipe_reads_as_it_was_meant_and_keeps_its_digits():
    recipe = Recipe.from_json((FOLDER / "cat.json").read_text(encoding="utf-8"))
    assert recipe == RECIPE
    assert (recipe.digest(), erasure.origin(recipe)) == ("a44bfa81", "f9bd5db2")  # as version 0.1 said


@pytest.mark.parametrize(
    "path, digits, phrases", [(CAT, "a44bfa81", ["cat"]), (SHIP, "dd93c8f0", ["ship", "Ada Finch"])]
)
def test_an_erasure_reads_with_all_that_it_holds(old_model, path, digits, phrases):
    header, entry, old, tensors = erasure_header.read(path), library.read(path), erasure.load(path), load_file(path)
    assert header.format == 1 and header.recipe == entry.recipe == old.recipe and entry.composable
    assert old.fingerprint == old_model.fingerprint and erasure.digest(old) == digits
    assert list(old.loras) == phrases and all(len(delta.losses) == 2 for delta in old.loras.values())
    assert all(delta.origin == erasure.origin(old.recipe) for delta in old.loras.values())
    assert set(old.weights) == {name for name in tensors if not name.startswith("lora.")}
    assert all(torch.equal(weight_PD, tensors[key]) for key, weight_PD in old.weights.items())
    assert sum(len(delta.pairs) for delta in old.loras.values()) * 2 + len(old.weights) == len(tensors)


def test_an_erasure_compares_and_is_written_in_the_new_format(old_model, tmp_path):
    old = erasure.load(CAT)
    (pair,) = compare(old_model, old, REQUEST)
    assert np.asarray(pair.before).shape == np.asarray(pair.after).shape and pair.change > 0
    old.save(tmp_path / "cat.safetensors")
    again = erasure.load(tmp_path / "cat.safetensors")
    assert erasure_header.read(tmp_path / "cat.safetensors").format == 2 and again.recipe == old.recipe
    assert all(torch.equal(weight_PD, again.weights[key]) for key, weight_PD in old.weights.items())
    with safe_open(tmp_path / "cat.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["mace_studio"])["format"] == 2


def test_erasures_compose(old_model):
    cat, ship = erasure.load(CAT), erasure.load(SHIP)
    both = compose(old_model, [cat, ship])
    assert [c.phrase for c in both.recipe.concepts] == ["cat", "ship", "Ada Finch"]
    for phrase, delta in (cat.loras | ship.loras).items():
        assert both.loras[phrase] is delta  # nothing was trained anew
    assert all(weight_PD.isfinite().all() for weight_PD in both.weights.values())
    with both.applied(old_model):
        assert len(old_model.generate("a cat", steps=2)) == 1


def test_a_file_of_a_newer_version_is_a_sentence(tmp_path):
    with safe_open(CAT, framework="pt") as file:
        about = json.loads(file.metadata()["mace_studio"])
    path = tmp_path / "new.safetensors"
    sd_files.write(path, load_file(CAT), {"mace_studio": json.dumps(about | {"format": 3})})
    for read in (erasure.load, library.read):
        with pytest.raises(FileError, match=r"new\.safetensors was made by a newer version"):
            read(path)
