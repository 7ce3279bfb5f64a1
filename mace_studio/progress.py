"""What a long job tells whoever waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TypeVar

Step, Result = TypeVar("Step"), TypeVar("Result")


@dataclass(frozen=True)
class Progress:
    """How far a job is.

    Attributes:
        stage: "images", "masks", "refine", "lora" or "fuse" of an erasure, "draw" of a comparison, "export".
        concept: the phrase at work, or "".
        step, total: within the stage.
        loss: of a LoRA step.
        seconds: since the job began.
        fraction: of the whole job, 0 to 1.
        result: what is finished already, such as a row of a table, or None.
    """

    stage: str
    concept: str = ""
    step: int = 0
    total: int = 0
    loss: float | None = None
    seconds: float = 0.0
    fraction: float = 0.0
    result: object = None


def relay(steps: Generator[Step, None, Result], tell: Callable[[Step], Progress]) -> Generator[Progress, None, Result]:
    """The same generator with every step turned into Progress by `tell`; closing it closes `steps`."""
    with closing(steps):
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                return end.value
            yield tell(step)


def numbered(stage: str, concept: str, before: int, total: int) -> Callable[[object], Progress]:
    """For `relay`: each step is one more, counted on from `before`."""
    steps = iter(range(before + 1, total + 1))
    return lambda _: Progress(stage, concept, next(steps, total), total)


def clocked(steps: Generator[Progress, None, Result], costs: Mapping[str, float]) -> Generator[Progress, None, Result]:
    """Add the time and the fraction done.

    Args:
        steps: the job, its stages in the order of `costs`.
        costs: stage -> its share of the whole, in any unit.
    """
    begun, whole = time.monotonic(), sum(costs.values())
    before = dict(zip(costs, accumulate(costs.values(), initial=0.0), strict=False))

    def tell(at: Progress) -> Progress:
        done = before[at.stage] + costs[at.stage] * at.step / max(at.total, 1)
        return replace(at, seconds=time.monotonic() - begun, fraction=min(done / whole, 1.0))

    return relay(steps, tell)
