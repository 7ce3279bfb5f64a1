"""The Erase tab: the recipe's form on the left, the run on the right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from mace_studio.errors import RecipeError
from mace_studio.masks import MaskSheet
from mace_studio.recipe import Recipe
from mace_studio.runtime import outputs
from mace_studio.runtime.jobs import DONE, FAILED, Job
from mace_studio.runtime.studio import Studio
from mace_studio.ui import form, notices, run_view
from mace_studio.ui.cards import masks as masks_card
from mace_studio.ui.cards.job import remembered
from mace_studio.ui.cards.masks import MasksCard
from mace_studio.ui.cards.preview import PreviewCard
from mace_studio.ui.files import download
from mace_studio.ui.notices import spoken
from mace_studio.ui.recipe_form import QUIET, RecipeForm

# On a phone the button is fixed at the bottom and the run is far below the form.
SHOW_RUN = """(...values) => {
  if (innerWidth <= 700) document.querySelector("#run-card").scrollIntoView({ block: "start" });
  return values;
}"""

Update = dict[Any, Any]


class EraseTab:
    """Builds the tab and answers its buttons.

    Attributes:
        form: the recipe's form.
        masks: the card of training images and masks.
        job_id: the run that this browser watches; it outlives a reload.
        compare: the button that leads to the Compare tab.
        made: the name of the erasure that was made last, or "".
        ran: the event after which a new erasure may exist.
        counts: the listener that counts what a run takes; to be called again once the model is there.
        shown: what `on_return` updates.
    """

    def __init__(self, studio: Studio, start: Recipe) -> None:
        self.studio = studio
        self.form = RecipeForm(start, studio.fixed)
        self.job_id = remembered("erase")
        self.made = gr.State("")
        self.form.bar()
        with gr.Row(elem_classes="columns", elem_id="erase-columns"):
            with gr.Column(scale=5, min_width=330):
                self.form.concepts_card()
                self.form.keep_card()
            with gr.Column(scale=4, min_width=330):
                self.form.settings_card()
            with gr.Column(scale=4, min_width=330):
                self._run_card(start)
                self.preview = PreviewCard(studio)
                self._loss_card()
        self.masks = MasksCard(studio, remembered("masks"))
        self._wire()

    def _run_card(self, start: Recipe) -> None:
        with gr.Column(elem_classes="card", elem_id="run-card"):
            run_view.heading("run-title", "4", "Run")
            self.estimate = gr.HTML(self._estimate(start), label="Estimate", elem_id="estimate")
            with gr.Row(elem_id="run-buttons", elem_classes="run-buttons"):
                self.erase = gr.Button(_erase(len(start.concepts)), variant="primary", scale=3, elem_id="erase")
                self.cancel = gr.Button("Cancel", variant="stop", min_width=90, interactive=False, elem_id="cancel")
            self.notice = notices.notice("notice")
            self.progress = gr.HTML(run_view.idle(), label="Progress", elem_id="progress")
            with gr.Column(visible=False, elem_classes="panel", elem_id="result") as self.result:
                self.summary = gr.HTML("", label="Result", elem_id="summary")
                with gr.Row(elem_classes="button-row", elem_id="result-buttons"):
                    self.compare = gr.Button("Compare", variant="primary", size="sm", elem_id="to-compare")
                    self.weights_file = gr.DownloadButton("Download weights", size="sm", elem_id="weights-file")
                    self.recipe_file = gr.DownloadButton("Download recipe", size="sm", elem_id="recipe-file")

    def _loss_card(self) -> None:
        with gr.Column(elem_classes="card", elem_id="loss-card"):
            self.loss = gr.HTML(run_view.losses(None, None), label="Attention loss", elem_id="loss")

    def _wire(self) -> None:
        counted = [self.erase, self.estimate, self.form.preset_about, self.form.use_preset]
        edited = [self.form.preset, self.masks.sheet, *self.form.controls]
        self.counts = {"fn": self.on_edit, "inputs": edited, "outputs": [*counted, self.masks.status]}
        self.counts["concurrency_limit"] = 1  # answered in the order asked, or an older one could stand over a newer
        self.form.wire(self.counts, self.masks.grid)
        self.preview.wire(self.form.controls)
        self.masks.wire(self.form.controls)
        shown = [self.notice, self.erase, self.cancel, self.progress, self.loss, self.result, self.summary]
        shown += [self.weights_file, self.recipe_file, self.made, self.job_id]
        asked = [self.job_id, self.masks.sheet, *self.form.controls]
        self.ran = self.erase.click(self.on_erase, asked, shown, js=SHOW_RUN, concurrency_limit=None, **QUIET)
        self.cancel.click(self.on_cancel, self.job_id, self.cancel, queue=False, **QUIET)
        self.shown = [*self.form.controls, *shown]

    @spoken
    def on_edit(self, preset: str | None, sheet: MaskSheet | None, *values: Any) -> Update:
        """Count what the recipe takes as it is now, what the chosen preset would change, and which masks still fit."""
        count = len(values[0] or [])
        try:
            recipe = form.recipe_from(values)
            text = self._estimate(recipe)
        except RecipeError as error:
            return {self.erase: _erase(count), self.estimate: run_view.estimate_missing(notices.problem(error)["text"])}
        update: Update = {self.erase: _erase(count), self.estimate: text} | self.masks.told(sheet, recipe)
        if preset:
            update[self.form.preset_about] = run_view.preset_change(recipe, self.form.presets[preset])
            update[self.form.use_preset] = gr.Button(interactive=True)
        return update

    @spoken
    def on_erase(self, job_id: str, sheet: MaskSheet | None, *values: Any) -> Iterator[Update]:
        """Start a run, with the masks that were drawn, and watch it."""
        before = self.studio.job(job_id)
        if before is not None and not before.over:
            yield {self.notice: {"text": "A run is under way; wait for it, or cancel it first.", "target": ""}}
            return
        try:
            recipe = form.recipe_from(values)
            job = self.studio.erase(recipe, masks_card.given(sheet, recipe))
        except RecipeError as error:
            yield {self.notice: notices.problem(error)}
            return
        yield {self.notice: notices.CLEAR, self.job_id: job.id, self.result: gr.Column(visible=False)}
        yield from self._watch(job)

    @spoken
    def on_return(self, job_id: str) -> Iterator[Update]:
        """Show the run of this browser again after a reload, with its recipe in the form."""
        job = self.studio.job(job_id)
        if job is None:
            yield {self.job_id: ""}
            return
        yield dict(zip(self.form.controls, form.values_from(job.request), strict=True))
        yield from self._watch(job)

    @spoken
    def on_cancel(self, job_id: str) -> Any:
        if job := self.studio.job(job_id):
            job.cancel()
        return "Stopping …"

    def _watch(self, job: Job) -> Iterator[Update]:
        for event in job.watch():
            # Gradio notices a cancel or a closed tab only at a yield, so there is one at every beat.
            fresh = event is not None or not job.events
            yield self._buttons(job) | (self._view(job) if fresh else {})
        yield self._buttons(job) | self._view(job) | self._end(job)
        if job.state == FAILED:
            raise notices.failure(job.error)

    def _buttons(self, job: Job) -> Update:
        cancel = gr.Button("Cancel", interactive=False) if job.over else gr.Button(interactive=True)
        return {self.erase: gr.Button(interactive=job.over), self.cancel: cancel}

    def _view(self, job: Job) -> Update:
        return {self.progress: run_view.run(job, self.studio), self.loss: run_view.losses(job, job.request)}

    def _end(self, job: Job) -> Update:
        if job.state != DONE:
            return {self.job_id: ""}
        entry = job.result
        return {
            self.result: gr.Column(visible=True),
            self.summary: run_view.summary(entry),
            self.weights_file: download(entry.path),
            self.recipe_file: download(outputs.recipe(entry.recipe, self.studio.output / "recipes")),
            self.made: entry.name,
        }

    def _estimate(self, recipe: Recipe) -> str:
        try:
            return run_view.estimate(self.studio.estimate(recipe.check()))
        except RecipeError as error:
            return run_view.estimate_missing(notices.problem(error)["text"])


def _erase(count: int) -> str:
    return f"Erase {run_view.counted_as(count, 'concept')}"
