"""The page: header, tabs, and what happens when it is opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import gradio as gr

from mace_studio.presets import presets
from mace_studio.recipe import Concept, Recipe
from mace_studio.runtime.studio import BUILT_IN, Studio
from mace_studio.ui import api, sessions
from mace_studio.ui.components.glossary import glossary
from mace_studio.ui.components.progress import status_chip
from mace_studio.ui.gradio_compat import QUIET, WAITING, bound_queue, remembered, without_statistics
from mace_studio.ui.notices import readable
from mace_studio.ui.tab import ERASURES_CHANGED, MODEL_LOADED, MODEL_TIMED, PAGE_OPENED, SELECTED, Newest, Shared
from mace_studio.ui.tabs import TABS

FIRST = "miniature/cat"
UPLOADS = (600, 24 * 3600)  # seconds between two looks at uploaded files, and after which they are removed
ICON = Path(__file__).with_name("icon.svg")
HEADER = """<div class="top">
<button type="button" class="skip">Skip to the main button of this tab</button>{icon}
<div class="top-name"><h1>MACE Studio</h1>
<p>Erase concepts from text-to-image models, and see what changed</p></div>
<div class="top-status" role="status">${{value}}</div>
<button type="button" class="chip" data-place="">Glossary</button>
<button type="button" class="chip" aria-label="Switch between light and dark">◐ Theme</button></div>"""


def build(studio: Studio) -> gr.Blocks:
    """The whole page of one studio. Nothing of the model is imported or loaded here."""
    with gr.Blocks(title="MACE Studio", fill_width=True, analytics_enabled=False, delete_cache=UPLOADS) as demo:
        header = gr.HTML(
            status_chip(studio),
            label="MACE Studio",
            html_template=HEADER.format(icon=ICON.read_text(encoding="utf-8")),
            js_on_load=ICON.with_name("header.js").read_text(encoding="utf-8"),
            apply_default_css=False,
            elem_id="header",
        )
        glossary()
        jobs = {name: remembered(name) for tab in TABS for name in tab.jobs}
        newest, made = gr.State(Newest()), gr.State("")
        start = first_recipe(studio)
        shared = Shared(studio=studio, start=start, header=header, newest=newest, made=made, jobs=jobs)
        built = []
        with gr.Tabs(elem_id="tabs") as shared.tabs:
            for tab in TABS:
                with gr.Tab(tab.name, id=tab.id, elem_id=f"{tab.id}-tab", render_children=True) as opened:
                    built.append((opened, tab.build(shared)))
        # How often each event has happened: a change calls all its listeners.
        counts = {name: gr.State(0) for name in (ERASURES_CHANGED, MODEL_LOADED, MODEL_TIMED)}
        events = {PAGE_OPENED: demo.load} | {name: count.change for name, count in counts.items()}
        emitted = [(name, then) for _, view in built for name, thens in view.emits.items() for then in thens]
        emitted.append((MODEL_LOADED, demo.load(_loader(studio), None, header, **WAITING).then))
        if not studio.fixed:  # where a GPU is lent call by call, no user pays for a measurement
            emitted.append((MODEL_TIMED, events[MODEL_LOADED](_timer(studio), None, None, **WAITING).then))
        for name, then in emitted:
            then(lambda count: count + 1, counts[name], counts[name], **QUIET)
        # Ten cards would ask on opening for a job that is hardly ever there: one question finds those that are.
        there = {name: gr.State("") for name in jobs}
        demo.load(on_jobs, list(jobs.values()), list(there.values()), **QUIET)
        found = {id(job): there[name].change for name, job in jobs.items()}
        for opened, view in built:
            own = events | {SELECTED: opened.select}
            listeners = {id(listener): listener for heard in view.listens.values() for listener in heard}
            for listener in listeners.values():
                heard_by = own | ({PAGE_OPENED: found[id(listener.inputs)]} if id(listener.inputs) in found else {})
                listener.on(*(heard_by[name] for name, heard in view.listens.items() if listener in heard))
        api.Api(studio).offer()
    # An open API would let a program pass by the queue.
    demo.queue(api_open=False, max_size=None, default_concurrency_limit=16)
    without_statistics(demo)
    bound_queue(demo, api.NAMES, api.EACH, api.MOST, sessions.machine_of)
    return demo


def first_recipe(studio: Studio) -> Recipe:
    """What the form begins with: the built-in model's own preset, or an empty row for any other model."""
    own = {preset.name: preset.recipe for preset in presets() if preset.name.startswith("miniature/")}
    if not own or studio.source != str(BUILT_IN):
        return Recipe(concepts=(Concept("", ""),))
    return own.get(FIRST) or next(iter(own.values()))


@readable
def on_jobs(*ids: str) -> tuple[str, ...]:
    """The jobs that this browser remembers."""
    return ids


def _timer(studio: Studio) -> Callable[[], None]:
    @readable
    def on_model_loaded() -> None:
        """Time a few steps, for the estimate of a run, unless that was done for an earlier user."""
        for _ in () if studio.timed else studio.measure().watch():
            pass

    return on_model_loaded


def _loader(studio: Studio) -> Callable[[], Iterator[str]]:
    @readable
    def on_open_page() -> Iterator[str]:
        """Load the model when the page is first opened, and say so meanwhile."""
        yield status_chip(studio)
        if studio.status().state in ("waiting", "loading"):
            for _ in studio.load().watch(beat=0.5):
                yield status_chip(studio)
            yield status_chip(studio)

    return on_open_page
