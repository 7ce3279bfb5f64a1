"""The same for programs: named endpoints over HTTP, and tools for assistants where the MCP server runs.

Each starts a job and waits for it. What is asked for is checked as on the page. Erasures go by name, never by a path,
and files are handed out by address.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

import gradio as gr

from mace_studio.errors import RecipeError, StudioError
from mace_studio.exports.formats import FORMATS, ExportRequest
from mace_studio.recipe import ImageRequest, Recipe
from mace_studio.runtime.jobs import DONE, FAILED, Job
from mace_studio.runtime.studio import Studio
from mace_studio.schema import build
from mace_studio.ui import api_results, notices
from mace_studio.ui.api_results import Result
from mace_studio.ui.notices import readable

LONGEST_WAIT = 600.0
EACH, MOST = 12, 48  # calls of one machine, and of all, that may wait or run at a time
AT_ONCE = 16  # calls that run; each holds a thread of the server, and those of one machine must not hold all
NAMES = ("erase", "compare", "inspect", "evaluate", "export", "erasures", "status", "cancel")


def answering(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """An endpoint whose refusals name the field as the recipe does; the page calls it by its label."""

    @functools.wraps(endpoint)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return endpoint(*args, **kwargs)
        except StudioError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return readable(call)


class Api:
    """The endpoints; `offer` puts them into the page that is being built."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self._results: WeakKeyDictionary[Job, Callable[[Job, Path], Result]] = WeakKeyDictionary()

    def offer(self) -> None:
        """Make every endpoint callable under its own name."""
        for name in NAMES:
            waits = {} if name in ("erasures", "status", "cancel") else {"concurrency_id": "api"}
            gr.api(getattr(self, name), api_name=name, concurrency_limit=AT_ONCE, **waits)

    @answering
    def erase(self, recipe: dict, wait: float = 60.0) -> dict:
        """Erase concepts from the model. The result names a new erasure, for compare, inspect, evaluate and export.

        Args:
            recipe: such as {"concepts": [{"phrase": "cat", "mapping": "forest", "kind": "object"}], "preserve":
                ["dog"]}; kind is object, celebrity, style or explicit. What is left out takes its default.
            wait: how many seconds to wait for the end, at most 600; after that ask `status`.

        Returns:
            The job: its id, state, progress and, once done, the result: name, url of the weights, size, warnings.
        """
        asked = Recipe.from_data(recipe)
        return self._waited(lambda: self.studio.erase(asked), wait, api_results.entry)

    @answering
    def compare(
        self,
        name: str,
        prompts: list[str],
        seeds: list[int] = [0],  # noqa: B006 - the client reads the default from here; nothing changes it
        steps: int = 20,
        guidance: float = 7.5,
        negative: str = "",
        wait: float = 60.0,
    ) -> dict:
        """Generate images of every prompt with every seed, before and after an erasure.

        Args:
            name: of the erasure, from erase or erasures.
            prompts: of the images.
            seeds: one pair of images of every prompt for each.
            steps: denoising steps.
            guidance: classifier-free guidance scale; 1 is none. The built-in model likes 4.
            negative: what to steer away from.
            wait: how many seconds to wait for the end, at most 600; after that ask `status`.

        Returns:
            The job; its result lists pairs: prompt, seed, mean pixel change, url of an image of both.
        """
        request = _images(prompts=prompts, seeds=seeds, steps=steps, guidance=guidance, negative=negative)
        name = build(str, name, "name")
        return self._waited(lambda: self.studio.compare(name, request), wait, api_results.pairs)

    @answering
    def inspect(
        self,
        name: str,
        prompt: str,
        seed: int = 0,
        steps: int = 20,
        guidance: float = 7.5,
        residual: bool = False,
        wait: float = 60.0,
    ) -> dict:
        """Read how much cross-attention each word of a prompt gets, before and after an erasure.

        Args:
            name: of the erasure, from erase or erasures.
            prompt: of the image.
            seed: of the image.
            steps: denoising steps.
            guidance: classifier-free guidance scale; 1 is none. The built-in model likes 4.
            residual: replace the concept's own words by the end token, and generate what the others still carry.
            wait: how many seconds to wait for the end, at most 600; after that ask `status`.

        Returns:
            The job; its result has the share of attention of each word, what the judge sees, and urls of figures.
        """
        request = _images(prompts=[prompt], seeds=[seed], steps=steps, guidance=guidance)
        name, residual = build(str, name, "name"), build(bool, residual, "residual")
        start: Callable[[str, ImageRequest], Job] = self.studio.residual if residual else self.studio.inspect
        return self._waited(lambda: start(name, request), wait, api_results.inspection)

    @answering
    def evaluate(self, name: str, plan: Literal["quick", "full"] = "quick", wait: float = 60.0) -> dict:
        """Measure an erasure: what is gone, what should be gone and is not, and what has suffered.

        Args:
            name: of the erasure, from erase or erasures.
            plan: quick generates at least 8 images a word, of up to 24 words a list, full at least 56 of all.
            wait: how many seconds to wait for the end, at most 600; after that ask `status`.

        Returns:
            The job; its result has the report as data, and urls of it as text, table and images.
        """
        name, plan = build(str, name, "name"), build(str, plan, "plan")
        return self._waited(lambda: self.studio.evaluate([name], plan), wait, api_results.report)

    @answering
    def export(
        self,
        name: str,
        format: Literal["unet", "lycoris", "lora", "checkpoint"],
        rank: int | None = None,
        energy: float | None = None,
        wait: float = 60.0,
    ) -> dict:
        """Write an erasure as a file that other programs load, with a model card beside it.

        Args:
            name: of the erasure, from erase or erasures.
            format: unet: the changed weights; lycoris: ComfyUI, A1111, InvokeAI; lora: all that load a LoRA;
                checkpoint: a whole model as one file.
            rank: of a lora.
            energy: or the share of the difference that a lora keeps, above 0 and at most 1.
            wait: how many seconds to wait for the end, at most 600; after that ask `status`.

        Returns:
            The job; its result has the urls of the files and, of a lora, what each layer leaves out.
        """
        name, format = build(str, name, "name"), build(str, format, "format")
        if format in FORMATS and FORMATS[format].folder:
            raise RecipeError("format", "A folder cannot be handed out here; use another format, or the terminal.")
        rank = None if rank is None else build(int, rank, "rank")
        energy = None if energy is None else build(float, energy, "energy")
        path = self.studio.output / "exports" / f"{self.studio.entry(name).name}-{format}.safetensors"
        request = ExportRequest(format, path, rank=rank, energy=energy, overwrite=True)
        return self._waited(lambda: self.studio.export(name, request), wait, api_results.exported)

    @answering
    def erasures(self) -> list[dict]:
        """List the erasures that can be compared, inspected, evaluated and exported.

        Returns:
            Of each its name and its recipe.
        """
        return [{"name": entry.name, "recipe": json.loads(entry.recipe.to_json())} for entry in self.studio.entries()]

    @answering
    def status(self, job: str) -> dict:
        """Ask how far a job is. One that nobody asks for is cancelled after 15 seconds.

        Args:
            job: its id.

        Returns:
            Its id, state (queued, running, done, failed, cancelled), progress, and result or error.
        """
        found = self._job(job)
        next(found.watch(beat=0), None)  # it is watched by asking for it
        return self._state(found)

    @answering
    def cancel(self, job: str) -> dict:
        """Stop a job at its next step.

        Args:
            job: its id.

        Returns:
            The job as it is now.
        """
        found = self._job(job)
        found.cancel()
        return self._state(found)

    def _job(self, job_id: str) -> Job:
        found = self.studio.job(build(str, job_id, "job"))
        if found is None or found not in self._results:
            raise RecipeError("job", "There is no such job, or it is long over.")
        return found

    def _waited(self, start: Callable[[], Job], wait: float, result: Callable[[Job, Path], Result]) -> Result:
        end = time.monotonic() + _seconds(wait)
        job = start()
        self._results[job] = result
        for _ in job.watch():
            if time.monotonic() >= end:
                break
        if job.state == FAILED and job.error is not None:
            raise job.error
        return self._state(job)

    def _state(self, job: Job) -> Result:
        last = job.events[-1] if job.events else None
        state: Result = {"job": job.id, "state": job.state, "title": job.title}
        if last is not None:
            state |= {"stage": last.stage, "fraction": round(last.fraction, 4), "seconds": round(last.seconds, 2)}
        if job.state == FAILED:
            state["error"] = str(job.error) if isinstance(job.error, StudioError) else notices.sentence(job.error)
        if job.state == DONE:
            state["result"] = self._results[job](job, self.studio.output)
        return state


def _images(**asked: Any) -> ImageRequest:
    return build(ImageRequest, asked)


def _seconds(wait: float) -> float:
    seconds = build(float, wait, "wait")
    if not 0 <= seconds <= LONGEST_WAIT:
        raise RecipeError("wait", f"Wait for 0 to {LONGEST_WAIT:.0f} seconds; later ask `status`.")
    return seconds
