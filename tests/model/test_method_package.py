"""The package of docs/methods.md adds a method: installed as its readers would, then run by terminal and form."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from mace_studio import methods
from mace_studio.erasure_header import read
from mace_studio.errors import FileError

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
RECIPE = {"concepts": [{"phrase": "cat", "mapping": "forest"}], "method": "direction", "settings": {"strength": 0.5}}
LISTED = """
from mace_studio.ui.form_fields import BY_KEY, METHOD_GROUPS
print(BY_KEY["direction_strength"].hint, "mace" in METHOD_GROUPS)
"""


def block(language):
    return re.search(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The environment of a process that finds the package."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    (source / "pyproject.toml").write_text(block("toml"), encoding="utf-8")
    (source / "direction.py").write_text(block("python"), encoding="utf-8")
    command = ["pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)]
    subprocess.run([sys.executable, "-m", *command, str(source)], check=True)
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(target), str(ROOT)]), "HF_HUB_OFFLINE": "1"}


def test_the_example_of_the_docs_is_installed_and_run(installed, tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE), encoding="utf-8")
    run = [sys.executable, "-m", "mace_studio", "erase", "recipe.json", "--out", "made"]
    subprocess.run(run, cwd=tmp_path, env=installed, check=True)
    (made,) = (tmp_path / "made").glob("*.safetensors")
    with pytest.raises(FileError, match="made by a method that is not installed here"):
        read(made)
    shown = subprocess.run(
        [sys.executable, "-c", LISTED], cwd=tmp_path, env=installed, check=True, capture_output=True, text=True
    )
    assert shown.stdout.strip() == "How much of the direction goes; 1 is all of it. True"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mine", "no_such_package:METHOD"),
        ("mine", "json:dumps"),
        ("uce", "mace_studio.methods:OWN"),
        ("mine", "json:x"),
    ],
)
def test_a_broken_package_is_left_out_with_a_warning(monkeypatch, caplog, name, value):
    found = [EntryPoint(name, value, methods.GROUP)]
    monkeypatch.setattr(methods, "entry_points", lambda group: found if group == methods.GROUP else [])
    table = methods.Methods()
    assert dict(table) == methods.OWN
    assert name in caplog.text and "left out" in caplog.text


def test_a_row_of_another_package_is_in_the_table(monkeypatch):
    monkeypatch.setattr(methods, "entry_points", lambda group: [EntryPoint("mine", "mace_studio.methods:ROW", group)])
    monkeypatch.setattr(methods, "ROW", methods.OWN["uce"], raising=False)
    table = methods.Methods()
    assert list(table) == [*methods.OWN, "mine"] and table["mine"] is methods.OWN["uce"]
    assert len(table) == len(methods.OWN) + 1
