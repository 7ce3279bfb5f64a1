from dataclasses import replace
from pathlib import Path

import pytest

from mace_studio.errors import FileError, RecipeError
from mace_studio.export.formats import FORMATS, INDEX, ExportRequest


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_goes_to_a_new_path(tmp_path, kind):
    ExportRequest(kind, tmp_path / ("cat" if kind == "diffusers" else "cat.safetensors")).check()


@pytest.mark.parametrize(
    "change, field",
    [
        ({"format": "onnx"}, "format"),
        ({"path": Path("cat.ckpt")}, "path"),
        ({"format": "unet", "rank": 4}, "rank"),
        ({"format": "unet", "energy": 0.9}, "rank"),
        ({"rank": 4, "energy": 0.9}, "rank"),
        ({"rank": 0}, "rank"),
        ({"energy": 0.0}, "energy"),
        ({"energy": 1.01}, "energy"),
        ({"energy": float("nan")}, "energy"),
    ],
)
def test_settings_that_do_not_fit_are_named(tmp_path, change, field):
    with pytest.raises(RecipeError) as error:
        replace(ExportRequest("lora", tmp_path / "cat.safetensors"), **change).check()
    assert error.value.field == field


def test_the_card_and_the_picture_lie_beside_a_file():
    packing = ExportRequest("lora", Path("out/cat.v2.safetensors"), pairs=(Path("a.png"),))
    assert [path.name for path in packing.files] == ["cat.v2.md", "cat.v2.png", "cat.v2.safetensors"]
    assert [path.name for path in replace(packing, pairs=()).files] == ["cat.v2.md", "cat.v2.safetensors"]
    assert ExportRequest("diffusers", Path("out/cat")).files == (Path("out/cat"),)


@pytest.mark.parametrize("there", ["cat.safetensors", "cat.md"])
def test_what_is_there_is_not_overwritten_unasked(tmp_path, there):
    (tmp_path / there).write_text("")
    packing = ExportRequest("unet", tmp_path / "cat.safetensors")
    with pytest.raises(FileError, match=f"{there} exists already"):
        packing.check()
    replace(packing, overwrite=True).check()


def test_only_a_folder_that_holds_a_model_is_overwritten(tmp_path):
    packing = ExportRequest("diffusers", tmp_path / "cat")
    packing.path.mkdir()
    with pytest.raises(FileError, match="exists already"):
        packing.check()
    asked = replace(packing, overwrite=True)
    asked.check()
    (packing.path / "letter.txt").write_text("dear")
    with pytest.raises(FileError, match="other things than a model, so it stays"):
        asked.check()
    (packing.path / INDEX).write_text("{}")
    asked.check()


def test_files_links_and_folders_are_not_taken_for_one_another(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="is a file"):
        ExportRequest("diffusers", tmp_path / "file", overwrite=True).check()
    (tmp_path / "cat.safetensors").mkdir()
    with pytest.raises(FileError, match="is a folder"):
        ExportRequest("unet", tmp_path / "cat.safetensors", overwrite=True).check()
    (tmp_path / "link").symlink_to(tmp_path / "cat.safetensors")
    with pytest.raises(FileError, match="is a link"):
        ExportRequest("diffusers", tmp_path / "link", overwrite=True).check()
