"""The Compare tab: the same prompt and seed, before and after an erasure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr
from PIL import Image

from mace_studio.prompts import suggestions
from mace_studio.recipe import ImageRequest
from mace_studio.runtime import outputs
from mace_studio.runtime.jobs import Job
from mace_studio.runtime.studio import Studio
from mace_studio.ui import form, notices, run_view
from mace_studio.ui.cards.job import JobCard, erased_models
from mace_studio.ui.components.divider import divided, divider
from mace_studio.ui.files import download, page_file
from mace_studio.ui.notices import spoken
from mace_studio.ui.recipe_form import QUIET, STEPS, open_to

GRID_HEIGHT = 256

Update = dict[Any, Any]


class CompareTab:
    """Builds the tab and answers its buttons.

    Args:
        studio: draws, and knows the erased models.
        guidance: the scale to begin with.
        job_id: from `job_card.remembered`.

    Attributes:
        job: the comparison that this browser watches.
        shown: what `on_return` updates.
    """

    def __init__(self, studio: Studio, guidance: float, job_id: gr.BrowserState) -> None:
        self.studio = studio
        self.offered = gr.State("")
        with gr.Row(elem_classes="columns", elem_id="compare-columns"):
            with gr.Column(scale=4, min_width=310):
                self._prompt_card(form.number_text(guidance), job_id)
            with gr.Column(scale=6, min_width=330):
                self._pair_card()
            with gr.Column(scale=4, min_width=310):
                self._figures_card()
                self._suggestion_card()
        self._grid_card()
        self._wire()

    def _prompt_card(self, guidance: str, job_id: gr.BrowserState) -> None:
        with gr.Column(elem_classes="card", elem_id="draw-card"):
            run_view.heading("draw-title", "", "What to draw", "Every prompt with every seed, with both models.")
            self.name = gr.Dropdown(
                [], label="Erased model", info="The Erase tab makes them", **open_to("erased-model")
            )
            self.prompts = gr.Textbox("", label="Prompts", info="One a line", lines=4, **open_to("prompts"))
            self.seeds = gr.Textbox(
                "0-3", label="Seeds", info="Such as 0, 1, 2 or 0-3", max_lines=1, **open_to("seeds")
            )
            with gr.Row(elem_classes="pair-grid", elem_id="draw-settings"):
                self.steps = gr.Textbox(
                    STEPS, label="Steps", info="Denoising steps", max_lines=1, min_width=100, **open_to("draw-steps")
                )
                self.guidance = gr.Textbox(
                    guidance, label="Guidance", info="1 is none", max_lines=1, min_width=100, **open_to("draw-guidance")
                )
            self.negative = gr.Textbox(
                "", label="Negative prompt", info="What to steer away from", max_lines=2, **open_to("negative")
            )
            self.job = JobCard(self.studio, "draw", [("draw", "Draw before and after")], job_id)

    def _pair_card(self) -> None:
        with gr.Column(elem_classes="card", elem_id="pair-card"):
            gr.HTML(
                '<p class="pair sides"><b class="is-before">Before</b><b class="is-after">After</b></p>',
                label="Sides",
                elem_id="sides",
            )
            self.divider = divider()

    def _figures_card(self) -> None:
        with gr.Column(elem_classes="card", elem_id="figures-card"):
            run_view.heading("figures-title", "", "This pair")
            self.figures = gr.HTML(_no_figures(), label="This pair", elem_id="figures")
            self.pair_file = gr.DownloadButton("Download pair", size="sm", interactive=False, elem_id="pair-file")

    def _suggestion_card(self) -> None:
        with gr.Column(elem_classes="card", elem_id="suggestion-card"):
            run_view.heading("suggestion-title", "", "Suggested prompts", "Press one to add it to the prompts.")
            self.suggestions = gr.HTML(
                [],
                label="Suggested prompts",
                html_template='<div class="suggestions"></div>',
                js_on_load=page_file("suggestions.js"),
                apply_default_css=False,
                elem_id="suggestions",
            )

    def _grid_card(self) -> None:
        with gr.Column(elem_classes="card", elem_id="grid-card", visible=False) as self.grid_card:
            run_view.heading("grid-title", "", "All pairs", "Left before, right after. Press one to see it above.")
            self.grid = gr.Gallery(
                label="All pairs",
                show_label=False,
                format="png",
                columns=4,
                height="auto",
                object_fit="contain",
                allow_preview=False,
                interactive=False,
                buttons=[],
                elem_id="pairs",
            )

    def _wire(self) -> None:
        drawing = [self.name, self.prompts, self.seeds, self.steps, self.guidance, self.negative]
        pair = [self.divider, self.figures, self.pair_file]
        self.shown = [*self.job.outputs, self.grid_card, self.grid, *pair]
        self.job.start[0].click(self.on_draw, [self.job.job_id, *drawing], self.shown, concurrency_limit=None, **QUIET)
        self.grid.select(self.on_pair, self.job.job_id, pair, **QUIET)
        suggested = [self.suggestions, self.prompts, self.offered]
        self.name.change(self.on_model, [self.name, self.prompts, self.offered], suggested, **QUIET)
        self.suggestions.pick(self.on_suggestion, self.prompts, self.prompts, **QUIET)

    @spoken
    def on_open(self, made: str, chosen: str | None) -> Any:
        """List the erased models, with the newest run's chosen."""
        return erased_models(self.studio, made, chosen)

    @spoken
    def on_model(self, name: str | None, prompts: str, offered: str) -> tuple[Any, Any, str]:
        """Suggest prompts for the chosen model, and put the first ones into the box unless the user typed others."""
        if not name:
            return [], gr.skip(), offered
        suggested = suggestions(self.studio.entry(name).recipe)
        first = {role: prompt for role, prompt in reversed(suggested) if role != "synonym"}
        start = "\n".join(first[role] for role in ("erased", "kept") if role in first)
        typed = form.prompts_from(prompts) != form.prompts_from(offered)
        return [list(pair) for pair in suggested], gr.skip() if typed else start, start

    @spoken
    def on_suggestion(self, prompts: str, event: gr.EventData) -> str:
        lines = form.prompts_from(prompts)
        return "\n".join([*lines, event.prompt] if event.prompt not in lines else lines)

    @spoken
    def on_draw(self, job_id: str, name: str | None, prompts: str, seeds: str, *settings: Any) -> Iterator[Update]:
        """Start a comparison and watch it."""

        def start() -> Job:
            steps, guidance, negative = settings
            drawing = ImageRequest(
                tuple(form.prompts_from(prompts)),
                tuple(form.seeds_from(seeds)),
                form.steps_from(steps),
                form.guidance_from(guidance),
                str(negative or ""),
            )
            return self.studio.compare(name or "", drawing)

        yield from self.job.begin(job_id, start, self._end, notices.COMPARE_FIELDS)

    @spoken
    def on_return(self, job_id: str) -> Iterator[Update]:
        """Show this browser's comparison again after a reload."""
        yield from self.job.again(job_id, self._end, notices.COMPARE_FIELDS)

    @spoken
    def on_pair(self, job_id: str, event: gr.SelectData) -> Update:
        """Show the pressed pair under the divider."""
        pairs = self.job.result(job_id)
        return self._pair(pairs[event.index]) if pairs else {self.figures: gr.skip()}

    def _end(self, job: Job) -> Update:
        pictures = [(side_by_side(p.before, p.after), f"{p.prompt} · seed {p.seed}") for p in job.result]
        return self._pair(job.result[0]) | {self.grid: pictures, self.grid_card: gr.Column(visible=True)}

    def _pair(self, pair: Any) -> Update:
        rows = [
            ("Prompt", pair.prompt),
            ("Seed", str(pair.seed)),
            ("Mean pixel change", f"{pair.change:.1f} of 255"),
            ("Size", f"{pair.before.width} × {pair.before.height}"),
        ]
        return {
            self.divider: divided(pair.before, pair.after, pair.prompt),
            self.figures: run_view.pairs(rows),
            self.pair_file: download(outputs.pair(pair, self.studio.output / "pairs"), interactive=True),
        }


def side_by_side(before: Image.Image, after: Image.Image) -> Image.Image:
    """One picture of both, for the grid; small pictures are enlarged by whole pixels."""
    both = Image.new("RGB", (before.width + after.width, before.height))
    both.paste(before, (0, 0))
    both.paste(after, (before.width, 0))
    times = max(1, GRID_HEIGHT // before.height)
    return both.resize((both.width * times, both.height * times), Image.Resampling.NEAREST)


def _no_figures() -> str:
    return '<p class="hint">Nothing is drawn yet.</p>'
