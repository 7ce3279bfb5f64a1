"""Workers on the machines of a Ray cluster. This is the only code that imports ray.

Ray places the workers, starts them again where they end, and repeats what they were at. Here is only what it does not
know: how many workers a cluster has room for, and how far they are.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from mace_studio.cluster.worker import Asked, Worker
from mace_studio.errors import StudioError
from mace_studio.progress import Progress

log = logging.getLogger(__name__)

BEAT = 0.25  # seconds between two looks at the workers
SILENT = 60.0  # seconds without an answer after which a worker may be waiting for room
RESTARTS = 3  # of a worker, and of a piece of work
WATCH = "watch"  # the threads of a worker that answer how far it is

Told = Callable[[float, str], None]  # how much is done, in the unit of the sizes; what is being done


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Which cluster, and what a worker takes of it.

    Attributes:
        address: "auto" for the one that runs on this machine or is named by RAY_ADDRESS, or else one that is started
            for the run; or an address such as "10.0.0.1:6379".
        gpus: GPUs of each worker, also a part of one. Without any GPU in the cluster a worker takes as many cores as
            this process has threads.

    Example:
        >>> cluster = Cluster(address="auto", gpus=0.5)
    """

    address: str = "auto"
    gpus: float = 1.0


@dataclass
class _Member:
    """A worker: its actor, the question how far it is that waits for an answer, the last answer and its time."""

    actor: Any
    question: Any = None
    answer: tuple[int, Progress] | None = None
    heard: float = 0.0


@contextmanager
def started(cluster: Cluster, asked: Asked, most: int) -> Iterator[Workers]:
    """Inside the `with` block there are workers; they end with it, also in the middle of their work.

    Args:
        cluster: its address, and what a worker takes of it.
        asked: what each worker is made with.
        most: how many of them have work at one time.

    Raises:
        StudioError: Ray is not installed, or there is no cluster at the address, or no room for a worker.
    """
    try:
        import ray  # noqa: PLC0415 - an extra, and it takes a second
    except ImportError as error:
        raise StudioError("A cluster needs Ray; install it with: pip install 'mace-studio[cluster]'") from error
    ours = not ray.is_initialized()
    if ours:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
        address = None if cluster.address == "auto" else cluster.address
        try:
            ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
        except (ConnectionError, ValueError, RuntimeError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise StudioError(f"There is no Ray cluster at {cluster.address}: {first}") from error
    workers = Workers(ray, cluster, asked)
    try:
        workers.start(most)
        yield workers
    finally:
        workers.stop()
        if ours:
            ray.shutdown()


class Workers:
    """As many workers as a cluster has room for, also while it grows; each has a model, loaded once.

    Args:
        ray: the module, connected.
        cluster: what a worker takes.
        asked: what each of them is made with.
    """

    def __init__(self, ray: Any, cluster: Cluster, asked: Asked) -> None:
        self._ray = ray
        on_gpu = cluster.gpus > 0 and ray.cluster_resources().get("GPU", 0) > 0
        self._takes = {"CPU": 1, "GPU": cluster.gpus} if on_gpu else {"CPU": asked.threads, "GPU": 0}
        self._asked = replace(asked, device="auto" if on_gpu else "cpu")
        self._class = ray.remote(concurrency_groups={WATCH: 1})(Worker).options(
            num_cpus=self._takes["CPU"], num_gpus=self._takes["GPU"], max_restarts=RESTARTS, max_task_retries=RESTARTS
        )
        self._members: list[_Member] = []

    def start(self, most: int) -> None:
        """Begin to start workers, `most` of them where there is room for so many.

        Raises:
            StudioError: there is no room for one.
        """
        if not self._room():
            wanted = " and ".join(f"{count:g} {name}" for name, count in self._takes.items() if count)
            raise StudioError(
                f"No machine of the cluster has room for a worker, which takes {wanted}. Add a machine, set "
                "OMP_NUM_THREADS to fewer threads, or give a worker a smaller part of a GPU."
            )
        for _ in range(min(self._room(), most)):
            self._add()

    def map(
        self, method: str, items: Sequence[Sequence[Any]], sizes: Sequence[float], told: Told
    ) -> Iterator[tuple[int, Any]]:
        """Have all items worked on.

        Args:
            method: of `Worker`; it takes the number of an item and the item, and returns the number and its result.
            items: the arguments of each.
            sizes: how much work each of them is.
            told: called often; it may raise `Cancelled`.

        Yields:
            Number and result of an item, as they end.

        Raises:
            StudioError: one that a worker raised, or a worker ended again and again.
        """
        from ray.util import ActorPool  # noqa: PLC0415

        pool = ActorPool([member.actor for member in self._members])
        for number, item in enumerate(items):
            pool.submit(lambda actor, value: getattr(actor, method).remote(*value), (number, *item))
        left = dict(enumerate(sizes))
        while left:
            while len(self._members) < min(self._room(), len(left)):
                pool.push(self._add())
            if (ended := self._ended(pool)) is not None:
                del left[ended[0]]
                yield ended
            self._listen()
            if len(left) <= len(self._members):
                self._make_room(pool)
            told(*self._said(sizes, left))

    def share(self, value: Any) -> Any:
        """A value that is part of many items, sent to each machine once."""
        return self._ray.put(value)

    def stop(self) -> None:
        """End all workers, whatever they do."""
        for member in self._members:
            self._end(member)
        self._members = []

    def _ended(self, pool: Any) -> tuple[int, Any] | None:
        """Number and result of an item that has ended; None if none does within a beat."""
        errors = self._ray.exceptions
        try:
            return pool.get_next_unordered(timeout=BEAT)
        except TimeoutError:
            return None
        except errors.RayTaskError as error:
            if isinstance(error.cause, StudioError):
                raise error.cause from None
            raise
        except errors.RayActorError as error:
            raise StudioError(
                f"A worker of the cluster ended {RESTARTS + 1} times, as it does where memory runs out. Give each "
                f"worker more of it, or train fewer concepts at once. ({error})"
            ) from error

    def _room(self) -> int:
        has = self._ray.cluster_resources()
        return min(int(has.get(name, 0) // count) for name, count in self._takes.items() if count)

    def _add(self) -> Any:
        actor = self._class.remote(self._asked)
        self._members.append(_Member(actor, heard=time.monotonic()))
        log.info("worker %d of the cluster is started", len(self._members))
        return actor

    def _end(self, member: _Member) -> None:
        with suppress(Exception):  # it may be gone, and with it the cluster
            self._ray.kill(member.actor)

    def _listen(self) -> None:
        """Take the answers that are there, and ask again; nothing is waited for."""
        for member in self._members:
            if member.question is None:
                member.question = member.actor.watch.options(concurrency_group=WATCH).remote()
            if self._ray.wait([member.question], timeout=0)[0]:
                question, member.question = member.question, None
                with suppress(self._ray.exceptions.RayError):  # of a worker that has just ended
                    member.answer, member.heard = self._ray.get(question), time.monotonic()

    def _make_room(self, pool: Any) -> None:
        """Let go of an idle worker where another may wait for its place, because its own machine is gone."""
        silent = [m for m in self._members if time.monotonic() - m.heard > SILENT]
        if silent and (idle := pool.pop_idle()) is not None:
            for member in [m for m in self._members if m.actor == idle]:
                self._end(member)
                self._members.remove(member)

    def _said(self, sizes: Sequence[float], left: dict[int, float]) -> tuple[float, str]:
        """How much is done, with what is half done, and the newest phrase at work."""
        done, phrase = sum(sizes) - sum(left.values()), ""
        for member in self._members:
            if member.answer is not None and member.answer[0] in left:
                number, at = member.answer
                done, phrase = done + left[number] * at.fraction, at.concept or phrase
        count = len(self._members)
        return done, " · ".join(filter(None, [phrase, f"{count} worker{'' if count == 1 else 's'}"]))
