"""Erasures that end well, are cancelled and fail, mixed: the model stays bit for bit what it was.

    python -m tests.reliability.cycles --count 1000

So that a cycle takes a second at most, a concept has the first few of its prompts, one image and two steps: every stage
and every kind of end is passed as in a long run, only less often.
"""

from __future__ import annotations

import gc
import math
import random
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from mace_studio import prompts
from mace_studio.errors import StudioError
from mace_studio.methods.mace.erase import erase
from mace_studio.paths import BUILT_IN
from mace_studio.progress import Cancelled, Progress
from mace_studio.sd import model as sd_model
from tests.reliability.common import PHRASES, Figures, run, small

ENDS = ("done", "cancelled", "failed", "diverged")
PROMPTS = 6  # of each phrase, of the usual eighty


def work(count: int, seed: int, until: float = math.inf) -> Figures:
    usual = prompts.templates
    prompts.templates = lambda kind: usual(kind)[:PROMPTS]
    try:
        return _cycles(count, seed, until)
    finally:
        prompts.templates = usual


def _cycles(count: int, seed: int, until: float) -> Figures:
    dice, model = random.Random(seed), sd_model.load(str(BUILT_IN), "cpu", "float32")
    before, changed, seen = model.checksum(), 0, dict.fromkeys(ENDS, 0)
    stages: dict[str, int] = {}  # in which of them runs were broken off
    events = 1  # of a run that was not: those are broken off anywhere
    gc.collect()
    gc.freeze()  # or looking for garbage, as every run does, would take longer than the run
    with tempfile.TemporaryDirectory() as folder:
        while sum(seen.values()) < count and time.monotonic() < until:
            recipe = small(*dice.sample(PHRASES, dice.choice((1, 1, 2))), seed=dice.randrange(4))
            end, at, told = dice.choice(ENDS) if events > 1 else "done", dice.randrange(events), 0
            if end == "diverged":
                recipe = recipe.with_settings(lora=replace(recipe.settings.lora, alpha=1e38))

            def report(event: Progress, end: str = end, at: int = at) -> None:
                nonlocal told
                told += 1
                if told > at and end in ("cancelled", "failed"):
                    stages[event.stage] = stages.get(event.stage, 0) + 1
                    raise Cancelled if end == "cancelled" else FloatingPointError("as a broken device does")

            try:
                erase(model, recipe, report, Path(folder) if dice.random() < 0.7 else None)
                came, events = "done", max(events, told)
            except Cancelled:
                came = "cancelled"
            except FloatingPointError:
                came = "failed"
            except StudioError:
                came = "diverged"
            seen[came] += 1
            changed += model.checksum() != before
    cycles = {"cycles": sum(seen.values()), **seen, "broken off in": stages}
    return cycles | {"cycles that changed a bit": changed}


if __name__ == "__main__":
    sys.exit(run(__doc__, 1000, work, ("cycles that changed a bit",), timed=True))
