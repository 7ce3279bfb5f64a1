"""What a long job tells its caller."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from itertools import accumulate


@dataclass(frozen=True)
class Progress:
    """How far a job is.

    Attributes:
        stage: "images", "masks", "refine", "lora" or "fuse" of an erasure, "generate" of a comparison, "export".
        concept: the phrase at work, or "".
        step, total: within the stage; a step may be a part of one, such as 2.5 images.
        loss: of a LoRA step.
        seconds: since the job began.
        fraction: of the whole job, 0 to 1.
        result: what is finished already, such as a row of a table, or None.
        look: latent cells of the longer side, at most -> the image at work as it is at this step, small. It works only
            while the callback runs, and is for showing: code that keeps events takes it off.
        preview: what that gave, or None.
    """

    stage: str
    concept: str = ""
    step: float = 0
    total: int = 0
    _: KW_ONLY
    loss: float | None = None
    seconds: float = 0.0
    fraction: float = 0.0
    result: object = None
    look: Callable[[int], object] | None = None
    preview: object = None


Report = Callable[[Progress], None]


class Cancelled(Exception):
    """Raised by a progress callback to end the job at this step; context managers on the way restore the model."""


def silent(progress: Progress) -> None:
    """The callback for callers that need no events."""


def within(report: Report, stage: str, concept: str = "", before: int = 0, total: int | None = None) -> Report:
    """A callback for a part of a job, whose events are passed on as events of the whole.

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


def always(report: Report, at: Progress) -> Report:
    """A callback for a part that is one step of the whole: each of its events reports `at`, and can cancel there."""
    return lambda _: report(at)


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
