"""The Compare tab: the same prompt and seed, before and after an erasure."""

from __future__ import annotations

import html
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

import gradio as gr

from mace_studio.errors import RecipeError
from mace_studio.methods import usual_guidance
from mace_studio.prompts import suggestions
from mace_studio.runtime import result_files
from mace_studio.runtime.estimate import counted_as
from mace_studio.runtime.jobs import Job
from mace_studio.ui import form, kinds
from mace_studio.ui.cards.job import JobCard, Shows, results
from mace_studio.ui.components.divider import divided, divider
from mace_studio.ui.components.model_list import called, choices, erased_models, listing
from mace_studio.ui.components.pair_grid import cells, pair_grid
from mace_studio.ui.components.suggestions import suggested_prompts
from mace_studio.ui.components.text import heading, number_text, pairs
from mace_studio.ui.components.token_counter import counted
from mace_studio.ui.form import GENERATED_STEPS
from mace_studio.ui.gradio_compat import PICKED, Offer, download, enabled, offer
from mace_studio.ui.notices import readable
from mace_studio.ui.tab import Listener, Newest, Shared, of_an_erasure

OTHERS = 3  # models beside the first
BEGUN_WITH = {"erased": 3, "kept": 1}  # role -> how many prompts stand in the box at first
NO_PAIR = '<p class="hint">Nothing is generated yet.</p>'
PLACES = {
    "others": ("Beside it", "#other-models"),
    "prompt": ("Prompts", "#prompts textarea"),
    "seed": ("Seeds", "#seeds input"),
    "steps": ("Steps", "#compare-steps input"),
    "guidance": ("Guidance", "#compare-guidance input"),
}

if TYPE_CHECKING:
    from mace_studio.analysis.compare import Pair

Update = dict[Any, Any]


class CompareTab:
    """Builds the tab and answers its buttons."""

    def __init__(self, shared: Shared) -> None:
        self.studio, self.job_id = shared.studio, shared.jobs["compare"]
        self.usual = number_text(usual_guidance(shared.start))
        self.suggested, self.usually = (
            offer("compare-prompt", ""),
            offer("compare-settings", GENERATED_STEPS, self.usual),
        )
        self._labels: WeakKeyDictionary[Job, list[str]] = WeakKeyDictionary()  # of the erased models of a job
        self._showing: WeakSet[Job] = WeakSet()  # jobs of which a pair is under the divider
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
        seen = gr.State(None)  # the last request that this tab has answered
        asked = [shared.newest, seen, self.name, self.others]
        choose = Listener(self.on_open, asked, [self.name, self.others, seen])
        settings = [self.steps, self.guidance]
        loaded = Listener(self.on_model_loaded, settings, self.usually, fills=[self.usually, *settings])
        self.listens = of_an_erasure(choose, self.job.resume, loaded)
        self.emits: dict[str, list[Any]] = {}

    def _prompt_card(self) -> None:
        with gr.Column(elem_classes="card", elem_id="compare-card"):
            heading("compare-title", "", "What to generate", "Every prompt with every seed, with both models.")
            self.name = gr.Dropdown(
                [], label="Erased model", info="The Erase tab makes them", **enabled("erased-model")
            )
            self.others = gr.CheckboxGroup(
                [],
                label="Beside it",
                info=f"Up to {OTHERS} more erased models, a row each",
                visible=False,
                elem_classes="expert",
                **enabled("other-models"),
            )
            self.prompts = gr.Textbox("", label="Prompts", info="One a line", lines=4, **enabled("prompts"))
            counted(self.studio, self.prompts, lines=True)
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
            counted(self.studio, self.negative)
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
            self.shown_model = gr.HTML("", label="Erased model of the images", elem_id="shown-model")
            self.figures = gr.HTML(NO_PAIR, label="This pair", elem_id="figures")
            self.pair_file = gr.DownloadButton("Download pair", size="sm", interactive=False, elem_id="pair-file")

    def _suggestion_card(self) -> None:
        with gr.Column(elem_classes="card", elem_id="suggestion-card"):
            heading("suggestion-title", "", "Suggested prompts", "Press one to add it to the prompts.")
            self.suggestions = suggested_prompts("suggestions", "#prompts textarea")

    def _grid_card(self) -> None:
        with gr.Column(elem_classes="card", elem_id="grid-card", visible=False) as self.grid_card:
            heading("grid-title", "", "All images", "A column for each seed. Press one to see it above.")
            self.grid = pair_grid()
            with gr.Row(elem_classes="button-row", elem_id="sheet-row"):
                self.sheet = gr.DownloadButton(
                    "Download as one sheet", size="sm", interactive=False, elem_id="sheet-file"
                )

    def _wire(self) -> None:
        asked = [self.name, self.others, self.prompts, self.suggested]
        asked += [self.seeds, self.steps, self.guidance, self.negative]
        pair = [self.divider, self.figures, self.pair_file]
        shows = Shows(begun=self._begun, found=self._pairs, resumed=self._begun)
        self.job.wire(
            [self.on_generate], asked, [self.grid_card, self.grid, self.sheet, self.shown_model, *pair], shows
        )
        self.grid.pick(self.on_pair, None, pair, **PICKED)
        asked, told = [self.name, self.suggested], [self.suggestions, self.suggested]
        Listener(self.on_model, asked, told, fills=[self.suggested, self.prompts]).on(self.name.change)
        Listener(self.on_beside, [self.name, self.others], self.others).on(self.name.change)
        models = Listener(self.on_models, [self.job_id, self.name, self.others], self.shown_model)
        models.on(self.name.change, self.others.change)

    @readable
    def on_open(self, newest: Newest, seen: int | None, chosen: str | None, others: list[str]) -> tuple[Any, ...]:
        """List the erased models, with the newest chosen once."""
        return erased_models(self.studio, newest, seen, chosen), self._beside(chosen, others), newest.asked

    @readable
    def on_beside(self, chosen: str | None, others: list[str]) -> Any:
        """List the models that may stand beside another one, which is chosen now."""
        return self._beside(chosen, others)

    def _beside(self, chosen: str | None, others: list[str]) -> Any:
        listed = [(label, name) for label, name in choices(self.studio.entries()) if name != chosen]
        kept = [name for name in others if name in [value for _, value in listed]]
        return listing(partial(gr.CheckboxGroup, visible=bool(listed)), listed, kept, others)

    @readable
    def on_model_loaded(self, steps: str, guidance: str) -> Offer:
        """Fill in what suits a distilled model, unless the user typed something else."""
        return form.usual_settings(self.studio, steps, guidance, self.usual)

    @readable
    def on_model(self, name: str | None, suggested: Offer) -> tuple[Any, ...]:
        """Suggest prompts for the chosen model, and put the first ones into the box unless the user typed others."""
        if not name:
            return [], gr.skip()
        offered = self._offered(name)
        return [list(pair) for pair in offered], [[suggested[0][1], _first_of(offered)]]

    @readable
    def on_models(self, job_id: str, name: str | None, others: list[str]) -> Any:
        """Say which models the images are of, where others are chosen."""
        job = self.studio.job(job_id)
        if job is None or not name:
            return gr.skip()
        missing = called(self.studio, [one for one in (name, *others) if one not in job.request[0]])
        return _shown_models(self._called(job), missing)

    def on_generate(self, name: str | None, others: list[str], prompts: str, suggested: Offer, *settings: Any) -> Job:
        """Start a comparison. Prompts that nobody typed are those of the chosen model, which may be chosen just now."""
        beside = [other for other in others if other != name]  # it may be chosen just now
        lines = form.prompts_from(prompts)
        if len(beside) > OTHERS:
            checked = f"{counted_as(len(beside), 'erased model')} {'is' if len(beside) == 1 else 'are'} checked"
            raise RecipeError("others", f"{checked}; leave at most {OTHERS}.")
        if name and lines and lines == form.prompts_from(suggested[0][1]):
            lines = form.prompts_from(_first_of(self._offered(name)))
        return self.studio.compare(name or "", form.images_from(lines, *settings), beside)

    def _offered(self, name: str) -> list[tuple[str, str]]:
        recipe = self.studio.entry(name).recipe
        return suggestions(recipe, kinds.of_kept(recipe, self.studio.vocabulary()))

    @readable
    def on_pair(self, event: gr.EventData) -> Update:
        """Show the pressed pair under the divider."""
        job = self.studio.job(str(event.job))
        if job is not None and event.index in range(len(found := results(job))):
            return self._pair(job, found[event.index])
        return {self.figures: gr.skip()}

    def _begun(self, job: Job) -> Update:
        self._showing.discard(job)
        return {
            self.grid_card: gr.Column(visible=True),
            self.grid: cells(job.id, job.request[1], (), self._called(job)),
            self.sheet: gr.DownloadButton(interactive=False),
            self.divider: {},
            self.figures: NO_PAIR,
            self.pair_file: gr.DownloadButton(interactive=False),
            self.shown_model: _shown_models(self._called(job)),
        }

    def _called(self, job: Job) -> list[str]:
        """What the lists called the job's models when they were asked for first; reading them takes a while."""
        if job not in self._labels:
            self._labels[job] = called(self.studio, job.request[0])
        return self._labels[job]

    def _pairs(self, job: Job, found: list[Pair]) -> Update:
        """What is generated so far; of a job that was cancelled, too."""
        names, request = job.request
        update: Update = {self.grid: cells(job.id, request, found, self._called(job))}
        if found and job not in self._showing:
            self._showing.add(job)
            update |= self._pair(job, found[0])
        if found and job.over:
            path = result_files.write_sheet(found, names, self.studio.output / "pairs")
            update[self.sheet] = download(path, interactive=True)
        return update

    def _pair(self, job: Job, pair: Pair) -> Update:
        labels = self._called(job)
        rows = [
            *([("Erased model", labels[pair.erasure])] if len(labels) > 1 else []),
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


def _first_of(offered: Sequence[tuple[str, str]]) -> str:
    """The first suggestions for erased phrases and for a kept one, one a line."""
    first = {role: [prompt for own, prompt in offered if own == role][:most] for role, most in BEGUN_WITH.items()}
    return "\n".join(prompt for prompts in first.values() for prompt in prompts)


def _shown_models(labels: Sequence[str], missing: Sequence[str] = ()) -> str:
    """Which erased models the images are of, and a warning where others are chosen that are not among them."""
    listed = ", ".join(labels)
    if not missing:
        title = "Erased model" if len(labels) == 1 else "All images are of"
        return f'<p class="hint">{title}: <b>{html.escape(listed)}</b></p>'
    other = f"These images are of {listed}; generate again to see {', '.join(missing)}."
    return f'<p class="estimate is-missing" role="status">{html.escape(other)}</p>'
