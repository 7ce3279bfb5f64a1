"""Results have file names of their own, and archives the contents of their folder."""

import json
import os
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from mace_studio.analysis.compare import Pair
from mace_studio.errors import FileError
from mace_studio.evaluation.plan import Plan
from mace_studio.evaluation.report import Report
from mace_studio.exports.export import Exported
from mace_studio.recipe import Concept, Recipe
from mace_studio.runtime import result_files


def pair(prompt="a cat", seed=0, shade=0, **settings):
    images = [Image.new("RGB", (8, 8), (value, 0, 0)) for value in (0, shade)]
    return Pair(
        prompt=prompt, seed=seed, before=images[0], after=images[1], change=0.0, settings={"prompt": prompt, **settings}
    )


def test_no_pair_replaces_another(tmp_path):
    long = "a photo of a cat in the snow at night in the forest, "
    pairs = [
        pair(), pair(seed=1), pair("C++"), pair("C#"), pair("🐈"), pair("🐕"), pair(long + "red"), pair(long + "blue"),
        pair(steps=5), pair(guidance=2.0), pair(recipe={"name": "other"}), pair(shade=9),
    ]  # fmt: skip
    paths = [result_files.write_pair(one, tmp_path) for one in pairs]
    assert len(set(paths)) == len(pairs) == len(list(tmp_path.iterdir()))
    assert result_files.write_pair(pair(), tmp_path) == paths[0] and paths[0].name.startswith("a-cat-0-")


def exported(path):
    return Exported(**{field: None for field in Exported.__dataclass_fields__} | {"path": path})


def test_an_archive_is_that_of_the_folder_as_it_is(tmp_path):
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "weights").write_bytes(b"one")
    archive, _ = result_files.pack_export(exported(folder))
    first = archive.read_bytes()
    assert zipfile.ZipFile(archive).read("model/unet/weights") == b"one"
    os.utime(archive, (2e9, 2e9))  # newer than all that comes
    assert result_files.pack_export(exported(folder))[0].read_bytes() == first and archive.stat().st_mtime == 2e9
    (folder / "unet" / "weights").write_bytes(b"two")
    result_files.pack_export(exported(folder))
    assert zipfile.ZipFile(archive).read("model/unet/weights") == b"two"
    archive.write_bytes(archive.read_bytes()[:20])
    result_files.pack_export(exported(folder))
    assert zipfile.ZipFile(archive).read("model/unet/weights") == b"two"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "model.zip"]


def test_an_archive_that_says_the_right_thing_and_holds_another_is_made_again(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_bytes(b"one two three")
    archive, _ = result_files.pack_export(exported(folder))
    whole = archive.read_bytes()
    for damaged in (whole.replace(b"two", b"six"), b"\0" * 30 + whole[30:], whole.replace(b"model/", b"other/")):
        archive.write_bytes(damaged)
        assert result_files.pack_export(exported(folder))[0].read_bytes() != damaged
        assert zipfile.ZipFile(archive).read("model/weights") == b"one two three"
    # Both renamed by hand: the folder in the archive has the name of the folder beside it.
    folder, _ = folder.rename(tmp_path / "cat"), archive.rename(tmp_path / "cat.zip")
    assert zipfile.ZipFile(result_files.pack_export(exported(folder))[0]).namelist() == ["cat/weights"]
    (tmp_path / "cat.zip").unlink()
    (tmp_path / "cat.zip").mkdir()
    with pytest.raises(FileError, match="is a folder, where the archive of cat belongs"):
        result_files.pack_export(exported(folder))


@pytest.mark.parametrize("at", [0, 5e9])
def test_files_of_times_that_an_archive_cannot_say_are_packed(tmp_path, at):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"one")
    os.utime(tmp_path / "model" / "weights", (at, at))
    assert zipfile.ZipFile(result_files.pack_export(exported(tmp_path / "model"))[0]).namelist() == ["model/weights"]
    assert zipfile.ZipFile(result_files.write_archive(tmp_path / "model")).namelist() == ["weights"]


def report(name="cat", seed=0, steps=5, judge="j"):
    plan = Plan(probes=(), captions=(), seeds=(seed,), steps=steps, guidance=4.0)
    return Report(
        name=name, recipe=Recipe(concepts=(Concept("cat", "forest"),)), judge=judge, labels=(), plan=plan, rows=(),
        harmonic=(), h_a={}, quality=None, detections=None, notes=(), model="m", fingerprint="f",
    )  # fmt: skip


def test_no_report_replaces_another(tmp_path, monkeypatch):
    for drawn in ("write", "write_side_by_side"):
        monkeypatch.setattr(result_files.report_figures, drawn, lambda *_: [])
    reports = [report(), report(seed=1), report(steps=9), report(judge="k"), report("dog")]
    folders = [result_files.write_evaluation([one], tmp_path)[0].parent for one in reports]
    assert len(set(folders)) == len(reports) and folders[0] == tmp_path
    assert [result_files.write_evaluation([one], tmp_path)[0].parent for one in reports] == folders
    assert json.loads((tmp_path / "report.json").read_text())["plan"]["seeds"] == [0]


def test_no_evaluation_of_several_replaces_another(tmp_path, monkeypatch):
    for drawn in ("write", "write_side_by_side"):
        monkeypatch.setattr(result_files.report_figures, drawn, lambda *_: [])
    several = [[report(), report("dog")], [report(), report("ship")], [report(seed=1), report("dog")]]
    firsts = [result_files.write_evaluation(reports, tmp_path)[0] for reports in several]
    assert len(set(firsts)) == 3 and firsts[0] == tmp_path / "side-by-side.md"
    assert [result_files.write_evaluation(reports, tmp_path)[0] for reports in several] == firsts
    # Two erasures of one name, from two folders.
    paths = result_files.write_evaluation([report(seed=3), report(seed=4)], tmp_path / "two")
    assert [path.parent.name for path in paths if path.name == "report.json"] == ["cat", "cat-2"]


def test_a_run_that_ends_while_it_writes_leaves_no_half_file(tmp_path, monkeypatch):
    path = result_files.write_pair(pair(), tmp_path)
    whole = path.read_bytes()

    def half(image, target, *_, **__):
        Path(target).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(KeyboardInterrupt):
        result_files.write_pair(pair(), tmp_path)
    assert path.read_bytes() == whole and [p.name for p in tmp_path.iterdir()] == [path.name]
