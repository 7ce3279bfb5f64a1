"""Spill-over beyond the list: neighbours that a recipe neither erases nor keeps, and what became of them."""

from __future__ import annotations

import html
from dataclasses import replace
from typing import Any

import gradio as gr

from mace_studio.errors import RecipeError
from mace_studio.evaluation.plan import NEIGHBOUR
from mace_studio.evaluation.report import ALL, Row
from mace_studio.recipe import Recipe
from mace_studio.runtime import vocabulary
from mace_studio.runtime.jobs import Job
from mace_studio.ui import form
from mace_studio.ui.cards.job import JobCard, Shows, results
from mace_studio.ui.components import verdict
from mace_studio.ui.components.model_list import called
from mace_studio.ui.components.text import heading
from mace_studio.ui.gradio_compat import QUIET
from mace_studio.ui.notices import readable
from mace_studio.ui.tab import Shared

WORDS, PAIRS = 12, 48  # neighbours, and images of each side over all of them
# Pressed once the form shows the longer list.
ERASE = """async () => {
  const texts = (selector) => [...document.querySelectorAll(selector)].map((one) => one.textContent);
  const kept = texts("#beyond [data-changed] b");
  for (let waited = 0; waited < 100; waited += 1) {
    await new Promise((done) => setTimeout(done, 100));
    const shown = texts("#preserve li span");
    if (kept.every((phrase) => shown.includes(phrase))) return document.querySelector("#erase").click();
  }
}"""

Update = dict[Any, Any]


class BeyondCard:
    """Builds the card; `wire` connects it to the choice of erased models.

    Args:
        shared: of the tabs.
    """

    def __init__(self, shared: Shared) -> None:
        self.studio, self.shared, self.job_id = shared.studio, shared, shared.jobs["beyond"]
        with gr.Column(elem_classes="card", elem_id="beyond-card"):
            heading(
                "beyond-title",
                "",
                "Beyond your list",
                f"Up to {WORDS} neighbours that you neither erase nor keep; what changed comes first.",
            )
            self.job = JobCard(self.studio, "beyond", [("look-beyond", "Look at neighbours")], self.job_id, main=False)
            self.ranks = gr.HTML("", label="Neighbours", apply_default_css=False, elem_id="beyond")
            self.keep = gr.Button(
                "Keep what changed, and erase again", size="sm", visible=False, elem_id="keep-and-erase"
            )

    def wire(self, names: gr.CheckboxGroup, judge: gr.Textbox) -> Any:
        """Connect the buttons.

        Args:
            names: the chosen erased models, of which the first counts.
            judge: a CLIP model; blank for the model's own judge.

        Returns:
            The event whose `then` comes when a look is over.
        """
        shows = Shows(begun=self._begun, found=self._found)
        looked = self.job.wire([self.on_look], [names, judge], [self.ranks, self.keep], shows)[0]
        filled = [*self.shared.filled, self.shared.tabs]
        self.keep.click(self.on_keep, self.job_id, filled, **QUIET).then(None, js=ERASE)
        return looked

    def on_look(self, names: list[str], judge: str) -> Job:
        """Let a judge look at neighbours of what the first chosen model erases: the one named, or the model's own."""
        if not names:
            raise RecipeError("evaluate", "Choose an erased model above.")
        self.studio.check_judge(typed := judge.strip())
        beside = None if self.studio.vocabulary() else vocabulary.clip_beside(self.studio.source)
        return self.studio.sample(names[0], beyond=WORDS, pairs=PAIRS, judge=typed or beside)

    @readable
    def on_keep(self, job_id: str) -> list[Any]:
        """Put the recipe into the form, with the neighbours that changed on its preserve list."""
        job = self.studio.job(job_id)
        if job is None:
            return [gr.skip()] * (len(self.shared.filled) + 1)
        recipe: Recipe = job.request[1]
        kept = (*recipe.preserve, *(row.word for row in verdict.changed(_rows(results(job)))))
        return [*form.filling(replace(recipe, preserve=kept)), gr.Tabs(selected="erase")]

    def _begun(self, job: Job) -> Update:
        return {self.ranks: self._of(job), self.keep: gr.Button(visible=False)}

    def _found(self, job: Job, found: list[Any]) -> Update:
        rows = _rows(found)
        if not rows:
            return {}
        offered = job.over and bool(verdict.changed(rows))
        return {self.ranks: self._of(job) + verdict.ranks(rows), self.keep: gr.Button(visible=offered)}

    def _of(self, job: Job) -> str:
        """Which model is looked at; others may be chosen beside it."""
        (label,) = called(self.studio, job.request[:1])
        return f'<p class="hint">Neighbours of what <b>{html.escape(label)}</b> erases</p>'


def _rows(found: list[tuple[str, Row]]) -> list[Row]:
    return [row for _, row in found if row.role == NEIGHBOUR and row.word != ALL]
