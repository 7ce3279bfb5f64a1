"""What the run that made an erasure took. It is measured, so it stands in no file that must have the same bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Spent:
    """What a run took.

    Attributes:
        seconds: by the clock, with training images and all else that the cache did not hold, without loading the model.
        where: device and dtype in words, "a Ray cluster", or "" where it is not known.
        memory: the most bytes that were held while it ran, the model among them, see `sd.metering`; None where they
            were not measured.
    """

    seconds: float
    where: str = ""
    memory: int | None = None


def from_json(data: Any) -> Spent | None:
    """What JSON holds of a run, or None where it holds nothing that can be read; a number is seconds alone."""
    try:
        if isinstance(data, int | float):
            return Spent(float(data))
        memory = data["memory"]
        return Spent(float(data["seconds"]), str(data["where"]), None if memory is None else int(memory))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def gigabytes(memory: int | None) -> str:
    """Such as "1.23 GB"; "" where it is not known."""
    return "" if memory is None else f"{memory / 1e9:.2f} GB"
