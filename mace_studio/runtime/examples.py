"""Erasures that a shared page offers from the start: presets, erased once after the first start."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from pathlib import Path

import mace_studio
from mace_studio import presets
from mace_studio.runtime import library

log = logging.getLogger(__name__)

NAMES = ("cat", "people-1", "people-5", "mixed")


def start(folder: Path) -> None:
    """Have them made in the background while the page is served already."""
    threading.Thread(target=make, args=(folder,), name="examples", daemon=True).start()


def make(folder: Path) -> None:
    """Write the erasures that are missing into a folder, one after another.

    Each in a process of its own and on the CPU: no user waits for it, and none pays for it with GPU time.
    """
    made = {entry.recipe for entry in library.entries(folder)}
    recipes = {preset.name: preset.recipe for preset in presets.presets()}
    for name in (f"miniature/{name}" for name in NAMES):
        if recipes[name] not in made:
            arguments = ["erase", str(presets.PRESETS / f"{name}.json"), "--out", str(folder.resolve())]
            command = [sys.executable, "-m", "mace_studio", *arguments, "--device", "cpu", "--dtype", "float32"]
            home = Path(mace_studio.__file__).parents[1]
            done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
            if done.returncode:
                log.warning("the example %s failed: %s", name, done.stderr[-2000:])
