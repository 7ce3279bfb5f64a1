"""What the lists of erased models say."""

import json
import os
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.numpy import save_file

from mace_studio.recipe import Concept, Recipe
from mace_studio.runtime import result_files
from mace_studio.runtime.estimate import Status
from mace_studio.runtime.library import Entry
from mace_studio.ui.components.model_list import NOTHING_WANTED, OTHER_BASE, OTHER_PARTS, choices, details, rows, value

THREE = Recipe(concepts=tuple(Concept(phrase, "sky") for phrase in ("guitar", "pizza", "penguin")))


def entry(name, made, recipe=THREE):
    return Entry(
        name=name, path=Path(f"{name}.safetensors"), recipe=recipe, made=made, size=1, conditions={}, warnings=()
    )


def test_a_model_is_listed_with_its_concepts_time_and_method():
    today = datetime.now().replace(hour=17, minute=53)
    (found,) = choices([entry("guitar-pizza-penguin-12345678", today)])
    assert found == ("guitar, pizza, penguin · 17:53 · MACE", "guitar-pizza-penguin-12345678")
    (older,) = choices([entry("guitar-pizza-penguin-12345678", datetime(2020, 3, 1, 9, 5))])
    assert older[0] == "guitar, pizza, penguin · 01 Mar 09:05 · MACE"


def test_a_name_that_the_user_gave_comes_first_and_no_two_labels_are_the_same():
    made = datetime(2020, 3, 1, 9, 5)
    assert choices([entry("Mine", made)])[0][0] == "Mine · 01 Mar 09:05 · MACE"
    first, second = choices([entry("guitar-pizza-penguin-1", made), entry("guitar-pizza-penguin-2", made)])
    assert first[0] != second[0] and first[0].endswith(" · guitar-pizza-penguin-1")
    named = entry("cat-1", made, replace(THREE, name="Cat"))
    assert choices([named])[0][0].startswith("Cat · ")


def test_an_erasure_of_the_same_unet_beside_another_vae_says_so():
    one = replace(entry("a", datetime(2020, 3, 1)), fingerprint="f", unet="u", composable=True)
    status = Status(name="m", state="ready", fingerprint="f", unet="u")
    beside, other = replace(status, fingerprint="g"), replace(status, fingerprint="g", unet="v")
    notes = [rows([one], now)[0]["note"] for now in (status, beside, other)]
    assert notes == ["", OTHER_PARTS, OTHER_BASE]
    older = replace(one, unet="")
    assert rows([older], replace(status, fingerprint="g", unet=""))[0]["note"] == OTHER_BASE


def test_what_was_made_from_an_erasure_is_told_by_its_recipe(tmp_path):
    recipe, other = json.loads(THREE.to_json()), json.loads(replace(THREE, seed=9).to_json())
    for place, data in {
        "reports/job/report.json": {"recipe": recipe},
        "reports/jobs/a/report.json": {"recipe": recipe},
        "reports/other/report.json": {"recipe": other},
        "reports/a.json": {"recipe": recipe},  # its scores
        "attention/one.json": {"settings": {"recipe": recipe}},
        "attention/plain.json": {"settings": {}},
        "attention/odd.json": [],
    }.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(json.dumps(data))
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "bad.png").write_text("dear")
    (tmp_path / "pairs" / "gone.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pairs" / "pipe.png")
    for name, odd in {
        "deep": "[" * 100_000,
        "list": '{"recipes": [1]}',
        "number": f'{{"recipe": {"9" * 5000}}}',
    }.items():
        about = PngInfo()
        about.add_text("mace_studio", odd)
        Image.new("RGB", (2, 2)).save(tmp_path / "pairs" / f"{name}.png", pnginfo=about)
    Image.new("1", (20_000, 20_000)).save(tmp_path / "pairs" / "large.png")  # more pixels than Pillow opens
    for name, settings in {"pair": {"recipe": recipe}, "sheet": {"recipes": {"a": other, "b": recipe}}}.items():
        about = PngInfo()
        about.add_itxt("mace_studio", json.dumps(settings))
        Image.new("RGB", (2, 2)).save(tmp_path / "pairs" / f"{name}.png", pnginfo=about)
    for place, about in {
        "old name-diffusers/unet/diffusion_pytorch_model": {"recipe": recipe, "fingerprint": "f"},
        "old name-lora": {"recipe": recipe, "fingerprint": "f"},
        "a-lora": {"recipe": other, "fingerprint": "f"},  # of another erasure that had this name
        "a-unet": {"recipe": recipe, "fingerprint": "g"},  # of another base model
        "plain": None,
    }.items():
        file = tmp_path / "exports" / f"{place}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({}, file, metadata={"mace_studio_export": json.dumps(about)})
    for name in ("old name-lora.md", "bad.safetensors"):
        (tmp_path / "exports" / name).write_text("dear")
    made = result_files.made_from(replace(entry("a", datetime(2020, 3, 1)), fingerprint="f"), tmp_path)
    assert made == {
        "Reports": f"2 in {tmp_path / 'reports'}",
        "Pairs and sheets": f"2 in {tmp_path / 'pairs'}",
        "Attention": f"1 in {tmp_path / 'attention'}",
        "Exports": f"old name-diffusers, old name-lora.safetensors in {tmp_path / 'exports'}",
    }
    status = Status(name="m", state="ready")
    shown = details(entry("a", datetime(2020, 3, 1)), status, local=True, made=made)
    assert f"<dt>Reports</dt><dd>2 in {tmp_path / 'reports'}</dd>" in shown
    assert rows([entry("a", datetime(2020, 3, 1))], status)[0]["method"] == "MACE"
    assert result_files.made_from(entry("a", datetime(2020, 3, 1)), tmp_path / "nowhere") == {}


def test_files_that_are_not_listed_are_named_the_first_five_of_many():
    status, some = Status(name="m", state="ready"), [f"{i}.safetensors is no file." for i in range(7)]
    assert value([], some[:1], status, NOTHING_WANTED)["passedOver"] == ["Not listed: 0.safetensors is no file."]
    assert value([], some, status, NOTHING_WANTED)["passedOver"] == [
        *(f"Not listed: {i}.safetensors is no file." for i in range(5)),
        "Not listed: 2 more",
    ]
    assert value([], [], status, NOTHING_WANTED)["passedOver"] == []
