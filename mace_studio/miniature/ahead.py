"""Samples of the world for the steps of a training, composed ahead of it by other processes where there are some."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch.utils.data import DataLoader, Dataset

from mace_studio.miniature import world
from mace_studio.miniature.world import Sample

AHEAD = 4  # batches that each process composes before they are asked for
LAST = 2**31  # a step that no training reaches


class Composed(Dataset[list[Sample]]):
    """The samples of each step, which depend on its number alone.

    Args:
        batch: samples a step.
    """

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def __getitem__(self, step: int) -> list[Sample]:
        return world.samples(self.batch, step)


def batches(batch: int, workers: int, steps: Sequence[int]) -> Iterator[list[Sample]]:
    """The samples of some steps in their order.

    Args:
        batch: samples a step.
        workers: processes that compose; 0 composes here, when asked.
        steps: their numbers.
    """
    # A list of samples is a batch already: nothing is to be stacked.
    loader = DataLoader(
        Composed(batch), batch_size=None, sampler=steps, num_workers=workers, collate_fn=_as_it_is,
        prefetch_factor=AHEAD if workers else None,
    )  # fmt: skip
    return iter(loader)


class Steps:
    """The samples of the steps of a training, asked for in turn from any first one.

    Args:
        batch: samples a step.
        workers: as in `batches`.
    """

    def __init__(self, batch: int, workers: int) -> None:
        self.batch, self.workers = batch, workers
        self._coming: Iterator[list[Sample]] | None = None

    def __call__(self, step: int) -> list[Sample]:
        """Those of one step; the one after it is composed already where processes do that."""
        if self._coming is None:
            self._coming = batches(self.batch, self.workers, range(step, LAST))
        return next(self._coming)


def _as_it_is(samples: list[Sample]) -> list[Sample]:
    return samples
