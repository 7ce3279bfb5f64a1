"""Figures of the project's structure, for a git revision or the working tree.

    python tests/structure.py                      # the working tree
    python tests/structure.py 82eba6f .            # a revision and the working tree, side by side

Prints a Markdown table. A revision is unpacked into a temporary folder with `git archive`. mypy checks every tree with
the settings of the working tree's pyproject.toml.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import os
import re
import runpy
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import import_module
from io import BytesIO
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).parents[1]
PACKAGE = "mace_studio"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
REFINE = (f"{PACKAGE}/refinement.py", f"{PACKAGE}/methods/mace/refine.py")  # at 82eba6f, and since
# Stops before the LoRAs, so that nothing but the route to the refinement takes time.
RECIPE = '{"concepts": [{"phrase": "cat", "mapping": "forest"}], "preserve": ["dog"], "lora": {"steps": 0}}'


def trees(root: Path) -> list[ast.Module]:
    """The syntax trees of all modules of the package."""
    return [ast.parse(path.read_text(encoding="utf-8")) for path in sorted((root / PACKAGE).rglob("*.py"))]


def own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a function but those of functions inside it."""
    for node in ast.iter_child_nodes(function):
        if not isinstance(node, (*FUNCTIONS, ast.Lambda, ast.ClassDef)):
            yield node
            yield from own_nodes(node)


def count(root: Path, matches: Callable[[ast.AST], bool]) -> int:
    return sum(matches(node) for tree in trees(root) for node in ast.walk(tree))


def is_generator(node: ast.AST) -> bool:
    return isinstance(node, FUNCTIONS) and any(isinstance(part, ast.Yield | ast.YieldFrom) for part in own_nodes(node))


def is_private(node: ast.AST) -> bool:
    return isinstance(node, FUNCTIONS) and node.name.startswith("_") and not node.name.startswith("__")


def used_once(root: Path, most: float = math.inf) -> int:
    """Private functions and methods whose name is used in one place beside its definition.

    With `most`, only those that are called there, not listed in a table or handed on, and have at most so many lines.
    """
    nodes = [node for tree in trees(root) for node in ast.walk(tree)]
    uses = Counter(name_of(node) for node in nodes)
    called = {name_of(node.func) for node in nodes if isinstance(node, ast.Call)}
    once = [node for node in nodes if is_private(node) and uses[node.name] == 1]
    return sum(most == math.inf or (node.name in called and lines_of(node) <= most) for node in once)


def name_of(node: ast.AST) -> str | None:
    """The name that a node uses."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the body, without the docstring."""
    body = function.body[ast.get_docstring(function) is not None :]
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def documented(root: Path) -> int:
    """Percent of the public functions of core, sd and methods whose docstrings describe their arguments.

    Functions without arguments do not count; where the package has no `sd`, all modules but those of the page do.
    """
    package = root / PACKAGE
    patterns = ("core/*.py", "sd/*.py", "methods/**/*.py") if (package / "sd").exists() else ("core/*.py", "*.py")
    files = [file for pattern in patterns for file in package.glob(pattern)]
    found = [function for file in files for function in public(ast.parse(file.read_text(encoding="utf-8")))]
    return round(100 * sum("Args:" in (ast.get_docstring(one) or "") for one in found) / len(found))


def public(node: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions and methods that take arguments; neither their names nor those of their classes begin with "_"."""
    for part in node.body:
        if not getattr(part, "name", "_").startswith("_"):
            if isinstance(part, ast.ClassDef):
                yield from public(part)
            elif isinstance(part, FUNCTIONS):
                arguments = part.args
                named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
                if any(one.arg not in ("self", "cls") for one in named) or arguments.vararg or arguments.kwarg:
                    yield part


def top_level_modules(root: Path) -> int:
    return sum(1 for path in (root / PACKAGE).glob("*.py") if not path.name.startswith("__"))


def import_rows(root: Path) -> int:
    """Rows of the table in the import test: `RULES`, or `ALLOWED` where there is none."""
    test = runpy.run_path(str(root / "tests" / "unit" / "test_architecture.py"))
    return len(test.get("RULES", test["ALLOWED"]))


def readme_words(root: Path) -> int:
    """Words below the front matter, as `wc -w` counts them."""
    return len(re.sub(r"\A---\n.*?\n---\n", "", (root / "README.md").read_text(encoding="utf-8"), flags=re.S).split())


def mypy_errors(root: Path) -> int:
    """Errors that mypy finds with the settings of the working tree."""
    command = [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", "--cache-dir", os.devnull]
    done = subprocess.run([*command, PACKAGE, "app.py"], cwd=root, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stdout + done.stderr)
    return sum(": error: " in line for line in done.stdout.splitlines())


def frames(root: Path) -> int:
    """Frames of the package between the handler of the Erase button and the refinement, in a process of its own."""
    command = [sys.executable, __file__, "--frames", root]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])["frames"]


class RouteWatcher:
    """Profiles every thread until the refinement is entered.

    Attributes:
        handed: the package's frames of the page's thread when the job is queued.
        seen: those of all other threads when the refinement is entered.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.page = root, threading.get_ident()
        self.handed: list[str] = []
        self.seen: list[str] = []

    def names(self, frame: FrameType | None) -> list[str]:
        """The frames of a stack that are of the package, outermost first."""
        found = []
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(self.root / PACKAGE):
                found.append(f"{path.relative_to(self.root).as_posix()}:{frame.f_code.co_name}")
            frame = frame.f_back
        return found[::-1]

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if event != "call" or self.seen or not frame.f_code.co_filename.startswith(str(self.root / PACKAGE)):
            return
        thread, place = threading.get_ident(), Path(frame.f_code.co_filename).relative_to(self.root).as_posix()
        if thread == self.page and place.endswith("jobs.py") and frame.f_code.co_name == "submit":
            self.handed = self.names(frame)
        elif place in REFINE and frame.f_code.co_name in ("gather", "solve"):
            stacks = {other: stack for other, stack in sys._current_frames().items() if other != self.page}
            for stack in (stacks | {thread: frame}).values():
                self.seen += self.names(stack)


def measure_frames(root: Path) -> list[str]:
    """Click Erase on a page without a browser; the package's frames from the handler to the refinement.

    These are the frames from the handler to the job's queue, and those of every thread but the page's when the
    refinement is entered. Frames of the standard library and of Gradio are not counted.
    """
    sys.path.insert(0, str(root))
    recipe = import_module(f"{PACKAGE}.recipe").Recipe.from_json(RECIPE)
    flat = (root / PACKAGE / "studio.py").exists()  # as at 82eba6f
    new_studio = import_module(f"{PACKAGE}.{'studio' if flat else 'runtime.studio'}").Studio
    page, form = import_module(f"{PACKAGE}.ui.page"), import_module(f"{PACKAGE}.ui.form")
    watcher = RouteWatcher(root)
    with tempfile.TemporaryDirectory() as output:
        threading.setprofile(watcher)  # of the threads that the studio starts
        studio = new_studio(output=Path(output))
        studio.load().wait()
        handlers = page.build(studio).fns.values()
        handler = next(one for one in handlers if getattr(one.fn, "__name__", "") == "on_erase")
        values = form.values_from(recipe)
        before = [getattr(component, "value", None) for component in handler.inputs[: -len(values)]]
        sys.setprofile(watcher)
        for _ in handler.fn(*before, *values):
            pass
        sys.setprofile(None)
    return watcher.handed + watcher.seen


def unpacked(revision: str, folder: Path) -> Path:
    """The tree of a revision in `folder`; the working tree itself for ".", which is not unpacked."""
    if revision == ".":
        return ROOT
    archive = subprocess.run(["git", "archive", revision], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    return folder


FIGURES: dict[str, Callable[[Path], int]] = {
    "modules directly in the package": top_level_modules,
    "functions": lambda root: count(root, lambda node: isinstance(node, FUNCTIONS)),
    "generator functions": lambda root: count(root, is_generator),
    "`yield from`": lambda root: count(root, lambda node: isinstance(node, ast.YieldFrom)),
    "private functions used in one place": used_once,
    "of these called there, of up to four lines": lambda root: used_once(root, 4),
    "public functions of core, sd, methods with `Args:` (%)": documented,
    "rows of the import test": import_rows,
    "frames from `on_erase` to the refinement": frames,
    "words of the README": readme_words,
    "mypy errors": mypy_errors,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("revision", nargs="*", default=["."], help='a git revision, or "." for the working tree')
    parser.add_argument("--frames", type=Path, metavar="TREE", help="list the frames of one tree, and nothing else")
    options = parser.parse_args()
    if options.frames:
        found = measure_frames(options.frames.resolve())
        print(*found, json.dumps({"frames": len(found)}), sep="\n")
        return
    with tempfile.TemporaryDirectory() as folder:
        roots = [unpacked(revision, Path(folder) / str(i)) for i, revision in enumerate(options.revision)]
        names = ["working tree" if revision == "." else revision for revision in options.revision]
        print("| | " + " | ".join(names) + " |")
        print("| --- |" + " ---: |" * len(names))
        for name, figure in FIGURES.items():
            print(f"| {name} | " + " | ".join(str(figure(root)) for root in roots) + " |")


if __name__ == "__main__":
    main()
