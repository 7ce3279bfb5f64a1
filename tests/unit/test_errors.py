"""What messages tell of where files lie."""

import pickle
import time
from pathlib import Path

import pytest

from mace_studio.errors import FileError, RecipeError, StudioError
from mace_studio.runtime.studio import Studio
from mace_studio.sd import files
from mace_studio.ui import notices


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("/srv/studio/users/3f/exports/cat.safetensors could not be written.", "cat.safetensors could not be written."),
        ("There is no file /home/me/x.json.", "There is no file x.json."),
        ("The UNet of ~/models/sd lacks 2 weights.", "The UNet of sd lacks 2 weights."),
        ("Not file:///opt/models/sd, “/opt/a.b/c”, or '/opt/d/e'.", "Not sd, “c”, or 'e'."),
        (r"C:\Users\me\x.csv is no list.", "x.csv is no list."),
        ("my output/users/3f/cat.png is cut; see my output/jobs.", "cat.png is cut; see jobs."),
        ("There is no file /srv/my models/Jo's \"old\" ones/sd 1/x.json.", "There is no file x.json."),
        (r"C:\Users\Jo Do\my x.csv and \\nas\all models\sd are no lists.", "my x.csv and sd are no lists."),
        ("[Errno 2] No such file: '/srv/a b/c d/e' -> \"/srv/f g/h\"", "[Errno 2] No such file: 'e' -> \"h\""),
        ("“~ada/a, b. c/d” of (/srv/Zoë 模型/ø/e f), file:/srv/a b/c/", "“d” of (e f), c/"),
        ("error:/srv/a/b", "error:b"),
        # What is no path stays.
        ("Use CLIP/ViT, runwayml/sd-v1 or https://hub.example/a/b.", "Use CLIP/ViT, runwayml/sd-v1 or https://hub.example/a/b."),
        ("“he/she” and 1/2 of “/imagine a cat”", "“he/she” and 1/2 of “/imagine a cat”"),
    ],
)  # fmt: skip
def test_a_shared_studio_tells_names_and_no_folder(monkeypatch, message, told):
    assert str(FileError(message)) == message
    monkeypatch.setattr(StudioError, "shared", Path("my output"))
    assert str(FileError(message)) == told and notices.sentence(FileError(message)) == told
    assert str(pickle.loads(pickle.dumps(RecipeError("upload", message)))) == f"upload: {told}"
    assert notices.problem(RecipeError("upload", message), {"upload": ("File", "")})["text"] == f"File: {told}"


@pytest.mark.parametrize(
    "typed", ["“" * 20_000, "”" * 20_000, " /a" * 3300, "“ /" * 7000, "/a/" * 7000, "a" * 20_000, "./" * 9000]
)
def test_a_message_is_told_in_linear_time(monkeypatch, typed):
    for shared in (None, Path("my output")):
        monkeypatch.setattr(StudioError, "shared", shared)
        begun = time.process_time()
        assert len(str(FileError(f"“{typed}” is none."))) <= 2000
        assert time.process_time() - begun < 0.3


def test_a_message_repeats_little_of_an_input():
    assert str(FileError(f"“{'a' * 81}” and “{'b' * 80}” are none.")) == f"“{'a' * 79}…” and “{'b' * 80}” are none."
    assert str(FileError(f"There is no file {'x' * 300}.")) == f"There is no file {'x' * 79}…"
    assert str(FileError(f"“{'a “b' * 40}” is none.")).endswith("…” is none.")


def test_an_output_folder_with_blanks_is_not_told_either(monkeypatch):
    monkeypatch.setattr(StudioError, "shared", Path("/srv/my studio/out put"))
    assert str(FileError("/srv/my studio/out put/users/3f/a.png is cut.")) == "a.png is cut."


@pytest.mark.parametrize(("fixed", "folder"), [(True, ""), (False, "FOLDER/")])
def test_only_one_s_own_studio_says_in_which_folder_nothing_can_be_written(tmp_path, fixed, folder):
    Studio(output=tmp_path, fixed=fixed)
    (tmp_path / "exports").write_text("in the way")
    with pytest.raises(FileError) as refused:
        files.write(tmp_path / "exports" / "cat.safetensors", {})
    said = folder.replace("FOLDER", f"{tmp_path}/exports") + "cat.safetensors could not be written: "
    assert str(refused.value).startswith(said)
