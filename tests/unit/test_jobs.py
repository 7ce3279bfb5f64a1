"""Jobs on one worker thread. Steps are gates that the test opens, so that nothing depends on timing."""

import contextvars
import gc
import threading
import time
import weakref
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from PIL import Image

from mace_studio.errors import StudioError
from mace_studio.progress import Progress
from mace_studio.runtime import jobs
from mace_studio.runtime.jobs import CANCELLED, DONE, FAILED, KEPT, QUEUED, RUNNING, Worker, size_of

LONG = 10.0  # seconds that nothing here should ever take


class Gate:
    """Work of many steps, each of which waits until the test lets it go; remembers what happened."""

    def __init__(self, steps: int = 3) -> None:
        self.steps, self.log = steps, []
        self._open, self._reached = threading.Semaphore(0), threading.Semaphore(0)

    def work(self, report):
        try:
            for i in range(self.steps):
                self._reached.release()
                assert self._open.acquire(timeout=LONG)
                self.log.append(i)
                report(i)
            return "result"
        finally:
            self.log.append("closed")

    def reached(self) -> None:
        assert self._reached.acquire(timeout=LONG)

    def let(self, steps: int = 1) -> None:
        for _ in range(steps):
            self._open.release()


def at_once(*events, result=None):
    def work(report):
        for event in events:
            report(event)
        return result

    return work


def crash(report):
    report(1)
    raise RuntimeError("no memory")


@pytest.fixture
def worker():
    return Worker()


def test_a_job_reports_events_and_returns_a_result(worker):
    job = worker.submit("count", at_once("a", "b", result=7), request="three")
    assert job.wait() == 7
    assert (job.state, job.events, job.result, job.error) == (DONE, ["a", "b"], 7, None)
    assert (job.title, job.request, job.over) == ("count", "three", True)


def test_cancelling_stops_at_the_next_event(worker):
    gate = Gate()
    job = worker.submit("slow", gate.work)
    gate.reached()
    job.cancel()
    assert job.state == RUNNING  # the step that is under way goes on
    gate.let()
    assert job.wait() is None
    assert job.state == CANCELLED
    assert gate.log == [0, "closed"]


def test_a_job_cancelled_in_the_queue_is_over_at_once_and_never_begins(worker):
    first, second = Gate(1), Gate(1)
    running = worker.submit("first", first.work)
    queued = worker.submit("second", second.work)
    third = worker.submit("third", at_once())
    first.reached()
    assert worker.ahead(third) == 2
    queued.cancel()
    assert queued.state == CANCELLED
    assert list(queued.watch()) == []
    assert worker.ahead(third) == 1
    first.let()
    third.wait()
    assert running.state == DONE
    assert queued.state == CANCELLED
    assert queued.started is None
    assert second.log == []


def test_cancelling_a_job_that_is_over_changes_nothing(worker):
    job = worker.submit("quick", at_once(result=1))
    job.wait()
    job.cancel()
    assert (job.state, job.result) == (DONE, 1)


def test_jobs_run_one_after_another_on_one_thread(worker):
    log = []

    def work(name, report):
        for _ in range(20):
            log.append((name, threading.get_ident()))
            time.sleep(0.001)
            report(name)

    jobs = [worker.submit(name, partial(work, name)) for name in "abc"]
    for job in jobs:
        job.wait()
    assert [name for name, _ in log] == list("a" * 20 + "b" * 20 + "c" * 20)
    assert len({thread for _, thread in log}) == 1
    assert threading.get_ident() not in {thread for _, thread in log}


@pytest.mark.parametrize("work", [crash, lambda report: 1 / 0, lambda: None])
def test_a_crash_is_kept_and_the_worker_lives_on(worker, work, caplog):
    job = worker.submit("crash", work)
    with pytest.raises((RuntimeError, ZeroDivisionError, TypeError)) as caught:
        job.wait()
    assert job.state == FAILED
    assert job.error is caught.value
    assert "crash failed" in caplog.text
    assert worker.submit("next", at_once(result=2)).wait() == 2


def test_a_job_that_raises_system_exit_does_not_end_the_worker(worker):
    def work(report):
        report(1)
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        worker.submit("exit", work).wait()
    assert worker.submit("next", at_once(result=2)).wait() == 2


def test_an_unwatched_job_is_cancelled_after_its_patience(worker):
    def endless(report):
        while True:
            time.sleep(0.005)
            report(1)

    job = worker.submit("endless", endless, patience=0.05)
    deadline = time.monotonic() + LONG
    while not job.over and time.monotonic() < deadline:
        time.sleep(0.005)
    assert job.state == CANCELLED
    assert job.events


def test_a_job_that_lost_its_user_in_the_queue_never_begins(worker):
    first, second = Gate(1), Gate(1)
    worker.submit("first", first.work)
    left = worker.submit("left", second.work, patience=0.01)
    first.reached()
    time.sleep(0.03)
    first.let()
    worker.submit("last", at_once()).wait()
    assert left.state == CANCELLED
    assert left.started is None
    assert second.log == []


@pytest.mark.parametrize("wait", [lambda job: list(job.watch(0.02)), lambda job: job.wait()])
def test_watching_or_waiting_keeps_a_job_alive(worker, wait):
    def work(report):
        for i in range(2):
            time.sleep(0.6)
            report(i)
        return "done"

    job = worker.submit("watched", work, patience=1.0)
    wait(job)
    assert (job.state, job.result) == (DONE, "done")


def test_watching_shows_the_newest_event_and_beats_while_there_is_none(worker):
    gate = Gate(2)
    job = worker.submit("slow", gate.work)
    gate.reached()
    view = job.watch(0.01)
    assert next(view) is None
    gate.let()
    assert next(event for event in view if event is not None) == 0
    gate.let()
    assert [event for event in view if event is not None] == [1]
    assert job.over


def test_any_number_of_watchers_see_the_end(worker):
    gate = Gate(1)
    job = worker.submit("slow", gate.work)
    seen = [[], []]
    threads = [threading.Thread(target=lambda s=s: s.extend(job.watch(0.01))) for s in seen]
    for thread in threads:
        thread.start()
    gate.let()
    for thread in threads:
        thread.join(LONG)
    assert not any(thread.is_alive() for thread in threads)
    assert [[event for event in s if event is not None] for s in seen] == [[0], [0]]


def test_watching_a_job_that_is_over_shows_its_last_event_only(worker):
    job = worker.submit("quick", at_once("a", "b", "c"))
    job.wait()
    assert list(job.watch()) == ["c"]
    assert list(job.watch()) == ["c"]


def test_ahead_counts_the_jobs_that_must_end_first(worker):
    gates = [Gate(1) for _ in range(3)]
    jobs = [worker.submit(str(i), gate.work) for i, gate in enumerate(gates)]
    gates[0].reached()
    assert [worker.ahead(job) for job in jobs] == [0, 1, 2]
    gates[0].let()
    gates[1].reached()
    assert [worker.ahead(job) for job in jobs] == [0, 0, 1]
    assert [job.state for job in jobs] == [DONE, RUNNING, QUEUED]
    for gate in gates[1:]:
        gate.let()
    jobs[2].wait()
    assert [worker.ahead(job) for job in jobs] == [0, 0, 0]
    assert Worker().ahead(jobs[0]) == 0


def test_jobs_are_found_by_id_until_many_newer_ones_are_over(worker):
    first = worker.submit("first", at_once())
    first.wait()
    assert worker.find(first.id) is first
    assert worker.find(None) is worker.find("") is worker.find("nonsense") is None
    for _ in range(KEPT + 5):
        last = worker.submit("more", at_once())
        last.wait()
    assert worker.find(first.id) is None
    assert worker.find(last.id) is last


def test_a_job_that_is_not_over_is_never_forgotten(worker):
    gate = Gate(1)
    running = worker.submit("running", gate.work)
    queued = [worker.submit("queued", at_once()) for _ in range(KEPT + 5)]
    assert worker.find(running.id) is running
    assert all(worker.find(job.id) is job for job in queued)
    gate.let()
    queued[-1].wait()


def test_work_sees_the_context_of_its_caller(worker):
    user = contextvars.ContextVar("user", default="nobody")

    def work(report):
        report(user.get())
        return user.get()

    user.set("Ada")
    assert worker.submit("who", work).wait() == "Ada"
    assert contextvars.Context().run(lambda: worker.submit("who", work).wait()) == "nobody"


# What jobs that are over keep in memory


@dataclass(frozen=True)
class Pair:
    before: Image.Image
    after: Image.Image
    name: str = "pair"


def test_the_size_of_a_result_is_that_of_its_images_and_arrays():
    """16 x 8 pixels of RGB are 384 bytes, of L 128; 10 x 10 in float32 are 400."""
    rgb, grey = Image.new("RGB", (16, 8)), Image.new("L", (16, 8))
    assert size_of("words") == size_of(None) == size_of(7) == size_of(Pair) == 0
    assert size_of([Pair(rgb, grey)]) == 384 + 128
    assert size_of({"a": (np.zeros((10, 10), np.float32), {"b": grey})}) == 400 + 128
    assert size_of([rgb, rgb, Pair(rgb, rgb)]) == 384


@dataclass(frozen=True, slots=True)
class Slots:
    image: Image.Image


class Plain:
    def __init__(self, *parts):
        self.parts = parts


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (Slots(Image.new("RGB", (16, 8))), 384),
        (Plain(Slots(Image.new("RGB", (16, 8))), Plain(Image.new("L", (16, 8)))), 384 + 128),
        (Image.new("F", (16, 8)), 512),
        (Image.new("I;16", (16, 8)), 256),
        ({"one": b"x" * 5000, "x" * 2000: bytearray(3000)}, 10_000),
        ({b"x" * 4000, b"y" * 2000}, 6000),
        (np.zeros(1000)[:1], 8000),
        ([array := np.zeros(1000), array[:1], array[1:]], 8000),
        ([Progress("lora", "cat", loss=0.5), Progress("images", result=Image.new("L", (16, 8)))], 2 * 300 + 128),
        (lambda: None, 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_size_of_a_result_is_counted_however_it_is_held(value, size):
    assert size_of(value) == size


def test_results_are_forgotten_by_their_bytes_the_oldest_first(worker, monkeypatch):
    monkeypatch.setattr(jobs, "KEPT_BYTES", 1000)
    large = [worker.submit(str(i), at_once(result=np.zeros(400, np.uint8))) for i in range(4)]
    small = worker.submit("small", at_once(np.zeros(100, np.uint8), result="of 100 bytes, in an event"))
    worker.submit("last", at_once()).wait()
    assert [worker.find(job.id) for job in large] == [None, None, *large[2:]]
    assert worker.find(small.id) is small and small.size == 100


def test_a_result_larger_than_the_bound_stays_until_the_next_job(worker, monkeypatch):
    monkeypatch.setattr(jobs, "KEPT_BYTES", 1000)
    huge = worker.submit("huge", at_once(result=np.zeros(5000, np.uint8)))
    huge.wait()
    assert worker.find(huge.id) is huge
    small = worker.submit("small", at_once())
    small.wait()
    assert worker.find(huge.id) is None and worker.find(small.id) is small


def test_jobs_are_forgotten_by_their_age(worker, monkeypatch):
    old, new = worker.submit("old", at_once()), worker.submit("new", at_once())
    new.wait()
    assert worker.find(old.id) is old
    monkeypatch.setattr(jobs, "KEPT_SECONDS", 0.0)
    assert worker.find(old.id) is None
    assert worker.find(new.id) is new  # the newest, for the caller that waits for it


class Weights:
    """Stands for gigabytes."""


def test_a_failed_job_keeps_nothing_of_its_frames(worker, monkeypatch, capsys):
    monkeypatch.setattr(jobs.log, "propagate", False)  # pytest keeps what it captures of a log, frames and all
    kept = []

    def inner():
        weights = Weights()
        kept.append(weakref.ref(weights))
        raise ValueError("inner")

    def work(report):
        weights = Weights()
        kept.append(weakref.ref(weights))
        try:
            inner()
        except ValueError as error:
            raise RuntimeError("outer") from error

    job = worker.submit("crash", work)
    with pytest.raises(RuntimeError, match="outer"):
        job.wait()
    logged = capsys.readouterr().err
    assert "crash failed" in logged and "ValueError: inner" in logged and "RuntimeError: outer" in logged
    assert job.error.__cause__ is job.error.__context__ is None
    gc.collect()
    assert [ref() for ref in kept] == [None, None]


def one_of_a_group(weights):
    try:
        raise ValueError("inner")
    except ValueError as error:
        raise ExceptionGroup("several", [error]) from None


def around_another(weights):
    try:
        raise ValueError("inner")
    except ValueError as error:
        raise RuntimeError(error) from None


def as_argument(weights):
    raise ValueError("wrong", weights)


def as_attribute(weights):
    error = RuntimeError("wrong")
    error.weights = [weights]
    raise error


def without_attribute(weights):
    return weights.missing


ALWAYS_THE_SAME = ValueError("inner")


def because_of_one_that_stays(weights):
    try:
        raise ALWAYS_THE_SAME
    except ValueError as error:
        raise RuntimeError("wrong") from error


def while_one_that_stays_was_handled(weights):
    try:
        raise ALWAYS_THE_SAME
    except ValueError:
        raise RuntimeError("wrong")  # noqa: B904 - the context is what this is about


@pytest.mark.parametrize(
    "fail",
    [
        one_of_a_group,
        around_another,
        as_argument,
        as_attribute,
        without_attribute,
        because_of_one_that_stays,
        while_one_that_stays_was_handled,
    ],
)
def test_a_failed_job_keeps_nothing_that_its_error_holds(worker, monkeypatch, fail):
    monkeypatch.setattr(jobs.log, "propagate", False)
    kept = []

    def work(report):
        weights = Weights()
        kept.append(weakref.ref(weights))
        fail(weights)

    job = worker.submit("crash", work)
    with pytest.raises(Exception, match=r"several|inner|wrong|missing"):
        job.wait()
    gc.collect()
    assert kept[0]() is None


def test_a_job_that_is_over_keeps_nothing_of_what_it_was_asked_with(worker):
    weights = Weights()
    kept, job = weakref.ref(weights), worker.submit("work", partial(lambda weights, report: 7, weights))
    job.wait()
    del weights
    gc.collect()
    assert kept() is None and job.result == 7


# Several jobs of one user, and several users


def begun(worker, gate, jobs):
    """The titles of jobs in the order in which they ran, once the gate of the job before them is opened."""
    gate.let()
    for job in jobs:
        job.wait()
    return [job.title for job in sorted(jobs, key=lambda job: job.started)]


def test_jobs_that_wait_can_be_put_in_another_order(worker):
    gate = Gate(1)
    worker.submit("first", gate.work)
    gate.reached()
    a, b, c = (worker.submit(name, at_once()) for name in "abc")
    worker.move(c, -2)
    worker.move(a, 5)
    assert [job.title for job in worker.jobs()] == ["first", "c", "b", "a"]
    assert [worker.ahead(job) for job in (a, b, c)] == [3, 2, 1]
    assert begun(worker, gate, [a, b, c]) == ["c", "b", "a"]
    worker.move(a, -1)  # it is over: nothing happens


def test_users_take_turns(worker):
    gate = Gate(1)
    worker.submit("first", gate.work, owners=("greedy",))
    gate.reached()
    many = [worker.submit(f"greedy {i}", at_once(), owners=("greedy",)) for i in range(5)]
    other = worker.submit("other", at_once(), owners=("other",))
    assert worker.ahead(other) == 1
    assert begun(worker, gate, [*many, other]) == ["other", *(f"greedy {i}" for i in range(5))]


def test_what_comes_before_a_new_job_is_known_before_it_is_asked_for(worker):
    gate = Gate(1)
    assert worker.before("other") == []
    first = worker.submit("first", gate.work, owners=("greedy",))
    gate.reached()
    many = [worker.submit(f"greedy {i}", at_once(), owners=("greedy",)) for i in range(2)]
    assert worker.before("other") == [first] and worker.before("greedy") == [first, *many]
    assert worker.jobs() == [first, *many]
    begun(worker, gate, many)
    assert worker.before("greedy") == []


def test_a_user_s_jobs_are_bounded_and_so_are_all():
    worker, gate = Worker(each=2, most=4), Gate(1)
    first = worker.submit("first", gate.work, owners=("a", "address"))
    gate.reached()
    queued = worker.submit("second", at_once(), owners=("a", "elsewhere"))
    for owners in (("a", "third"), ("a",)):
        with pytest.raises(StudioError, match="2 of your jobs wait or run"):
            worker.submit("too many", at_once(), owners=owners)
    worker.submit("b", at_once(), owners=("b", "address"))
    with pytest.raises(StudioError, match="2 of your jobs"):
        worker.submit("same address", at_once(), owners=("c", "address"))
    worker.submit("c", at_once(), owners=("c", "other"))
    with pytest.raises(StudioError, match="4 jobs wait here already"):
        worker.submit("all", at_once(), owners=("d", "more"))
    queued.cancel()
    worker.submit("room again", at_once(), owners=("a", "elsewhere"))
    gate.let()
    first.wait()


def test_a_listener_hears_of_every_change():
    heard = []
    worker, gate = Worker(on_change=lambda job: heard.append((job.title, job.state))), Gate(1)
    first = worker.submit("first", gate.work)
    gate.reached()
    worker.submit("second", at_once()).cancel()
    gate.let()
    first.wait()
    worker.submit("third", crash).watch()
    worker.submit("last", at_once()).wait()
    assert heard[:5] == [
        ("first", RUNNING), ("second", CANCELLED), ("first", DONE), ("third", RUNNING), ("third", FAILED),
    ]  # fmt: skip


def test_a_job_that_goes_on_keeps_its_id(worker):
    job = worker.submit("again", at_once(), job_id="0123")
    assert job.id == "0123" and worker.find("0123") is job
