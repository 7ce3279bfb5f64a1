"""The walls of the house: who may import whom, and how large a file and a function may be."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "mace_studio"
FILES = sorted([*(ROOT / PACKAGE).rglob("*.py"), *ROOT.glob("app.py")])

USE_CASES = {"erasure", "composition", "comparison", "inspection", "preview", "evaluation"}
NUMBERS = {"torch", "numpy", "PIL", "safetensors"}
ENGINE = {*NUMBERS, "diffusers", "transformers", "peft", "huggingface_hub"}
EXTRAS = {"nudenet", "torchvision"}  # used where the user has installed them
SAID = {"recipe", "errors"}

# A part of the house -> the parts of it that it may import, and the packages. A part is a module or a folder directly
# in mace_studio; a single module of a folder is written with a dot. "" is mace_studio/__init__.py, which all may read.
ALLOWED: dict[str, tuple[set[str], set[str]]] = {
    "": (set(), set()),
    "errors": (set(), set()),
    "plain": ({"errors"}, set()),
    "recipe": ({"errors", "plain"}, set()),
    "prompts": ({"recipe"}, set()),
    "joining": ({*SAID}, set()),
    "captions": (set(), set()),
    "progress": (set(), set()),
    "jobs": (set(), set()),
    "core": ({"core", "errors"}, {"torch"}),
    "sd": ({"sd", "core", "miniature.judge", *SAID}, ENGINE | EXTRAS),
    "methods": ({"methods", "core", "sd", "prompts", "erasure", *SAID}, {"torch"}),
    "miniature": ({"miniature"}, {*ENGINE, "matplotlib", "tokenizers"}),
    "refinement": ({"sd", "core", "prompts", "progress", "recipe"}, {"torch"}),
    "masks": ({"shelf", *SAID}, {"numpy", "PIL"}),
    "training": ({"sd", "prompts", "progress", "pictures", "recipe"}, {"torch"}),
    "pictures": ({"sd", "prompts", "progress", "masks", *SAID}, NUMBERS),
    **{
        case: (
            {
                "sd",
                "core",
                "prompts",
                "progress",
                "refinement",
                "training",
                "pictures",
                "masks",
                "erasure",
                "report",
                *SAID,
            },
            NUMBERS,
        )
        for case in USE_CASES
    },
    "judging": ({"sd", "core", "report", "recipe"}, {"torch", "PIL"}),
    "evaluation": ({"sd", "prompts", "progress", "erasure", "judging", "report", *SAID}, {"PIL"}),
    "composition": ({"sd.lora", "sd.loading", "erasure", "joining", "progress", *SAID}, set()),
    "packing": ({"errors"}, set()),
    "card": ({"recipe"}, set()),
    "status": ({"prompts", "recipe"}, set()),
    "exporting": ({"sd", "progress", "erasure", "packing", "card", *SAID}, NUMBERS),
    "shelf": ({*SAID}, {"safetensors"}),
    "engine": (
        {*USE_CASES, "exporting", "pictures", "sd.classify", "sd.cost", "sd.generate", "sd.loading", "sd.room"},
        set(),
    ),
    "tasks": ({"engine", "masks", "shelf", *SAID}, set()),
    "base": ({"tasks", "status", "progress", *SAID}, set()),
    "quota": ({"tasks", *SAID}, set()),
    "ready": ({"shelf"}, set()),
    "studio": (
        {
            "base",
            "tasks",
            "quota",
            "engine",
            "status",
            "jobs",
            "joining",
            "masks",
            "packing",
            "prompts",
            "shelf",
            *SAID,
        },
        set(),
    ),
    "report": ({*SAID}, {"PIL"}),
    "report_text": ({"report", *SAID}, set()),
    "figures": ({*USE_CASES, "recipe", "errors"}, {"matplotlib", "numpy", "PIL"}),
    "report_figures": ({"figures", "report", "errors"}, {"matplotlib", "numpy"}),
    "study": ({"studio", "shelf", "report", "jobs", *SAID}, set()),
    "outputs": ({"engine", "shelf", "figures", "report", "report_text", "report_figures", "recipe"}, set()),
    # The page and the terminal watch the Job that the studio's methods return.
    "cli": ({"studio", "study", "shelf", "outputs", "jobs", "masks", "packing", *SAID}, {"tqdm"}),
    "__main__": ({"cli"}, set()),
    "ui": (
        {
            *("ui", "studio", "joining", "status", "shelf", "outputs", "jobs", "masks", "figures", "packing", "report"),
            *("prompts", "plain"),
            *SAID,
        },
        {"gradio", "numpy", "PIL", "starlette"},
    ),
    "app": ({"ui", "studio", "tasks", "quota", "ready"}, {"spaces"}),
}


def part_of(module: str) -> str:
    """`mace_studio.sd.lora` -> `sd`; `mace_studio` -> ``; `app` -> `app`."""
    return module if module == "app" else ".".join(module.split(".")[1:2])


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path) for path in FILES}


def code(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING`: what stands there is never imported when the program runs."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for other in node.orelse:
                yield from (other, *code(other))
        else:
            yield from (node, *code(node))


def imported(source: str) -> Iterator[str]:
    """Every module that is imported, anywhere in the source, by its full name."""
    for node in code(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            whole = [f"{origin}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else origin for name in whole)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            yield ".hidden"


def violations(module: str, source: str) -> list[str]:
    """The imports that `module` may not have."""
    house, packages = ALLOWED[part_of(module)]
    bad = []
    for name in dict.fromkeys(imported(source)):
        top = name.split(".")[0]
        if top == PACKAGE:
            part = part_of(name)
            allowed = not part or part in house or any(f"{PACKAGE}.{p}" == name for p in house)
        else:
            allowed = top in packages or top in sys.stdlib_module_names
        if not allowed:
            bad.append(name)
    return bad


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_module_imports_only_what_the_architecture_allows(path):
    module = module_of(path)
    assert part_of(module) in ALLOWED, f"{module} has no place in the architecture; give it one above"
    assert violations(module, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_files_and_functions_are_small(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) < (61 if path.name == "app.py" else 300)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= 60, f"{node.name} in {module_of(path)} has {lines} lines"


@pytest.mark.parametrize(
    ("module", "source", "bad"),
    [
        ("mace_studio.ui.page", "import torch", ["torch"]),
        ("mace_studio.ui.page", "def f():\n    from torch.nn import functional", ["torch.nn"]),
        ("mace_studio.ui.page", "from mace_studio import captions", ["mace_studio.captions"]),
        ("mace_studio.ui.page", "from mace_studio.sd.loading import Model", ["mace_studio.sd.loading"]),
        ("mace_studio.ui.page", "import importlib\nimportlib.import_module('torch')", [".hidden"]),
        ("mace_studio.ui.page", "from ..core import ridge", ["..core"]),
        ("mace_studio.core.ridge", "try:\n    import numpy\nexcept ImportError:\n    pass", ["numpy"]),
        ("mace_studio.core.ridge", "from mace_studio.recipe import KeepWeights", ["mace_studio.recipe"]),
        ("mace_studio.recipe", "import torch, json", ["torch"]),
        ("mace_studio.jobs", "import gradio.components", ["gradio.components"]),
        ("mace_studio.comparison", "from mace_studio.inspection import Maps", ["mace_studio.inspection"]),
        ("mace_studio.erasure", "import diffusers", ["diffusers"]),
        ("mace_studio.studio", "from mace_studio.sd.lora import train", ["mace_studio.sd.lora"]),
        ("mace_studio.cli", "from mace_studio import erasure", ["mace_studio.erasure"]),
        ("app", "from mace_studio.core import ridge", ["mace_studio.core.ridge"]),
        ("mace_studio.core.ridge", "if TYPE_CHECKING:\n    import numpy\nelse:\n    import scipy", ["scipy"]),
    ],
)
def test_a_forbidden_import_is_found(module, source, bad):
    assert violations(module, source) == bad


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mace_studio.core.ridge", "import torch, math\nfrom mace_studio.core.moments import Moments"),
        (
            "mace_studio.core.ridge",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import mace_studio.recipe",
        ),
        ("mace_studio.engine", "from mace_studio.sd.loading import Model\nfrom mace_studio import erasure, preview"),
        ("mace_studio.erasure", "from mace_studio import __version__"),
        ("mace_studio.comparison", "from mace_studio.erasure import Erasure"),
        ("mace_studio.ui.page", "import gradio as gr\nfrom mace_studio.ui import form"),
    ],
)
def test_an_allowed_import_is_let_pass(module, source):
    assert violations(module, source) == []


def test_the_studio_is_there_before_the_heavy_libraries():
    # They take seconds to import, on the worker's thread, while the page is up already.
    heavy = "{'torch', 'diffusers', 'transformers', 'peft', 'gradio'}"
    check = f"import sys, mace_studio.studio; sys.exit(', '.join({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == ""
