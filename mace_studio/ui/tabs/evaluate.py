"""The Evaluate tab: what is gone, what should be gone and is not, and what has suffered."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from mace_studio.errors import StudioError
from mace_studio.evaluation.report import Report, Row, called
from mace_studio.runtime import result_files
from mace_studio.runtime.estimate import duration
from mace_studio.runtime.jobs import DONE, Job
from mace_studio.ui import notices
from mace_studio.ui.cards.beyond import BeyondCard
from mace_studio.ui.cards.job import JobCard, Shows
from mace_studio.ui.components import report_tables
from mace_studio.ui.components.model_list import choices, listing
from mace_studio.ui.components.text import estimate, estimate_missing, heading
from mace_studio.ui.gradio_compat import QUIET, WAITING, download, enabled
from mace_studio.ui.notices import readable
from mace_studio.ui.tab import ERASURES_CHANGED, PAGE_OPENED, SELECTED, Listener, Newest, Shared

SEVERAL, NONE_YET = "One, or several to see side by side", "None yet: the Erase tab makes them"
PLANS = {"Quick: at least 8 images a word": "quick", "Full: at least 56 images a word": "full"}

Update = dict[Any, Any]


class EvaluateTab:
    """Builds the tab and answers its buttons."""

    def __init__(self, shared: Shared) -> None:
        self.studio, self.shared, self.job_id = shared.studio, shared, shared.jobs["evaluate"]
        self.measured = gr.State("")  # the job whose reports are shown
        self.written = gr.State(None)  # the job whose reports were written last, their archive, and the images
        with gr.Row(elem_classes="columns", elem_id="evaluate-columns"):
            with gr.Column(scale=4, min_width=310):
                self._plan_card()
            with gr.Column(scale=10, min_width=330):
                self._result_card()
        self._wire()
        seen = gr.State(None)  # the last request that this tab has answered
        choose = Listener(self.on_open, [shared.newest, seen, self.name], [self.name, seen])
        self.listens = {
            PAGE_OPENED: [choose, self.job.resume, self.beyond.job.resume],
            SELECTED: [choose],
            ERASURES_CHANGED: [choose],
        }
        self.emits: dict[str, list[Any]] = {}
        # The estimate takes the pace of the last comparison, which may be newer than the list.
        asked, changes = [self.name, self.plan], [self.name.change, self.plan.change]
        self.listens[SELECTED].append(Listener(self.on_plan, asked, self.summary, also=changes))

    def _plan_card(self) -> None:
        with gr.Column(elem_classes="card", elem_id="plan-card"):
            heading("plan-title", "", "What to measure", "The same prompts and seeds with both models.")
            self.name = gr.CheckboxGroup(
                [],
                label="Erased models",
                info=SEVERAL,
                **enabled("evaluate-model"),
            )
            self.plan = gr.Dropdown(
                list(PLANS),
                value=next(iter(PLANS)),
                label="Plan",
                info="Quick: up to 24 words of each list",
                **enabled("evaluate-plan"),
            )
            self.judge = gr.Textbox(
                "",
                label="Judge",
                info="A CLIP model: hub id or folder; blank: the model’s own",
                max_lines=1,
                **enabled("evaluate-judge"),
            )
            self.summary = gr.HTML("", label="Plan", elem_id="plan-summary")
            self.job = JobCard(self.studio, "evaluate", [("evaluate", "Evaluate")], self.job_id)

    def _result_card(self) -> None:
        with gr.Column(elem_classes="card", elem_id="scores-card"):
            heading(
                "scores-title", "", "Accuracy, before and after", "How often the judge’s first answer is the right one."
            )
            self.head = gr.HTML("", label="Summary", apply_default_css=False, elem_id="scores-head")
            self.table = gr.HTML(report_tables.EMPTY, label="Scores", apply_default_css=False, elem_id="scores")
            self.samples = gr.HTML("", label="Images so far", apply_default_css=False, elem_id="samples")
            self.judged = gr.HTML("", label="Judge", elem_id="judged")
            with gr.Row(elem_classes="button-row", elem_id="report-files"):
                self.file = gr.DownloadButton("Download report", size="sm", interactive=False, elem_id="report-file")
        with gr.Column(elem_classes="card", elem_id="spill-card", visible=False) as self.spill_card:
            heading(
                "spill-title", "", "What suffered most", "Kept words by lost probability: before above, after below."
            )
            self.spills = gr.HTML("", label="What suffered most", apply_default_css=False, elem_id="spills")
        self.beyond = BeyondCard(self.shared)
        with gr.Column(elem_classes="card", elem_id="sheet-card", visible=False) as self.sheet_card:
            heading("sheet-title", "", "Contact sheets", "Press one to see it whole.")
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
        files = [self.file, self.sheet_card, self.sheets]
        shown = [self.head, self.table, self.samples, self.judged, self.spill_card, self.spills, *files, self.measured]
        shows = Shows(begun=self._begun, found=self._rows, done=self._reports, resumed=self._begun)
        self.job.wire([self.on_evaluate], [*chosen, self.judge], shown, shows)
        looked = self.beyond.wire(self.name, self.judge)
        # Again after a look at neighbours, which belong in the report.
        for event in (self.measured.change, looked.then):
            written = event(self.on_files, [self.measured, self.beyond.job_id], self.written, **WAITING)
            written.then(self.on_written, [self.written, self.measured], files, **QUIET)

    @readable
    def on_open(self, newest: Newest, seen: int | None, chosen: list[str]) -> tuple[Any, int]:
        """List the erased models: several that were chosen stay so, or else the newest is chosen once.

        Where the user unchecked all of them, perhaps to check another next, none is chosen again.
        """
        listed = choices(self.studio.entries())
        names = [name for _, name in listed]
        kept = [name for name in chosen if name in names]
        first = [name for name in (newest.name, *kept, *names) if name in names][:1]
        stays = len(kept) > 1 or (seen == newest.asked and (kept or not chosen))
        kind = partial(gr.CheckboxGroup, info=SEVERAL if names else NONE_YET)
        return listing(kind, listed, kept if stays else first, chosen), newest.asked

    @readable
    def on_plan(self, names: list[str], plan: str) -> str:
        """Say what will be generated, before anything is."""
        try:
            plans = [self.studio.plan(name, PLANS[plan]) for name in names]
        except StudioError as error:
            return estimate_missing(notices.sentence(error))
        if not plans:
            return ""
        images, seconds = sum(made.images for made in plans), [s for made in plans if (s := self.studio.seconds(made))]
        several = f"{len(plans)} erased models, at most {images:,} images; what they share is generated once"
        time = (
            f"; about {duration(sum(seconds))} at the pace of the last comparison" if len(seconds) == len(plans) else ""
        )
        return estimate(f"{plans[0].summary() if len(plans) == 1 else several}{time}.")

    def on_evaluate(self, names: list[str], plan: str, judge: str) -> Job:
        """Start an evaluation."""
        return self.studio.evaluate(names, PLANS[plan], judge.strip() or None)

    def _begun(self, job: Job) -> Update:
        return {
            self.head: "",
            self.table: report_tables.EMPTY,
            self.samples: "",
            self.judged: "",
            self.spill_card: gr.Column(visible=False),
            self.file: gr.DownloadButton(interactive=False),
            self.sheet_card: gr.Column(visible=False),
            self.measured: "",
        }

    def _rows(self, job: Job, found: list[tuple[str, Row]]) -> Update:
        """The words that are judged so far; of a job that was cancelled too, said to be unfinished."""
        rows: dict[str, list[Row]] = {}
        for name, row in found:
            rows.setdefault(name, []).append(row)
        update: Update = {self.table: report_tables.table(rows)}
        if rows and job.state != DONE:
            update[self.head] = report_tables.unfinished(job.over)
            update[self.samples] = report_tables.samples(rows)
        return update

    @readable
    def on_files(self, job_id: str, look_id: str) -> Any:
        """Write the report and its contact sheets: an event of its own, so that the figures are seen before."""
        reports: list[Report] | None = self.job.result(job_id)
        if reports is None:
            return gr.skip()
        look: Report | None = self.job.result(look_id)
        if look is not None:
            same = [(one.name, one.recipe) == (look.name, look.recipe) for one in reports]
            reports = [replace(one, beyond=look) if own else one for one, own in zip(reports, same, strict=True)]
        folder = self.studio.output / "reports" / job_id
        images = [path for path in result_files.write_evaluation(reports, folder) if path.suffix == ".png"]
        return job_id, result_files.write_archive(folder), images

    @readable
    def on_written(self, written: tuple[str, Path, list[Path]] | None, job_id: str) -> Update:
        """Offer the files, unless another evaluation has begun meanwhile."""
        if written is None or written[0] != job_id:
            return {self.file: gr.skip()}
        _, archive, images = written
        folder = self.studio.output / "reports" / job_id
        return {
            self.file: download(archive, interactive=True),
            self.sheet_card: gr.Column(visible=True),
            # With what an image shows, and of which erased model where there are several.
            self.sheets: [
                (str(path), " · ".join(reversed(path.relative_to(folder).with_suffix("").parts))) for path in images
            ],
        }

    def _reports(self, job: Job) -> Update:
        reports: list[Report] = job.result
        return {
            self.head: report_tables.headline(reports),
            self.samples: "",
            self.table: report_tables.table({name: r.rows for name, r in zip(called(reports), reports, strict=True)}),
            self.judged: report_tables.judged(reports),
            self.spill_card: gr.Column(visible=True),
            self.spills: report_tables.spill_over(reports),
            self.file: gr.DownloadButton(interactive=False),  # it is not written yet
            self.sheet_card: gr.Column(visible=False),
            self.measured: job.id,
        }
