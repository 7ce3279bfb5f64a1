"""A run that is killed (kill -9) and goes on with `erase --resume` gives the same bytes as one that was not.

    python -m tests.reliability.resume --kills 3

Each run erases five concepts from the built-in model in a process of its own. Each kill comes when another LoRA has
been stored, or, with --random, at a random moment.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONCEPTS = ("cat", "dog", "horse", "car", "guitar")
LONG = 600.0  # seconds that nothing here should take


def recipe(steps: int, images: int) -> dict:
    """Five concepts, each a batch of its own, so that a kill can come between any two."""
    return {
        "concepts": [{"phrase": phrase, "mapping": "forest", "kind": "object"} for phrase in CONCEPTS],
        "preserve": ["tree"],
        "settings": {
            "lora": {"steps": steps},
            "images": {"per_concept": images, "steps": 4, "guidance": 4.0},
            "concepts_at_once": 1,
        },
    }


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    """`mace-studio erase` with its results in a folder."""
    command = [sys.executable, "-m", "mace_studio", "erase", *arguments, "--device", "cpu", "--out", str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen) -> None:
    _, said = process.communicate(timeout=LONG)
    if process.returncode:
        raise SystemExit(f"the run failed with {process.returncode}: {said[-2000:]}")


def stored(folder: Path) -> int:
    return len(list((folder / "cache" / "loras").glob("*.safetensors")))


def killed(process: subprocess.Popen, folder: Path, more: int, moment: float | None) -> bool:
    """Kill a run once `more` further LoRAs are stored, or after so many seconds; False where it was over before."""
    begun, before = time.monotonic(), stored(folder)
    while process.poll() is None:
        past = time.monotonic() - begun
        if stored(folder) - before >= more if moment is None else past >= moment:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return process.returncode == -signal.SIGKILL
        if past > LONG:
            raise SystemExit("the run takes too long")
        time.sleep(0.01)
    return False


def erasures(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def check(kills: int, steps: int, images: int, seed: int | None) -> dict[str, object]:
    """Run once undisturbed and once with kills; what came of it."""
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        file, whole, broken = Path(name) / "five.json", Path(name) / "whole", Path(name) / "broken"
        file.write_text(json.dumps(recipe(steps, images)), encoding="utf-8")
        begun = time.monotonic()
        finished(start(whole, str(file)))
        seconds = time.monotonic() - begun
        came, at = 0, []
        process = start(broken, str(file))
        for _ in range(kills):
            if not killed(process, broken, 1, None if seed is None else dice.uniform(0.5, seconds)):
                break
            came += 1
            at.append(stored(broken))
            process = start(broken, "--resume")
        finished(process)
        (one,), (other,) = erasures(whole), erasures(broken)
        return {
            "kills": came,
            "LoRAs stored at each": at,
            "same name": one.name == other.name,
            "same bytes": one.read_bytes() == other.read_bytes(),
            "seconds undisturbed": round(seconds, 1),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10, help="of each LoRA")
    parser.add_argument("--images", type=int, default=2, help="of each concept")
    parser.add_argument("--random", type=int, metavar="SEED", help="kill at random moments")
    options = parser.parse_args()
    found = check(options.kills, options.steps, options.images, options.random)
    print(json.dumps(found))
    return 0 if found["same bytes"] and found["same name"] else 1


if __name__ == "__main__":
    sys.exit(main())
