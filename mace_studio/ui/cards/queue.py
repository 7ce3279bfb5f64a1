"""Several erasures one after another: what waits, in which order, and, in both views, what a restart broke off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from mace_studio.errors import StudioError
from mace_studio.runtime.jobs import Job
from mace_studio.runtime.studio import Studio
from mace_studio.ui import notices
from mace_studio.ui.components import job_list
from mace_studio.ui.components.notice import CLEAR, notice
from mace_studio.ui.components.text import heading
from mace_studio.ui.gradio_compat import PICKED
from mace_studio.ui.notices import readable
from mace_studio.ui.tab import Listener

BEAT = 3.0  # seconds between two looks at jobs that are under way
IDLE = 15.0  # where none is: others may begin some, for which a new erasure waits
ABOUT = "Erasures run one after another, also while no page is open."
SHARED = "Erasures run one after another, while this page is open."

Update = dict[Any, Any]


class QueueCard:
    """Builds the card and answers its buttons.

    Args:
        studio: has the jobs.
        wait: is told how long a new erasure would wait.
        broken_off: the list of what a restart broke off.
        job_id: of the erasure that this browser watches; from `gradio_compat.remembered`.

    Attributes:
        goes_on: id of an erasure that was broken off and goes on; this browser watches no other one that is under way.
        problem: why a job cannot go on.
        show: for the event of the opened page, and for any after which there may be other jobs.
    """

    def __init__(
        self, studio: Studio, wait: gr.HTML, broken_off: gr.HTML, problem: gr.HTML, job_id: gr.BrowserState
    ) -> None:
        self.studio, self.wait, self.broken_off, self.problem = studio, wait, broken_off, problem
        self.goes_on = gr.State("")
        self.gone_on = gr.State([])  # ids of other jobs that go on since the page was opened
        with gr.Column(elem_classes="card expert", elem_id="queue-card"):
            heading("queue-title", "", "Queue", SHARED if studio.fixed else ABOUT)
            with gr.Row(elem_classes="button-row", elem_id="queue-buttons"):
                self.add = gr.Button("Add to the queue", size="sm", elem_id="queue-add")
            self.notice = notice("queue-notice")
            self.list = job_list.job_list("queue")
            self.timer = gr.Timer(BEAT, active=False)
        self._shown = [self.list, self.broken_off, self.timer, wait]
        self.show = Listener(self.on_show, self.gone_on, self._shown, also=[self.timer.tick])
        changed = [self.problem, self.goes_on, self.gone_on, *self._shown]
        for shown in (self.list, self.broken_off):
            shown.act(self.on_act, [job_id, self.gone_on], changed, **PICKED)

    def wire(self, queue: Callable[..., Job], inputs: Sequence[Any]) -> None:
        """Connect the button that queues; `queue` makes a job of the values of `inputs`."""

        @readable
        def on_queue(gone_on: list[str], *values: Any) -> Update:
            try:
                queue(*values)
            except StudioError as error:
                return {self.notice: notices.problem(error)}
            return {self.notice: CLEAR} | self._listed(gone_on)

        self.add.click(on_queue, [self.gone_on, *inputs], [self.notice, *self._shown], **PICKED)

    @readable
    def on_show(self, gone_on: list[str]) -> Update:
        """List the jobs; look again soon while there are any under way, and later in any case."""
        return self._listed(gone_on)

    @readable
    def on_act(self, watched: str, gone_on: list[str], event: gr.EventData) -> Update:
        """Do what a button of a list says."""
        job_id, action = str(event.id), str(event.action)
        broken_off = {one.id: one for one in self.studio.interrupted()}
        job = next((job for job in self.studio.jobs() if job.id == job_id), None)
        update: Update = {self.problem: CLEAR}
        if job_id in broken_off and action == "resume":
            own = self.studio.job(watched)
            try:
                self.studio.resume(broken_off[job_id])
            except StudioError as error:
                update = {self.problem: notices.plain(error)}
            else:
                if broken_off[job_id].method == "erase" and (own is None or own.over):
                    update[self.goes_on] = job_id
                else:
                    gone_on = [*gone_on, job_id]
                    update[self.gone_on] = gone_on
        elif job_id in broken_off and action == "forget":
            self.studio.forget(broken_off[job_id])
        elif job is not None and action == "cancel":
            job.cancel()
        elif job is not None and action in ("earlier", "later"):
            self.studio.move(job, -1 if action == "earlier" else 1)
        return update | self._listed(gone_on)

    def _listed(self, gone_on: list[str]) -> Update:
        jobs = self.studio.jobs()
        under_way = [job for job in jobs if not job.over and job.request is not None]
        for job in under_way:
            next(job.watch(beat=0), None)  # to list it is to watch it
        ahead, seconds = self.studio.wait()
        return {
            self.list: job_list.rows(jobs),
            self.broken_off: job_list.broken_off(self.studio.interrupted(), [job for job in jobs if job.id in gone_on]),
            self.timer: gr.Timer(BEAT if under_way or ahead else IDLE, active=True),
            self.wait: job_list.wait(ahead, seconds),
        }
