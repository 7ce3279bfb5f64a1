"""The chosen model as files that other programs load."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from mace_studio.errors import RecipeError
from mace_studio.export.formats import ENERGY, FORMATS, ExportRequest
from mace_studio.runtime import outputs
from mace_studio.runtime.jobs import Job
from mace_studio.runtime.studio import Studio
from mace_studio.ui import form, model_view, run_view
from mace_studio.ui.cards.job import JobCard
from mace_studio.ui.files import download
from mace_studio.ui.notices import spoken
from mace_studio.ui.recipe_form import QUIET, open_to

FIELDS = {"rank": ("Rank", "#export-rank input"), "energy": ("Share kept", "#export-energy input")}
LORA = "lora"

Update = dict[Any, Any]


class ExportCard:
    """Builds the card and answers its button.

    Args:
        studio: exports.
        chosen: the list of models; its value holds those that are chosen.
        job_id: from `job_card.remembered`.

    Attributes:
        job: the export that this browser watches.
        shown: what `on_return` updates.
    """

    def __init__(self, studio: Studio, chosen: gr.HTML, job_id: gr.BrowserState) -> None:
        self.studio = studio
        with gr.Column(elem_classes="card", elem_id="export-card"):
            run_view.heading("export-title", "", "Export", "For other programs, with its recipe and a model card.")
            self.format = gr.Dropdown(list(FORMATS), label="Format", **open_to("export-format"))
            self.about = gr.HTML(_about("diffusers"), label="About the format", elem_id="export-about")
            with gr.Row(elem_classes="pair-grid", elem_id="export-share", visible=False) as self.share:
                self.rank = gr.Textbox(
                    "", label="Rank", info="The same in all layers", max_lines=1, min_width=100,
                    **open_to("export-rank"),
                )  # fmt: skip
                self.energy = gr.Textbox(
                    "", label="Share kept", info=f"Or of the change; blank: {ENERGY}", max_lines=1, min_width=100,
                    **open_to("export-energy"),
                )  # fmt: skip
            self.job = JobCard(studio, "export", [("export", "Export")], job_id)
            self.result = gr.HTML("", label="Exported", apply_default_css=False, elem_id="exported")
            with gr.Row(elem_classes="button-row", elem_id="export-files", visible=False) as self.files:
                self.file = gr.DownloadButton("Download", size="sm", elem_id="export-file")
                self.card = gr.DownloadButton("Model card", size="sm", elem_id="export-about-file")
        self.shown = [*self.job.outputs, self.result, self.files, self.file, self.card]
        asked = [self.job.job_id, chosen, self.format, self.rank, self.energy]
        self.format.change(self.on_format, self.format, [self.about, self.share], **QUIET)
        self.job.start[0].click(self.on_export, asked, self.shown, concurrency_limit=None, **QUIET)

    @spoken
    def on_format(self, kind: str) -> tuple[str, Any]:
        return _about(kind), gr.Row(visible=kind == LORA)

    @spoken
    def on_export(self, job_id: str, chosen: dict[str, Any], kind: str, rank: str, energy: str) -> Iterator[Update]:
        """Write the files and offer them."""

        def start() -> Job:
            names = (chosen or {}).get("chosen", [])
            if len(names) != 1:
                raise RecipeError("", "Choose one erased model in the list, to export it.")
            return self.studio.export(names[0], self._packing(names[0], kind, rank, energy))

        yield from self.job.begin(job_id, start, self._end, FIELDS)

    @spoken
    def on_return(self, job_id: str) -> Iterator[Update]:
        """Show this browser's export again after a reload."""
        yield from self.job.again(job_id, self._end, FIELDS)

    def _packing(self, name: str, kind: str, rank: str, energy: str) -> ExportRequest:
        """Into a folder of the page's own, where an older export of the same is replaced."""
        path = self.studio.output / "exports" / f"{name}-{kind}{'' if kind == 'diffusers' else '.safetensors'}"
        share = (form.rank_from(rank), form.energy_from(energy)) if kind == LORA else (None, None)
        return ExportRequest(kind, path, *share, overwrite=True)

    def _end(self, job: Job) -> Update:
        written = job.result
        file, card = outputs.exported(written)
        return {
            self.result: model_view.exported(written),
            self.files: gr.Row(visible=True),
            self.file: download(file),
            self.card: download(card),
        }


def _about(kind: str) -> str:
    return f'<p class="hint">{FORMATS[kind]}.</p>'
