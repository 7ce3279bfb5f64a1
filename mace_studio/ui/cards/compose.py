"""A new model from the chosen ones: put together, with concepts taken out or added."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from mace_studio.errors import StudioError
from mace_studio.recipe import Recipe, joined
from mace_studio.runtime.jobs import Job
from mace_studio.runtime.library import Entry
from mace_studio.runtime.studio import Studio
from mace_studio.ui import form, notices
from mace_studio.ui.cards.job import JobCard, Shows
from mace_studio.ui.components import model_list
from mace_studio.ui.components.text import estimate_missing, heading
from mace_studio.ui.gradio_compat import enabled
from mace_studio.ui.notices import readable
from mace_studio.ui.tab import Listener

PLACES = {"models": ("", ""), "remove": ("No longer erase", "#leave-out input"), "add": ("The Erase tab’s form", "")}

Update = dict[Any, Any]


class ComposeCard:
    """Builds the card and answers its button.

    Args:
        studio: composes.
        chosen: the list of models; its value holds those that are chosen.
        controls: of the recipe's form.
        job_id: from `gradio_compat.remembered`.

    Attributes:
        job: the composition that this browser watches.
        leave_out: the choice of concepts that are erased no longer.
    """

    def __init__(self, studio: Studio, chosen: gr.HTML, controls: Sequence[Any], job_id: gr.BrowserState) -> None:
        self.studio = studio
        with gr.Column(elem_classes="card", elem_id="compose-card"):
            heading(
                "compose-title", "", "New from the chosen", "Their LoRAs are fused again; settings are the first one’s."
            )
            with gr.Row(elem_classes="pair-grid", elem_id="compose-grid"):
                self.leave_out = gr.CheckboxGroup(
                    [], value=[], label="No longer erase", info="None: all stay erased", min_width=120,
                    **enabled("leave-out"),
                )  # fmt: skip
                self.name = gr.Textbox(
                    "", label="Name", info="Blank: made of the concepts", max_lines=1, min_width=120,
                    **enabled("compose-name"),
                )  # fmt: skip
            self.add = gr.Checkbox(
                False, label="Also erase the concepts in the Erase tab’s form", container=False, **enabled("add-form")
            )
            self.summary = gr.HTML("", label="What would be made", elem_id="compose-summary")
            self.job = JobCard(studio, "compose", [("compose", "Compose")], job_id, PLACES)
        self._asked = [chosen, self.leave_out, self.add, self.name, *controls]
        Listener(self.on_plan, self._asked, self.summary).on(chosen.change, self.leave_out.change, self.add.change)

    def wire(self, outputs: Sequence[Any], done: Callable[[Job], Update]) -> Any:
        """Connect the button; `done` says what else the page shows of a composition. Returns the button's event."""
        return self.job.wire([self.on_compose], self._asked, outputs, Shows(done=done))[0]

    @readable
    def on_plan(self, chosen: dict[str, Any], leave_out: list[str], add: bool, name: str, *values: Any) -> Any:
        """Say what would be made and what it takes, or why it cannot be."""
        if chosen and chosen["chosen"] is None:  # what is chosen stays, and is told next
            return gr.skip()
        recipes = [entry.recipe for entry in self._entries(chosen)]
        if not recipes:
            return ""
        erased = [concept.phrase for recipe in recipes for concept in recipe.concepts]
        try:
            added = _added(add, values)
            # The list still shows the concepts of a model that is chosen no longer.
            recipe = joined(recipes, [phrase for phrase in leave_out or [] if phrase in erased], added, name)
        except StudioError as error:
            return estimate_missing(notices.problem(error, PLACES)["text"])
        training = self.studio.estimate(replace(recipe, concepts=added.concepts)) if added else None
        return model_list.composition(recipe, training)

    def on_compose(self, chosen: dict[str, Any], leave_out: list[str], add: bool, name: str, *values: Any) -> Job:
        """Start a composition."""
        return self.studio.compose(self._entries(chosen), leave_out or [], _added(add, values), name)

    def _entries(self, chosen: dict[str, Any] | None) -> list[Entry]:
        return [self.studio.entry(name) for name in model_list.chosen_in(chosen)]


def _added(add: bool, values: Sequence[Any]) -> Recipe | None:
    return form.recipe_from(values) if add else None
