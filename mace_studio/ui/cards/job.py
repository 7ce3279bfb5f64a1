"""Start, progress and cancel of one job at a time, which outlives a reload of the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr

from mace_studio.errors import RecipeError
from mace_studio.runtime.jobs import DONE, FAILED, Job
from mace_studio.runtime.studio import Studio
from mace_studio.ui import notices, run_view
from mace_studio.ui.notices import spoken
from mace_studio.ui.recipe_form import QUIET

Update = dict[Any, Any]
End = Callable[[Job], Update]


def remembered(name: str) -> gr.BrowserState:
    """A job id that outlives a reload; to be made outside of the tabs, since a closed tab's is not read back."""
    return gr.BrowserState("", storage_key=f"mace-{name}", secret="mace-studio")


def erased_models(studio: Studio, made: str, chosen: str | None, *other: str) -> gr.Dropdown:
    """The choice of erased models: the newest run's, or what was chosen, or the newest; `other` choices come first."""
    names = [entry.name for entry in studio.entries()]
    choice = next((name for name in (made, chosen, *names) if name in names), other[0] if other else None)
    return gr.Dropdown([*other, *names], value=choice)


class JobCard:
    """Builds buttons, notice and progress into the card that is open, and watches the job that a button starts.

    Args:
        studio: knows the jobs.
        name: begins every elem_id.
        buttons: elem_id and text of each button that starts a job, the main one first.
        job_id: the job that this browser watches; from `remembered`.
        live: job under way -> what the tab shows of it so far.

    Attributes:
        start: the buttons.
        outputs: what `begin` and `again` update, beside what `end` updates.
    """

    def __init__(
        self,
        studio: Studio,
        name: str,
        buttons: Sequence[tuple[str, str]],
        job_id: gr.BrowserState,
        live: End = lambda job: {},
    ) -> None:
        self.studio, self.job_id, self._live = studio, job_id, live
        with gr.Row(elem_classes="run-buttons", elem_id=f"{name}-buttons"):
            self.start = [
                gr.Button(text, variant="secondary" if i else "primary", scale=3, min_width=120, elem_id=elem_id)
                for i, (elem_id, text) in enumerate(buttons)
            ]
            self.cancel = gr.Button("Cancel", variant="stop", min_width=90, interactive=False, elem_id=f"{name}-cancel")
        self.notice = notices.notice(f"{name}-notice")
        self.progress = gr.HTML("", label="Progress", elem_id=f"{name}-progress")
        self.outputs = [self.job_id, *self.start, self.cancel, self.notice, self.progress]
        self.cancel.click(self.on_cancel, self.job_id, self.cancel, queue=False, **QUIET)

    def begin(
        self, job_id: str, start: Callable[[], Job], end: End, fields: dict[str, tuple[str, str]]
    ) -> Iterator[Update]:
        """Start a job, unless one is under way, and watch it.

        Args:
            job_id: of the job before.
            start: may raise a RecipeError, which the notice then shows.
            end: job that is done -> what the tab shows of it.
            fields: as in `notices.problem`.
        """
        before = self.studio.job(job_id)
        if before is not None and not before.over:
            yield {self.notice: {"text": "Something is under way here; wait, or cancel it first.", "target": ""}}
            return
        try:
            job = start()
        except RecipeError as error:
            yield {self.notice: notices.problem(error, fields)}
            return
        yield {self.notice: notices.CLEAR, self.job_id: job.id}
        yield from self._watch(job, end, fields)

    def again(self, job_id: str, end: End, fields: dict[str, tuple[str, str]]) -> Iterator[Update]:
        """Show this browser's job again after a reload."""
        job = self.studio.job(job_id)
        if job is None:
            yield {self.job_id: ""}
            return
        yield from self._watch(job, end, fields)

    @spoken
    def on_cancel(self, job_id: str) -> Any:
        if job := self.studio.job(job_id):
            job.cancel()
        return "Stopping …"

    def result(self, job_id: str) -> Any:
        """What the watched job came to, or None."""
        job = self.studio.job(job_id)
        return job.result if job is not None and job.state == DONE else None

    def _watch(self, job: Job, end: End, fields: dict[str, tuple[str, str]]) -> Iterator[Update]:
        for _ in job.watch():
            # Gradio notices a cancel or a closed tab only at a yield, so there is one at every beat.
            yield self._view(job) | self._live(job)
        yield self._view(job) | (end(job) if job.state == DONE else {self.job_id: ""})
        if job.state == FAILED and isinstance(job.error, RecipeError):
            yield {self.notice: notices.problem(job.error, fields)}
        elif job.state == FAILED:
            raise notices.failure(job.error)

    def _view(self, job: Job) -> Update:
        return {
            self.progress: run_view.work(job, self.studio),
            **{button: gr.Button(interactive=job.over) for button in self.start},
            self.cancel: gr.Button("Cancel", interactive=False) if job.over else gr.Button(interactive=True),
        }
