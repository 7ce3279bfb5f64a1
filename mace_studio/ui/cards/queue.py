"""Several erasures one after another: what waits, in which order, and what a restart broke off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from mace_studio.errors import RecipeError, StudioError
from mace_studio.runtime.jobs import Job
from mace_studio.runtime.studio import Studio
from mace_studio.ui import notices
from mace_studio.ui.components import job_list
from mace_studio.ui.components.notice import CLEAR, notice
from mace_studio.ui.components.text import heading
from mace_studio.ui.gradio_compat import QUIET
from mace_studio.ui.notices import readable
from mace_studio.ui.tab import Listener

BEAT = 3.0  # seconds between two looks at jobs that are under way
ABOUT = "Erasures run one after another, also while no page is open. What a restart broke off can go on."
SHARED = "Erasures run one after another, while this page is open."

Update = dict[Any, Any]


class QueueCard:
    """Builds the card and answers its buttons.

    Args:
        studio: has the jobs.
        wait: is told how long a new erasure would wait.

    Attributes:
        show: for the event of the opened page, and for any after which there may be other jobs.
    """

    def __init__(self, studio: Studio, wait: gr.HTML) -> None:
        self.studio, self.wait = studio, wait
        with gr.Column(elem_classes="card expert", elem_id="queue-card"):
            heading("queue-title", "", "Queue", SHARED if studio.fixed else ABOUT)
            with gr.Row(elem_classes="button-row", elem_id="queue-buttons"):
                self.add = gr.Button("Add to the queue", size="sm", elem_id="queue-add")
            self.notice = notice("queue-notice")
            self.list = job_list.job_list("queue")
            self.timer = gr.Timer(BEAT, active=False)
        self._shown = [self.list, self.timer, wait]
        self.show = Listener(self.on_show, None, self._shown, also=[self.timer.tick])
        self.list.act(self.on_act, None, [self.notice, *self._shown], **QUIET)

    def wire(self, queue: Callable[..., Job], inputs: Sequence[Any]) -> None:
        """Connect the button that queues; `queue` makes a job of the values of `inputs`."""

        @readable
        def on_queue(*values: Any) -> Update:
            try:
                queue(*values)
            except RecipeError as error:
                return {self.notice: notices.problem(error)}
            return {self.notice: CLEAR} | self._listed()

        self.add.click(on_queue, list(inputs), [self.notice, *self._shown], **QUIET)

    @readable
    def on_show(self) -> Update:
        """List the jobs; look again soon while there are any under way."""
        return self._listed()

    @readable
    def on_act(self, event: gr.EventData) -> Update:
        """Do what a button of the list says."""
        job_id, action = str(event.id), str(event.action)
        broken_off = {one.id: one for one in self.studio.interrupted()}
        job = next((job for job in self.studio.jobs() if job.id == job_id), None)
        try:
            if job_id in broken_off and action == "resume":
                self.studio.resume(broken_off[job_id])
            elif job_id in broken_off and action == "forget":
                self.studio.forget(broken_off[job_id])
            elif job is not None and action == "cancel":
                job.cancel()
            elif job is not None and action in ("earlier", "later"):
                self.studio.move(job, -1 if action == "earlier" else 1)
        except StudioError as error:
            return {self.notice: {"text": notices.sentence(error), "target": ""}} | self._listed()
        return {self.notice: CLEAR} | self._listed()

    def _listed(self) -> Update:
        jobs = self.studio.jobs()
        under_way = [job for job in jobs if not job.over and job.request is not None]
        for job in under_way:
            next(job.watch(beat=0), None)  # to list it is to watch it
        ahead, seconds = self.studio.wait()
        return {
            self.list: job_list.rows(jobs, self.studio.interrupted()),
            self.timer: gr.Timer(BEAT, active=bool(under_way) or ahead > 0),
            self.wait: job_list.wait(ahead, seconds),
        }
