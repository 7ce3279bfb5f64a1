"""The base model that everything is erased from: which it is, and another one in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from mace_studio.runtime import library
from mace_studio.runtime.jobs import Job
from mace_studio.runtime.studio import BUILT_IN, BUILT_IN_NAME, Studio
from mace_studio.ui.cards.job import JobCard, Shows
from mace_studio.ui.components import model_list
from mace_studio.ui.components.text import heading
from mace_studio.ui.gradio_compat import enabled

PLACES = {"source": ("Model", "#base-source")}  # the whole field: its text box would open the list over the sentence
DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "float32", "float16", "bfloat16")

Update = dict[Any, Any]


class BaseCard:
    """Builds the card and answers its button.

    Args:
        studio: loads.
        job_id: from `gradio_compat.remembered`.

    Attributes:
        job: the change that this browser watches.
        sources: the choice of base models.
    """

    def __init__(self, studio: Studio, job_id: gr.BrowserState) -> None:
        self.studio = studio
        with gr.Column(elem_classes="card", elem_id="base-card"):
            heading("base-title", "", "Base model", "It takes the place of the one that is loaded, for all tabs.")
            self.now = gr.HTML(model_list.base(studio.status()), label="Loaded model", elem_id="base-now")
            self.source = gr.Dropdown(
                self._sources(), value=self._sources()[0], label="Model",
                info="Hub id, folder or .safetensors file; type or choose", allow_custom_value=True,
                **enabled("base-source"),
            )  # fmt: skip
            with gr.Row(elem_classes="pair-grid", elem_id="base-grid"):
                self.device = gr.Dropdown(
                    list(DEVICES), label="Device", allow_custom_value=True, min_width=100, **enabled("base-device")
                )
                self.dtype = gr.Dropdown(list(DTYPES), label="Precision", min_width=100, **enabled("base-dtype"))
            self.low = gr.Checkbox(
                False, label="Low memory: slower, for small graphics cards", container=False, **enabled("base-low")
            )
            self.job = JobCard(studio, "base", [("load-base", "Load")], job_id, PLACES)

    def wire(self, outputs: list[Any], live: Callable[[], Update]) -> Any:
        """Connect the button.

        Args:
            outputs: what `live` updates.
            live: () -> what else the page shows of the model, at every event and at the end.

        Returns:
            The button's event, after which the model may be another.
        """

        def now(job: Job) -> Update:
            return {self.now: model_list.base(self.studio.status())} | live()

        def done(job: Job) -> Update:
            return {self.source: gr.Dropdown(self._sources())}

        asked = [self.source, self.device, self.dtype, self.low]
        shows = Shows(live=now, done=done)
        return self.job.wire([self.on_load], asked, [self.source, self.now, *outputs], shows)[0]

    def on_load(self, source: str | None, device: str, dtype: str, low: bool) -> Job:
        """Start to load another model."""
        return self.studio.change(source or "", device or "auto", dtype or "auto", low)

    def _sources(self) -> list[str]:
        """The present model, the built-in one and those that were loaded before."""
        own = BUILT_IN_NAME if self.studio.source == str(BUILT_IN) else self.studio.source
        return list(dict.fromkeys([own, BUILT_IN_NAME, *library.sources(self.studio.output)]))
