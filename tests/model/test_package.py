"""The wheel, installed where no checkout is: the library, the command and the page's files come from it alone."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mace_studio.methods.mace import MaceSettings
from mace_studio.recipe import Concept, Recipe
from mace_studio.settings import KeepWeights, LoraSettings

ROOT = Path(__file__).parents[2]
SOURCES = ("mace_studio", "assets", "docs", "presets", "pyproject.toml", "requirements.txt", "README.md", "LICENSE")
QUICK = Recipe(
    concepts=[Concept("cat", "forest")],
    settings=MaceSettings(refine=KeepWeights(identity=10.0), lora=LoraSettings(steps=0)),
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the wheel's content; its sources are gone."""
    sources, folder = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("installed")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, sources / name)
    # The sdist first, and the wheel from it: what the sdist lacks, the wheel lacks.
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", sources], check=True, capture_output=True)
    (wheel,) = (sources / "dist").glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", folder, wheel]
    subprocess.run(install, check=True, capture_output=True)
    shutil.rmtree(sources)
    return folder


@pytest.fixture
def run(installed, tmp_path):
    """Run a program of the wheel in an empty folder."""

    def run(*command):
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"} | {"PYTHONPATH": str(installed)}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_every_package_of_the_checkout_is_named():
    named = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    here = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in ROOT.glob("mace_studio/**/*.py")}
    assert set(named) == here | {"mace_studio.assets", "mace_studio.docs", "mace_studio.presets"}


def test_the_library_erases_and_finds_its_data_in_the_wheel(run, installed, tmp_path):
    (tmp_path / "recipe.json").write_text(QUICK.to_json(), encoding="utf-8")
    program = (
        "import json, sys, mace_studio\n"
        "assert 'torch' not in sys.modules\n"
        "from mace_studio import Recipe, erase, load\n"
        "from mace_studio.paths import ASSETS, PRESETS\n"
        "erasure = erase(load(), Recipe.from_json(open('recipe.json').read()))\n"
        "erasure.save('cat.safetensors')\n"
        "from mace_studio.presets import presets\n"
        "print(json.dumps([mace_studio.__file__, str(ASSETS), str(PRESETS), len(presets())]))\n"
    )
    found, assets, folder, count = json.loads(run(sys.executable, "-c", program))
    inside = installed / "mace_studio"
    assert [path.name for path in (inside / "docs").iterdir()] == ["glossary.md"]  # which the page shows
    assert Path(found).parent == inside and Path(assets) == inside / "assets" and Path(folder) == inside / "presets"
    assert count == len(list((ROOT / "presets").rglob("*.json"))) and (tmp_path / "cat.safetensors").is_file()


def test_the_command_helps_and_erases(run, installed, tmp_path):
    command = installed / "bin" / "mace-studio"
    assert "serve" in run(command, "--help") and "--port" in run(command, "serve", "--help")
    quicker = QUICK.with_settings(refine=KeepWeights(general=0.0, identity=10.0))  # encodes no general captions
    (tmp_path / "recipe.json").write_text(quicker.to_json(), encoding="utf-8")
    path = Path(run(command, "erase", "recipe.json", "--device", "cpu").strip())
    assert path.parts[0] == "output" and (tmp_path / path).is_file()


def test_the_page_is_built_from_the_wheel(run):
    program = "from mace_studio.ui import start; from mace_studio.parser import page_parser\n"
    program += "print(type(start.build(page_parser().parse_args([]))[1]).__name__)"
    assert run(sys.executable, "-c", program).strip() == "Blocks"
