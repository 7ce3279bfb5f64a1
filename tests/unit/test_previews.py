"""When the image at work is looked at, and what becomes of it."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from PIL import Image

from mace_studio.progress import Progress, timed, within
from mace_studio.runtime import previews
from mace_studio.runtime.jobs import DONE, Job
from mace_studio.runtime.previews import Previews
from mace_studio.ui.components import progress


class Machine:
    """A clock, and a decoder that takes so many seconds for the size that is shown, and less for fewer cells."""

    def __init__(self, cost):
        self.now, self.cost, self.looks = 0.0, cost, []

    def look(self, cells):
        self.now += self.cost * (cells / previews.CELLS) ** 2
        self.looks.append(cells)
        return f"image at {self.now:.1f}"


def run(machine, steps, each):
    """Steps of so many seconds each; the seconds at which there was a preview."""
    shown, when = Previews(lambda: machine.now), []
    for step in range(steps):
        machine.now += each
        event = shown.of(Progress("images", step=step, look=machine.look))
        assert event.look is None
        when += [machine.now] if event.preview is not None else []
    return when


@pytest.mark.parametrize(("cost", "each"), [(0.001, 0.01), (0.02, 0.1), (0.5, 1.0), (2.0, 5.0), (8.0, 80.0)])
def test_previews_come_at_a_low_rate_and_take_a_small_share_of_the_time(cost, each):
    machine = Machine(cost)
    when = run(machine, 2000, each)
    assert when and when[0] >= previews.EVERY
    assert all(later - sooner >= previews.EVERY for sooner, later in pairwise(when))
    spent = sum(cost * (cells / previews.CELLS) ** 2 for cells in machine.looks)
    # The first small one, by which the cost is known, comes on top.
    assert spent <= previews.SHARE * machine.now + cost / 16


def test_a_quick_decoder_shows_an_image_every_two_seconds():
    assert len(run(Machine(0.001), 1000, 0.1)) == pytest.approx(1000 * 0.1 / previews.EVERY, abs=3)


def test_a_short_run_with_a_slow_decoder_is_not_held_up():
    machine = Machine(8.0)
    assert run(machine, 4, 5.0) == [] and machine.looks == [previews.FIRST]


def test_a_decoder_that_fails_is_not_asked_again_and_ends_nothing():
    asked = []

    def look(cells):
        asked.append(cells)
        raise MemoryError

    shown, times = Previews(iter(range(0, 1000, 5)).__next__), []
    for _ in range(20):
        times.append(shown.of(Progress("images", look=look)).preview)
    assert times == [None] * 20 and len(asked) == 1


def test_what_is_looked_at_reaches_the_whole_job():
    seen = []
    part = within(timed(seen.append, {"images": 1.0}), "images")
    part(Progress("generate", step=1, total=2, look=len))
    assert seen[0].look is len and seen[0].stage == "images"


def test_a_job_has_the_newest_preview_alone_and_no_event_keeps_one():
    seen = []

    def work(report):
        for event in (
            Progress("images", preview="one", look=len),
            Progress("images", preview="two"),
            Progress("images"),
            Progress("images", result="finished"),
            Progress("images", preview="three"),
            Progress("lora"),
            Progress("lora", preview="four"),
        ):
            report(event)
            seen.append(job.preview)

    job = Job("a job")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(job.run, work).result()
    assert seen == ["one", "two", "two", None, "three", None, "four"]
    assert job.state == DONE and job.preview is None
    assert all(event.look is None and event.preview is None for event in job.events)


def test_the_page_shows_the_image_at_work_beside_finished_ones():
    image = Image.new("RGB", (8, 8), "teal")
    finished = Progress("images", "cat", result=image)
    job = Job("a job")
    job.events, job.preview = [finished], image
    assert progress.work(job, None).count("<img") == 2
    job.events = [Progress("images", "cat")]
    assert 'alt="The image at work, not finished yet"' in progress.work(job, None)
