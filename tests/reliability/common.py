"""What the scripts here share: a small recipe, their arguments, and how they end."""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import time
from collections.abc import Callable
from typing import Any

from mace_studio.methods.mace import MaceSettings
from mace_studio.recipe import Concept, Recipe
from mace_studio.settings import ImageSettings, KeepWeights, LoraSettings

PHRASES = ("cat", "dog", "horse", "car", "guitar")
Figures = dict[str, Any]


def small(*phrases: str, steps: int = 2, seed: int = 0) -> Recipe:
    """A recipe that the built-in model runs in about a second."""
    return Recipe(
        concepts=tuple(Concept(phrase, "forest") for phrase in phrases),
        preserve=("tree",),
        seed=seed,
        settings=MaceSettings(
            refine=KeepWeights(preserve=1.0, identity=1.0),
            fuse=KeepWeights(preserve=1.0, identity=1.0),
            lora=LoraSettings(steps=steps),
            images=ImageSettings(per_concept=1, steps=2, guidance=4.0),
        ),
    )


def run(about: str | None, count: int, work: Callable[..., Figures], bad: tuple[str, ...], timed: bool = False) -> int:
    """Read `--count` and `--seed`, do the work and print its figures; the exit status is 1 unless all `bad` are 0.

    Where it is `timed`, `--minutes` is read too, and the work gets as its third argument when to begin nothing more.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0, help="of what is tried")
    if timed:
        parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long, whatever the count")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)  # what is refused is logged, thousands of times
    until = (time.monotonic() + 60 * options.minutes,) if timed else ()
    figures = work(options.count, options.seed, *until)
    sys.stdout.write(json.dumps(figures, ensure_ascii=False) + "\n")
    return int(any(figures[name] for name in bad))


def sentence(error: BaseException) -> str:
    """A foreign exception, in a line."""
    return f"{type(error).__name__}: {error}"[:200]
