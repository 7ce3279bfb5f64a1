"""A new model from the chosen ones: put together, with concepts taken out or added."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from mace_studio.errors import StudioError
from mace_studio.recipe import Recipe, joined
from mace_studio.runtime.jobs import Job
from mace_studio.runtime.library import Entry
from mace_studio.runtime.studio import Studio
from mace_studio.ui import form, model_view, notices, run_view
from mace_studio.ui.cards.job import JobCard
from mace_studio.ui.notices import spoken
from mace_studio.ui.recipe_form import QUIET, open_to

FIELDS = {"remove": ("No longer erase", "#leave-out input"), "add": ("The Erase tab’s form", "")}

Update = dict[Any, Any]


class ComposeCard:
    """Builds the card and answers its button.

    Args:
        studio: composes.
        chosen: the list of models; its value holds those that are chosen.
        controls: of the Erase tab's form.
        job_id: from `job_card.remembered`.
        end: job that is done -> what else the page shows of it.

    Attributes:
        job: the composition that this browser watches.
        leave_out: the choice of concepts that are erased no longer.
        plan: the listener that says what would be made; to be called again when the choice changes.
    """

    def __init__(
        self,
        studio: Studio,
        chosen: gr.HTML,
        controls: Sequence[Any],
        job_id: gr.BrowserState,
        end: Callable[[Job], Update],
    ) -> None:
        self.studio, self.end = studio, end
        with gr.Column(elem_classes="card", elem_id="compose-card"):
            run_view.heading(
                "compose-title", "", "New from the chosen", "Their LoRAs are fused again; settings are the first one’s."
            )
            with gr.Row(elem_classes="pair-grid", elem_id="compose-grid"):
                self.leave_out = gr.Dropdown(
                    [], value=[], label="No longer erase", info="None: all of them", multiselect=True, min_width=120,
                    **open_to("leave-out"),
                )  # fmt: skip
                self.name = gr.Textbox(
                    "", label="Name", info="Blank: made of the concepts", max_lines=1, min_width=120,
                    **open_to("compose-name"),
                )  # fmt: skip
            self.add = gr.Checkbox(
                False, label="Also erase the concepts in the Erase tab’s form", container=False, **open_to("add-form")
            )
            self.summary = gr.HTML("", label="What would be made", elem_id="compose-summary")
            self.job = JobCard(studio, "compose", [("compose", "Compose")], job_id)
        asked = [chosen, self.leave_out, self.add, self.name, *controls]
        self.plan = {"fn": self.on_plan, "inputs": asked, "outputs": self.summary}
        gr.on([self.leave_out.change, self.add.change], **self.plan, trigger_mode="always_last", **QUIET)
        self._asked = [self.job.job_id, *asked]

    def wire(self, outputs: Sequence[Any]) -> None:
        """Connect the button; `outputs` is all that `end` may update beside the card."""
        self.shown = [*self.job.outputs, *outputs]
        self.job.start[0].click(self.on_compose, self._asked, self.shown, concurrency_limit=None, **QUIET)

    @spoken
    def on_plan(self, chosen: dict[str, Any], leave_out: list[str], add: bool, name: str, *values: Any) -> str:
        """Say what would be made and what it takes, or why it cannot be."""
        recipes = [entry.recipe for entry in self._entries(chosen)]
        if not recipes:
            return ""
        try:
            added = _added(add, values)
            recipe = joined(recipes, leave_out or [], added, name)
        except StudioError as error:
            return run_view.estimate_missing(notices.sentence(error))
        training = self.studio.estimate(replace(recipe, concepts=added.concepts)) if added else None
        return model_view.composition(recipe, training)

    @spoken
    def on_compose(
        self, job_id: str, chosen: dict[str, Any], leave_out: list[str], add: bool, name: str, *values: Any
    ) -> Iterator[Update]:
        """Start a composition and watch it."""

        def start() -> Job:
            return self.studio.compose(self._entries(chosen), leave_out or [], _added(add, values), name)

        yield from self.job.begin(job_id, start, self.end, FIELDS)

    @spoken
    def on_return(self, job_id: str) -> Iterator[Update]:
        """Show this browser's composition again after a reload."""
        yield from self.job.again(job_id, self.end, FIELDS)

    def _entries(self, chosen: dict[str, Any] | None) -> list[Entry]:
        return [self.studio.entry(name) for name in (chosen or {}).get("chosen", [])]


def _added(add: bool, values: Sequence[Any]) -> Recipe | None:
    return form.recipe_from(values) if add else None
