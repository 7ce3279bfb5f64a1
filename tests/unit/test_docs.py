"""What the pages in docs/ say of the tests is so."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.families import FAMILIES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("place", "file", "prefix"), [(0, "test_families", "test_"), (1, "test_family_exports", "test_export_")]
)
def test_every_cell_of_the_tables_of_models_names_a_test_of_its_family(place, file, prefix):
    table = PAGE.split("| family ")[1 + place].partition("\n\n")[0]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in f"family {table}".splitlines()]
    source = (ROOT / "tests" / "model" / f"{file}.py").read_text(encoding="utf-8")
    assert len(rows) == len(FAMILIES)
    for row, family in zip(rows, FAMILIES, strict=True):
        for use, cell in zip(head[1:], row[1:], strict=True):
            names = re.findall(r"`(test_\w+)\[(\w+)\]`", cell)
            expected = f"{prefix}{use}" + ("_is_refused" if cell.startswith("refused") else "")
            assert expected in dict(names), (row[0], use)
            for name, of in names:
                assert of == family and f"def {name}(" in source


def front_matter():
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("---\n")[1]
    return dict(line.split(": ", 1) for line in text.splitlines() if ": " in line and not line.startswith(" ")), text


def test_the_front_matter_is_what_a_space_accepts():
    known, text = front_matter()
    assert known["sdk"] == "gradio" and known["app_file"] == "app.py" and known["license"] == "apache-2.0"
    assert len(known["short_description"]) <= 60
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {known["colorFrom"], known["colorTo"]} <= colours
    assert re.fullmatch(r'"3\.12(\.\d+)?"', known["python_version"])
    assert "\nmodels:\n  - " in text and "\ntags:\n  - " in text


def test_the_requirements_of_the_space_are_ours_without_gradio_and_with_a_torch_of_zerogpu(tmp_path):
    page = (ROOT / "docs" / "space.md").read_text(encoding="utf-8")
    command = next(line for line in page.splitlines() if line.startswith("sed "))
    ours = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    (tmp_path / "requirements.txt").write_text(ours)
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    theirs = (tmp_path / "requirements.txt").read_text().splitlines()
    pinned = next(line for line in theirs if line.startswith("torch")).removeprefix("torch==")
    allowed = next(line for line in page.splitlines() if line.startswith("| ZeroGPU"))
    assert pinned in re.findall(r"\d+\.\d+\.\d+", allowed)
    changed = [line for line in ours.splitlines() if line not in theirs]
    assert [re.split(r"[<>=]", line)[0] for line in changed] == ["torch", "gradio"]
    version = front_matter()[0]["sdk_version"]
    assert f"gradio=={version.rpartition('.')[0]}.*" in changed, (
        "the Space and requirements.txt ask for the same Gradio"
    )
