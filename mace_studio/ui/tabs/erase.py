"""The Erase tab: the recipe's form on the left, the run on the right."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import gradio as gr

from mace_studio import masks
from mace_studio.errors import RecipeError, StudioError
from mace_studio.masks import MaskSheet
from mace_studio.recipe import Recipe
from mace_studio.runtime import library
from mace_studio.runtime.estimate import counted_as
from mace_studio.runtime.jobs import Job
from mace_studio.ui import form, notices
from mace_studio.ui.cards import masks as masks_card
from mace_studio.ui.cards.job import JobCard, Shows
from mace_studio.ui.cards.masks import MasksCard
from mace_studio.ui.cards.outcome import PRESS, OutcomeCard
from mace_studio.ui.cards.preview import PreviewCard
from mace_studio.ui.cards.queue import QueueCard
from mace_studio.ui.cards.recipe_form import RecipeForm
from mace_studio.ui.components import job_list, progress
from mace_studio.ui.components.first_run import first_run
from mace_studio.ui.components.notice import notice
from mace_studio.ui.components.text import estimate, estimate_missing, heading
from mace_studio.ui.gradio_compat import FILL, QUIET, download, offer
from mace_studio.ui.notices import readable
from mace_studio.ui.tab import (
    ERASURES_CHANGED,
    MODEL_LOADED,
    MODEL_TIMED,
    PAGE_OPENED,
    SELECTED,
    Listener,
    Newest,
    Shared,
)

# On a phone the button is fixed at the bottom and the run is far below the form.

Update = dict[Any, Any]


class EraseTab:
    """Builds the tab and answers its buttons."""

    def __init__(self, shared: Shared) -> None:
        self.studio, self.newest, self.outcome_id = shared.studio, shared.newest, shared.jobs["outcome"]
        self.start, self.made = shared.start, shared.made
        self.returned, self.came_back = gr.State(""), offer("recipe")
        self.ended = gr.State("")  # the job that came to its end while this page watched it
        self._queued: WeakKeyDictionary[Job, tuple[Recipe, str]] = WeakKeyDictionary()  # with a digest of the masks
        self.form = RecipeForm(shared.start, self.studio)
        first_run()
        self.form.bar()
        with gr.Row(elem_classes="columns", elem_id="erase-columns"):
            with gr.Column(scale=5, min_width=330):
                self.form.concepts_card()
                self.form.keep_card()
            with gr.Column(scale=4, min_width=330):
                self.form.settings_card()
            with gr.Column(scale=4, min_width=330):
                self._run_card(shared.start, shared.jobs["erase"])
                self.queue = QueueCard(self.studio, self.wait, self.broken_off, self.problem, shared.jobs["erase"])
                self.preview = PreviewCard(self.studio)
                self._loss_card()
        self.masks = MasksCard(self.studio, shared.jobs["masks"])
        shared.controls = self.form.controls
        edited, erased = self._wire()
        shared.filled = self.form.filled
        for tab, button in self.leads.items():
            button.click(partial(_lead, tab), self.made, [self.newest, shared.tabs], **QUIET)
        going_on = replace(self.job.resume, inputs=self.queue.goes_on).on(self.queue.goes_on.change)
        if not self.studio.fixed:  # where a GPU is lent call by call, the user presses the button
            self.ended.change(None, js=PRESS)
        self.listens = {
            PAGE_OPENED: [
                Listener(self.on_return, self.job.job_id, self.returned),
                self.job.resume,
                self.masks.job.resume,
                self.outcome.job.resume,
                self.queue.show,
            ],
            SELECTED: [self.queue.show],
            MODEL_LOADED: [
                self.form.model_listener(),
                edited,
            ],  # the memory is known once the model is loaded, the time when it is timed
            MODEL_TIMED: [edited],
        }
        self.emits = {ERASURES_CHANGED: [erased.then, going_on.then]}

    def _run_card(self, start: Recipe, job_id: gr.BrowserState) -> None:
        with gr.Column(elem_classes="card", elem_id="run-card"):
            heading("run-title", "4", "Run")
            self.estimate = gr.HTML(self._estimate(start), label="Estimate", elem_id="estimate")
            self.broken_off = job_list.job_list("broken-off", job_list.BROKEN_OFF)
            self.problem = notice("broken-off-notice")
            button = ("erase", _button_text(len(start.concepts)))
            self.job = JobCard(
                self.studio, "erase", [button], job_id, view=progress.run, idle=progress.idle(start.method)
            )
            with gr.Column(visible=False, elem_classes="panel", elem_id="result") as self.result:
                self.summary = gr.HTML("", label="Result", elem_id="summary")
                with gr.Row(elem_classes="button-row", elem_id="result-buttons"):
                    self.leads = {
                        "compare": gr.Button("Compare", variant="primary", size="sm", elem_id="to-compare"),
                        "attention": gr.Button("Attention", size="sm", elem_id="to-attention"),
                        "evaluate": gr.Button("Evaluate", size="sm", elem_id="to-evaluate"),
                    }
                    self.weights_file = gr.DownloadButton("Download weights", size="sm", elem_id="weights-file")
                    self.recipe_file = gr.DownloadButton("Download recipe", size="sm", elem_id="recipe-file")
                # Below the buttons, which would move under the pointer while images come.
                self.outcome = OutcomeCard(self.studio, self.made, self.outcome_id)
            # At the end: it comes for a moment while the judge looks, and would move the buttons above.
            self.wait = gr.HTML("", label="Wait", elem_id="wait")

    def _loss_card(self) -> None:
        with gr.Column(elem_classes="card expert", elem_id="loss-card"):
            self.loss = gr.HTML(progress.losses(None, None), label="Attention loss", elem_id="loss")

    def _wire(self) -> tuple[Listener, Any]:
        erase = self.job.start[0]
        counted = [erase, self.estimate, self.form.preset_about, self.form.use_preset, self.masks.status]
        counted += self.form.suggested.shown
        # Answered in the order asked, or an older answer could stand over a newer.
        edited = Listener(
            self.on_edit,
            [self.form.preset, self.masks.sheet, *self.form.controls],
            counted,
            options={"concurrency_limit": 1},
        )
        event = self.form.wire(edited, [self.job.notice, self.queue.notice, self.masks.job.notice], self.masks.grid)
        self.preview.wire(self.form.controls, event)
        self.masks.wire(self.form.controls)
        files = [self.weights_file, self.recipe_file]
        shown = [self.loss, self.result, self.summary, *files, self.made, self.newest, self.ended]
        shows = Shows(begun=self._begun, live=self._losses, done=self._result, ended=self._ended, resumed=self._begun)
        asked = [self.masks.sheet, *self.form.controls]
        self.queue.wire(self.on_queue, asked)
        about, *seen = sorted(self.form.controls, key=lambda control: not isinstance(control, gr.State))
        returned = self.returned.change(self.on_returned, self.returned, [about, self.came_back], **QUIET)
        returned.then(None, [self.came_back, *seen], seen, js=FILL, **QUIET)
        return edited, self.job.wire([self.on_erase], asked, shown, shows)[0]

    @readable
    def on_edit(self, preset: str | None, sheet: MaskSheet | None, *values: Any) -> Update:
        """Say what the recipe takes as it is now, what the chosen preset would change, and which masks still fit."""
        button = _button_text(len(values[0] or []))
        try:
            recipe = form.recipe_from(values)
        except RecipeError as error:
            text = estimate_missing(notices.problem(error)["text"])
            return {self.job.start[0]: button, self.estimate: text}
        update: Update = {self.job.start[0]: button, self.estimate: self._estimate(recipe)}
        update |= self.masks.status_of(sheet, recipe)
        update |= self.form.suggested.update(recipe, form.left_over(recipe, values))
        if preset:
            update[self.form.preset_about] = self.form.preset_text(recipe, preset)
            update[self.form.use_preset] = gr.Button(interactive=True)
        return update

    def on_erase(self, sheet: MaskSheet | None, *values: Any) -> Job:
        """Start a run, with the masks that the user made."""
        recipe = form.recipe_from(values)
        return self.studio.erase(recipe, masks_card.fitting_masks(sheet, recipe))

    def on_queue(self, sheet: MaskSheet | None, *values: Any) -> Job:
        """Let a run wait for its turn; it goes on while no page shows it."""
        recipe = form.recipe_from(values)
        given = masks_card.fitting_masks(sheet, recipe)
        asked = (recipe, masks.digest(given))
        if any(self._queued.get(job) == asked for job in self.studio.jobs() if not job.over):  # as by two quick presses
            raise StudioError("The same erasure is in the queue already.")
        job = self.studio.erase(recipe, given, watched=False)
        self._queued[job] = asked
        return job

    def _begun(self, job: Job) -> Update:
        return {self.result: gr.Column(visible=False)}

    @readable
    def on_return(self, job_id: str) -> str:
        """Say which job this browser comes back to, if any: only then every control of the form is updated."""
        return job_id if self.studio.job(job_id) else ""

    @readable
    def on_returned(self, job_id: str) -> tuple[Any, Any]:
        """Fill the form with the recipe of this browser’s job, once: at each of its events the page would be slow.

        What the user has typed by then stays.
        """
        job = self.studio.job(job_id)
        return (gr.skip(), gr.skip()) if job is None else form.offered(self.start, job.request)

    def _losses(self, job: Job) -> Update:
        return {self.loss: progress.losses(job, job.request)}

    def _result(self, job: Job) -> Update:
        entry = job.result
        return {
            self.result: gr.Column(visible=True),
            self.summary: progress.summary(entry),
            self.weights_file: download(entry.path),
            self.recipe_file: download(library.write_recipe(entry)),
            self.made: entry.name,
            self.newest: Newest.of(entry.name),
        }

    def _ended(self, job: Job) -> Update:
        return {self.ended: job.id}

    def _estimate(self, recipe: Recipe) -> str:
        try:
            counted = self.studio.estimate(self.studio.check(recipe))
            vocabulary = self.studio.vocabulary()
            unknown = vocabulary.warning(recipe) if vocabulary else ""
            return estimate(counted.summary(), counted.brief()) + (estimate_missing(unknown) if unknown else "")
        except RecipeError as error:
            return estimate_missing(notices.problem(error)["text"])


def _lead(tab: str, made: str) -> tuple[Newest, Any]:
    """Go to a tab, with the erasure that was made chosen there."""
    return Newest.of(made), gr.Tabs(selected=tab)


def _button_text(count: int) -> str:
    return f"Erase {counted_as(count, 'concept')}"
