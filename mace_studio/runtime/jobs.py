"""One worker thread that owns the model, and jobs that any number of pages may watch.

A page's generator may be resumed on another thread at every step, and a queue slot of the web server is free as soon
as a visitor leaves, while the step that is under way goes on. So the work happens on one thread of our own, and the
page only looks.
"""

from __future__ import annotations

import contextvars
import logging
import math
import queue
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any

log = logging.getLogger(__name__)

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
KEPT = 50

Work = Callable[[], Generator[Any, None, Any]]


class Job:
    """A piece of work under way: its state, what it has reported, its result or its error.

    Attributes:
        id: short and unguessable.
        title: what a person calls it.
        state: queued, running, done, failed or cancelled.
        events: everything that it has yielded, oldest first.
        result: what it returned, once done.
        error: what it raised, once failed.
        started: `time.monotonic()` when it began, or None.
        request: what it was asked to do, for whoever comes back to watch it.
    """

    def __init__(self, title: str, work: Work, request: object = None, patience: float = math.inf) -> None:
        self.id = uuid.uuid4().hex
        self.title = title
        self.request = request
        self.state = QUEUED
        self.events: list[Any] = []
        self.result: Any = None
        self.error: BaseException | None = None
        self.started: float | None = None
        self._work = work
        self._context = contextvars.copy_context()
        self._patience = patience
        self._watched = time.monotonic()
        self._cancel = threading.Event()
        self._changed = threading.Condition()

    @property
    def over(self) -> bool:
        return self.state in (DONE, FAILED, CANCELLED)

    def cancel(self) -> None:
        """Ask the job to stop at its next step; returns at once. A job that has not begun is over at once."""
        with self._changed:
            self._cancel.set()
            if self.state == QUEUED:
                self.state = CANCELLED
                self._changed.notify_all()

    def watch(self, beat: float = 0.25) -> Iterator[Any]:
        """Yield the newest event whenever there is one, and None every `beat` seconds while there is none."""
        seen = 0
        while True:
            with self._changed:
                self._watched = time.monotonic()
                if seen == len(self.events) and not self.over:
                    self._changed.wait(beat)
                events, over = self.events, self.over
                new = len(events) > seen
                seen = len(events)
            if new:
                yield events[seen - 1]
            elif over:
                return
            else:
                yield None

    def wait(self) -> Any:
        """Block until the job is over, watching it; its result, or its error raised."""
        for _ in self.watch():
            pass
        if self.error is not None:
            raise self.error
        return self.result

    def _run(self) -> None:
        with self._changed:
            stopped = self._cancel.is_set() or self._abandoned()
            self.state = CANCELLED if stopped else RUNNING
            self.started = None if stopped else time.monotonic()
            self._changed.notify_all()
        if stopped:
            return
        try:
            self._become(self._context.run(self._steps))
        except BaseException as error:
            log.exception("%s failed", self.title)
            self.error = error
            self._become(FAILED)

    def _steps(self) -> str:
        with closing(self._work()) as steps:
            while not (self._cancel.is_set() or self._abandoned()):
                try:
                    event = next(steps)
                except StopIteration as end:
                    self.result = end.value
                    return DONE
                with self._changed:
                    self.events.append(event)
                    self._changed.notify_all()
        return CANCELLED

    def _abandoned(self) -> bool:
        return time.monotonic() - self._watched > self._patience

    def _become(self, state: str) -> None:
        with self._changed:
            self.state = state
            self._changed.notify_all()


class Worker:
    """Runs jobs one after another on a thread of its own, and remembers the newest ones."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Job] = queue.Queue()
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._loop, name="model-worker", daemon=True).start()

    def submit(self, title: str, work: Work, request: object = None, patience: float = math.inf) -> Job:
        """Queue `work`, a function that returns a generator of events; the generator's return value is the result.

        A job that nobody has watched for `patience` seconds is cancelled: its visitor has gone.
        """
        job = Job(title, work, request, patience)
        with self._lock:
            self._jobs[job.id] = job
            over = [j.id for j in self._jobs.values() if j.over]
            for old in over[: max(0, len(self._jobs) - KEPT)]:
                del self._jobs[old]
        self._queue.put(job)
        return job

    def find(self, job_id: str | None) -> Job | None:
        """The job with this id, unless it is long gone."""
        return self._jobs.get(job_id or "")

    def ahead(self, job: Job) -> int:
        """How many jobs must end before `job` begins."""
        with self._lock:
            jobs = list(self._jobs.values())
        before = jobs[: jobs.index(job)] if job in jobs else []
        return 0 if job.state != QUEUED else sum(not j.over for j in before)

    def _loop(self) -> None:
        while True:
            self._queue.get()._run()
