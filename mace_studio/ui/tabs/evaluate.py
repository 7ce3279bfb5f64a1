"""The Evaluate tab: what is gone, what should be gone and is not, and what has suffered."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from mace_studio.errors import StudioError
from mace_studio.evaluation.report import Report, Row, called
from mace_studio.runtime import outputs
from mace_studio.runtime.jobs import Job
from mace_studio.runtime.studio import Studio
from mace_studio.ui import notices, report_view, run_view
from mace_studio.ui.cards.job import JobCard
from mace_studio.ui.files import download
from mace_studio.ui.notices import spoken
from mace_studio.ui.recipe_form import QUIET, open_to

PLANS = {"Quick: at least 8 images a word": "quick", "Full: at least 56 images a word": "full"}

Update = dict[Any, Any]


class EvaluateTab:
    """Builds the tab and answers its buttons.

    Args:
        studio: measures, and knows the erased models.
        job_id: from `job_card.remembered`.

    Attributes:
        name: the erased models.
        job: the evaluation that this browser watches.
        shown: what `on_return` updates.
    """

    def __init__(self, studio: Studio, job_id: gr.BrowserState) -> None:
        self.studio = studio
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
                [],
                multiselect=True,
                label="Erased models",
                info="One, or several to see side by side",
                **open_to("evaluate-model"),
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
            *self.job.outputs, self.head, self.table, self.judged, self.file, self.spill_card, self.spills,
            self.sheet_card, self.sheets,
        ]  # fmt: skip
        asked = [self.job.job_id, *chosen, self.judge]
        self.job.start[0].click(self.on_evaluate, asked, self.shown, concurrency_limit=None, **QUIET)
        gr.on([self.name.change, self.plan.change], self.on_plan, chosen, self.summary, **QUIET)

    @spoken
    def on_open(self, made: str, chosen: list[str]) -> Any:
        """List the erased models: several that were chosen stay so, or else the newest run's is chosen."""
        names = [entry.name for entry in self.studio.entries()]
        kept = [name for name in chosen if name in names]
        return gr.Dropdown(names, value=kept if len(kept) > 1 else [n for n in (made, *kept, *names) if n in names][:1])

    @spoken
    def on_plan(self, names: list[str], plan: str) -> str:
        """Say what will be drawn, before anything is."""
        try:
            plans = [self.studio.plan(name, PLANS[plan]) for name in names]
        except StudioError as error:
            return run_view.estimate_missing(notices.sentence(error))
        if not plans:
            return ""
        images, seconds = sum(made.images for made in plans), [self.studio.seconds(made) for made in plans]
        several = f"{len(plans)} erased models, at most {images:,} images; what they share is drawn once"
        told = f"; about {run_view.duration(sum(seconds))} at the pace of the last comparison" if all(seconds) else ""
        return f'<p class="estimate">{plans[0].summary() if len(plans) == 1 else several}{told}.</p>'

    @spoken
    def on_evaluate(self, job_id: str, names: list[str], plan: str, judge: str) -> Iterator[Update]:
        """Measure, and fill the table as words are finished."""

        def start() -> Job:
            return self.studio.evaluate(names, PLANS[plan], judge.strip() or None)

        yield from self.job.begin(job_id, start, self._end, {})

    @spoken
    def on_return(self, job_id: str) -> Iterator[Update]:
        """Show this browser's evaluation again after a reload."""
        yield from self.job.again(job_id, self._end, {})

    def _live(self, job: Job) -> Update:
        """The rows that are finished."""
        rows: dict[str, list[Row]] = {}
        for name, row in (event.result for event in job.events if event.result is not None):
            rows.setdefault(name, []).append(row)
        return {self.table: report_view.table(rows)}

    def _end(self, job: Job) -> Update:
        reports: list[Report] = job.result
        folder = self.studio.output / "reports" / job.id
        pictures = [path for path in outputs.evaluation(reports, folder) if path.suffix == ".png"]
        archive = Path(shutil.make_archive(str(folder), "zip", folder))
        return {
            self.head: report_view.headline(reports),
            self.table: report_view.table({name: r.rows for name, r in zip(called(reports), reports, strict=True)}),
            self.judged: report_view.judged(reports),
            self.file: download(archive, interactive=True),
            self.spill_card: gr.Column(visible=True),
            self.spills: report_view.spill_over(reports),
            self.sheet_card: gr.Column(visible=True),
            self.sheets: [(str(path), _caption(path.relative_to(folder))) for path in pictures],
        }


def _caption(path: Path) -> str:
    """What a picture shows, and of which erased model where there are several."""
    return " · ".join(reversed(path.with_suffix("").parts))
