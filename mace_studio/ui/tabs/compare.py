"""The Compare tab: the same prompt and seed, before and after an erasure."""

from __future__ import annotations

from typing import Any

import gradio as gr
from PIL import Image

from mace_studio.prompts import suggestions
from mace_studio.runtime import result_files
from mace_studio.runtime.jobs import Job
from mace_studio.ui import form
from mace_studio.ui.cards.job import JobCard, Shows
from mace_studio.ui.components.divider import divided, divider
from mace_studio.ui.components.model_list import erased_models
from mace_studio.ui.components.suggestions import suggested_prompts
from mace_studio.ui.components.text import heading, number_text, pairs
from mace_studio.ui.form import GENERATED_STEPS
from mace_studio.ui.gradio_compat import QUIET, download, enabled
from mace_studio.ui.notices import readable
from mace_studio.ui.tab import ERASURES_CHANGED, MODEL_LOADED, PAGE_OPENED, SELECTED, Listener, Shared

GRID_HEIGHT = 256
PLACES = {
    "prompt": ("Prompts", "#prompts textarea"),
    "seed": ("Seeds", "#seeds input"),
    "steps": ("Steps", "#compare-steps input"),
    "guidance": ("Guidance", "#compare-guidance input"),
}

Update = dict[Any, Any]


class CompareTab:
    """Builds the tab and answers its buttons."""

    def __init__(self, shared: Shared) -> None:
        self.studio, self.job_id = shared.studio, shared.jobs["compare"]
        self.usual = number_text(shared.start.settings.images.guidance)
        self.suggested = gr.State("")
        with gr.Row(elem_classes="columns", elem_id="compare-columns"):
            with gr.Column(scale=4, min_width=310):
                self._prompt_card()
            with gr.Column(scale=6, min_width=330):
                self._pair_card()
            with gr.Column(scale=4, min_width=310):
                self._figures_card()
                self._suggestion_card()
        self._grid_card()
        self._wire()
        choose = Listener(self.on_open, [shared.newest, self.name], self.name)
        settings = [self.steps, self.guidance]
        self.listens = {
            PAGE_OPENED: [choose, self.job.resume],
            SELECTED: [choose],
            ERASURES_CHANGED: [choose],
            MODEL_LOADED: [Listener(self.on_model_loaded, settings, settings)],
        }
        self.emits: dict[str, list[Any]] = {}

    def _prompt_card(self) -> None:
        with gr.Column(elem_classes="card", elem_id="compare-card"):
            heading("compare-title", "", "What to generate", "Every prompt with every seed, with both models.")
            self.name = gr.Dropdown(
                [], label="Erased model", info="The Erase tab makes them", **enabled("erased-model")
            )
            self.prompts = gr.Textbox("", label="Prompts", info="One a line", lines=4, **enabled("prompts"))
            self.seeds = gr.Textbox(
                "0-3", label="Seeds", info="Such as 0, 1, 2 or 0-3", max_lines=1, **enabled("seeds")
            )
            with gr.Row(elem_classes="pair-grid", elem_id="compare-settings"):
                self.steps = gr.Textbox(
                    GENERATED_STEPS, label="Steps", info="Denoising steps", max_lines=1, min_width=100,
                    **enabled("compare-steps"),
                )  # fmt: skip
                self.guidance = gr.Textbox(
                    self.usual, label="Guidance", info="1 is none", max_lines=1, min_width=100,
                    **enabled("compare-guidance"),
                )  # fmt: skip
            self.negative = gr.Textbox(
                "", label="Negative prompt", info="What to steer away from", max_lines=2, **enabled("negative")
            )
            button = ("generate", "Generate before and after")
            self.job = JobCard(self.studio, "compare", [button], self.job_id, PLACES)

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
            heading("figures-title", "", "This pair")
            self.figures = gr.HTML(
                '<p class="hint">Nothing is generated yet.</p>', label="This pair", elem_id="figures"
            )
            self.pair_file = gr.DownloadButton("Download pair", size="sm", interactive=False, elem_id="pair-file")

    def _suggestion_card(self) -> None:
        with gr.Column(elem_classes="card", elem_id="suggestion-card"):
            heading("suggestion-title", "", "Suggested prompts", "Press one to add it to the prompts.")
            self.suggestions = suggested_prompts("suggestions")

    def _grid_card(self) -> None:
        with gr.Column(elem_classes="card", elem_id="grid-card", visible=False) as self.grid_card:
            heading("grid-title", "", "All pairs", "Left before, right after. Press one to see it above.")
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
        asked = [self.name, self.prompts, self.seeds, self.steps, self.guidance, self.negative]
        pair = [self.divider, self.figures, self.pair_file]
        self.job.wire([self.on_generate], asked, [self.grid_card, self.grid, *pair], Shows(done=self._pairs))
        self.grid.select(self.on_pair, self.job_id, pair, **QUIET)
        suggested = [self.suggestions, self.prompts, self.suggested]
        self.name.change(self.on_model, [self.name, self.prompts, self.suggested], suggested, **QUIET)
        self.suggestions.pick(self.on_suggestion, self.prompts, self.prompts, **QUIET)

    @readable
    def on_open(self, newest: str, chosen: str | None) -> Any:
        """List the erased models, with the newest chosen."""
        return erased_models(self.studio, newest, chosen)

    @readable
    def on_model_loaded(self, steps: str, guidance: str) -> tuple[str, str]:
        """Fill in what suits a distilled model, unless the user typed something else."""
        return form.usual_settings(self.studio, steps, guidance, self.usual)

    @readable
    def on_model(self, name: str | None, prompts: str, suggested: str) -> tuple[Any, Any, str]:
        """Suggest prompts for the chosen model, and put the first ones into the box unless the user typed others."""
        if not name:
            return [], gr.skip(), suggested
        offered = suggestions(self.studio.entry(name).recipe)
        first = {role: prompt for role, prompt in reversed(offered) if role != "synonym"}
        start = "\n".join(first[role] for role in ("erased", "kept") if role in first)
        typed = form.prompts_from(prompts) != form.prompts_from(suggested)
        return [list(pair) for pair in offered], gr.skip() if typed else start, start

    @readable
    def on_suggestion(self, prompts: str, event: gr.EventData) -> str:
        """Add the pressed prompt to the prompts."""
        lines = form.prompts_from(prompts)
        return "\n".join([*lines, event.prompt] if event.prompt not in lines else lines)

    def on_generate(self, name: str | None, prompts: str, *settings: Any) -> Job:
        """Start a comparison."""
        return self.studio.compare(name or "", form.images_from(form.prompts_from(prompts), *settings))

    @readable
    def on_pair(self, job_id: str, event: gr.SelectData) -> Update:
        """Show the pressed pair under the divider."""
        found = self.job.result(job_id)
        return self._pair(found[event.index]) if found else {self.figures: gr.skip()}

    def _pairs(self, job: Job) -> Update:
        tiles = [(side_by_side(p.before, p.after), f"{p.prompt} · seed {p.seed}") for p in job.result]
        return self._pair(job.result[0]) | {self.grid: tiles, self.grid_card: gr.Column(visible=True)}

    def _pair(self, pair: Any) -> Update:
        rows = [
            ("Prompt", pair.prompt),
            ("Seed", str(pair.seed)),
            ("Mean pixel change", f"{pair.change:.1f} of 255"),
            ("Size", f"{pair.before.width} × {pair.before.height}"),
        ]
        return {
            self.divider: divided(pair.before, pair.after, pair.prompt),
            self.figures: pairs(rows),
            self.pair_file: download(result_files.write_pair(pair, self.studio.output / "pairs"), interactive=True),
        }


def side_by_side(before: Image.Image, after: Image.Image) -> Image.Image:
    """One image of both, for the grid; small ones are enlarged by whole pixels."""
    both = Image.new("RGB", (before.width + after.width, before.height))
    both.paste(before, (0, 0))
    both.paste(after, (before.width, 0))
    times = max(1, GRID_HEIGHT // before.height)
    return both.resize((both.width * times, both.height * times), Image.Resampling.NEAREST)
