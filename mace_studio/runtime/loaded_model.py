"""The base model of a studio, as far as it is known on this side of a process border."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

from mace_studio.errors import RecipeError, StudioError
from mace_studio.paths import BUILT_IN
from mace_studio.runtime import tasks
from mace_studio.runtime.estimate import Status

if TYPE_CHECKING:
    from mace_studio.progress import Progress

BUILT_IN_NAME = "built-in miniature"


class LoadedModel:
    """The model that a studio works with, loaded when it is first asked for. Its methods are for the worker's thread.

    Attributes:
        place: which model it is.
        status: what the page says of it.
        costs: what the parts of a run take, once `measured`.
    """

    def __init__(self, place: tasks.Place, perform: Callable[..., tasks.Events]) -> None:
        self._perform = perform
        self._take(place)

    def loaded(self) -> Generator[Progress, None, None]:
        """Load the model into this process, once: a process that is forked from it has it too."""
        if self.status.state == "ready":
            return
        name = self.status.name
        self.status = Status(name, "loading")
        try:
            found = yield from tasks.outcome(tasks.perform(tasks.load, self.place))
        except Exception as error:
            said = str(error) if isinstance(error, StudioError) else "the server's log says why"
            self.status = Status(name, "failed", said)
            raise
        self.status = Status(name, "ready", found.where, found.memory, found.fingerprint)

    def measured(self) -> Generator[Progress, None, None]:
        """Load the model and time a few of its steps; nothing is done twice."""
        yield from self.loaded()
        if self.costs is None:
            self.costs = yield from tasks.outcome(self._perform(tasks.measure, self.place))

    def exchange(self, place: tasks.Place) -> Generator[Progress, None, None]:
        """Load another model and let go of this one; where that fails, this one is loaded again.

        Raises:
            RecipeError: the other one cannot be loaded; the field is "source".
        """
        before = self.place
        self._take(place)
        try:
            yield from self.loaded()
        except Exception as error:
            self._take(before)
            yield from self.loaded()
            if isinstance(error, StudioError):
                raise RecipeError("source", str(error)) from error
            raise

    def _take(self, place: tasks.Place) -> None:
        name = BUILT_IN_NAME if place.source == str(BUILT_IN) else Path(place.source).name
        self.place, self.costs = place, None
        self.status = Status(name, "waiting")
