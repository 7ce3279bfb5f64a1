from dataclasses import replace
from pathlib import Path

import pytest

from mace_studio.errors import FileError, RecipeError
from mace_studio.exports.formats import FORMATS, INDEX, ExportRequest


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_goes_to_a_new_path(tmp_path, kind):
    ExportRequest(kind, tmp_path / f"cat{FORMATS[kind].suffix}").check()


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


def test_every_row_of_the_table_is_whole():
    """A name that people see, what reads it, how, and a writer of its own; only a folder has no suffix."""
    rows = FORMATS.values()
    assert len({row.title for row in rows}) == len({row.write for row in rows}) == len(FORMATS)
    assert all(row.content and row.readers and row.usage.endswith(".") for row in rows)
    assert (
        [name for name, row in FORMATS.items() if row.folder]
        == ["diffusers"]
        == [n for n in FORMATS if not FORMATS[n].suffix]
    )
    assert FORMATS["unet"].about == "the changed weights only, under the UNet's own names, for scripts with diffusers"


def test_the_card_and_the_image_lie_beside_a_file():
    request = ExportRequest("lora", Path("out/cat.v2.safetensors"), pairs=(Path("a.png"),))
    assert [path.name for path in request.files] == ["cat.v2.md", "cat.v2.png", "cat.v2.safetensors"]
    assert [path.name for path in replace(request, pairs=()).files] == ["cat.v2.md", "cat.v2.safetensors"]
    assert ExportRequest("diffusers", Path("out/cat")).files == (Path("out/cat"),)


@pytest.mark.parametrize("there", ["cat.safetensors", "cat.md"])
def test_what_is_there_is_not_overwritten_unasked(tmp_path, there):
    (tmp_path / there).write_text("")
    request = ExportRequest("unet", tmp_path / "cat.safetensors")
    with pytest.raises(FileError, match=f"{there} exists already"):
        request.check()
    replace(request, overwrite=True).check()


def test_only_a_folder_that_holds_a_model_is_overwritten(tmp_path):
    request = ExportRequest("diffusers", tmp_path / "cat")
    request.path.mkdir()
    with pytest.raises(FileError, match="exists already"):
        request.check()
    asked = replace(request, overwrite=True)
    asked.check()
    (request.path / "letter.txt").write_text("dear")
    with pytest.raises(FileError, match="other things than a model, so it stays"):
        asked.check()
    (request.path / INDEX).write_text("{}")
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
