"""Seconds and peak memory of a run."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from mace_studio.sd import batching
from mace_studio.sd.model import Model
from mace_studio.spent import Spent

Made = TypeVar("Made")

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
FORGET_PEAK = "5"  # proc(5): the peak of the resident memory becomes what is resident now
PEAK = re.compile(r"^VmHWM:\s*(\d+) kB$", re.MULTILINE)


def measured(model: Model, run: Callable[[], Made]) -> tuple[Made, Spent]:
    """Call a function, and measure it.

    The memory is the most that was held at any time while it ran, with what was there before it, such as the model:

    - On CUDA, all tensors of this process on the model's device, as the allocator of torch counts them. Memory that it
      keeps for later, and the one of the CUDA context, do not count.
    - On a CPU under Linux, the resident memory of this whole process: model, libraries, the page and its results.
    - Elsewhere it is not measured: no other system forgets the peak of what a process did before.

    Args:
        model: that the function works with.
        run: what to call.

    Returns:
        What it returned, and what it took.
    """
    batching.free()  # what an earlier run has left should not count
    device = model.device
    known = _forget_peak(device)
    begun = time.monotonic()
    made = run()
    seconds = time.monotonic() - begun
    return made, Spent(seconds, model.where(), _peak(device) if known else None)


def _forget_peak(device: torch.device) -> bool:
    """Whether `_peak` will be the one since now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        CLEAR.write_text(FORGET_PEAK, encoding="ascii")
    except OSError:  # another system, or a sandbox that forbids it
        return False
    return device.type == "cpu"


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    found = PEAK.search(STATUS.read_text(encoding="utf-8"))
    return 1024 * int(found[1]) if found else None
