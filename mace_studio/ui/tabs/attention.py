"""The Attention tab: what the model looks at for each word, before and after, and what the other words carry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from mace_studio.prompts import suggestions
from mace_studio.recipe import ImageRequest
from mace_studio.runtime import outputs
from mace_studio.runtime.jobs import Job
from mace_studio.runtime.studio import Studio
from mace_studio.ui import attention_view, form, notices, run_view
from mace_studio.ui.attention_view import ALL_HEADS, ALL_LAYERS
from mace_studio.ui.cards.job import JobCard, erased_models
from mace_studio.ui.files import download
from mace_studio.ui.notices import spoken
from mace_studio.ui.recipe_form import QUIET, STEPS, open_to

AS_IT_IS = "None: the model as it is"
FILES = (("-maps.png", "Figure, PNG"), ("-maps.pdf", "Figure, PDF"), (".npz", "Data, NPZ"))

Update = dict[Any, Any]


class AttentionTab:
    """Builds the tab and answers its buttons.

    Args:
        studio: draws, and knows the erased models.
        guidance: the scale to begin with.
        job_id: from `job_card.remembered`.

    Attributes:
        job: the reading that this browser watches.
        shown: what `on_return` updates.
    """

    def __init__(self, studio: Studio, guidance: float, job_id: gr.BrowserState) -> None:
        self.studio = studio
        self.offered = gr.State("")
        with gr.Row(elem_classes="columns", elem_id="attention-columns"):
            with gr.Column(scale=4, min_width=310):
                self._prompt_card(form.number_text(guidance), job_id)
                self._mass_card()
            with gr.Column(scale=10, min_width=330):
                self._maps_card()
        self._wire()

    def _prompt_card(self, guidance: str, job_id: gr.BrowserState) -> None:
        with gr.Column(elem_classes="card", elem_id="look-card"):
            run_view.heading("look-title", "", "What to look at", "One prompt and one seed, with both models.")
            self.name = gr.Dropdown(
                [AS_IT_IS],
                value=AS_IT_IS,
                label="Erased model",
                info="The Erase tab makes them",
                **open_to("look-model"),
            )
            self.prompt = gr.Textbox("", label="Prompt", lines=2, **open_to("look-prompt"))
            with gr.Row(elem_classes="triple-grid", elem_id="look-settings"):
                self.seed = self._number("0", "Seed", "look-seed")
                self.steps = self._number(STEPS, "Steps", "look-steps")
                self.guidance = self._number(guidance, "Guidance", "look-guidance")
            self.negative = gr.Textbox(
                "", label="Negative prompt", info="What to steer away from", max_lines=2, **open_to("look-negative")
            )
            self.job = JobCard(
                self.studio, "look", [("read", "Read attention"), ("residual", "Residual experiment")], job_id
            )
            run_view.hint(
                "residual-hint",
                "The residual experiment shows what the other words carry: the concept’s words are replaced by the end "
                "token, and drawn with the original weights, after the refinement alone, and after the whole erasure.",
            )

    def _number(self, value: str, label: str, elem_id: str) -> gr.Textbox:
        return gr.Textbox(value, label=label, max_lines=1, min_width=70, **open_to(elem_id))

    def _mass_card(self) -> None:
        with gr.Column(elem_classes="card", elem_id="mass-card"):
            run_view.heading("mass-title", "", "Attention mass", "Each word’s share, over all layers, heads and steps.")
            self.mass = gr.HTML(attention_view.EMPTY, label="Attention mass", apply_default_css=False, elem_id="mass")

    def _maps_card(self) -> None:
        with gr.Column(elem_classes="card", elem_id="maps-card"):
            run_view.heading(
                "maps-title",
                "",
                "Cross-attention of every word",
                "Press a word to enlarge it; point at a map to read it.",
            )
            with gr.Row(elem_classes="triple-grid", elem_id="maps-settings"):
                self.group = self._choice([ALL_LAYERS], "Layers", "maps-layers")
                self.head = self._choice([ALL_HEADS], "Heads", "maps-heads")
                self.side = self._choice(list(attention_view.SIDES)[:1], "Half", "maps-side")
            self.maps = attention_view.viewer()
            self.presence = gr.HTML("", label="What the judge sees", elem_id="presence")
            with gr.Row(elem_classes="button-row", elem_id="maps-files"):
                self.files = [
                    gr.DownloadButton(text, size="sm", interactive=False, elem_id=f"maps-file-{i}")
                    for i, (_, text) in enumerate(FILES)
                ]

    def _choice(self, choices: list[str], label: str, elem_id: str) -> gr.Dropdown:
        return gr.Dropdown(choices, value=choices[0], label=label, min_width=120, **open_to(elem_id))

    def _wire(self) -> None:
        asked = [self.job.job_id, self.name, self.prompt, self.seed, self.steps, self.guidance, self.negative]
        views = [self.group, self.head, self.side]
        self.shown = [*self.job.outputs, self.mass, *views, self.maps, self.presence, *self.files]
        read, residual = self.job.start
        read.click(self.on_read, asked, self.shown, concurrency_limit=None, **QUIET)
        residual.click(self.on_residual, asked, self.shown, concurrency_limit=None, **QUIET)
        self.group.input(self.on_group, [self.job.job_id, *views], [self.head, self.maps], **QUIET)
        for choice in (self.head, self.side):
            choice.input(self.on_view, [self.job.job_id, *views], self.maps, **QUIET)
        self.name.change(self.on_model, [self.name, self.prompt, self.offered], [self.prompt, self.offered], **QUIET)

    @spoken
    def on_open(self, made: str, chosen: str | None) -> Any:
        """List the erased models, with the newest run's chosen."""
        return erased_models(self.studio, made, chosen, AS_IT_IS)

    @spoken
    def on_model(self, name: str | None, prompt: str, offered: str) -> tuple[Any, str]:
        """Put a prompt about the first concept into the box, unless the user typed another."""
        if not self._erased(name) or prompt.strip() != offered:
            return gr.skip(), offered
        suggested = suggestions(self.studio.entry(name).recipe)
        return suggested[0][1], suggested[0][1]

    @spoken
    def on_read(self, job_id: str, name: str | None, *asked: str) -> Iterator[Update]:
        """Read the attention before and after."""

        def start() -> Job:
            return self.studio.inspect(self._erased(name) or None, _drawing(*asked))

        yield from self.job.begin(job_id, start, self._end, notices.ATTENTION_FIELDS)

    @spoken
    def on_residual(self, job_id: str, name: str | None, *asked: str) -> Iterator[Update]:
        """Draw what is left without the concept's words."""

        def start() -> Job:
            return self.studio.residual(self._erased(name), _drawing(*asked))

        yield from self.job.begin(job_id, start, self._end, notices.ATTENTION_FIELDS)

    @spoken
    def on_return(self, job_id: str) -> Iterator[Update]:
        """Show this browser's reading again after a reload."""
        yield from self.job.again(job_id, self._end, notices.ATTENTION_FIELDS)

    @spoken
    def on_group(self, job_id: str, group: str, head: str, side: str) -> tuple[Any, Any]:
        """Another layer group may have another number of heads."""
        inspection = self.job.result(job_id)
        if inspection is None:
            return gr.skip(), gr.skip()
        heads = attention_view.heads(inspection, group)
        head = head if head in heads else ALL_HEADS
        return gr.Dropdown(heads, value=head), attention_view.shown(inspection, group, head, side)

    @spoken
    def on_view(self, job_id: str, group: str, head: str, side: str) -> Any:
        inspection = self.job.result(job_id)
        return gr.skip() if inspection is None else attention_view.shown(inspection, group, head, side)

    def _end(self, job: Job) -> Update:
        inspection = job.result
        groups, sides = attention_view.groups(inspection), attention_view.sides(inspection)
        heads = attention_view.heads(inspection, ALL_LAYERS)
        paths = outputs.inspection(inspection, self.studio.output / "attention")
        files = [next(path for path in paths if path.name.endswith(ending)) for ending, _ in FILES]
        return {
            self.group: gr.Dropdown(groups, value=ALL_LAYERS),
            self.head: gr.Dropdown(heads, value=ALL_HEADS),
            self.side: gr.Dropdown(sides, value=sides[0]),
            self.maps: attention_view.shown(inspection, ALL_LAYERS, ALL_HEADS, sides[0]),
            self.mass: attention_view.mass_bars(inspection),
            self.presence: attention_view.presence(inspection),
            **{button: download(path, interactive=True) for button, path in zip(self.files, files, strict=True)},
        }

    @staticmethod
    def _erased(name: str | None) -> str:
        return "" if name in (None, AS_IT_IS) else name


def _drawing(prompt: str, seed: str, steps: str, guidance: str, negative: str) -> ImageRequest:
    return ImageRequest(
        (prompt.strip(),),
        tuple(form.seeds_from(seed)),
        form.steps_from(steps),
        form.guidance_from(guidance),
        negative or "",
    )
