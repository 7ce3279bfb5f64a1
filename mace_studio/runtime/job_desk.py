"""The jobs of a studio: whose they are, in which order they run, and what a restart broke off."""

from __future__ import annotations

import contextvars
import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mace_studio.errors import RecipeError, StudioError
from mace_studio.progress import Report
from mace_studio.runtime import housekeeping, quota
from mace_studio.runtime.job_log import JobLog, Written, whole
from mace_studio.runtime.jobs import Job, Worker
from mace_studio.runtime.loaded_model import LoadedModel
from mace_studio.runtime.perform import Perform, Place, outcome

PATIENCE = 15.0  # seconds: a job that nobody watches for so long is cancelled
# Jobs that may wait or run at a time: of one user where many share the studio, of all of them there, on one's own.
EACH, SHARED, OWN = 8, 64, 1000

resumed = contextvars.ContextVar("resumed", default="")  # the id of the job that goes on
SURVIVING: dict[str, Callable[..., Job]] = {}  # the only methods that a log can name


def survives(method: Callable[..., Job]) -> Callable[..., Job]:
    """A method whose jobs are written down, to go on after a restart; its arguments are positional there."""

    @functools.wraps(method)
    def call(self: JobDesk, *arguments: Any, **named: Any) -> Job:
        job = method(self, *arguments, **named)
        if not self.fixed:
            bound = inspect.signature(method).bind(self, *arguments, **named)
            bound.apply_defaults()
            self._log.add(job, self.place, method.__name__, bound.args[1:])
        return job

    SURVIVING[method.__name__] = call
    return call


class JobDesk:
    """What a studio knows of its jobs; `Studio` adds those that it can do.

    Args:
        place: which model it is, and in which folder jobs are written down, where the studio is one person's.
        perform, fixed, user, machine: as of `Studio`.
    """

    def __init__(
        self, place: Place, perform: Perform, fixed: bool, user: Callable[[], str | None], machine: Callable[[], str]
    ) -> None:
        self.fixed = fixed
        if fixed:
            StudioError.shared = place.output
        self._perform = perform
        self._model = LoadedModel(place, perform)
        self._user, self._machine = user, machine
        self._log = JobLog(place.output / "jobs")
        each, most = (EACH, SHARED) if fixed else (math.inf, OWN)
        self._worker = Worker(each, most, self._log.update)

    @property
    def place(self) -> Place:
        """Where the user who asks works."""
        place, name = self._model.place, self._user() if self.fixed else None
        return replace(place, output=place.output / "users" / name) if name else place

    def job(self, job_id: str | None) -> Job | None:
        """The job with this id, or None when it is unknown or long gone."""
        return self._worker.find(job_id)

    def ahead(self, job: Job) -> int:
        """How many other jobs must end before this one begins."""
        return self._worker.ahead(job)

    def jobs(self) -> list[Job]:
        """The jobs of the user who asks: what is over or runs, the oldest first, then what waits, the next first."""
        owner = self._owners()[0]
        return [job for job in self._worker.jobs() if job.owners[0] == owner]

    def move(self, job: Job, places: int) -> None:
        """Let a job that waits begin earlier (below 0) or later among one's own."""
        self._worker.move(job, places)

    def interrupted(self) -> list[Written]:
        """The jobs of this output folder that a crash or a kill broke off, the oldest first."""
        return [] if self.fixed else self._log.interrupted()

    def resume(self, job: Written) -> Job:
        """Go on with a job that was broken off, from what is in the cache; it keeps its id.

        Raises:
            StudioError: it was for another model than this studio's, another studio has taken it, or it cannot be run
                any more, in which case it is still listed.
        """
        place = whole(self.place)
        if (job.place.source, job.place.vae, job.place.text_encoder) != (place.source, place.vae, place.text_encoder):
            raise StudioError(f"“{job.title}” was for the model {job.place.source}; load that one first.")
        if job.method not in SURVIVING:
            raise StudioError(f"“{job.title}” was begun by another version, and cannot go on here.")
        if not self._log.take(job):
            raise StudioError(f"“{job.title}” goes on elsewhere already.")
        context = contextvars.copy_context()
        context.run(resumed.set, job.id)
        try:
            return context.run(SURVIVING[job.method], self, *job.arguments)
        except StudioError:
            self._log.give_back(job)
            raise

    def forget(self, job: Written) -> None:
        """Take a job that was broken off from the list."""
        self._log.remove(job)

    def check_room(self) -> None:
        """Raise a FileError where the user who asks has left too much on a disk that many share."""
        if self.fixed and self.place.output != self._model.place.output:
            housekeeping.check_room(self.place.output)

    def check_judge(self, judge: str | None) -> None:
        """Raise a RecipeError for a judge that a user names where the studio is fixed."""
        if self.fixed and judge:
            raise RecipeError("judge", "Only the model’s own judge can be used here; leave the field blank.")

    def _owners(self) -> tuple[str, ...]:
        return (f"user {self._user()}", f"machine {self._machine()}") if self.fixed else ("",)

    def _submit(self, title: str, request: object, task: str, *arguments: Any, patience: float = PATIENCE) -> Job:
        """Queue a task, with the model loaded before it.

        Args:
            title: what a person calls the job.
            request: for a user who comes back to watch it.
            task, arguments: of `tasks.TASKS`, and what it takes beside the place; plain data, to be pickled.
            patience: seconds after which it is cancelled if nobody watches it; one that goes on after a restart has no
                end to it.

        Raises:
            RecipeError: it is too much for a studio that is fixed.
            StudioError: too many jobs wait already.
        """
        if self.fixed:
            quota.check(task, *arguments)
            self.check_room()
        output = self.place.output  # on the job's thread nobody is asking any more

        def work(progress: Report) -> Any:
            if self.fixed:
                housekeeping.tidy(self._model.place.output)
            self._model.load(progress)
            place = replace(self._model.place, output=output)
            return outcome(self._perform(task, place, *arguments), progress)

        job_id = resumed.get()
        patience = math.inf if job_id else patience
        return self._worker.submit(title, work, request, patience, owners=self._owners(), job_id=job_id)
