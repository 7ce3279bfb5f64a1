"""One worker thread that owns the model, and jobs that any number of pages may watch.

A page's generator may be resumed on another thread at every step, and a queue slot of the web server is free as soon
as a user leaves, while the step that is under way goes on. So the work happens on one thread of our own, and the page
only looks.
"""

from __future__ import annotations

import contextvars
import dataclasses
import logging
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from PIL.Image import Image

from mace_studio.errors import StudioError
from mace_studio.progress import Cancelled, Progress, Report
from mace_studio.runtime import failures

log = logging.getLogger(__name__)

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
# Jobs that are over are forgotten, the oldest first, where there are more than this, or they hold more bytes or are
# older than this; but the newest of them stays for the caller that waits for it.
KEPT, KEPT_BYTES, KEPT_SECONDS = 50, 512 * 2**20, 24 * 3600.0
EVENT_BYTES = 300  # measured
PIXEL_BYTES = {"I": 4, "F": 4, "I;16": 2}  # of each band
SENTENCE = 1000  # letters; what is shorter counts for nothing
BEGUN = 0.05  # fraction of a job from which on its pace tells when it ends

Work = Callable[[Report], Any]


class Job:
    """A piece of work under way: its state, what it has reported, its result or its error.

    Attributes:
        id: short and unguessable.
        title: what a person calls it.
        state: queued, running, done, failed or cancelled.
        events: everything that it has reported, oldest first.
        result: what it returned, once done.
        error: what it raised, once failed, without its traceback.
        started, ended: `time.monotonic()` when it began and when it was over, or None.
        preview: the image at work, small, as it was a moment ago, or None; no event keeps it.
        size: bytes of images and arrays in its events and result, once it is over.
        request: what it was asked to do, for a user who comes back to watch it.
        patience: seconds after which it is cancelled if nobody watches it.
        owners: who asked, each a name by which jobs are counted: the user, the address of their machine; the first
            one's turn it is.
    """

    def __init__(
        self,
        title: str,
        request: Any = None,
        patience: float = math.inf,
        *,
        owners: Sequence[str] = ("",),
        job_id: str = "",
        on_change: Callable[[Job], None] = lambda job: None,
    ) -> None:
        self.id = job_id or uuid.uuid4().hex
        self.title = title
        self.request = request
        self.patience = patience
        self.owners = tuple(owners)
        self.state = QUEUED
        self.events: list[Any] = []
        self.preview: Any = None
        self.result: Any = None
        self.error: BaseException | None = None
        self.started: float | None = None
        self.ended: float | None = None
        self.size = 0
        self._stage = ""
        self._context = contextvars.copy_context()
        self._on_change = on_change
        self._watched = time.monotonic()
        self._cancel = threading.Event()
        self._changed = threading.Condition()
        self._told = threading.Event()  # that it is over, to `on_change`

    @property
    def over(self) -> bool:
        return self.state in (DONE, FAILED, CANCELLED)

    def seconds_left(self) -> float | None:
        """At its pace so far; None where it has hardly begun."""
        last = self.events[-1] if self.events else None
        done = getattr(last, "fraction", 0.0)
        return last.seconds * (1 - done) / done if last is not None and done > BEGUN else None

    def cancel(self) -> None:
        """Ask the job to stop at its next step; returns at once. A job that has not begun is over at once."""
        with self._changed:
            self._cancel.set()
            before = self.state
            if before == QUEUED:
                self._end(CANCELLED)
        if before == QUEUED:
            self._tell()

    def watch(self, beat: float = 0.25) -> Iterator[Any]:
        """Yield the newest event every `beat` seconds, or None where there is none; the last one at once.

        No oftener, since a browser that is slower than the work would fall behind and not see its user's clicks.
        """
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
                with self._changed:
                    self._changed.wait_for(lambda: self.over, beat)
            elif over:
                return
            else:
                yield None

    def wait(self) -> Any:
        """Block until the job is over, and that is written down, watching it; its result, or its error raised."""
        for _ in self.watch():
            pass
        self._told.wait()  # or a process that ends now would leave it as one that was broken off
        if self.error is not None:
            raise self.error.with_traceback(None)  # of an earlier caller
        return self.result

    def report(self, event: Any) -> None:
        """The progress callback of the work.

        Raises:
            Cancelled: the job was cancelled, or nobody has watched it for as long as its patience lasts.
        """
        with self._changed:
            if isinstance(event, Progress):
                if event.preview is not None or event.result is not None or event.stage != self._stage:
                    self.preview = event.preview
                self._stage = event.stage
                event = dataclasses.replace(event, look=None, preview=None)
            self.events.append(event)
            self._changed.notify_all()
        if self._stopped():
            raise Cancelled

    def run(self, work: Work) -> None:
        """Do the work, in the context in which the job was made; raises nothing."""
        with self._changed:
            if self.over or self._stopped():
                self._end(CANCELLED)
            else:
                self.state, self.started = RUNNING, time.monotonic()
            self._changed.notify_all()
        self._tell()
        if self.over:
            return
        state = DONE
        try:
            self.result = self._context.run(work, self.report)
        except Cancelled:
            state = CANCELLED
        except BaseException as error:
            # What a user can solve is told in its sentence; a terminal shows the log, too.
            log.log(
                logging.INFO if isinstance(error, StudioError) else logging.ERROR,
                "%s failed",
                self.title,
                exc_info=True,
            )
            failures.let_go(error)
            self.error, state = error, FAILED
        size = size_of([self.events, self.result])
        with self._changed:
            self.size = size
            self._end(state)
        self._tell()

    def _tell(self) -> None:
        """Say that the state has changed; the caller does not hold the lock."""
        try:
            self._on_change(self)
        finally:
            if self.over:
                self._told.set()

    def _stopped(self) -> bool:
        return self._cancel.is_set() or time.monotonic() - self._watched > self.patience

    def _end(self, state: str) -> None:
        """Be over; the caller holds the lock."""
        self.state, self.preview = state, None
        self.ended = self.ended or time.monotonic()
        self._changed.notify_all()


class Worker:
    """Runs jobs one after another on a thread of its own, and remembers the newest ones.

    Owners take turns: of the jobs that wait, the first one of the owner whose last job began the longest ago is next.

    Args:
        each: jobs of one owner that may wait or run at a time.
        most: jobs of all of them.
        on_change: called with a job whenever its state has changed, on whatever thread changed it.
    """

    def __init__(
        self,
        each: float = math.inf,
        most: float = math.inf,
        on_change: Callable[[Job], None] = lambda job: None,
    ) -> None:
        self._each, self._most, self._on_change = each, most, on_change
        self._waiting: list[tuple[Job, Work]] = []
        self._turns: dict[str, int] = {}  # owner -> number of the turn that was theirs last
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Condition()
        threading.Thread(target=self._loop, name="model-worker", daemon=True).start()

    def submit(
        self,
        title: str,
        work: Work,
        request: Any = None,
        patience: float = math.inf,
        *,
        owners: Sequence[str] = ("",),
        job_id: str = "",
    ) -> Job:
        """Queue `work`, a function of a progress callback; what it returns is the job's result.

        A job that nobody has watched for `patience` seconds is cancelled: its user has gone.

        Args:
            title, work, request, patience: of the job.
            owners: names by which it counts; "" has no bound of its own.
            job_id: of a job that goes on after a restart; a new one when empty.

        Raises:
            StudioError: too many jobs wait already, of an owner or of all.
        """
        job = Job(title, request, patience, owners=owners, job_id=job_id, on_change=self._on_change)
        with self._lock:
            self._check_room(job)
            self._jobs[job.id] = job
            self._waiting.append((job, work))
            self._lock.notify_all()
        return job

    def find(self, job_id: str | None) -> Job | None:
        """The job with this id, unless it is long gone."""
        self._forget()
        return self._jobs.get(job_id or "")

    def jobs(self) -> list[Job]:
        """Every job that is remembered: what is over or runs, the oldest first, then what waits, the next first."""
        with self._lock:
            waiting = [job for job, _ in self._order()]
            return [job for job in self._jobs.values() if job not in waiting] + waiting

    def ahead(self, job: Job) -> int:
        """How many jobs must end before `job` begins."""
        with self._lock:
            order = [other for other, _ in self._order()]
            running = sum(other.state == RUNNING for other in self._jobs.values())
        return order.index(job) + running if job in order else 0

    def before(self, owner: str) -> list[Job]:
        """The jobs that must end before a new one of an owner would begin, the one that runs first."""
        new = Job("", owners=(owner,))
        with self._lock:
            running = [job for job in self._jobs.values() if job.state == RUNNING]
            order = [job for job, _ in self._order((new, lambda report: None))]
        return [*running, *order[: order.index(new)]]

    def move(self, job: Job, places: int) -> None:
        """Let a job that waits begin earlier (below 0) or later among the jobs of the same owner."""
        with self._lock:
            own = [i for i, (other, _) in enumerate(self._waiting) if other.owners[0] == job.owners[0]]
            at = next((n for n, i in enumerate(own) if self._waiting[i][0] is job), None)
            if at is None:
                return
            moved = [self._waiting[i] for i in own]
            moved.insert(max(at + places, 0), moved.pop(at))
            for i, pair in zip(own, moved, strict=True):
                self._waiting[i] = pair

    def _check_room(self, job: Job) -> None:
        """Raise a StudioError where no more jobs may wait; the caller holds the lock."""
        under_way = [other for other in self._jobs.values() if not other.over]
        for owner in filter(None, job.owners):
            if sum(owner in other.owners for other in under_way) >= self._each:
                raise StudioError(f"{self._each} of your jobs wait or run already; wait for one to end, or cancel one.")
        if len(under_way) >= self._most:
            raise StudioError(f"{len(under_way)} jobs wait here already; try again in a few minutes.")

    def _order(self, *more: tuple[Job, Work]) -> list[tuple[Job, Work]]:
        """What waits, and more behind it, in the order in which it will begin; the caller holds the lock."""
        waiting = [pair for pair in (*self._waiting, *more) if not pair[0].over]
        turns, order, turn = dict(self._turns), [], max(self._turns.values(), default=0)
        while waiting:
            pair = min(waiting, key=lambda pair: turns.get(pair[0].owners[0], 0))  # the first of equal ones
            waiting.remove(pair)
            turn += 1
            turns[pair[0].owners[0]] = turn
            order.append(pair)
        return order

    def _loop(self) -> None:
        while True:
            self._run_next()
            self._forget()

    def _run_next(self) -> None:
        """A function of its own, so that what the work was asked with is let go of at its end."""
        with self._lock:
            while not (order := self._order()):
                self._waiting.clear()  # at most jobs that were cancelled
                self._lock.wait()
            job, work = order[0]
            self._waiting = [pair for pair in self._waiting if pair[0] is not job and not pair[0].over]
            self._turns[job.owners[0]] = max(self._turns.values(), default=0) + 1
            order.clear()
        job.run(work)

    def _forget(self) -> None:
        with self._lock:
            over = sorted((job for job in self._jobs.values() if job.over), key=lambda job: job.ended or 0.0)
            count, size = len(over), sum(job.size for job in over)
            for job in over[:-1]:
                if count <= KEPT and size <= KEPT_BYTES and time.monotonic() - (job.ended or 0.0) <= KEPT_SECONDS:
                    break
                del self._jobs[job.id]
                count, size = count - 1, size - job.size


def size_of(value: object) -> int:
    """Bytes of the images, arrays, tensors, long texts and events in a result, however it holds them; each counts once.

    A view counts as all that it keeps alive. Of what can be called, such as a network, nothing is counted.
    """
    total, seen, waiting = 0, set[int](), [value]
    while waiting:
        part = waiting.pop()
        if id(part) not in seen and not callable(part):
            seen.add(id(part))
            own, inner = _content(part)
            total += own
            waiting.extend(inner)
    return total


def _content(part: Any) -> tuple[int, Iterable[Any]]:
    """Bytes of a part of a result itself, and its own parts."""
    if isinstance(part, Progress):
        return EVENT_BYTES, (part.result,)
    if isinstance(part, Image):
        return part.width * part.height * len(part.getbands()) * PIXEL_BYTES.get(part.mode, 1), ()
    if isinstance(part, str | bytes | bytearray):
        return len(part) if len(part) > SENTENCE else 0, ()
    if isinstance(part, Mapping):
        return 0, (*part, *part.values())
    if isinstance(part, list | tuple | set | frozenset):
        return 0, part
    if hasattr(part, "untyped_storage"):  # a tensor
        return part.untyped_storage().nbytes(), ()
    if hasattr(part, "nbytes"):
        base = getattr(part, "base", None)
        return (part.nbytes, ()) if base is None else (0, (base,))
    slots = [name for kind in type(part).__mro__ for name in getattr(kind, "__slots__", ())]
    return 0, (*getattr(part, "__dict__", {}).values(), *(getattr(part, name, None) for name in slots))
