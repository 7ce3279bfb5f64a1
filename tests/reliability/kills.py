"""A studio that is killed (kill -9) at random moments: nothing that was finished is lost, and nothing is damaged.

    python -m tests.reliability.kills --count 30

Every studio is a process forked from one that has loaded the model. It goes on with what the one before left, then runs
the rest; the last one is not killed, and its erasures are compared with those of an undisturbed studio.
"""

from __future__ import annotations

import math
import os
import random
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from mace_studio.paths import BUILT_IN
from mace_studio.runtime import tasks
from mace_studio.runtime.perform import Place
from mace_studio.runtime.studio import Studio
from tests.reliability.common import PHRASES, Figures, run, small

RECIPES = [small(one, other, steps=3) for i, one in enumerate(PHRASES) for other in PHRASES[:i]]


def studio(output: Path, told: int) -> None:
    """Go on with what was broken off, then run every recipe of which there is no erasure; tell each that is there."""
    made = Studio(output=output)
    jobs = [made.resume(one) for one in made.interrupted()]
    waiting = [job.request for job in jobs]
    there = [entry.recipe for entry in made.entries()]
    rest = [recipe for recipe in RECIPES if recipe not in (*waiting, *there)]
    for job in [*jobs, *(made.erase(recipe, watched=False) for recipe in rest)]:
        os.write(told, f"{job.wait().path.name}\n".encode())


def forked(output: Path, after: float | None, work: Callable[[Path, int], object] = studio) -> tuple[list[str], bool]:
    """The lines that a studio told until it ended, or was killed so many seconds after its start; whether it was.

    Args:
        output: its folder.
        after: seconds, or None.
        work: (folder, pipe to write lines to) -> nothing; done in the forked process.
    """
    heard, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(heard)
        status = 1
        try:
            work(output, told)
            status = 0
        finally:
            os._exit(status)
    os.close(told)
    end, text = None if after is None else time.monotonic() + after, b""
    while True:
        left = None if end is None else max(0.0, end - time.monotonic())
        ready, _, _ = select.select([heard], [], [], left)
        if not ready:
            os.kill(child, signal.SIGKILL)
            end = None
            continue
        if not (more := os.read(heard, 4096)):
            break
        text += more
    os.close(heard)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("a studio failed by itself")
    return text.decode().split(), os.WIFSIGNALED(status)


def damaged(output: Path) -> list[str]:
    """Files under their final names that cannot be read whole; those that are not finished have another name."""
    bad = []
    for path in output.rglob("*"):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(output).parts):
            try:
                if path.suffix == ".safetensors":
                    load_file(path)
                elif path.suffix == ".png":
                    with Image.open(path) as image:
                        image.load()
            except (SafetensorError, OSError, ValueError):
                bad.append(path.name)
    return bad


def work(count: int, seed: int, until: float = math.inf) -> Figures:
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        whole, broken = Path(name) / "whole", Path(name) / "broken"
        tasks.process_model(Place(source=str(BUILT_IN), output=whole, cache=whole / "cache"))
        begun = time.monotonic()
        forked(whole, None)
        each = (time.monotonic() - begun) / len(RECIPES)
        finished: set[str] = set()
        kills = lost = hurt = rounds = 0
        while kills < count and time.monotonic() < until:
            rounds += 1
            names, killed = forked(broken, dice.uniform(0.0, 2.5 * each))
            kills += killed
            finished |= set(names)
            lost += sum(not (broken / name).is_file() for name in finished)
            hurt += len(damaged(broken))
            if not killed:  # all of them are there: begin again
                for path in (*broken.glob("*.safetensors"), *(broken / "cache" / "loras").iterdir()):
                    path.unlink()
                finished.clear()
        forked(broken, None)
        same = sum(
            (broken / path.name).is_file() and (broken / path.name).read_bytes() == path.read_bytes()
            for path in whole.glob("*.safetensors")
        )
        return {
            "kills": kills,
            "finished erasures that were lost": lost,
            "damaged files": hurt,
            "erasures of the last run": f"{same} of {len(RECIPES)} with the bytes of an undisturbed run",
            "other bytes": len(RECIPES) - same,
            "left over": len([path for path in broken.rglob(".*.part*")]),
        }


if __name__ == "__main__":
    sys.exit(run(__doc__, 30, work, ("finished erasures that were lost", "damaged files", "other bytes"), timed=True))
