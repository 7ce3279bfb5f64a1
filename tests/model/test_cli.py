import json
import logging
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open

from mace_studio import cli, presets
from mace_studio.methods.mace import MaceSettings
from mace_studio.recipe import Concept, Recipe
from mace_studio.runtime import library
from mace_studio.runtime.studio import Studio
from mace_studio.settings import ImageSettings, KeepWeights, LoraSettings

QUICK = Recipe(
    concepts=(Concept("cat", "forest"),),
    settings=MaceSettings(
        refine=KeepWeights(identity=10.0),
        fuse=KeepWeights(identity=10.0),
        lora=LoraSettings(steps=2),
        images=ImageSettings(per_concept=1, steps=2),
    ),
)


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "cat.json"
    path.write_text(QUICK.to_json(), encoding="utf-8")
    return path


def test_erase_then_compare(recipe_file, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["erase", str(recipe_file), "--out", str(out)]) == 0
    erasure = Path(capsys.readouterr().out.strip())
    assert erasure.parent == out and erasure.suffix == ".safetensors" and erasure.is_file()
    drawing = ["--prompt", "a cat", "--prompt", "a ship", "--seed", "3", "--steps", "2", "--guidance", "4"]
    assert cli.main(["compare", str(erasure), *drawing, "--out", str(tmp_path / "pairs")]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [Path(line.split(" mean")[0]).name for line in lines]
    # Eight digits tell apart images of other settings, or of another erasure, in one folder.
    assert all(
        re.fullmatch(rf"a-{word}-3-[0-9a-f]{{8}}\.png", n) for word, n in zip(("cat", "ship"), names, strict=True)
    )
    with Image.open(tmp_path / "pairs" / names[0]) as picture:
        settings = json.loads(picture.text["mace_studio"])
    assert (settings["prompt"], settings["seed"], settings["steps"]) == ("a cat", 3, 2)
    assert Recipe.from_json(json.dumps(settings["recipe"])) == QUICK


def test_what_a_run_warns_of_is_told_beside_its_result_and_kept(tmp_path, capsys):
    concepts = (*QUICK.concepts, Concept("Mickey Mouse", "a xylophone"))
    path = tmp_path / "mouse.json"
    path.write_text(replace(QUICK, concepts=concepts).with_settings(lora=LoraSettings(steps=0)).to_json())
    assert cli.main(["erase", str(path), "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr()
    said = (
        "The model has not learned “Mickey Mouse” (row 2), “a xylophone” (row 2): nothing of it can be erased or shown."
    )
    assert said in told.err and library.read(Path(told.out.strip())).warnings == (f"{said} Use words that it knows.",)


def test_what_the_model_does_not_read_of_a_prompt_is_told_whatever_else_is_given(recipe_file, tmp_path, capsys):
    assert cli.main(["erase", str(recipe_file), "--out", str(tmp_path / "out")]) == 0
    erased = capsys.readouterr().out.strip()
    long, negative = "a cat in the snow " * 7 + "and a tree", "a dog in the sea " * 7 + "and a house"
    given = ["--prompt", long, "--negative", negative, "--steps", "1", "--guidance", "4", "--out", str(tmp_path)]
    assert cli.main(["compare", erased, *given]) == 0
    told = capsys.readouterr().err
    assert told.count("this is not read: “") == 2 and "tree”" in told and "house”" in told


def test_a_csv_file_is_one_whatever_the_case_of_its_name(tmp_path, capsys):
    (tmp_path / "LIST.CSV").write_text("\ufeffsep=;\nphrase;mapping\ncat;forest\ncat;sky\n", encoding="utf-8")
    assert cli.main(["erase", str(tmp_path / "LIST.CSV"), "--out", str(tmp_path)]) == 1
    assert "Rows 1 and 2 are the same concept" in capsys.readouterr().err


def test_masks_are_written_changed_and_read_back(recipe_file, tmp_path, capsys):
    out, shown = ["--out", str(tmp_path / "out")], tmp_path / "shown"
    assert cli.main(["masks", str(recipe_file), "--out", str(shown)]) == 0
    sheet, images, masks = (Path(line) for line in capsys.readouterr().out.splitlines())
    assert [p.name for p in (*images.iterdir(), *masks.iterdir())] == ["cat-1.png", "cat-1.png"] and sheet.is_file()
    assert cli.main(["erase", str(recipe_file), *out]) == 0
    usual = Path(capsys.readouterr().out.strip())
    Image.new("L", (10, 10), 255).save(masks / "cat-1.png")
    assert cli.main(["erase", str(recipe_file), "--masks", str(masks), *out]) == 0
    ours = Path(capsys.readouterr().out.strip())
    assert ours.stem != usual.stem and ours.read_bytes() != usual.read_bytes()
    assert library.read(ours).warnings[0].startswith("Masks given by hand (") and not library.read(usual).warnings
    (masks / "dog-1.png").write_bytes((masks / "cat-1.png").read_bytes())
    assert cli.main(["erase", str(recipe_file), "--masks", str(masks), *out]) == 1
    assert "dog-1.png fits no concept of the recipe" in capsys.readouterr().err


def test_low_memory_gives_the_same_erasure(recipe_file, tmp_path, capsys):
    files = []
    for name, flags in (("usual", []), ("low", ["--low-memory"])):
        assert cli.main(["erase", str(recipe_file), "--out", str(tmp_path / name), *flags]) == 0
        files.append(Path(capsys.readouterr().out.strip()).read_bytes())
    assert files[0] == files[1]


def test_exporting_what_was_erased(recipe_file, tmp_path, capsys):
    assert cli.main(["erase", str(recipe_file), "--out", str(tmp_path / "out")]) == 0
    erasure = capsys.readouterr().out.strip()
    images = tmp_path / "pairs"
    assert cli.main(["compare", erasure, "--prompt", "a cat", "--steps", "2", "--out", str(images)]) == 0
    capsys.readouterr()
    export = ["export", erasure, "--format", "lora", "--out", str(tmp_path / "cat.safetensors")]
    assert cli.main([*export, "--rank", "3", "--pair", str(*images.glob("a-cat-0-*.png"))]) == 0
    *layers, last = capsys.readouterr().out.splitlines()
    assert len(layers) == 14 and all(": rank 3, " in line and line.endswith("% left out") for line in layers)
    assert last.startswith(f"{tmp_path / 'cat.safetensors'} ") and last.endswith(" MB")
    assert {p.name for p in tmp_path.glob("cat.*")} == {"cat.json", "cat.md", "cat.png", "cat.safetensors"}
    assert cli.main(export) == 1
    assert "exists already" in capsys.readouterr().err
    assert cli.main([*export, "--overwrite"]) == 0
    folder = ["export", erasure, "--format", "diffusers", "--out", str(tmp_path / "model")]
    assert cli.main(folder) == 0 and (tmp_path / "model" / "model_index.json").is_file()
    assert cli.main(["compare", erasure, "--model", str(tmp_path / "model"), *["--prompt", "a", "--out", "x"]]) == 1
    assert "another model" in capsys.readouterr().err


def test_composing_what_was_erased(recipe_file, tmp_path, capsys):
    ship = tmp_path / "ship.json"
    ship.write_text(replace(QUICK, concepts=(Concept("ship", "ground"),)).to_json(), encoding="utf-8")
    erasures = []
    for path, out in ((recipe_file, "a"), (ship, "b")):
        assert cli.main(["erase", str(path), "--out", str(tmp_path / out)]) == 0
        erasures.append(capsys.readouterr().out.strip())
    assert cli.main(["compose", *erasures, "--out", str(tmp_path / "c"), "--name", "Both"]) == 0
    warning, path = capsys.readouterr().out.splitlines()
    assert warning.startswith("Approximate: the LoRAs of “cat”, “ship”") and Path(path).name.startswith("both-")
    assert cli.main(["compose", path, "--remove", "ship", "--out", str(tmp_path / "c")]) == 0
    *_, alone = capsys.readouterr().out.splitlines()
    with safe_open(alone, "numpy") as again, safe_open(erasures[0], "numpy") as first:
        for key in first.keys():  # noqa: SIM118 - not a mapping
            assert (again.get_tensor(key) == first.get_tensor(key)).all()
    assert cli.main(["compose", erasures[0], "--add", str(ship), "--out", str(tmp_path / "c")]) == 0
    assert "“cat” was" not in capsys.readouterr().out
    for wrong, said in (
        ([erasures[0], erasures[0]], "erased in two"),
        ([erasures[0], "--remove", "dog"], "not among what is erased"),
        ([erasures[0], "--add", str(tmp_path / "no.json")], "There is no file"),
        ([erasures[0], "--add", "shop"], "the nearest are miniature/ship"),
        ([str(ship)], "not an erasure"),
    ):
        assert cli.main(["compose", *wrong, "--out", str(tmp_path / "c")]) == 1
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "change, says",
    [(lambda t: "{", "not valid JSON"), (lambda t: t.replace('"seed"', '"sead"'), "sead"), (lambda t: "{}", "concept")],
)
def test_bad_recipes_are_a_sentence_and_a_status(recipe_file, tmp_path, capsys, change, says):
    recipe_file.write_text(change(recipe_file.read_text(encoding="utf-8")), encoding="utf-8")
    assert cli.main(["erase", str(recipe_file), "--out", str(tmp_path)]) == 1
    assert says in capsys.readouterr().err


def test_missing_files_are_a_sentence(tmp_path, capsys):
    assert cli.main(["erase", str(tmp_path / "no.json"), "--out", str(tmp_path)]) == 1
    assert "no.json" in capsys.readouterr().err
    assert cli.main(["compare", str(tmp_path / "no.safetensors"), "--prompt", "a cat", "--out", str(tmp_path)]) == 1
    assert "no erased model “no”" in capsys.readouterr().err


LONG_NAMES = [
    ["erase", "X"],
    ["erase", "X.json"],
    ["erase", "RECIPE", "--masks", "X"],
    ["erase", "RECIPE", "--captions", "X", "--estimate"],
    ["erase", "RECIPE", "--model", "X"],
    ["erase", "RECIPE", "--vae", "X"],
    ["erase", "RECIPE", "--text-encoder", "X"],
    ["erase", "--resume", "--out", "X"],
    ["compare", "X", "--prompt", "a cat"],
    ["inspect", "X", "--prompt", "a cat"],
    ["evaluate", "X"],
    ["export", "X", "--format", "unet"],
    ["compose", "X"],
]


@pytest.mark.parametrize("length", [300, 3000])
@pytest.mark.parametrize("arguments", LONG_NAMES)
def test_a_name_that_no_file_can_have_is_a_sentence(recipe_file, tmp_path, capsys, monkeypatch, arguments, length):
    monkeypatch.chdir(tmp_path)
    names = {"X": "é" * length, "X.json": "é" * length + ".json", "RECIPE": str(recipe_file)}
    assert cli.main([names.get(one, one) for one in arguments]) == 1
    said = capsys.readouterr().err
    assert "Error: " in said and "Traceback" not in said and "é" * 100 not in said


def test_what_the_system_says_against_a_path_is_a_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "masks", lambda options: (options.out / "x").mkdir(parents=True))
    assert cli.main(["masks", "cat", "--out", "é" * 300]) == 1
    said = capsys.readouterr().err
    assert said.startswith("Error: ") and "File name too long" in said and "é" * 100 not in said


def test_what_is_asked_for_by_name_is_found_and_said(recipe_file, tmp_path, capsys, monkeypatch):
    """The recipe is a preset of this test; the erasure lies in the usual folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(presets, "PRESETS", tmp_path)
    assert cli.main(["erase", "cat"]) == 0
    made, said = capsys.readouterr()
    path = Path(made.strip())
    assert "cat: the preset cat" in said and path.parent == Path("output") and path.name.startswith("cat-")
    assert cli.main(["compare", "cat", "--prompt", "a cat", "--steps", "1", "--guidance", "1"]) == 0
    made, said = capsys.readouterr()
    assert f"cat: the erased model {path}" in said and made.startswith("output/pairs/a-cat-0-")
    for wrong in ("cta", path.stem.replace("cat", "cut")):
        assert cli.main(["compare", wrong, "--prompt", "a cat"]) == 1
        assert f"the nearest are {path.stem}" in capsys.readouterr().err


def test_several_at_once_have_a_folder_each(recipe_file, tmp_path, capsys):
    ship, out = tmp_path / "ship.json", ["--out", str(tmp_path / "out")]
    ship.write_text(replace(QUICK, concepts=(Concept("ship", "ground"),)).to_json(), encoding="utf-8")
    assert cli.main(["erase", str(recipe_file), str(ship), "--estimate", *out]) == 0
    lines = [line.split(": ")[0] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["cat", "cat", "ship", "ship"]  # what it takes, and what the projections can hold
    assert cli.main(["erase", str(recipe_file), str(ship), *out]) == 0
    erasures = capsys.readouterr().out.split()
    cat, boat = (Path(erasure).stem for erasure in erasures)
    assert cat.startswith("cat-") and boat.startswith("ship-")
    pairs = ["--prompt", "a cat", "--steps", "1", "--guidance", "1", "--out", str(tmp_path / "pairs")]
    assert cli.main(["compare", *erasures, *pairs]) == 0
    made = sorted(p.relative_to(tmp_path / "pairs").as_posix() for p in (tmp_path / "pairs").rglob("*.png"))
    assert [name.rpartition("-")[0] for name in made] == ["a-cat-sheet", f"{cat}/a-cat-0", f"{boat}/a-cat-0"]
    with Image.open(tmp_path / "pairs" / made[0]) as sheet:
        assert list(json.loads(sheet.text["mace_studio"])["recipes"]) == [cat, boat]
    export = ["export", *erasures, "--format", "unet", "--out", str(tmp_path / "exports")]
    assert cli.main(export) == 0
    assert {p.name for p in (tmp_path / "exports").glob("*.safetensors")} == {
        f"{cat}-unet.safetensors",
        f"{boat}-unet.safetensors",
    }
    (tmp_path / "copies").mkdir()
    copy = shutil.copy(erasures[0], tmp_path / "copies")
    assert cli.main(["export", copy, *export[1:], "--overwrite"]) == 1
    assert f"Two are called “{cat}”" in capsys.readouterr().err
    assert cli.main(["masks", str(recipe_file), str(ship), "--out", str(tmp_path / "masks")]) == 0
    assert len(list((tmp_path / "masks").glob("*/sheet.png"))) == 2
    capsys.readouterr()
    for wrong in (["erase", str(recipe_file), str(ship), "--masks", "m", *out], [*export, "--pair", "a.png"]):
        assert cli.main(wrong) == 1
        assert "alone" in capsys.readouterr().err


def test_all_recipes_are_read_before_one_is_run(recipe_file, tmp_path, capsys):
    assert cli.main(["erase", str(recipe_file), str(tmp_path / "no.json"), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "There is no file" in said and "no.json" in said and not (tmp_path / "out").exists()


def test_what_is_evaluated_together_may_be_neither_erasure_nor_recipe(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["evaluate", "catt"]) == 1
    said = capsys.readouterr().err
    assert "no erased model and no file “catt”" in said and "no preset and no file “catt”; the nearest are" in said


def test_interrupting_ends_with_130_and_leaves_no_file(recipe_file, tmp_path):
    long = QUICK.with_settings(lora=LoraSettings(steps=100_000))
    recipe_file.write_text(long.to_json(), encoding="utf-8")
    command = [sys.executable, "-m", "mace_studio", "erase", str(recipe_file), "--out", str(tmp_path / "out")]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True, env={**os.environ})
    seen = ""
    while "lora cat" not in seen and process.poll() is None:
        seen += process.stderr.read(1)
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 130, seen + rest
    assert "Traceback" not in seen + rest
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_an_estimate_is_printed_and_nothing_is_run(recipe_file, tmp_path, capsys):
    assert cli.main(["erase", str(recipe_file), "--out", str(tmp_path / "out"), "--estimate"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("1 concept · 60 prompts · 6 UNet forwards · ") and "of memory · about" in said
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_erase_resume_goes_on_with_what_was_broken_off(tmp_path, capsys):
    recipe, out = tmp_path / "cat.json", tmp_path / "out"
    recipe.write_text(QUICK.to_json(), encoding="utf-8")
    assert cli.main(["erase", str(recipe), "--out", str(out), "--device", "cpu"]) == 0
    path = Path(capsys.readouterr().out.strip())
    before = path.read_bytes()
    path.unlink()
    with sqlite3.connect(out / "jobs" / "jobs.sqlite") as table:
        table.execute("UPDATE jobs SET state = 'queued', owner = 'gone'")
    assert cli.main(["erase", "--resume", "--out", str(out)]) == 0
    assert Path(capsys.readouterr().out.strip()).read_bytes() == before
    assert cli.main(["erase", "--resume", "--out", str(out)]) == 0
    assert "No erasure in" in capsys.readouterr().err


def test_what_goes_on_runs_on_the_cluster_that_is_named_now(tmp_path, monkeypatch, capsys):
    recipe, out, named = tmp_path / "cat.json", tmp_path / "out", []
    recipe.write_text(QUICK.to_json(), encoding="utf-8")
    assert cli.main(["erase", str(recipe), "--out", str(out), "--device", "cpu"]) == 0
    with sqlite3.connect(out / "jobs" / "jobs.sqlite") as table:
        table.execute("UPDATE jobs SET state = 'queued', owner = 'gone'")

    def studio(*arguments, cluster="", worker_gpus=1.0, **options):
        named.append((cluster, worker_gpus))
        return Studio(*arguments, **options)

    monkeypatch.setattr(cli, "Studio", studio)
    assert cli.main(["erase", "--resume", "--out", str(out), "--cluster", "auto", "--worker-gpus", "0.5"]) == 0
    assert named[-1] == ("auto", 0.5)


def test_erase_takes_recipes_or_resume(capsys):
    assert cli.main(["erase"]) == cli.main(["erase", "cat", "--resume"]) == 1
    assert capsys.readouterr().err.count("--resume alone") == 2


def test_one_that_cannot_go_on_or_fails_leaves_the_others(tmp_path, capsys):
    out, files = tmp_path / "out", []
    for name, alpha in (("bad", 1e38), ("good", 1.0)):
        files.append(tmp_path / f"{name}.json")
        recipe = replace(QUICK.with_settings(lora=LoraSettings(steps=2, alpha=alpha)), name=name)
        files[-1].write_text(recipe.to_json(), encoding="utf-8")
    assert cli.main(["erase", *map(str, files), "--out", str(out), "--device", "cpu"]) == 1
    said = capsys.readouterr()
    (path,) = out.glob("good-*.safetensors")
    assert said.out.strip() == str(path) and "Error: Erase bad: " in said.err
    before = path.read_bytes()
    path.unlink()
    missing = tmp_path / "gone.txt"
    missing.write_text("a cat", encoding="utf-8")
    gone = Studio(output=out, captions=missing)
    gone.erase(replace(QUICK, name="gone")).cancel()
    missing.unlink()
    with sqlite3.connect(out / "jobs" / "jobs.sqlite") as table:
        table.execute("UPDATE jobs SET state = 'queued', owner = 'gone'")
    assert cli.main(["erase", "--resume", "--out", str(out)]) == 1
    said = capsys.readouterr()
    assert Path(said.out.strip()).read_bytes() == before
    assert "“Erase gone” cannot go on: " in said.err and "Error: Erase bad: " in said.err


def test_a_job_that_cannot_run_shows_its_sentence_alone(tmp_path, capsys, caplog):
    """No traceback in the terminal: an error that the user can solve is no fault of the program."""
    assert cli.main(["erase", "cat", "--device", "cuda:9", "--out", str(tmp_path)]) == 1
    assert "Error: " in capsys.readouterr().err
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_folder_that_cannot_be_written_to_is_said_before_the_work(recipe_file, tmp_path, capsys, monkeypatch):
    def worked(*_):
        raise AssertionError("nothing may be generated")

    monkeypatch.setattr("mace_studio.runtime.machines.Machines.erase", worked)
    monkeypatch.setattr("mace_studio.sd.sampling.generate", worked)
    taken = tmp_path / "taken"
    taken.write_text("a file")
    for command in (
        ["erase", str(recipe_file)],
        ["masks", str(recipe_file)],
        ["inspect", "--prompt", "a cat"],
        ["evaluate", "nothing"],
        ["compare", "nothing", "--prompt", "a cat"],
    ):
        assert cli.main([*command, "--out", str(taken)]) == 1
        assert "Choose another folder" in capsys.readouterr().err


def test_captions_and_plans_are_looked_at_before_the_work(recipe_file, tmp_path, capsys):
    (tmp_path / "none.txt").write_text("")
    assert cli.main(["erase", str(recipe_file), "--out", str(tmp_path), "--captions", str(tmp_path / "none.txt")]) == 1
    assert "none.txt holds no captions" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["evaluate", str(recipe_file), "--plan", "huge", "--out", str(tmp_path)])
    assert "“huge” is no plan; use one of quick, full" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_half_a_character_of_a_terminal_is_a_sentence(tmp_path, capsys):
    for given in (["--prompt", "\udcff"], ["--prompt", "a cat", "--negative", "\udcff"]):
        assert cli.main(["inspect", *given, "--out", str(tmp_path)]) == 1
        assert "broken character" in capsys.readouterr().err


def test_an_output_that_is_full_is_told_without_the_name_of_a_file(monkeypatch, capsys):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(cli.COMMANDS, "erase", full)
    assert cli.main(["erase", "cat"]) == 1
    assert capsys.readouterr().err == "Error: A file or the output cannot be written: No space left on device.\n"
