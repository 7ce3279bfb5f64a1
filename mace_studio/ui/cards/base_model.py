"""The base model that everything is erased from: which it is, and another one in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from mace_studio.runtime import library
from mace_studio.runtime.jobs import Job
from mace_studio.runtime.studio import BUILT_IN, BUILT_IN_NAME, Studio
from mace_studio.ui import model_view, run_view
from mace_studio.ui.cards.job import JobCard
from mace_studio.ui.notices import spoken
from mace_studio.ui.recipe_form import QUIET, open_to

FIELDS = {"source": ("Model", "#base-source")}  # the whole field: its text box would open the list over the sentence
DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "float32", "float16", "bfloat16")

Update = dict[Any, Any]


class BaseCard:
    """Builds the card and answers its button.

    Args:
        studio: loads.
        job_id: from `job_card.remembered`.
        live: what else the page shows of the model, at every beat and at the end.

    Attributes:
        job: the change that this browser watches.
        sources: the choice of base models.
    """

    def __init__(self, studio: Studio, job_id: gr.BrowserState, live: Callable[[Job], Update]) -> None:
        self.studio, self._live = studio, live
        with gr.Column(elem_classes="card", elem_id="base-card"):
            run_view.heading(
                "base-title", "", "Base model", "It takes the place of the one that is loaded, for all tabs."
            )
            self.now = gr.HTML(model_view.base(studio.status()), label="Loaded model", elem_id="base-now")
            self.source = gr.Dropdown(
                self._sources(), value=self._sources()[0], label="Model",
                info="Hub id, folder or .safetensors file; type or choose", allow_custom_value=True,
                **open_to("base-source"),
            )  # fmt: skip
            with gr.Row(elem_classes="pair-grid", elem_id="base-grid"):
                self.device = gr.Dropdown(
                    list(DEVICES), label="Device", allow_custom_value=True, min_width=100, **open_to("base-device")
                )
                self.dtype = gr.Dropdown(list(DTYPES), label="Precision", min_width=100, **open_to("base-dtype"))
            self.low = gr.Checkbox(
                False, label="Low memory: slower, for small graphics cards", container=False, **open_to("base-low")
            )
            self.job = JobCard(studio, "base", [("load-base", "Load")], job_id, self._beat)

    def wire(self, outputs: list[Any]) -> Any:
        """Connect the button; `outputs` is what `live` updates. Returns the event after which the model may differ."""
        now = [self.now, *outputs]
        self.shown = [*self.job.outputs, self.source, *now]
        asked = [self.job.job_id, self.source, self.device, self.dtype, self.low]
        loaded = self.job.start[0].click(self.on_load, asked, self.shown, concurrency_limit=None, **QUIET)
        return loaded.then(lambda: self._beat(None), None, now, **QUIET)  # after a failure, too

    @spoken
    def on_load(self, job_id: str, source: str | None, device: str, dtype: str, low: bool) -> Iterator[Update]:
        """Load another model and say how far it is."""

        def start() -> Job:
            return self.studio.change(source or "", device or "auto", dtype or "auto", low)

        yield from self.job.begin(job_id, start, self._end, FIELDS)

    @spoken
    def on_return(self, job_id: str) -> Iterator[Update]:
        """Show this browser's change of model again after a reload."""
        yield from self.job.again(job_id, self._end, FIELDS)

    def _beat(self, job: Job | None) -> Update:
        return {self.now: model_view.base(self.studio.status())} | self._live(job)

    def _end(self, job: Job) -> Update:
        return self._beat(job) | {self.source: gr.Dropdown(self._sources())}

    def _sources(self) -> list[str]:
        """The present model, the built-in one and those that were loaded before."""
        own = BUILT_IN_NAME if self.studio.source == str(BUILT_IN) else self.studio.source
        return list(dict.fromkeys([own, BUILT_IN_NAME, *library.sources(self.studio.output)]))
