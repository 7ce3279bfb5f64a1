"""Run a task here or in another process, as a stream of its progress that ends with its result.

Everything behind the tasks are plain calls that report to a callback; `perform` is the one place that turns such a call
into a generator, which is what ZeroGPU (`spaces.GPU`) runs and what can be closed to cancel. `outcome` is its inverse.
Importing this is fast: torch and what stands on it are imported by the first `perform`.
"""

from __future__ import annotations

import contextvars
import os
import queue
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mace_studio.errors import StudioError
from mace_studio.paths import BUILT_IN
from mace_studio.progress import Cancelled, Progress, Report
from mace_studio.runtime.previews import Previews

# Waiting threads would spin, and beside other work on the machine every small operation would wait for its time slice:
# a run took over ten times as long. The variable is read once, when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which model a task works with, and where its files go.

    Attributes:
        source, device, dtype, low_memory: as `sd.model.load` takes them.
        output: the folder of erasures.
        cache: the folder of training images and of what else can be made again.
        captions: file of general captions; None takes those that go with the model.
        vae, text_encoder: as `sd.model.load` takes them.
        cluster: address of a Ray cluster for MACE and evaluations, "auto", or "" for this machine alone.
        worker_gpus: GPUs of each of its workers.
    """

    source: str = str(BUILT_IN)
    device: str = "auto"
    dtype: str = "auto"
    low_memory: bool = False
    output: Path = Path("output")
    cache: Path = Path("output/cache")
    captions: Path | None = None
    vae: str = ""
    text_encoder: str = ""
    cluster: str = ""
    worker_gpus: float = 1.0


@dataclass(frozen=True)
class Done:
    """The last event of a task that returned.

    Attributes:
        result: what it returned.
    """

    result: Any


@dataclass(frozen=True)
class Failed:
    """The last event of a task that raised an error which the user can read."""

    error: StudioError


Events = Generator[Progress | Done | Failed, None, None]
Perform = Callable[..., Events]

_in_use = threading.Lock()  # one task at a time has the model of this process


def perform(task: str, place: Place, *arguments: Any) -> Events:
    """Run one of `tasks.TASKS`; one at a time in a process. Closing the generator cancels the task.

    On ZeroGPU this runs in a forked process that is used again for the next user. Arguments and events are pickled; the
    return value of a generator is lost, and so is what an exception says, so both come as the last event.

    Args:
        task: its name.
        place: which model, and which folders.
        arguments: what the task takes beside the place.

    Yields:
        Its Progress; at last `Done` with what it returned, or `Failed` with a StudioError.

    Raises:
        Exception: of any other kind, as the task raised it.
    """
    from mace_studio.runtime.tasks import TASKS  # noqa: PLC0415

    events: queue.SimpleQueue[Progress | None] = queue.SimpleQueue()
    go_on = threading.Semaphore(0)
    closed = False
    result: Any = None
    error: BaseException | None = None

    previews = Previews()

    def report(event: Progress) -> None:
        events.put(previews.of(event))
        go_on.acquire()  # the task waits while an event is looked at
        if closed:
            raise Cancelled

    def run() -> None:
        nonlocal result, error
        try:
            result = TASKS[task](place, *arguments, progress=report)
        except BaseException as raised:
            error = raised
        events.put(None)

    with _in_use:
        # The context tells whose request this is, as it does in the thread that asks for the events.
        thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), name="task", daemon=True)
        thread.start()
        try:
            while (event := events.get()) is not None:
                yield event
                go_on.release()
        finally:
            closed = True
            go_on.release()
            thread.join()
    if error is not None and not isinstance(error, StudioError):
        raise error
    yield Done(result) if error is None else Failed(error)


def outcome(events: Events, progress: Report) -> Any:
    """What a task returned, from the events of `perform`.

    Args:
        events: closed at the end, so that an exception in `progress` cancels the task.
        progress: gets every Progress among them.

    Raises:
        StudioError: the task's own, or that the events ended early.
    """
    with closing(events):
        for event in events:
            if isinstance(event, Done):
                return event.result
            if isinstance(event, Failed):
                raise event.error
            progress(event)
    raise StudioError("The run was broken off before its end, as if its time was over; ask for less at once.")
