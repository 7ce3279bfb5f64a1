"""What holds for all tests: no network, the same examples in every run; and the seconds of each folder at the end."""

import gc
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings

# No test asks the network, whatever it asks of the libraries; they read this when they are imported.
os.environ["HF_HUB_OFFLINE"] = "1"
# As in mace_studio.runtime.studio: tests must not crawl beside other work on the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# The same examples in every run: what fails once fails again, here and elsewhere.
settings.register_profile("studio", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("studio")


TESTS = Path(__file__).parent
LONGEST_FIRST = ("slow", "model", "property", "unit", "golden")


def pytest_collection_modifyitems(items):
    """Order the files: the longest ones first, and those of the page, which often wait, spread among the others."""
    tests = Counter(item.path for item in items)
    pages = sorted((path for path in tests if TESTS / "e2e" in path.parents), key=lambda path: -tests[path])
    place = {path: (i + 0.5) / len(pages) for i, path in enumerate(pages)}
    for number, folder in enumerate(LONGEST_FIRST):
        files = [path for path in tests if TESTS / folder in path.parents]
        place |= {path: max(0, number - 1) + i / len(files) for i, path in enumerate(files)}
    items.sort(key=lambda item: place.get(item.path, len(LONGEST_FIRST)))


def pytest_collection_finish():
    """Leave what the imports made, which is there until the end, out of every collection of garbage.

    A run collects it twice to free memory, and beside torch, diffusers and gradio each takes half a second.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_machine(monkeypatch):
    """Messages tell folders again after a test that made a shared studio."""
    monkeypatch.setattr("mace_studio.errors.StudioError.shared", None)


def pytest_terminal_summary(terminalreporter):
    """Print what the tests of each folder took: set-up, call and tear-down, without collecting and importing."""
    seconds, tests = Counter(), Counter()
    for report in (one for group in terminalreporter.stats.values() for one in group):
        if isinstance(report, pytest.TestReport):
            folder = "/".join(report.nodeid.split("/")[:2])
            seconds[folder] += report.duration
            tests[folder] += report.when == "call"
    terminalreporter.section("seconds of each folder")
    for folder in sorted(seconds):
        terminalreporter.write_line(f"{folder}: {tests[folder]} tests, {seconds[folder]:.1f} s")
