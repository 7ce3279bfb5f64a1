"""Who may import whom, and how large a file and a function may be (docs/architecture.md)."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "mace_studio"
FILES = sorted([*(ROOT / PACKAGE).rglob("*.py"), *ROOT.glob("app.py")])

# What the user asks: no model, no torch.
ASKED = {"recipe", "settings", "prompts", "phrases", "schema", "errors", "progress", "paths", "presets", "masks"}
ASKED |= {"erasure_header", "sources", "surroundings", "text_files", "neighbours", "spent", "caption_files"}
# The table of methods and their settings, without torch: what a recipe, the page and the terminal know of a method.
TABLE = {"methods.__init__", "methods.settings", "methods.mace.__init__"}
NUMBERS = {"torch", "numpy", "PIL", "safetensors"}
MODELS = {*NUMBERS, "diffusers", "transformers", "peft", "huggingface_hub", "nudenet", "torchvision"}

# The parts -> the parts that they may import, and the packages. A part is a module or a folder directly in mace_studio;
# a single module of a folder is written with a dot, what stands in the folder itself as `__init__`. A part may always
# import itself. docs/architecture.md shows this table.
RULES: dict[tuple[str, ...], tuple[set[str], set[str]]] = {
    ("recipe", "settings", "prompts", "schema", "errors", "progress", "paths", "presets", "captions"): (
        {*ASKED, *TABLE},
        set(),
    ),
    ("sources", "phrases", "text_files", "surroundings", "spent"): ({"errors"}, set()),
    ("caption_files",): ({"errors", "paths"}, set()),
    ("neighbours",): ({"phrases", "recipe"}, set()),
    ("masks", "erasure_header"): (ASKED, {"numpy", "PIL", "safetensors"}),
    ("core",): ({"errors"}, {"torch"}),
    ("sd",): ({"core", "miniature.judge", *ASKED}, MODELS),
    ("erasure",): ({"sd", "core", *ASKED, *TABLE}, {"torch", "safetensors"}),
    ("methods",): ({"sd", "core", "erasure", *ASKED}, NUMBERS),
    ("analysis", "evaluation", "exports"): (
        {"methods", "analysis", "evaluation.report", "sd", "core", "erasure", *ASKED},
        {*NUMBERS, "matplotlib", "huggingface_hub"},
    ),
    ("cluster",): ({"evaluation", "methods", "sd", "core", "erasure", *ASKED}, {"ray", "torch"}),
    ("runtime",): (
        {"miniature.vocabulary", "cluster", "methods", "analysis", "evaluation", "exports", "sd", "erasure", *ASKED},
        {"safetensors", "PIL"},
    ),
    ("ui", "cli", "parser", "__main__", "app"): (
        {"ui", "cli", "parser", "runtime", "analysis.figures", "evaluation", "exports.formats", *ASKED, *TABLE},
        {"fastapi", "gradio", "numpy", "PIL", "starlette", "tqdm", "spaces"},
    ),
    ("miniature",): (set(), {*MODELS, "matplotlib", "tokenizers"}),
}
# Single modules that may import more. The built-in model is made without the studio; only what measures how erasing
# changes it, for the command `faithful`, must erase.
MORE = {"mace_studio.miniature.erasing": {"evaluation", "sd"}}
ALLOWED = {part: rule for parts, rule in RULES.items() for part in parts}


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
            # The table of methods imports a method's module, of its own folder, when it runs.
            own = ast.unparse(node.args[0]).startswith("f'mace_studio.methods.") if node.args else False
            if not own:
                yield ".hidden"


def violations(module: str, source: str) -> list[str]:
    """The imports that `module` may not have."""
    part = part_of(module)
    if not part:  # the library's front imports each name when it is asked for
        return []
    parts, packages = ALLOWED[part]
    parts = parts | MORE.get(module, set())
    bad = []
    for name in dict.fromkeys(imported(source)):
        top = name.split(".")[0]
        if top == PACKAGE:
            other = part_of(name)
            single = any(f"{PACKAGE}.{p}".removesuffix(".__init__") == name for p in parts if "." in p)
            allowed = not other or other == part or other in parts or single
        else:
            allowed = top in packages or top in sys.stdlib_module_names
        if not allowed:
            bad.append(name)
    return bad


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_module_imports_only_what_the_architecture_allows(path):
    module = module_of(path)
    assert not part_of(module) or part_of(module) in ALLOWED, f"{module} has no place in the architecture"
    assert violations(module, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_files_and_functions_are_small(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= (60 if path.name == "app.py" else 400)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= 60, f"{node.name} in {module_of(path)} has {lines} lines"


def by_position(source: str) -> dict[str, int]:
    """Each dataclass and how many of its fields may be given by position."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        for decorator in getattr(node, "decorator_list", []) if isinstance(node, ast.ClassDef) else []:
            text = ast.unparse(decorator)
            if text.startswith(("dataclass", "dataclasses.dataclass")):
                kinds = [ast.unparse(part.annotation) for part in node.body if isinstance(part, ast.AnnAssign)]
                before = kinds[: kinds.index("KW_ONLY")] if "KW_ONLY" in kinds else kinds
                found[node.name] = 0 if "kw_only=True" in text else len(before)
    return found


def test_a_dataclass_takes_at_most_four_fields_by_position():
    fields = "".join(f"    {name}: int\n" for name in "abcde")
    assert by_position(f"@dataclass\nclass Five:\n{fields}") == {"Five": 5}
    assert by_position(f"@dataclass(frozen=True, kw_only=True)\nclass Named:\n{fields}") == {"Named": 0}
    assert by_position(f"@dataclass\nclass Mixed:\n    first: int\n    _: KW_ONLY\n{fields}") == {"Mixed": 1}
    counted = {path: by_position(path.read_text(encoding="utf-8")) for path in FILES}
    assert sum(map(len, counted.values())) > 100
    assert [(path.name, name) for path, of in counted.items() for name, count in of.items() if count > 4] == []


@pytest.mark.parametrize(
    ("module", "source", "bad"),
    [
        ("mace_studio.ui.page", "import torch", ["torch"]),
        ("mace_studio.ui.page", "def f():\n    from torch.nn import functional", ["torch.nn"]),
        ("mace_studio.ui.page", "from mace_studio import captions", ["mace_studio.captions"]),
        ("mace_studio.ui.page", "from mace_studio.sd.model import Model", ["mace_studio.sd.model"]),
        ("mace_studio.ui.page", "import importlib\nimportlib.import_module('torch')", [".hidden"]),
        ("mace_studio.ui.page", "from ..core import ridge", ["..core"]),
        ("mace_studio.core.ridge", "try:\n    import numpy\nexcept ImportError:\n    pass", ["numpy"]),
        ("mace_studio.core.ridge", "from mace_studio.recipe import KeepWeights", ["mace_studio.recipe"]),
        ("mace_studio.recipe", "import torch, json", ["torch"]),
        ("mace_studio.runtime.jobs", "import gradio.components", ["gradio.components"]),
        ("mace_studio.methods.uce", "from mace_studio.analysis import compare", ["mace_studio.analysis.compare"]),
        ("mace_studio.methods.mace.erase", "import diffusers", ["diffusers"]),
        ("mace_studio.sd.lora", "from mace_studio.methods.mace import erase", ["mace_studio.methods.mace.erase"]),
        ("mace_studio.sd.costs", "from mace_studio.methods import find", ["mace_studio.methods"]),
        ("mace_studio.cli", "from mace_studio import erasure", ["mace_studio.erasure"]),
        ("app", "from mace_studio.core import ridge", ["mace_studio.core.ridge"]),
        ("mace_studio.core.ridge", "if TYPE_CHECKING:\n    import numpy\nelse:\n    import scipy", ["scipy"]),
    ],
)  # fmt: skip
def test_a_forbidden_import_is_found(module, source, bad):
    assert violations(module, source) == bad


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mace_studio.core.ridge", "import torch, math\nfrom mace_studio.core.moments import Moments"),
        ("mace_studio.core.ridge", "if TYPE_CHECKING:\n    import mace_studio.recipe"),
        ("mace_studio.runtime.tasks", "from mace_studio.methods.mace import erase"),
        ("mace_studio.erasure", "from mace_studio import __version__"),
        ("mace_studio.analysis.compare", "from mace_studio.erasure import Erasure"),
        ("mace_studio.ui.page", "import gradio as gr\nfrom mace_studio.ui import form"),
    ],
)  # fmt: skip
def test_an_allowed_import_is_let_pass(module, source):
    assert violations(module, source) == []


def names(allowed: set[str]) -> str:
    """A set as the table in the docs writes it: a group by its name, the rest in code spans."""
    groups = {"*asked*": ASKED, "*table of methods*": TABLE}
    said = [name for name, group in groups.items() if group <= allowed]
    grouped = set().union(*(groups[name] for name in said))
    return ", ".join([*said, *(f"`{name}`" for name in sorted(allowed - grouped))])


def test_the_table_in_the_docs_is_this_one():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [
        f"| {', '.join(f'`{part}`' for part in parts)} | {names(allowed)} | {names(packages)} |".replace("|  |", "| |")
        for parts, (allowed, packages) in RULES.items()
    ]
    table = "\n".join(["| part | may import | packages |", "| --- | --- | --- |", *rows])
    assert table in page, f"docs/architecture.md should have:\n{table}"
    for name, group in (("asked", ASKED), ("table of methods", TABLE)):
        line = f"*{name}*: {', '.join(f'`{part}`' for part in sorted(group))}"
        assert line in page, f"docs/architecture.md should have:\n{line}"


def test_the_file_map_names_every_module():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = page.split("## Files\n")[1].split("\n## ")[0]
    named = re.findall(r"`([^`]+)`", "\n".join(line for line in section.splitlines() if not line.startswith("| **")))
    folders = [f"{PACKAGE}/{name}" for name in [*named, "miniature/"] if name.endswith("/")]
    missing = [
        path.relative_to(ROOT).as_posix()
        for path in FILES
        if path.name not in ("__init__.py", "app.py")
        and path.relative_to(ROOT / PACKAGE).as_posix() not in named
        and not path.relative_to(ROOT).as_posix().startswith(tuple(folders))
    ]
    assert missing == []
    assert [name for name in named if named.count(name) > 1] == []


def test_the_studio_is_there_before_the_heavy_libraries():
    # They take seconds to import, on the worker's thread, while the page is up already.
    heavy = "{'torch', 'diffusers', 'transformers', 'peft', 'gradio'}"
    check = f"import sys, mace_studio, mace_studio.runtime.studio; sys.exit(', '.join({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == ""


def test_what_the_page_asks_before_the_model_is_there_imports_no_library_of_models():
    """While a thread imports transformers, another one that does too may find a part of it missing."""
    old = ROOT / "tests" / "golden" / "version-0.1" / "cat.safetensors"
    asked = (
        "import sys; from pathlib import Path; from mace_studio.runtime.studio import Studio; "
        f"studio, path = Studio(output=Path('.')), Path({str(old)!r}); plan = studio.plan(path); "
        "studio.entries(), studio.estimate(studio.entry(path).recipe), studio.token_counts(['a cat']); "
        "studio.seconds(plan); assert plan.captions; "
        "sys.exit(', '.join({'torch', 'diffusers', 'transformers', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == ""
