"""The base model of a studio, as far as it is known on this side of a process border."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mace_studio.errors import RecipeError, StudioError
from mace_studio.paths import BUILT_IN
from mace_studio.progress import Cancelled, Report
from mace_studio.runtime.estimate import Status
from mace_studio.runtime.perform import Perform, Place, outcome, perform

if TYPE_CHECKING:
    from mace_studio.sd.costs import Costs

BUILT_IN_NAME = "built-in miniature"


class LoadedModel:
    """The model that a studio works with, loaded when it is first asked for. Its methods are for the worker's thread.

    Attributes:
        place: which model it is.
        status: what the page says of it.
        costs: what the parts of a run take, once `measure` was called.
    """

    place: Place
    status: Status
    costs: Costs | None

    def __init__(self, place: Place, perform: Perform) -> None:
        self._perform = perform
        self._choose(place)

    def load(self, progress: Report) -> None:
        """Load the model into this process, once: a process that is forked from it has it too."""
        if self.status.state == "ready":
            return
        waiting = replace(self.status, state="waiting", detail="")
        self.status = replace(waiting, state="loading")
        try:
            # Never on a borrowed GPU: what is loaded in its process does not come back.
            found = outcome(perform("load", self.place), progress)
        except Cancelled:
            self.status = waiting
            raise
        except Exception as error:
            detail = str(error) if isinstance(error, StudioError) else "the server's log says why"
            self.status = replace(waiting, state="failed", detail=detail)
            raise
        self.status = replace(
            waiting,
            state="ready",
            detail=found.where,
            memory=found.memory,
            fingerprint=found.fingerprint,
            width=found.width,
            unet=found.unet,
        )

    def measure(self, progress: Report) -> None:
        """Load the model and time a few of its steps; nothing is done twice."""
        self.load(progress)
        if self.costs is None:
            self.costs = outcome(self._perform("measure", self.place), progress)

    def exchange(self, place: Place, progress: Report) -> None:
        """Load another model and let go of this one; where that fails, this one is loaded again.

        Raises:
            RecipeError: the other one cannot be loaded; the field is "source".
        """
        before, refused = self.place, ""
        self._choose(place)
        try:
            self.load(progress)
        except StudioError as error:
            refused = str(error)
        except BaseException:
            self._choose(before)
            raise
        # After the exception is gone, and with it what its frames hold of the other model: two may not fit.
        if refused:
            self._choose(before)
            self.load(progress)
            raise RecipeError("source", refused)

    def _choose(self, place: Place) -> None:
        name = BUILT_IN_NAME if place.source == str(BUILT_IN) else Path(place.source).name
        self.place, self.costs = place, None
        self.status = Status(name=name, state="waiting")
