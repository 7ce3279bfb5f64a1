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
        step, total: within the stage; a step may be a part of one, such as 2.5 images.
        loss: of a LoRA step.
        seconds: since the job began.
        fraction: of the whole job, 0 to 1.
        result: what is finished already, such as a row of a table, or None.
    """

    stage: str
    concept: str = ""
    step: float = 0
    total: int = 0
    loss: float | None = None
    seconds: float = 0.0
    fraction: float = 0.0
    result: object = None


Report = Callable[[Progress], None]


class Cancelled(Exception):
    """Raised by a progress callback to end the job at this step; context managers on the way restore the model."""


def silent(progress: Progress) -> None:
    """The callback of whoever does not want to know."""


def within(report: Report, stage: str, concept: str = "", before: int = 0, total: int | None = None) -> Report:
    """A callback for a part of a job, whose events are told as events of the whole.

    Args:
        report: the callback of the whole.
        stage: of the whole, in place of the part's own.
        concept: the phrase that the part is about; the part's own where empty.
        before: added to the part's step.
        total: of the whole; the part's own where None.
    """

    def tell(part: Progress) -> None:
        count = part.total if total is None else total
        report(replace(part, stage=stage, concept=concept or part.concept, step=before + part.step, total=count))

    return tell


def timed(report: Report, costs: Mapping[str, float]) -> Report:
    """A callback that adds the seconds since now and the fraction of the whole job that is done.

    Args:
        report: gets the completed events.
        costs: stage -> its share of the whole, in any unit, in the order in which the stages come.
    """
    begun, whole = time.monotonic(), sum(costs.values())
    before = dict(zip(costs, accumulate(costs.values(), initial=0.0), strict=False))

    def tell(at: Progress) -> None:
        done = before[at.stage] + costs[at.stage] * at.step / max(at.total, 1)
        report(replace(at, seconds=time.monotonic() - begun, fraction=min(done / whole, 1.0)))

    return tell


# Until every use case takes a callback:


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
