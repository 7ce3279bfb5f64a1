"""The page: header, tabs, and what happens when it is opened."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator

import gradio as gr

from mace_studio.recipe import Concept, Recipe
from mace_studio.shelf import presets
from mace_studio.studio import BUILT_IN, Studio
from mace_studio.ui.api import Api
from mace_studio.ui.attention_tab import AttentionTab
from mace_studio.ui.compare_tab import CompareTab
from mace_studio.ui.erase_tab import EraseTab
from mace_studio.ui.evaluate_tab import EvaluateTab
from mace_studio.ui.files import page_file
from mace_studio.ui.job_card import remembered
from mace_studio.ui.notices import spoken
from mace_studio.ui.recipe_form import QUIET

FIRST = "miniature/cat"
STATES = {"waiting": "not loaded yet", "loading": "loading …", "ready": "ready", "failed": "failed"}
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
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Erase", id="erase", elem_id="erase-tab"):
                erase = EraseTab(studio, start)
            with gr.Tab("Compare", id="compare", elem_id="compare-tab", render_children=True) as compare_tab:
                compare = CompareTab(studio, start.images.guidance, drawn)
            with gr.Tab("Attention", id="attention", elem_id="attention-tab", render_children=True) as attention_tab:
                attention = AttentionTab(studio, start.images.guidance, read)
            with gr.Tab("Evaluate", id="evaluate", elem_id="evaluate-tab", render_children=True) as evaluate_tab:
                evaluate = EvaluateTab(studio, measured)
        for tab, view in ((compare_tab, compare), (attention_tab, attention), (evaluate_tab, evaluate)):
            models = {"fn": view.on_open, "inputs": [erase.made, view.name], "outputs": view.name, **QUIET}
            tab.select(**models)
            erase.ran.then(**models)
            demo.load(**models)
            demo.load(view.on_return, view.job.job_id, view.shown, concurrency_limit=None, **QUIET)
        erase.compare.click(lambda: gr.Tabs(selected="compare"), None, tabs, **QUIET)
        opened = demo.load(_opener(studio), None, header, concurrency_limit=None, **QUIET)
        opened.then(**erase.counts, **QUIET)  # the memory is known once the model is loaded
        demo.load(erase.on_return, erase.job_id, erase.shown, concurrency_limit=None, **QUIET)
        Api(studio).offer()
    # An open API would let a program pass by the queue.
    return demo.queue(api_open=False, max_size=64, default_concurrency_limit=16)


def first_recipe(studio: Studio) -> Recipe:
    """What the form begins with: the built-in model's own preset, or an empty row for any other model."""
    own = {preset.name: preset.recipe for preset in presets() if preset.name.startswith("miniature/")}
    if not own or studio.source != str(BUILT_IN):
        return Recipe(concepts=(Concept("", ""),))
    return own.get(FIRST) or next(iter(own.values()))


def status_chip(studio: Studio) -> str:
    """The model's name and state."""
    status = studio.status()
    said = f"{STATES[status.state]} · {status.detail}" if status.detail else STATES[status.state]
    name = html.escape(status.name)
    return f'<span class="chip is-{status.state}"><i></i><b>{name}</b><span>{html.escape(said)}</span></span>'


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
