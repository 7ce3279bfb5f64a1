"""The chosen model as files that other programs load."""

from __future__ import annotations

from typing import Any

import gradio as gr

from mace_studio.errors import RecipeError
from mace_studio.exports.formats import ENERGY, FORMATS, ExportRequest
from mace_studio.runtime import result_files
from mace_studio.runtime.jobs import Job
from mace_studio.runtime.studio import Studio
from mace_studio.ui import form
from mace_studio.ui.cards.job import JobCard, Shows
from mace_studio.ui.components import model_list
from mace_studio.ui.components.text import heading
from mace_studio.ui.gradio_compat import QUIET, download, enabled
from mace_studio.ui.notices import readable

PLACES = {"rank": ("Rank", "#export-rank input"), "energy": ("Share kept", "#export-energy input")}

Update = dict[Any, Any]


class ExportCard:
    """Builds the card and answers its button.

    Args:
        studio: exports.
        chosen: the list of models; its value holds those that are chosen.
        job_id: from `gradio_compat.remembered`.

    Attributes:
        job: the export that this browser watches.
    """

    def __init__(self, studio: Studio, chosen: gr.HTML, job_id: gr.BrowserState) -> None:
        self.studio = studio
        with gr.Column(elem_classes="card", elem_id="export-card"):
            heading("export-title", "", "Export", "For other programs, with its recipe and a model card.")
            self.format = gr.Dropdown(list(FORMATS), label="Format", **enabled("export-format"))
            self.about = gr.HTML(_about("diffusers"), label="About the format", elem_id="export-about")
            with gr.Row(elem_classes="pair-grid", elem_id="export-share", visible=False) as self.share:
                self.rank = gr.Textbox(
                    "", label="Rank", info="The same in all layers", max_lines=1, min_width=100,
                    **enabled("export-rank"),
                )  # fmt: skip
                self.energy = gr.Textbox(
                    "", label="Share kept", info=f"Or how much of the change it holds; blank: {ENERGY}", max_lines=1,
                    min_width=100, **enabled("export-energy"),
                )  # fmt: skip
            self.job = JobCard(studio, "export", [("export", "Export")], job_id, PLACES)
            self.result = gr.HTML("", label="Exported", apply_default_css=False, elem_id="exported")
            with gr.Row(elem_classes="button-row", elem_id="export-files", visible=False) as self.files:
                self.file = gr.DownloadButton("Download", size="sm", elem_id="export-file")
                self.card = gr.DownloadButton("Model card", size="sm", elem_id="export-about-file")
        self.format.change(self.on_format, self.format, [self.about, self.share], **QUIET)
        shown = [self.result, self.files, self.file, self.card]
        self.job.wire([self.on_export], [chosen, self.format, self.rank, self.energy], shown, Shows(done=self._files))

    @readable
    def on_format(self, kind: str) -> tuple[str, Any]:
        """Say what the format is for; a LoRA has settings of its own."""
        return _about(kind), gr.Row(visible=FORMATS[kind].has_rank)

    def on_export(self, chosen: dict[str, Any], kind: str, rank: str, energy: str) -> Job:
        """Start an export of the chosen model."""
        names = model_list.chosen_in(chosen)
        if len(names) != 1:
            raise RecipeError("", "Choose one erased model in the list, to export it.")
        return self.studio.export(names[0], self._request(names[0], kind, rank, energy))

    def _request(self, name: str, kind: str, rank: str, energy: str) -> ExportRequest:
        """Into a folder of the page's own, where an older export of the same is replaced."""
        path = self.studio.output / "exports" / f"{name}-{kind}{FORMATS[kind].suffix}"
        if not FORMATS[kind].has_rank:
            return ExportRequest(kind, path, overwrite=True)
        share = form.energy_from(energy)
        return ExportRequest(kind, path, rank=form.rank_from(rank), energy=share, overwrite=True)

    def _files(self, job: Job) -> Update:
        written = job.result
        file, card = result_files.pack_export(written)
        return {
            self.result: model_list.exported(written),
            self.files: gr.Row(visible=True),
            self.file: download(file),
            self.card: download(card),
        }


def _about(kind: str) -> str:
    return f'<p class="hint">{FORMATS[kind].title}: {FORMATS[kind].about}.</p>'
