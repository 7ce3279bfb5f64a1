"""How many items are worked on at once, and what happens when memory does not hold that many."""

from __future__ import annotations

import ctypes
import gc
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import torch

from mace_studio.errors import ModelError

Item = TypeVar("Item")
Result = TypeVar("Result")

log = logging.getLogger(__name__)

# What the allocators of CPU (Linux, Windows) and MPS write; CUDA has an error class of its own.
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
ERRORS = (RuntimeError, MemoryError)  # torch.OutOfMemoryError is a RuntimeError


@dataclass
class Batches:
    """Runs work in batches, which are halved for good whenever memory runs out.

    Attributes:
        size: items in a batch.
    """

    size: int

    def map(self, items: Sequence[Item], work: Callable[[Sequence[Item], int], list[Result]]) -> list[Result]:
        """Work on all items; a batch that does not fit into memory is started again as smaller ones.

        Args:
            items: in the order of the results.
            work: (a batch, how many items are done before it) -> the batch's results.

        Raises:
            ModelError: not even a batch of one fits.
        """
        done: list[Result] = []
        while len(done) < len(items):
            batch, results = items[len(done) : len(done) + self.size], None
            try:
                results = work(batch, len(done))
            except ERRORS as error:
                if not ran_out(error):
                    raise
                self._halve(len(batch), error)
            if results is None:
                free()  # only here: inside `except` the error still refers to the tensors of the failed step
            else:
                done += results
        return done

    def _halve(self, count: int, error: Exception) -> None:
        if count == 1:
            raise ModelError(
                "There is not enough memory for this, not even one at a time. Close other programs that use the "
                "device, or start the studio with --low-memory, with --dtype float16 or bfloat16, or with a smaller "
                "model."
            ) from error
        # `map` can be nested (the image cache and the generator): the outer batch may be larger than the present size.
        self.size = min(self.size, count // 2)
        log.warning("memory ran out with %d at once; going on with %d", count, self.size)


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out.

    Args:
        error: as raised by torch, or by Python for the main memory.
    """
    message = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(said in message for said in OUT_OF_MEMORY)


def free() -> None:
    """Return memory that no tensor uses any more to the device and to the operating system."""
    gc.collect()
    with suppress(OSError, AttributeError):  # only glibc has it, and without it glibc keeps gigabytes
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
