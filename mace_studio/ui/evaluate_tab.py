"""The Evaluate tab: what is gone, what should be gone and is not, and what has suffered."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from mace_studio import outputs
from mace_studio.errors import StudioError
from mace_studio.jobs import Job
from mace_studio.report import Report
from mace_studio.studio import Studio
from mace_studio.ui import notices, report_view, run_view
from mace_studio.ui.files import download
from mace_studio.ui.job_card import JobCard, erased_models
from mace_studio.ui.notices import spoken
from mace_studio.ui.recipe_form import QUIET, open_to

PLANS = {"Quick: at least 8 images a word": "quick", "Full: at least 56 images a word": "full"}
SHEETS = ("efficacy.png", "generality.png", "specificity.png", "scores.png")

Update = dict[Any, Any]


class EvaluateTab:
    """Builds the tab and answers its buttons.

    Args:
        studio: measures, and knows the erased models.
        job_id: from `job_card.remembered`.

    Attributes:
        name: the erased model.
        job: the evaluation that this browser watches.
        shown: what `on_return` updates.
    """

    def __init__(self, studio: Studio, job_id: gr.BrowserState) -> None:
        self.studio = studio
        self.reports = gr.State([])
        with gr.Row(elem_classes="columns", elem_id="evaluate-columns"):
            with gr.Column(scale=4, min_width=310):
                self._plan_card(job_id)
            with gr.Column(scale=10, min_width=330):
                self._result_card()
        self._wire()

    def _plan_card(self, job_id: gr.BrowserState) -> None:
        with gr.Column(elem_classes="card", elem_id="plan-card"):
            run_view.heading("plan-title", "", "What to measure", "The same prompts and seeds with both models.")
            self.name = gr.Dropdown(
                [], label="Erased model", info="The Erase tab makes them", **open_to("evaluate-model")
            )
            self.plan = gr.Dropdown(
                list(PLANS), value=next(iter(PLANS)), label="Plan", info="How many images", **open_to("evaluate-plan")
            )
            self.judge = gr.Textbox(
                "",
                label="Judge",
                info="A CLIP model: hub id or folder; blank: the model’s own",
                max_lines=1,
                **open_to("evaluate-judge"),
            )
            self.summary = gr.HTML("", label="Plan", elem_id="plan-summary")
            self.job = JobCard(self.studio, "evaluate", [("evaluate", "Evaluate")], job_id, self._live)

    def _result_card(self) -> None:
        with gr.Column(elem_classes="card", elem_id="scores-card"):
            run_view.heading(
                "scores-title", "", "Accuracy, before and after", "How often the judge’s first answer is the right one."
            )
            self.head = gr.HTML("", label="Summary", apply_default_css=False, elem_id="scores-head")
            self.table = gr.HTML(report_view.EMPTY, label="Scores", apply_default_css=False, elem_id="scores")
            self.judged = gr.HTML("", label="Judge", elem_id="judged")
            with gr.Row(elem_classes="button-row", elem_id="report-files"):
                self.file = gr.DownloadButton("Download report", size="sm", interactive=False, elem_id="report-file")
        with gr.Column(elem_classes="card", elem_id="spill-card", visible=False) as self.spill_card:
            run_view.heading(
                "spill-title", "", "What suffered most", "Kept words by lost probability: before above, after below."
            )
            self.spills = gr.HTML("", label="What suffered most", apply_default_css=False, elem_id="spills")
        with gr.Column(elem_classes="card", elem_id="sheet-card", visible=False) as self.sheet_card:
            run_view.heading("sheet-title", "", "Contact sheets", "Press one to see it whole.")
            self.sheets = gr.Gallery(
                label="Contact sheets",
                show_label=False,
                format="png",
                columns=4,
                height="auto",
                object_fit="contain",
                interactive=False,
                buttons=["download"],
                elem_id="sheets",
            )

    def _wire(self) -> None:
        chosen = [self.name, self.plan]
        self.shown = [
            *self.job.outputs, self.reports, self.head, self.table, self.judged, self.file, self.spill_card,
            self.spills, self.sheet_card, self.sheets,
        ]  # fmt: skip
        asked = [self.job.job_id, self.reports, *chosen, self.judge]
        self.job.start[0].click(self.on_evaluate, asked, self.shown, concurrency_limit=None, **QUIET)
        gr.on([self.name.change, self.plan.change], self.on_plan, chosen, self.summary, **QUIET)

    @spoken
    def on_open(self, made: str, chosen: str | None) -> Any:
        """List the erased models, with the newest run's chosen."""
        return erased_models(self.studio, made, chosen)

    @spoken
    def on_plan(self, name: str | None, plan: str) -> str:
        """Say what will be drawn, before anything is."""
        if not name:
            return ""
        try:
            made = self.studio.plan(name, PLANS[plan])
        except StudioError as error:
            return run_view.estimate_missing(notices.sentence(error))
        seconds = self.studio.seconds(made)
        told = f"; about {run_view.duration(seconds)} at the pace of the last comparison" if seconds else ""
        return f'<p class="estimate">{made.summary()}{told}.</p>'

    @spoken
    def on_evaluate(
        self, job_id: str, reports: list[Report], name: str | None, plan: str, judge: str
    ) -> Iterator[Update]:
        """Measure, and fill the table as words are finished."""

        def start() -> Job:
            return self.studio.evaluate(name or "", PLANS[plan], judge.strip() or None)

        yield from self.job.begin(job_id, start, lambda job: self._end(job, reports), {})

    @spoken
    def on_return(self, job_id: str) -> Iterator[Update]:
        """Show this browser's evaluation again after a reload."""
        yield from self.job.again(job_id, lambda job: self._end(job, []), {})

    def _live(self, job: Job) -> Update:
        """The rows that are finished."""
        return {self.table: report_view.table(event.result for event in job.events if event.result is not None)}

    def _end(self, job: Job, reports: list[Report]) -> Update:
        report: Report = job.result
        others = [r for r in reports if r.recipe != report.recipe or r.plan != report.plan]
        together = [*others, report]
        folder = self.studio.output / "reports" / job.id
        files = {path.name: path for path in outputs.evaluation(report, folder)}
        archive = Path(shutil.make_archive(str(folder), "zip", folder))
        return {
            self.reports: together,
            self.head: report_view.headline(together),
            self.table: report_view.table(report.rows),
            self.judged: report_view.judged(report),
            self.file: download(archive, interactive=True),
            self.spill_card: gr.Column(visible=True),
            self.spills: report_view.spill_over(report),
            self.sheet_card: gr.Column(visible=True),
            self.sheets: [(str(files[name]), name.removesuffix(".png")) for name in SHEETS if name in files],
        }
