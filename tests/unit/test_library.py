"""Erasures on disk: added, renamed, deleted, and never anything beside their folder touched."""

import json
import os
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mace_studio.errors import FileError, RecipeError
from mace_studio.evaluation.report import Harmonic
from mace_studio.methods import METHODS
from mace_studio.recipe import Concept, Recipe
from mace_studio.runtime import library, result_files
from mace_studio.settings import LoraSettings
from mace_studio.spent import Spent

CAT = Recipe(concepts=(Concept("cat", "forest"),), preserve=("dog",))
HARMONIC = (Harmonic("H_o", "top-1", 0.93), Harmonic("H_o", "mean probability", 0.9))
HOSTILE = (
    "", " ", ".", "..", "../cat", "..\\cat", "a/b", "/etc/passwd", ".hidden", "-rf", "a\x00b", "a\nb", "C:cat", "~",
    "cat ", "<img src=x>", "x" * 300, "…", "cat\u202e", "$(id)", "猫" * 90,
)  # fmt: skip


def erasure_file(path, recipe=CAT, **about):
    header = {"recipe": asdict(recipe), "conditions": {}, "warnings": [], "fingerprint": "f", "losses": {}} | about
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"attn2.to_k.weight": torch.ones(2, 2)}, path, {"mace_studio": json.dumps(header)})
    return path


@pytest.fixture
def folder(tmp_path):
    erasure_file(tmp_path / "models" / "cat.safetensors", origins={"cat": "00000000"})
    return tmp_path / "models"


@pytest.fixture
def outside(tmp_path):
    """Fails if a test changes what lies beside the folder."""
    (tmp_path / "cat.safetensors").write_text("not yours")
    yield
    assert (tmp_path / "cat.safetensors").read_text() == "not yours"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "upload") == ["cat.safetensors", "models"]


def test_a_file_from_elsewhere_becomes_an_entry(folder, tmp_path):
    upload = erasure_file(tmp_path / "upload" / "x.safetensors", replace(CAT, name="Mine"), fingerprint="other")
    entry = library.add(folder, upload, "My cat (v1.2).safetensors")
    assert entry.name == "My cat (v1.2)" and entry.recipe.name == "Mine" and entry.fingerprint == "other"
    assert entry.path.read_bytes() == upload.read_bytes() and not list(folder.glob(".*"))
    assert {e.name for e in library.entries(folder)} == {"cat", "My cat (v1.2)"}


@pytest.mark.parametrize("name", [*(n for n in HOSTILE if n != "cat "), "\ud800", "con", "Nul.x", "COM1", "lpt9 .b"])
def test_hostile_names_are_refused_and_nothing_is_written(folder, tmp_path, outside, name):
    upload = erasure_file(tmp_path / "upload" / "x.safetensors")
    for attempt in (lambda: library.add(folder, upload, name), lambda: library.rename(folder, "cat", name)):
        with pytest.raises(RecipeError, match="cannot be a name"):
            attempt()
    assert [path.name for path in folder.rglob("*")] == ["cat.safetensors"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_name_no_erasure(folder, outside, name):
    for attempt in (lambda: library.delete(folder, name), lambda: library.rename(folder, name, "new")):
        with pytest.raises(FileError):
            attempt()
    assert not library.exists(folder, name)
    assert [path.name for path in folder.rglob("*")] == ["cat.safetensors"]


def test_no_file_takes_the_place_of_another(folder, tmp_path):
    other = erasure_file(tmp_path / "upload" / "x.safetensors", replace(CAT, seed=9))
    (folder / "link.safetensors").symlink_to(tmp_path / "nowhere")
    before = (folder / "cat.safetensors").read_bytes()
    for name in ("cat", "cat.safetensors", " cat ", "link"):
        with pytest.raises(RecipeError, match="already; choose another name") as error:
            library.add(folder, other, name)
        assert error.value.field == "upload"
    library.add(folder, other, "dog")
    with pytest.raises(RecipeError, match="“cat” already") as error:
        library.rename(folder, "dog", "cat")
    assert error.value.field == "rename"
    assert (folder / "cat.safetensors").read_bytes() == before and (folder / "dog.safetensors").exists()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b"PK\x03\x04"),
        lambda path: path.write_bytes(path.read_bytes()[:-8]),
        lambda path: save_file({"a": torch.ones(1)}, path),
        lambda path: save_file({"a": torch.ones(1)}, path, {"mace_studio": "[]"}),
        lambda path: erasure_file(path, warnings=3),
        lambda path: erasure_file(path, conditions={"refine": "<b>"}),
        lambda path: erasure_file(path, replace(CAT, concepts=(Concept("cat", "forest", "../../recipe"),))),
        lambda path: erasure_file(path, Recipe()),
    ],
)
def test_what_is_no_erasure_stays_out(folder, tmp_path, spoil):
    upload = erasure_file(tmp_path / "upload" / "x.safetensors")
    spoil(upload)
    with pytest.raises(FileError, match="new is not an erasure"):
        library.add(folder, upload, "new")
    assert [path.name for path in folder.iterdir()] == ["cat.safetensors"]


def test_renaming_and_deleting_take_the_scores_along(folder):
    entry = library.find(folder, "cat")
    library.write_scores(entry, HARMONIC)
    assert library.rename(folder, "cat", " Cats, all of them ").scores == HARMONIC
    assert [e.name for e in library.entries(folder)] == ["Cats, all of them"]
    assert library.rename(folder, "Cats, all of them", "Cats, all of them").name == "Cats, all of them"
    library.delete(folder, "Cats, all of them")
    assert [path.name for path in folder.rglob("*")] == ["reports"]
    erasure_file(folder / "Cats, all of them.safetensors", replace(CAT, seed=1))
    assert library.find(folder, "Cats, all of them").scores == ()


def test_the_recipe_file_has_the_name_of_its_erasure(folder):
    first = library.write_recipe(library.find(folder, "cat"))
    assert first.name == "cat.json" and Recipe.from_json(first.read_text(encoding="utf-8")) == CAT
    library.rename(folder, "cat", "Mine")
    assert [path.name for path in first.parent.iterdir()] == ["Mine.json"]
    library.delete(folder, "Mine")
    assert list(first.parent.iterdir()) == []


def test_scores_are_those_of_this_very_recipe(folder):
    library.write_scores(library.find(folder, "cat"), HARMONIC)
    erasure_file(folder / "cat.safetensors", replace(CAT, seed=1))
    assert library.find(folder, "cat").scores == ()
    (folder / "reports" / "cat.json").write_text("[")
    assert library.find(folder, "cat").scores == ()


def test_scores_of_version_0_1_are_read(folder):
    written = {"recipe": CAT.digest(), "scores": {"H_o, top-1": 0.93, "H_o, mean probability": 0.9}}
    (folder / "reports").mkdir()
    (folder / "reports" / "cat.json").write_text(json.dumps(written))
    assert library.find(folder, "cat").scores == HARMONIC


def test_what_a_run_took_lies_beside_the_scores(folder):
    first, cached, elsewhere = Spent(60.0, "cpu", 2 * 10**9), Spent(1.0, "cpu", 10**9), Spent(3.0, "cuda")
    library.write_spent(library.find(folder, "cat"), first)
    library.write_scores(library.find(folder, "cat"), HARMONIC)
    entry = library.find(folder, "cat")
    assert (entry.spent, entry.scores) == (first, HARMONIC)
    library.write_spent(entry, cached)  # it found images and LoRAs of the first run
    assert library.find(folder, "cat").spent == first
    library.write_spent(entry, elsewhere)
    entry = library.rename(folder, "cat", "Mine")
    assert (entry.spent, entry.scores) == (elsewhere, HARMONIC)
    erasure_file(folder / "Mine.safetensors", replace(CAT, seed=1))
    assert library.find(folder, "Mine").spent is None
    library.write_spent(library.find(folder, "Mine"), cached)
    entry = library.find(folder, "Mine")
    assert (entry.spent, entry.scores) == (cached, ())  # those of the other recipe are gone


@pytest.mark.parametrize("spent", ["3", '{"seconds": "x"}', '{"seconds": 1, "where": "cpu", "memory": 1e400}', "[]"])
def test_a_damaged_note_of_a_run_costs_no_scores(folder, spent):
    library.write_scores(library.find(folder, "cat"), HARMONIC)
    path = folder / "reports" / "cat.json"
    path.write_text(f'{path.read_text()[:-1]}, "spent": {spent}}}')
    entry = library.find(folder, "cat")
    assert entry.scores == HARMONIC and entry.spent == (Spent(3.0) if spent == "3" else None)


def test_only_what_has_all_its_loras_can_be_composed(folder):
    assert library.find(folder, "cat").composable
    erasure_file(folder / "old.safetensors")
    erasure_file(folder / "refined.safetensors", CAT.with_settings(lora=LoraSettings(steps=0)))
    assert not library.find(folder, "old").composable and library.find(folder, "refined").composable
    for name, method in METHODS.items():
        erasure_file(folder / "x.safetensors", Recipe(concepts=CAT.concepts, method=name), origins={"cat": "00000000"})
        assert library.find(folder, "x").composable == method.composes == (name == "mace")


def test_base_models_are_remembered_newest_first_and_each_once(folder):
    assert library.sources(folder) == []
    for i in (*range(12), 9):
        library.remember(folder, f"model-{i}")
    assert library.sources(folder) == [f"model-{i}" for i in (9, 11, 10, 8, 7, 6, 5, 4)]
    (folder / "models.json").write_text('{"a": 1')
    assert library.sources(folder) == []


def test_a_folder_that_cannot_be_written_is_said(folder, tmp_path, monkeypatch):
    upload = erasure_file(tmp_path / "upload" / "x.safetensors")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(library.shutil, "copyfile", full)
    with pytest.raises(FileError, match="No space left on device"):
        library.add(folder, upload, "new")
    assert [path.name for path in folder.iterdir()] == ["cat.safetensors"]


# One bad file beside good ones


@pytest.mark.parametrize(
    "text", ["[" * 5000, '{"recipe": ' + "9" * 5000 + "}", '{"recipe": "x", "scores": [1e400]}', "[1, 2]", '"text"', ""]
)
def test_bad_notes_beside_an_erasure_cost_no_erasure(folder, text):
    (folder / "reports").mkdir(exist_ok=True)
    (folder / "reports" / "cat.json").write_text(text)
    (folder / "models.json").write_text(text)
    assert [entry.name for entry in library.entries(folder)] == ["cat"]
    assert library.entries(folder)[0].scores == ()
    assert library.sources(folder) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_never_opened(folder):
    os.mkfifo(folder / "pipe.safetensors")
    (folder / "reports").mkdir(exist_ok=True)
    os.mkfifo(folder / "reports" / "cat.json")
    os.mkfifo(folder / "models.json")
    assert [entry.name for entry in library.entries(folder)] == ["cat"]
    assert library.sources(folder) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_every_file_that_is_passed_over_has_its_sentence(folder):
    os.mkfifo(folder / "pipe.safetensors")
    (folder / "letter.safetensors").write_text("dear")
    save_file({"a": torch.ones(1)}, folder / "deep.safetensors", {"mace_studio": "[" * 100_000})
    newer = erasure_file(folder / "newer.safetensors", format=99)
    cut = erasure_file(folder / "cut.safetensors")
    cut.write_bytes(cut.read_bytes()[:-1])
    found, passed_over = library.listing(folder)
    assert [entry.name for entry in found] == ["cat"]
    assert passed_over == [
        "cut.safetensors is not an erasure made by MACE Studio.",
        "deep.safetensors is not an erasure made by MACE Studio.",
        "letter.safetensors is not an erasure made by MACE Studio.",
        f"{newer.name} was made by a newer version of MACE Studio; update this one to use it.",
        "pipe.safetensors is no file.",
    ]


@pytest.mark.parametrize(("seconds", "year"), [(10**18, 1970), (1_700_000_000, 2023)])
def test_a_year_that_there_is_not_costs_no_erasure(folder, seconds, year):
    class Odd(type(folder)):
        """A path on a file system that says so of its files."""

        def stat(self, **options):
            found = list(super().stat(**options))[:10]
            return os.stat_result([*found[:8], seconds, found[9]])

    assert library.read(Odd(folder / "cat.safetensors")).made.year == year


def test_notes_are_written_whole(folder, monkeypatch):
    """A write that fails in the middle leaves the one that was there."""
    library.remember(folder, "first")

    def half(self, text, **options):
        with self.open("w") as file:
            file.write(text[: len(text) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(FileError, match="No space left"):
        library.remember(folder, "second")
    monkeypatch.undo()
    assert library.sources(folder) == ["first"]
    assert not list(folder.glob(".*"))


def test_a_file_that_is_being_downloaded_is_replaced_and_not_written_over(folder):
    entry = library.entries(folder)[0]
    with library.write_recipe(entry).open() as reader:
        before = os.fstat(reader.fileno()).st_ino
        assert library.write_recipe(entry).stat().st_ino != before
        assert Recipe.from_json(reader.read()) == CAT
    with result_files.write_archive(folder).open("rb") as archive:
        assert result_files.write_archive(folder).stat().st_ino != os.fstat(archive.fileno()).st_ino
        assert "cat.safetensors" in zipfile.ZipFile(archive).namelist()


def test_what_a_file_of_a_stranger_says_steers_no_console(folder):
    path = erasure_file(folder / "other.safetensors", warnings=["\x1b]0;mine\x07 red \x1b[31m", 3])
    assert library.read(path).warnings == ("?]0;mine? red ?[31m", "3")
