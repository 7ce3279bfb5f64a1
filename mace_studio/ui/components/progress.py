"""What the page shows of a job while it runs and when it is over, as escaped HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from mace_studio.methods import find
from mace_studio.recipe import Recipe
from mace_studio.runtime.estimate import counted_as, duration, size
from mace_studio.runtime.jobs import CANCELLED, DONE, FAILED, Job
from mace_studio.runtime.library import Entry
from mace_studio.runtime.studio import Studio
from mace_studio.ui.components.charts import loss_curves
from mace_studio.ui.components.files import jpeg_url
from mace_studio.ui.components.text import explained, pairs, warnings

SHOWN = 6
STAGES = {
    "captions": "Captions", "images": "Images", "masks": "Masks", "refine": "Refine", "lora": "LoRA", "fuse": "Fuse",
    "tokens": "Tokens", "fisher": "Fisher", "train": "Training",
}  # fmt: skip
WORK = {**STAGES, "generate": "Generating", "export": "Writing"}
STATES = {"waiting": "not loaded yet", "loading": "loading …", "ready": "ready", "failed": "failed"}
ENDED = {DONE: "Finished", FAILED: "Failed", CANCELLED: "Cancelled"}


def status_chip(studio: Studio) -> str:
    """The model's name and state, for the header."""
    status = studio.status()
    said = f"{STATES[status.state]} · {status.detail}" if status.detail else STATES[status.state]
    name = html.escape(status.name)
    return f'<span class="chip is-{status.state}"><i></i><b>{name}</b><span>{html.escape(said)}</span></span>'


def idle(method: str = "mace") -> str:
    """The run before there is one; its stages are those of a method."""
    return _stages(method, {}, "") + '<p class="hint">Nothing runs yet.</p>'


def run(job: Job, studio: Studio) -> str:
    """How far an erasure is."""
    events = list(job.events)
    stage = events[-1].stage if events else ""
    done = job.state == DONE
    stages = _stages(job.request.method, _counts(events), "" if done else stage, done)
    return stages + _progress(job, studio, STAGES.get(stage, "")) + ("" if job.over else _latest(events, job.preview))


def _latest(events: Sequence[Any], preview: Any = None) -> str:
    """The last training images that were generated, and the one at work."""
    found = [event for event in events if event.stage == "images" and event.result is not None][-SHOWN:]
    images = [f'<img src="{jpeg_url(e.result)}" alt="Training image of {html.escape(e.concept)}">' for e in found]
    if preview is not None:
        images.append(f'<img src="{jpeg_url(preview)}" class="is-at-work" alt="The image at work, not finished yet">')
    return f'<p class="latest">{"".join(images)}</p>' if images else ""


def work(job: Job, studio: Studio) -> str:
    """How far any other job is."""
    events = list(job.events)
    said = _progress(job, studio, WORK.get(events[-1].stage, "") if events else "")
    return said + ("" if job.over else _latest(events, job.preview))


def waiting(job: Job, studio: Studio) -> str:
    """Why a job has not reported anything yet."""
    if studio.status().state in ("waiting", "loading"):
        return "Loading the model"
    ahead = studio.ahead(job)
    return f"Queued: {counted_as(ahead, 'job')} ahead" if ahead else "Starting"


def _progress(job: Job, studio: Studio, stage: str) -> str:
    last = job.events[-1] if job.events else None
    if last is None:
        return _bar(ENDED.get(job.state) or waiting(job, studio), "", float(job.state == DONE), "", "")
    gone, fraction = last.seconds, 1.0 if job.state == DONE else last.fraction
    if job.over:
        return _bar(ENDED[job.state], "", fraction, f"{duration(gone)} in all", "")
    where = " · ".join(filter(None, [f"{stage} {round(last.step, 1):g} of {last.total}", last.concept]))
    return _bar(stage, where, fraction, f"{duration(gone)} gone", _left(job.events))


def _left(events: Sequence[Any]) -> str:
    """Time left, at the pace of the present stage: the one before may have been read from the cache in no time."""
    last = events[-1]
    first = next(event for event in events if event.stage == last.stage)
    made = last.fraction - first.fraction
    return f"about {duration((last.seconds - first.seconds) * (1 - last.fraction) / made)} left" if made > 0.01 else ""


def _counts(events: Sequence[Any]) -> dict[str, str]:
    """Stage -> how far it is and how long it took."""
    spent: dict[str, float] = {}
    before = 0.0
    for event in events:
        spent[event.stage] = spent.get(event.stage, 0.0) + event.seconds - before
        before = event.seconds
    last = {event.stage: event for event in events}
    return {stage: f"{round(e.step, 1):g} of {e.total}<br>{duration(spent[stage])}" for stage, e in last.items()}


def _stages(method: str, counts: dict[str, str], now: str, done: bool = False) -> str:
    names = find(method).stages
    passed = names if done else names[: names.index(now)] if now in names else []
    items = ""
    for name in names:
        state = "is-done" if name in passed else "is-now" if name == now else ""
        count = counts.get(name) or ("left out" if name in passed else "waiting")
        current = ' aria-current="step"' if name == now else ""
        items += f'<li class="{state}"{current}><b>{STAGES.get(name, name)}</b>{count}</li>'
    return f'<ol class="stages" aria-label="Stages">{items}</ol>'


def _bar(status: str, where: str, fraction: float, gone: str, left: str) -> str:
    """`status` is read out when it changes; `where` changes at every step and is not."""
    percent = f"{100 * fraction:.0f}"
    shown = html.escape(where or status)
    return (
        f'<p class="sr-only" role="status">{html.escape(status)}</p>'
        f'<p class="pair"><span class="where">{shown}</span><b>{percent} %</b></p>'
        f'<div class="bar" role="progressbar" aria-label="Progress" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent}"><span style="width:{percent}%"></span></div>'
        f'<p class="pair"><span>{gone}</span><span>{left}</span></p>'
    )


def losses(job: Job | None, recipe: Recipe | None) -> str:
    """The loss curves of a job so far."""
    curves: dict[str, list[float]] = {}
    live: list[str] = []
    for event in list(job.events) if job else []:
        if event.loss is not None:
            curves.setdefault(event.concept, []).append(event.loss)
    if recipe and recipe.method != "mace":  # concepts take turns by chance, so no one knows how many steps one has
        return loss_curves(curves, max(map(len, curves.values()), default=0), list(curves)[-1:], None)
    if job and recipe and not job.over:
        live = [phrase for phrase, values in curves.items() if len(values) < recipe.settings.lora.steps]
    steps, squared = (recipe.settings.lora.steps, recipe.settings.lora.squared) if recipe else (50, False)
    return loss_curves(curves, steps, live or list(curves)[-1:], squared)


def summary(entry: Entry) -> str:
    """What came of an erasure, and where it is."""
    conditions = entry.conditions
    numbers = ", ".join(f"{STAGES[stage]} {conditions[stage]:.1e}" for stage in STAGES if stage in conditions)
    return (
        f'<p class="saved">Saved as <b>{html.escape(entry.name)}</b>, {size(entry.size)}. '
        "It is in the list of erased models on the Compare tab.</p>"
        + warnings(_with_row(warning, entry.recipe) for warning in entry.warnings)
        + (f'<div class="expert">{condition(numbers)}</div>' if numbers else "")
    )


def condition(numbers: str) -> str:
    """The condition numbers of the solves, and what that is."""
    return pairs([("Condition number", numbers)]) + explained(["Condition number"])


def _with_row(warning: str, recipe: Recipe) -> str:
    """A warning about one of several concepts, with the number of its row."""
    rows = [i for i, concept in enumerate(recipe.concepts, 1) if f"“{concept.phrase}”" in warning]
    alone = len(recipe.concepts) == 1 or len(rows) != 1 or "(row " in warning
    return warning if alone else f"Row {rows[0]}: {warning}"
