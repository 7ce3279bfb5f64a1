"""The preview of the refinement beside the λ: one image with and without it, at every edit, with nothing trained."""

from __future__ import annotations

import html
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import gradio as gr

from mace_studio.errors import RecipeError
from mace_studio.methods import usual_guidance
from mace_studio.prompts import suggestions
from mace_studio.recipe import ImageRequest, Recipe
from mace_studio.runtime.jobs import DONE, FAILED, Job
from mace_studio.runtime.studio import Studio
from mace_studio.ui import form, notices
from mace_studio.ui.components import progress
from mace_studio.ui.components.files import png_url
from mace_studio.ui.components.text import heading
from mace_studio.ui.components.token_counter import counted
from mace_studio.ui.gradio_compat import WAITING, enabled
from mace_studio.ui.notices import readable

if TYPE_CHECKING:
    from mace_studio.methods.mace.preview import Preview

STEPS = 12
PAUSE = 0.4  # seconds without another edit before it begins

Latest = dict[str, Any]


class PreviewCard:
    """Builds the card; `wire` connects it once the form is built.

    Args:
        studio: generates.
    """

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        with gr.Column(elem_classes="card expert", elem_id="preview-card"):
            heading(
                "preview-title",
                "",
                "Preview of the refinement",
                "Stage 1 alone; nothing is trained and no weight touched.",
            )
            self.live = gr.Checkbox(False, label="Preview while I edit", container=False, **enabled("preview-live"))
            self.prompt = gr.Textbox(
                "",
                label="Prompt to preview",
                placeholder="about the first concept",
                max_lines=2,
                **enabled("preview-prompt"),
            )
            counted(studio, self.prompt)
            self.shown = gr.HTML("", label="Preview", elem_id="preview")
        # One for each visit, changed in place: a later edit is seen by the handlers that are still at work.
        self.latest = gr.State({})

    def wire(self, controls: list[Any], edited: Any) -> None:
        """Listen to `edited`, the form's event for edits, and to the controls of this card."""
        inputs = [self.latest, self.live, self.prompt, *controls]
        for event in (self.live.change, self.prompt.change, edited.then):
            event(self.on_edit, inputs, self.shown, trigger_mode="multiple", **WAITING)

    @readable
    def on_edit(self, latest: Latest, live: bool, prompt: str, *values: Any) -> Iterator[Any]:
        """Wait for a pause, then preview; a new edit ends what an earlier one began."""
        turn = latest["turn"] = object()
        if (before := latest.get("job")) is not None:
            before.cancel()
        if not live:
            yield ""
            return
        time.sleep(PAUSE)
        if latest["turn"] is not turn:
            yield gr.skip()
            return
        try:
            recipe = form.recipe_from(values).check()
            job = latest["job"] = self.studio.preview(recipe, _images(recipe, prompt))
        except RecipeError as error:
            yield _sentence(notices.problem(error)["text"])
            return
        yield from self._watch(job)

    def _watch(self, job: Job) -> Iterator[Any]:
        for _ in job.watch():
            yield _sentence("Generating …" if job.events else progress.waiting(job, self.studio))
        if job.state == DONE:
            yield _pair(job.result, job.events[-1].seconds)
        elif job.state == FAILED:
            yield _sentence(notices.sentence(job.error))


def _images(recipe: Recipe, prompt: str) -> ImageRequest:
    asked = prompt.strip() or suggestions(recipe)[0][1]
    return ImageRequest((asked,), (recipe.seed,), steps=STEPS, guidance=usual_guidance(recipe))


def _pair(preview: Preview, seconds: float) -> str:
    sides = (("Before", preview.before), ("After the refinement", preview.after))
    images = "".join(
        f'<figure><img src="{png_url(image)}" alt="{side}: {html.escape(preview.request.prompts[0])}">'
        f"<figcaption>{side}</figcaption></figure>"
        for side, image in sides
    )
    facts = f"{preview.request.prompts[0]} · seed {preview.request.seeds[0]} · {STEPS} steps · {seconds:.1f} s"
    return (
        f'<div class="preview-pair">{images}</div><p class="hint">{html.escape(facts)}</p>'
        f"{progress.condition(f'{preview.condition:.1e}')}"
    )


def _sentence(text: str) -> str:
    return f'<p class="hint" role="status">{html.escape(text)}</p>'
