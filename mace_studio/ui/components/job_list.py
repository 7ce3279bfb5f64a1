"""The jobs of a user as a list, each with the buttons that fit its state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from mace_studio.runtime.estimate import counted_as, duration
from mace_studio.runtime.job_log import Written
from mace_studio.runtime.jobs import QUEUED, RUNNING, Job
from mace_studio.ui.components.files import script

SHOWN = 5  # jobs that are over
LIST = '<ul class="job-list" aria-label="Jobs"></ul><p class="hint">No job waits or runs.</p>'
BROKEN_OFF = '<ul class="job-list" aria-label="Jobs that a restart broke off"></ul>'

Row = dict[str, Any]


def job_list(elem_id: str, template: str = LIST) -> gr.HTML:
    """The list; "act" says which button of which job was pressed. Its value is made by `rows` or `broken_off`."""
    return gr.HTML(
        [], label="Jobs", html_template=template, js_on_load=script(__file__), apply_default_css=False, elem_id=elem_id
    )


def broken_off(interrupted: Sequence[Written], gone_on: Sequence[Job]) -> list[Row]:
    """What a restart broke off, and what goes on of it."""
    return [*(_row(one.id, one.title, "interrupted", ["resume", "forget"]) for one in interrupted), *rows(gone_on)]


def rows(jobs: Sequence[Job]) -> list[Row]:
    """The last jobs that are over, the one that runs, and those that wait."""
    asked = [job for job in jobs if job.request is not None]  # not the loading of the model
    over = [job for job in asked if job.over]
    waiting = [job for job in asked if job.state == QUEUED]
    last = len(waiting) - 1
    return [
        *(_row(job.id, job.title, job.state, []) for job in over[-SHOWN:]),
        *(_row(job.id, job.title, _far(job), ["cancel"]) for job in asked if job.state == RUNNING),
        *(
            _row(job.id, job.title, _place(i), ["earlier"] * (i > 0) + ["later"] * (i < last) + ["cancel"])
            for i, job in enumerate(waiting)
        ),
    ]


def wait(ahead: int, seconds: float | None) -> str:
    """How long an erasure would wait that is begun now, as HTML; nothing where it would not."""
    if not ahead:
        return ""
    # Below a second the job ahead takes longer than was estimated, and nobody knows how much.
    when = "" if seconds is None or seconds < 1 else f" and begins in about {duration(seconds)}"
    return f'<p class="estimate">A new erasure waits for {counted_as(ahead, "job")}{when}.</p>'


def _row(job_id: str, title: str, state: str, actions: list[str]) -> Row:
    return {"id": job_id, "title": title, "state": state, "actions": actions}


def _far(job: Job) -> str:
    return f"running, {100 * getattr(job.events[-1], 'fraction', 0.0):.0f} %" if job.events else "running"


def _place(index: int) -> str:
    return f"waits, {counted_as(index, 'job')} of yours before it" if index else "waits, next of yours"
