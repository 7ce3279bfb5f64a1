"""What an erasure did, at a glance: a concept, a synonym, a kept phrase and its neighbours, before and after."""

from __future__ import annotations

import html
import json
from typing import TYPE_CHECKING, Any

import gradio as gr

from mace_studio.prompts import suggestions
from mace_studio.recipe import ImageRequest, Recipe
from mace_studio.runtime import vocabulary
from mace_studio.runtime.jobs import DONE, Job
from mace_studio.runtime.studio import Studio
from mace_studio.settings import ImageSettings
from mace_studio.ui import kinds
from mace_studio.ui.cards.job import JobCard, Shows
from mace_studio.ui.components import progress, verdict
from mace_studio.ui.components.files import png_url

if TYPE_CHECKING:
    from mace_studio.analysis.compare import Pair

STEPS = 15
WORDS, BEYOND = 3, 4  # of each role, and of neighbours that are not kept: three or four seconds on the built-in model
# The same for a model that is not the built-in one: as many images as without a judge, or a few more.
FEW_WORDS, FEW_BEYOND, PAIRS = 1, 2, 5
ROLES = {"erased": "Erased", "synonym": "Synonym", "kept": "Kept"}
# Pressed when an erasure ended while the page watched it, once the panel with its result is there.
PRESS = """() => {
  const due = Date.now() + 10000;
  const press = () => {
    const button = document.querySelector("#show-outcome");
    if (button) button.click();
    else if (Date.now() < due) setTimeout(press, 50);
  };
  press();
}"""

Update = dict[Any, Any]


class OutcomeCard:
    """Builds the images and their button into the panel of an erasure's result.

    Args:
        studio: generates.
        made: name of the erasure.
        job_id: from `gradio_compat.remembered`.
    """

    def __init__(self, studio: Studio, made: gr.State, job_id: gr.BrowserState) -> None:
        self.studio = studio
        self.images = gr.HTML("", label="Before and after", apply_default_css=False, elem_id="outcome")
        button = ("show-outcome", "Show before and after")
        self.job = JobCard(studio, "outcome", [button], job_id, view=_progress, main=False)
        self.job.wire([self.on_show], [made], [self.images], Shows(begun=self._begun, found=self._found))

    def on_show(self, made: str) -> Job:
        """Let a judge look at the erasure that was made last; without one, generate one prompt of each role.

        The built-in model brings a judge of what it has learned, which passes over other concepts, and beside another
        model may stand a CLIP.
        """
        recipe = self.studio.entry(made).recipe
        own = self.studio.vocabulary()
        phrases = {concept.phrase for concept in recipe.concepts}
        if own and len(own.unknown(phrases)) < len(phrases):
            return self.studio.sample(made, words=WORDS, beyond=BEYOND)
        if own is None and (judge := vocabulary.clip_beside(self.studio.source)):
            return self.studio.sample(made, words=FEW_WORDS, beyond=FEW_BEYOND, pairs=PAIRS, judge=judge)
        images = getattr(recipe.settings, "images", ImageSettings())
        usual = self.studio.with_defaults(ImageSettings(steps=STEPS, guidance=images.guidance))
        request = ImageRequest(
            tuple(_prompts(recipe, own).values()), (recipe.seed,), steps=usual.steps, guidance=usual.guidance
        )
        return self.studio.compare(made, request)

    def _begun(self, job: Job) -> Update:
        return {self.images: ""}

    def _found(self, job: Job, found: list[Any]) -> Update:
        """What is found so far: rows of a report, or pairs of images."""
        if not found:
            return {}
        if not isinstance(found[0], tuple):
            return {self.images: (_changes(found) if job.over else "") + _figures(found)}
        rows = [row for _, row in found]
        said = verdict.verdict if self.studio.vocabulary() else verdict.probabilities
        end = said(rows, job.request[1]) + verdict.advice(rows, job.request[1]) if job.over else ""
        return {self.images: end + verdict.figures(rows)}


def _progress(job: Job, studio: Studio) -> str:
    """How far it is; where it came to its end the images say so."""
    return "" if job.state == DONE else progress.work(job, studio)


def _prompts(recipe: Recipe, own: vocabulary.Vocabulary | None) -> dict[str, str]:
    """The first suggested prompt of each role, in the order of `ROLES`."""
    first = {role: prompt for role, prompt in reversed(suggestions(recipe, kinds.of_kept(recipe, own)))}
    return {role: first[role] for role in ROLES if role in first}


def _phrases(recipe: Recipe) -> dict[str, str]:
    """The first phrase of each role, in the order of their prompts."""
    synonyms = [word for concept in recipe.concepts for word in concept.synonyms]
    named = {
        "erased": recipe.concepts[0].phrase,
        "synonym": next(iter(synonyms), ""),
        "kept": next(iter(recipe.kept), ""),
    }
    return {role: phrase for role, phrase in named.items() if phrase}


def _changes(pairs: list[Pair]) -> str:
    """One line for a model without a judge: how far the images of each role moved."""
    names = {"erased": "", "synonym": "synonym ", "kept": "kept "}
    parts = [
        f"{names[role]}<b>{html.escape(phrase)}</b>: changed by {pair.change:.0f} of 255"
        for (role, phrase), pair in zip(_phrases(_recipe(pairs)).items(), pairs, strict=False)
    ]
    return f'<p class="verdict" role="status">{" · ".join(parts)}</p>'


def _recipe(pairs: list[Pair]) -> Recipe:
    return Recipe.from_json(json.dumps(pairs[0].settings["recipe"]))


def _figures(pairs: list[Pair]) -> str:
    figures = "".join(
        f"<figure><figcaption>{ROLES[role]}: {html.escape(pair.prompt)} · seed {pair.seed}</figcaption>"
        f'<img src="{png_url(pair.before)}" alt="before"><img src="{png_url(pair.after)}" alt="after">'
        f"<p>changed by {pair.change:.0f} of 255; should be {'small' if role == 'kept' else 'large'}</p></figure>"
        for role, pair in zip(_phrases(_recipe(pairs)), pairs, strict=False)
    )
    return f'<div class="outcome">{figures}</div>'
