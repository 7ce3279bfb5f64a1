"""How many things are worked on at once, and what happens when memory does not hold that many."""

from __future__ import annotations

import ctypes
import gc
import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import torch

from mace_studio.errors import ModelError

Item, Step, Result = TypeVar("Item"), TypeVar("Step"), TypeVar("Result")

log = logging.getLogger(__name__)

# How the allocators of CPU (Linux, Windows) and MPS put it; CUDA has an error of its own.
SAID = ("can't allocate memory", "not enough memory", "out of memory")
ERRORS = (RuntimeError, MemoryError)  # torch.OutOfMemoryError is a RuntimeError


@dataclass
class Room:
    """How many are worked on at once; half as many for good whenever memory runs out."""

    at_once: int

    def each(
        self, items: Sequence[Item], work: Callable[[Sequence[Item], int], Generator[Step, None, list[Result]]]
    ) -> Generator[Step, None, list[Result]]:
        """Work on the items in portions; a portion that does not fit is begun again as smaller ones.

        Args:
            items: in the order of the results.
            work: a portion and how many items are done before it -> the portion's results.

        Raises:
            ModelError: not even one at a time fits.
        """
        done: list[Result] = []
        while len(done) < len(items):
            portion, fresh = items[len(done) : len(done) + self.at_once], None
            try:
                fresh = yield from work(portion, len(done))
            except ERRORS as error:
                if not ran_out(error):
                    raise
                self._shrink(len(portion), error)
            if fresh is None:
                free()  # only now: the error held on to the tensors of the step that failed
            else:
                done += fresh
        return done

    def _shrink(self, count: int, error: Exception) -> None:
        if count == 1:
            raise ModelError(
                "There is not enough memory for this, not even one at a time. Close other programs that use the "
                "device, or start the studio with --low-memory, with --dtype float16 or bfloat16, or with a smaller "
                "model."
            ) from error
        # A portion made before memory ran out inside of it may be larger than what is known to fit by now.
        self.at_once = min(self.at_once, count // 2)
        log.warning("memory ran out with %d at once; going on with %d", count, self.at_once)


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(said in str(error).lower() for said in SAID)


def free() -> None:
    """Give back to the device, and to the system, what no tensor holds any more."""
    gc.collect()
    with suppress(OSError, AttributeError):  # elsewhere than under glibc, which holds on to gigabytes
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
