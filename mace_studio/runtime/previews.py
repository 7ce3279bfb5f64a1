"""Images while they are generated, small and now and then, for a small share of the time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from mace_studio.progress import Progress

log = logging.getLogger(__name__)

EVERY = 2.0  # seconds between two of them, at least
SHARE = 0.03  # of the time since the task began that all of them may take
CELLS, FIRST = 32, 8  # latent cells of the longer side, as they are shown, and of the first one, which tells the cost


class Previews:
    """Decides for each event of a task whether the image at work is looked at.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = self._last = clock()
        self._spent = 0.0
        self._cost: float | None = None  # seconds of the next one
        self._broken = False

    def of(self, event: Progress) -> Progress:
        """The event with the image at work as its `preview` where that is due, and without its `look`."""
        if event.look is None:
            return event
        return replace(event, look=None, preview=self._image(event.look))

    def _image(self, look: Callable[[int], object]) -> object:
        now = self._clock()
        if self._broken or now - self._last < EVERY:
            return None
        try:
            if self._cost is None:
                _, seconds = self._timed(look, FIRST)
                self._cost = seconds * (CELLS / FIRST) ** 2
            if self._spent + self._cost > SHARE * (now - self._begun):
                return None
            image, self._cost = self._timed(look, CELLS)
        except Exception:  # whatever a decoder raises, such as that memory has run out: the run itself goes on
            log.info("the image at work cannot be shown", exc_info=True)
            self._broken = True
            return None
        self._last = self._clock()
        return image

    def _timed(self, look: Callable[[int], object], cells: int) -> tuple[object, float]:
        begun = self._clock()
        image = look(cells)
        seconds = self._clock() - begun
        self._spent += seconds
        return image, seconds
