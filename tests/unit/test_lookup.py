"""Recipes and erasures by name."""

from pathlib import Path

import pytest

from mace_studio import presets
from mace_studio.errors import FileError, RecipeError
from mace_studio.recipe import Concept, Recipe
from mace_studio.runtime import lookup


@pytest.fixture
def presets_folder(tmp_path, monkeypatch):
    for name in ("miniature/cat", "miniature/artists-20", "paper/04-cat", "paper/as_published/04-cat"):
        path = tmp_path / "presets" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Recipe(concepts=[Concept("cat", "forest")], name=name).to_json(), encoding="utf-8")
    monkeypatch.setattr(presets, "PRESETS", tmp_path / "presets")


def erasures(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / f"{name}.safetensors").touch()
    return folder


@pytest.mark.parametrize(
    "name, whole",
    [
        ("miniature/cat", "miniature/cat"),
        ("cat", "miniature/cat"),
        ("artists-20", "miniature/artists-20"),
        ("paper/04-cat", "paper/04-cat"),  # a whole name goes before what it may be short for
        ("as_published/04-cat", "paper/as_published/04-cat"),
    ],
)
def test_a_preset_is_found_by_its_name_or_the_end_of_it(presets_folder, name, whole):
    found = lookup.find_preset(name)
    assert found.name == whole == found.recipe.name


@pytest.mark.parametrize(
    "name, said",
    [
        ("04-cat", "“04-cat” may be paper/04-cat or paper/as_published/04-cat; give the whole name"),
        ("artist-20", "no preset and no file “artist-20”; the nearest are miniature/artists-20"),
        ("miniature/cta", "nearest are miniature/cat"),
        ("zzzzz", "check the spelling, or give the path of a file"),
        ("", "check the spelling"),
    ],
)
def test_a_preset_that_is_none_or_several_is_a_sentence(presets_folder, name, said):
    with pytest.raises(FileError, match=r"\.$") as error:
        lookup.find_preset(name)
    assert said in str(error.value)


def test_an_erasure_is_found_by_its_name_with_or_without_its_digits(tmp_path):
    folder = erasures(tmp_path / "output", "cat-0f3a9b12", "cat-ship-00000001", "mine")
    for name, stem in (("cat", "cat-0f3a9b12"), ("cat-0f3a9b12", "cat-0f3a9b12"), ("mine", "mine")):
        assert lookup.find_erasure(name, [folder]) == folder / f"{stem}.safetensors"


def test_the_first_folder_that_has_the_name_counts(tmp_path):
    mine, usual = erasures(tmp_path / "mine", "cat-11111111"), erasures(tmp_path / "output", "cat-22222222", "ship")
    assert lookup.find_erasure("cat", [mine, usual]).parent == mine
    assert lookup.find_erasure("cat-22222222", [mine, usual]).parent == usual
    assert lookup.find_erasure("ship", [tmp_path / "nowhere", mine, usual]).parent == usual


@pytest.mark.parametrize(
    "name, said",
    [
        ("cat", "“cat” may be cat-11111111 or cat-22222222; give the whole name"),
        ("shop", "no erased model and no file “shop”; the nearest are ship-33333333"),
        ("ship-3333333", "the nearest are ship-33333333"),
        ("../output/ship", "no erased model"),
        ("*", "no erased model"),
    ],
)
def test_an_erasure_that_is_none_or_several_is_a_sentence(tmp_path, name, said):
    folder = erasures(tmp_path / "output", "cat-11111111", "cat-22222222", "ship-33333333")
    with pytest.raises(FileError) as error:
        lookup.find_erasure(name, [folder])
    assert said in str(error.value)


def test_a_recipe_file_is_read_or_refused_by_name(tmp_path):
    recipe = Recipe(concepts=[Concept("cat", "forest")])
    (tmp_path / "cat.json").write_text(recipe.to_json(), encoding="utf-8")
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    assert lookup.read_recipe(tmp_path / "cat.json") == recipe
    with pytest.raises(FileError, match=r"There is no file .*no\.json"):
        lookup.read_recipe(tmp_path / "no.json")
    with pytest.raises(RecipeError, match="not valid JSON"):
        lookup.read_recipe(tmp_path / "bad.json")
    with pytest.raises(FileError, match="cannot be read"):
        lookup.read_recipe(Path(tmp_path))
