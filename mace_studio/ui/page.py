"""The page: header, tabs, and what happens when it is opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import gradio as gr

from mace_studio.recipe import Concept, Recipe
from mace_studio.runtime.library import presets
from mace_studio.runtime.studio import BUILT_IN, Studio
from mace_studio.settings import ImageSettings
from mace_studio.ui import form
from mace_studio.ui.api import Api
from mace_studio.ui.cards.job import remembered
from mace_studio.ui.files import page_file
from mace_studio.ui.notices import spoken
from mace_studio.ui.recipe_form import QUIET, STEPS
from mace_studio.ui.run_view import status_chip
from mace_studio.ui.tabs.attention import AttentionTab
from mace_studio.ui.tabs.compare import CompareTab
from mace_studio.ui.tabs.erase import EraseTab
from mace_studio.ui.tabs.evaluate import EvaluateTab
from mace_studio.ui.tabs.models import ModelsTab

FIRST = "miniature/cat"
HEADER = """<div class="top">{icon}<div class="top-name"><h1>MACE Studio</h1>
<p>Erase concepts from text-to-image models, and see what changed</p></div>
<div class="top-status" role="status">${{value}}</div>
<button type="button" class="chip" aria-label="Switch between light and dark">◐ Theme</button></div>"""
THEME_BUTTON = """element.querySelector("button").addEventListener("click", () => {
  document.body.classList.toggle("dark");
});"""


def build(studio: Studio) -> gr.Blocks:
    """The whole page of one studio. Nothing of the model is imported or loaded here."""
    with gr.Blocks(title="MACE Studio", fill_width=True, analytics_enabled=False) as demo:
        header = gr.HTML(
            status_chip(studio),
            label="MACE Studio",
            html_template=HEADER.format(icon=page_file("icon.svg")),
            js_on_load=THEME_BUTTON,
            apply_default_css=False,
            elem_id="header",
        )
        start = first_recipe(studio)
        drawn, read, measured = (remembered(name) for name in ("compare", "attention", "evaluate"))
        changes = [remembered(name) for name in ("compose", "export", "base")]
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Erase", id="erase", elem_id="erase-tab"):
                erase = EraseTab(studio, start)
            with gr.Tab("Compare", id="compare", elem_id="compare-tab", render_children=True) as compare_tab:
                compare = CompareTab(studio, start.images.guidance, drawn)
            with gr.Tab("Attention", id="attention", elem_id="attention-tab", render_children=True) as attention_tab:
                attention = AttentionTab(studio, start.images.guidance, read)
            with gr.Tab("Evaluate", id="evaluate", elem_id="evaluate-tab", render_children=True) as evaluate_tab:
                evaluate = EvaluateTab(studio, measured)
            with gr.Tab("Models", id="models", elem_id="models-tab", render_children=True) as models_tab:
                models = ModelsTab(studio, erase.form, erase.made, header, changes)
        for tab, view in ((compare_tab, compare), (attention_tab, attention), (evaluate_tab, evaluate)):
            choice = {"fn": view.on_open, "inputs": [erase.made, view.name], "outputs": view.name, **QUIET}
            tab.select(**choice)
            erase.ran.then(**choice)
            demo.load(**choice)
            demo.load(view.on_return, view.job.job_id, view.shown, concurrency_limit=None, **QUIET)
        for event in (models_tab.select, erase.ran.then, demo.load):
            event(**models.listing, **QUIET)
        for handler, job_id, shown in models.returns:
            demo.load(handler, job_id, shown, concurrency_limit=None, **QUIET)
        if models.loaded is not None:
            loaded = models.loaded.then(_timer(studio), None, None, concurrency_limit=None, **QUIET)
            loaded.then(**erase.counts, **QUIET)
        chosen = models.compare.click(models.on_compare, models.list, [erase.made, tabs], **QUIET)
        chosen.then(compare.on_open, [erase.made, compare.name], compare.name, **QUIET)
        erase.compare.click(lambda: gr.Tabs(selected="compare"), None, tabs, **QUIET)
        opened = demo.load(_opener(studio), None, header, concurrency_limit=None, **QUIET)
        opened.then(**erase.counts, **QUIET)  # the memory is known once the model is loaded, the time when it is timed
        if not studio.fixed:  # where a GPU is lent call by call, no visitor pays for a measurement
            opened.then(_timer(studio), None, None, concurrency_limit=None, **QUIET).then(**erase.counts, **QUIET)
        for view in (compare, attention):
            settings = [view.steps, view.guidance]
            opened.then(_settler(studio, start.images.guidance), settings, settings, **QUIET)
        demo.load(erase.on_return, erase.job_id, erase.shown, concurrency_limit=None, **QUIET)
        shown = erase.masks
        demo.load(shown.on_return, shown.job.job_id, shown.shown, concurrency_limit=None, **QUIET)
        Api(studio).offer()
    # An open API would let a program pass by the queue.
    return demo.queue(api_open=False, max_size=64, default_concurrency_limit=16)


def first_recipe(studio: Studio) -> Recipe:
    """What the form begins with: the built-in model's own preset, or an empty row for any other model."""
    own = {preset.name: preset.recipe for preset in presets() if preset.name.startswith("miniature/")}
    if not own or studio.source != str(BUILT_IN):
        return Recipe(concepts=(Concept("", ""),))
    return own.get(FIRST) or next(iter(own.values()))


def _timer(studio: Studio) -> Callable[[], None]:
    @spoken
    def on_model_loaded() -> None:
        """Time a few steps, for the estimate of a run, unless that was done for an earlier visitor."""
        for _ in () if studio.timed else studio.measure().watch():
            pass

    return on_model_loaded


def _settler(studio: Studio, guidance: float) -> Callable[[str, str], tuple[str, str]]:
    @spoken
    def on_model_known(steps: str, scale: str) -> tuple[str, str]:
        """Put in what suits a distilled model, unless the user typed something else."""
        if (steps, scale) != (STEPS, form.number_text(guidance)):
            return steps, scale
        usual = studio.with_defaults(ImageSettings(steps=int(STEPS), guidance=guidance))
        return str(usual.steps), form.number_text(usual.guidance)

    return on_model_known


def _opener(studio: Studio) -> Callable[[], Iterator[str]]:
    @spoken
    def on_open_page() -> Iterator[str]:
        """Load the model on the first visit, and say so meanwhile."""
        yield status_chip(studio)
        if studio.status().state in ("waiting", "loading"):
            for _ in studio.load().watch(beat=0.5):
                yield status_chip(studio)
            yield status_chip(studio)

    return on_open_page
