"""Start, progress, cancel and result of one job at a time; every job of the page is run by such a card."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import gradio as gr

from mace_studio.errors import RecipeError, StudioError
from mace_studio.runtime.jobs import DONE, FAILED, Job
from mace_studio.runtime.studio import Studio
from mace_studio.ui import notices
from mace_studio.ui.components import progress
from mace_studio.ui.components.notice import CLEAR, notice
from mace_studio.ui.gradio_compat import QUIET, WAITING
from mace_studio.ui.tab import Listener

Update = dict[Any, Any]
# Where the buttons stay at the bottom of a phone, what they start is shown far from them: the page scrolls there, again
# while it grows, until that is on top, the user touches something, or a field that has to be mended gets the focus.
SHOW_PROGRESS = """(...values) => {{
  const [buttons, progress] = ["#{0}-buttons", "#{0}-progress"].map((id) => document.querySelector(id));
  if (getComputedStyle(buttons).position !== "fixed") return values;
  const growing = new ResizeObserver(() => {{
    if (!progress.offsetParent) return;
    progress.scrollIntoView();
    if (progress.getBoundingClientRect().top < 1) growing.disconnect();
  }});
  growing.observe(document.body);
  for (const one of ["pointerdown", "focusin"]) addEventListener(one, () => growing.disconnect(), {{ once: true }});
  return values;
}}"""
UNDER_WAY = {"text": "A job is under way here; wait for it, or cancel it first.", "target": ""}


@dataclass(frozen=True, kw_only=True)
class Shows:
    """What a tab shows of its job, beside the card; each is a function of the job that returns an update.

    Attributes:
        begun: when it has just been started.
        live: at every new event, and once more when it is over.
        found: of the job and the results that its events have brought so far: whenever there are more of them, and once
            more when it is over, so that what there is stays where it was cancelled.
        done: when it came to its end.
        ended: the same, and not where it had come to its end before the page was opened.
        resumed: before anything else after a reload of the page.
    """

    begun: Callable[[Job], Update] = lambda job: {}
    live: Callable[[Job], Update] = lambda job: {}
    found: Callable[[Job, list[Any]], Update] = lambda job, results: {}
    done: Callable[[Job], Update] = lambda job: {}
    ended: Callable[[Job], Update] = lambda job: {}
    resumed: Callable[[Job], Update] = lambda job: {}


class JobCard:
    """Builds buttons, notice and progress into the card that is open, and watches the job that a button starts.

    Args:
        studio: knows the jobs.
        name: begins every elem_id.
        buttons: elem_id and text of each button that starts a job, the main one first.
        job_id: the job that this browser watches; from `gradio_compat.remembered`.
        places: where the fields are that an error of this job may name, see `notices.problem`.
        view: (job, studio) -> how far it is, as HTML.
        idle: what stands there before there is a job.
        main: whether the first button is the main one of its tab.

    Attributes:
        start: the buttons.
        resume: for the event of the opened page: shows this browser's job again, or that of another id. There once
            `wire` was called.
    """

    def __init__(
        self,
        studio: Studio,
        name: str,
        buttons: Sequence[tuple[str, str]],
        job_id: gr.BrowserState,
        places: notices.Places | None = None,
        view: Callable[[Job, Studio], str] = progress.work,
        idle: str = "",
        main: bool = True,
    ) -> None:
        self.studio, self.job_id, self._places, self._view = studio, job_id, places, view
        self._show_progress = SHOW_PROGRESS.format(name)
        self._stopping: WeakSet[Job] = WeakSet()
        with gr.Row(elem_classes="run-buttons", elem_id=f"{name}-buttons"):
            self.start = [
                gr.Button(
                    text, variant="primary" if main and not i else "secondary", scale=3, min_width=120, elem_id=elem_id
                )
                for i, (elem_id, text) in enumerate(buttons)
            ]
            self.cancel = gr.Button("Cancel", variant="stop", min_width=90, interactive=False, elem_id=f"{name}-cancel")
        self.notice = notice(f"{name}-notice")
        self.progress = gr.HTML(idle, label="Progress", elem_id=f"{name}-progress")
        self._own = [job_id, *self.start, self.cancel, self.notice, self.progress]
        self.cancel.click(self.on_cancel, job_id, None, queue=False, **QUIET)

    def wire(
        self,
        starts: Sequence[Callable[..., Job]],
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        shows: Shows,
    ) -> list[Any]:
        """Connect the buttons.

        Args:
            starts: for each button, (values of `inputs`) -> the job that it starts; a StudioError that it raises is
                shown in the card, a RecipeError at the field too. Its name becomes the handler's.
            inputs: whose values `starts` take.
            outputs: all that `shows` may update.
            shows: what the tab shows of the job.

        Returns:
            The event of each button, whose `then` comes when the job is over.
        """
        self._shows = shows
        self.resume = Listener(self.on_return, self.job_id, [*self._own, *outputs], waits=True)
        asked, shown = [self.job_id, *inputs], [*self._own, *outputs]
        return [
            button.click(self._handler(start), asked, shown, js=self._show_progress, **WAITING)
            for button, start in zip(self.start, starts, strict=True)
        ]

    def result(self, job_id: str) -> Any:
        """What the watched job came to, or None."""
        job = self.studio.job(job_id)
        return job.result if job is not None and job.state == DONE else None

    @notices.readable
    def on_cancel(self, job_id: str) -> None:
        """Ask the job to stop; the handler that watches it says so on the button."""
        if job := self.studio.job(job_id):
            self._stopping.add(job)
            job.cancel()

    @notices.readable
    def on_return(self, job_id: str) -> Iterator[Update]:
        """Show this browser's job again after a reload."""
        job = self.studio.job(job_id)
        if job is None:
            if all(one.id != job_id for one in self.studio.interrupted()):  # one that was broken off may go on
                yield {self.job_id: ""}
            return
        yield {self.job_id: job.id} | self._shows.resumed(job)
        yield from self._watch(job, returned=True)

    def _handler(self, start: Callable[..., Job]) -> Callable[..., Iterator[Update]]:
        def handler(job_id: str, *values: Any) -> Iterator[Update]:
            before = self.studio.job(job_id)
            if before is not None and not before.over:
                yield {self.notice: UNDER_WAY}
                return
            try:
                job = start(*values)
            except StudioError as error:
                yield {self.notice: notices.problem(error, self._places)}
                return
            yield {self.notice: CLEAR, self.job_id: job.id} | self._shows.begun(job)
            yield from self._watch(job)

        handler.__name__ = start.__name__
        return notices.readable(handler)

    def _watch(self, job: Job, returned: bool = False) -> Iterator[Update]:
        shown, was_over = 0, job.over
        for event in job.watch():
            # Gradio notices a cancel or a closed tab only at a yield, so there is one at every beat.
            fresh = event is not None or not job.events
            update = self._buttons(job) | (self._how_far(job) if fresh else {})
            if event is not None and len(so_far := results(job)) > shown:
                update |= self._shows.found(job, so_far)
                shown = len(so_far)
            yield update
        last = self._buttons(job) | self._how_far(job) | self._shows.found(job, results(job))
        yield last | ({self.notice: self._reason(job, returned)} if job.state == FAILED else {})
        if job.state == DONE and (update := self._shows.done(job) | ({} if was_over else self._shows.ended(job))):
            yield update

    def _how_far(self, job: Job) -> Update:
        return {self.progress: self._view(job, self.studio)} | self._shows.live(job)

    def _reason(self, job: Job, returned: bool) -> dict[str, str]:
        if isinstance(job.error, RecipeError) and not returned:
            return notices.problem(job.error, self._places)
        return notices.plain(job.error)

    def _buttons(self, job: Job) -> Update:
        stopping = job in self._stopping and not job.over
        cancel = gr.Button("Stopping …" if stopping else "Cancel", interactive=not job.over and not stopping)
        return {button: gr.Button(interactive=job.over) for button in self.start} | {self.cancel: cancel}


def results(job: Job) -> list[Any]:
    """What the events of a job have brought so far, such as pairs of images or rows of a table."""
    return [event.result for event in list(job.events) if event.result is not None]
