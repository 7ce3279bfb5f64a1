"""What README.md and the pages in docs/ say is so: links, paths, commands and names of tests."""

import ast
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from mace_studio.cli import COMMANDS
from mace_studio.parser import command_parser

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mace_studio"
README = ROOT / "README.md"
PAGES = [README, *sorted(ROOT.glob("docs/*.md")), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md"]
MODELS = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
FAMILIES = next(
    [key.value for key in node.value.keys]
    for node in ast.parse((ROOT / "tests" / "families.py").read_text(encoding="utf-8")).body
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FAMILIES"
)


def page_name(page):
    return page.relative_to(ROOT).as_posix()


def text_of(page):
    return page.read_text(encoding="utf-8")


def commands(page):
    """The arguments of every call of `mace-studio` in the blocks and spans of code."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text_of(page), flags=re.S | re.M)
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text_of(page))
    for line in [line for block in blocks for line in block.splitlines()] + spans:
        if call := re.match(r"(?:\.venv/bin/)?mace-studio (.*)", line):
            yield shlex.split(call[1], comments=True)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_to_files_of_the_project(page):
    links = re.findall(r"\]\(([^)\s]+)\)", text_of(page))
    local = [link.partition("#")[0] for link in links if not link.startswith(("http:", "https:", "#"))]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_paths_in_code_spans_exist(page):
    roots = {path.name for folder in (ROOT, PACKAGE) for path in folder.iterdir()}
    spans = re.findall(r"(?<!`)`([^`\s]+)`(?!`)", text_of(page))
    paths = [span for span in spans if re.fullmatch(r"[\w.-]+/|[\w.-]+(/[\w.-]+)+/?|[\w-]+\.(py|md|cff)", span)]
    named = [path for path in paths if path.split("/")[0] in roots and "NAME" not in path]
    named += [path for path in paths if "/" not in path and "NAME" not in path]
    assert [path for path in named if not (ROOT / path).exists() and not (PACKAGE / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_the_parser_takes_the_commands(page):
    for words in commands(page):
        assert words[0].startswith("-") or words[0] in COMMANDS
        if len(words) > 1:  # a verb alone stands for the command
            command_parser().parse_args(words)


def test_the_readme_is_a_front_page():
    body = text_of(README).split("---\n", 2)[2]
    assert 500 <= len(body.split()) <= 720
    assert all(marker in body for marker in ("<!-- command: run -->", "<!-- command: tests -->"))
    verbs = [words[0] for words in commands(README)]
    assert {"erase", "compare", "evaluate", "export"} <= set(verbs)


def test_the_paper_is_cited_alike():
    for page in (README, ROOT / "CITATION.cff"):
        text = text_of(page)
        assert "Mass Concept Erasure in Diffusion Models" in text and "2403.06135" in text
        assert all(name in text for name in ("Lu", "Wang", "Li", "Liu", "Kong", "6430", "6440"))


@pytest.mark.parametrize(
    ("place", "file", "prefix"), [(0, "test_families", "test_"), (1, "test_family_exports", "test_export_")]
)
def test_every_cell_of_the_tables_of_models_names_a_test_of_its_family(place, file, prefix):
    table = MODELS.split("| family ")[1 + place].partition("\n\n")[0]
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
    text = text_of(README).split("---\n")[1]
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
    page = text_of(ROOT / "docs" / "space.md")
    command = next(line for line in page.splitlines() if line.startswith("sed "))
    ours = text_of(ROOT / "requirements.txt")
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
