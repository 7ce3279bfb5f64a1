"""The studio: one loaded model, the use cases as methods that return a Job, and the erasures on disk.

The work itself is a generator of `tasks`, which may run in another process. The libraries behind the model take
seconds to import: that happens on the worker's thread, so that the page is up before.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mace_studio import engine, prompts, quota, shelf, tasks
from mace_studio.errors import FileError, RecipeError, StudioError
from mace_studio.jobs import DONE, Job, Worker
from mace_studio.packing import Packing
from mace_studio.recipe import Drawing, Recipe
from mace_studio.shelf import Entry
from mace_studio.status import Estimate, Status

if TYPE_CHECKING:
    from mace_studio.progress import Progress
    from mace_studio.report import Plan

ROOT = Path(__file__).parents[1]
BUILT_IN = ROOT / "assets" / "miniature" / "model"
PATIENCE = 15.0


class Studio:
    """Owns the model through one worker thread.

    Args:
        source: folder, hub id or single .safetensors file of the model; the built-in miniature when None.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        dtype: "auto", "float32", "float16" or "bfloat16".
        output: where erasures, pictures and cached training images go.
        low_memory: for small graphics cards: slower, see `sd.loading.load`.
        perform: runs a task; `tasks.perform`, or the same inside `spaces.GPU`, which has a GPU only meanwhile.
        fixed: many visitors share it: nobody may change the model, and what one asks for at once is bounded (`quota`).
        visitor: names whoever is asking, where it is fixed: each has a folder of erasures, beside those that all see.
    """

    def __init__(
        self,
        source: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        output: Path = Path("output"),
        low_memory: bool = False,
        perform: Callable[..., tasks.Events] = tasks.perform,
        fixed: bool = False,
        visitor: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._place = tasks.Place(source or str(BUILT_IN), device, dtype, low_memory, output, output / "cache")
        self.fixed = fixed
        self._visitor = visitor
        self._perform = perform
        self._status = Status("built-in miniature" if source is None else Path(source).name, "waiting")
        self._memory: int | None = None
        self._worker = Worker()
        self._compared: Job | None = None

    @property
    def source(self) -> str:
        """Folder, hub id or file of the model."""
        return self._place.source

    @property
    def place(self) -> tasks.Place:
        """Where whoever is asking works."""
        name = self._visitor() if self.fixed else None
        return replace(self._place, output=self._place.output / "visitors" / name) if name else self._place

    @property
    def output(self) -> Path:
        """The folder of erasures of whoever is asking."""
        return self.place.output

    def status(self) -> Status:
        """What is known of the model at this moment."""
        return self._status

    def job(self, job_id: str | None) -> Job | None:
        """The job with this id, or None when it is unknown or long gone."""
        return self._worker.find(job_id)

    def ahead(self, job: Job) -> int:
        """How many other jobs must end before this one begins."""
        return self._worker.ahead(job)

    def load(self) -> Job:
        """Import the libraries and load the model, so that the first erasure does not have to."""
        return self._worker.submit("Load the model", self._loaded)

    def prepare(self) -> None:
        """Load the model now, in this thread: ZeroGPU hands on to its workers what the main thread has loaded."""
        for _ in self._loaded():
            pass

    def estimate(self, recipe: Recipe) -> Estimate:
        """Count what a run of this recipe takes; nothing is computed."""
        images = recipe.images.per_concept * recipe.images.steps * 2 if recipe.lora.steps else 0
        forwards = len(recipe.concepts) * (images + recipe.lora.steps)
        return Estimate(len(recipe.concepts), prompts.count(recipe), forwards, self._memory)

    def erase(self, recipe: Recipe) -> Job:
        """Run a recipe. Events are `Progress`; the result is the `Entry` of the file that was written.

        Raises:
            RecipeError: the recipe cannot be run; nothing was queued.
        """
        recipe.check()
        return self._submit(f"Erase {recipe.title()}", recipe, tasks.erase, recipe)

    def compare(self, name: str, drawing: Drawing) -> Job:
        """Draw every prompt with every seed, before and after an erasure. Events are `Progress`; the result is [Pair].

        Raises:
            FileError: there is no erasure of this name.
            RecipeError: a setting that cannot be drawn; the message names it.
        """
        entry = self.entry(name)
        drawing.check()
        self._compared = self._submit(f"Compare {name}", drawing, tasks.compare, entry.path, drawing)
        return self._compared

    def inspect(self, name: str | None, drawing: Drawing, phrases: Sequence[str] = ()) -> Job:
        """Record the attention to one prompt's words, before and after an erasure; the result is an `Inspection`.

        Args:
            name: of the erasure; None looks at the model as it is.
            drawing: one prompt and one seed.
            phrases: what counts as one word, beside the erasure's concepts and synonyms.

        Raises:
            FileError: there is no erasure of this name.
            RecipeError: a setting that cannot be drawn; the message names it.
        """
        entry = self.entry(name) if name else None
        drawing.check_alone()
        path = entry.path if entry else None
        return self._submit(f"Inspect {name or self.source}", drawing, tasks.inspect, path, drawing, tuple(phrases))

    def residual(self, name: str, drawing: Drawing) -> Job:
        """Draw a prompt with the concept's embeddings replaced, in three stages; the result is an `Inspection`.

        Raises:
            FileError: there is no erasure of this name.
            RecipeError: a setting that cannot be drawn; the message names it.
        """
        entry = self.entry(name)
        drawing.check_alone()
        return self._submit(f"What is left of {name}", drawing, tasks.residual, entry.path, drawing)

    def preview(self, recipe: Recipe, drawing: Drawing) -> Job:
        """Draw one picture with and without the refinement of a recipe, training nothing; the result is a `Preview`.

        Raises:
            RecipeError: the recipe or the drawing cannot be run; nothing was queued.
        """
        recipe.check()
        drawing.check_alone()
        return self._submit(f"Preview {recipe.title()}", drawing, tasks.preview, recipe, drawing)

    def plan(self, name: str, size: str = "quick", first: int | None = None) -> Plan:
        """What an evaluation of an erasure will draw; nothing is drawn.

        Args:
            name: of the erasure.
            size: "quick" or "full".
            first: the first seed; None for the usual one.

        Raises:
            FileError: there is no erasure of this name.
            RecipeError: there is no such size.
        """
        parts = engine.engine()
        captions = parts.loading.captions(self.source).read_text(encoding="utf-8").splitlines()
        first = parts.evaluation.FIRST_SEED if first is None else first
        return parts.evaluation.make_plan(self.entry(name).recipe, size, captions=captions, first=first)

    def seconds(self, plan: Plan) -> float | None:
        """How long a plan will take at the pace of the last comparison; None while there is none."""
        job = self._compared
        if job is None or job.state != DONE:
            return None
        drawing: Drawing = job.request
        forwards = 2 * len(job.result) * drawing.steps * (2 if drawing.guidance > 1 else 1)
        return job.events[-1].seconds / forwards * plan.forwards

    def evaluate(self, name: str, size: str = "quick", judge: str | None = None, first: int | None = None) -> Job:
        """Measure an erasure by a plan. Events are `Progress`; the result is a `Report`.

        Args:
            name: of the erasure.
            size: "quick" or "full".
            judge: hub id or folder of a CLIP model; None takes the model's own judge, or else CLIP ViT-L/14.
            first: the first seed; None for the usual one.

        Raises:
            FileError: there is no erasure of this name.
            RecipeError: there is no such size, or a judge where the studio is fixed.
        """
        if self.fixed and judge:
            raise RecipeError("judge", "Only the model’s own judge can be used here; leave the field blank.")
        entry, plan = self.entry(name), self.plan(name, size, first)
        return self._submit(f"Evaluate {name}", (name, size), tasks.evaluate, entry.path, plan, judge)

    def export(self, name: str, packing: Packing) -> Job:
        """Write an erasure in a format that other programs load. Events are `Progress`; the result is an `Exported`.

        Raises:
            FileError: there is no erasure of this name, or something is at the path already.
            RecipeError: a setting that does not fit; the message names it.
        """
        entry = self.entry(name)
        packing.check()
        if packing.path.resolve() == entry.path.resolve():
            raise FileError(f"{packing.path} is the erasure itself, which stays; choose another name.")
        return self._submit(f"Export {name}", packing, tasks.export, entry.path, packing)

    def entries(self) -> list[Entry]:
        """Every erasure that whoever is asking may use, newest first: their own, and then those that all see."""
        own = shelf.entries(self.output)
        if self.output == self._place.output:
            return own
        names = {entry.name for entry in own}
        return own + [entry for entry in shelf.entries(self._place.output) if entry.name not in names]

    def entry(self, name: str) -> Entry:
        """The erasure of this name: one's own, or one that all see.

        Raises:
            FileError: there is none.
        """
        own = shelf.exists(self.output, name)
        return shelf.named(self.output if own else self._place.output, name)

    def _submit(self, title: str, request: object, task: tasks.Task, *arguments: Any) -> Job:
        """Queue a task, with the model loaded before it.

        Args:
            title: what a person calls the job.
            request: for whoever comes back to watch it.
            task: of `tasks`.
            arguments: what the task takes beside the place; plain data, to be pickled.

        Raises:
            RecipeError: it is too much for a studio that is fixed.
        """
        if self.fixed:
            quota.check(task, *arguments)
        place = self.place  # on the job's thread nobody is asking any more

        def work() -> Generator[Progress, None, Any]:
            yield from self._loaded()
            return (yield from tasks.outcome(self._perform(task, place, *arguments)))

        return self._worker.submit(title, work, request, PATIENCE)

    def _loaded(self) -> Generator[Progress, None, None]:
        """Load the model into this process, once: a process that is forked from it has it too."""
        if self._status.state == "ready":
            return
        name = self._status.name
        self._status = Status(name, "loading")
        try:
            loaded = yield from tasks.outcome(tasks.perform(tasks.load, self._place))
        except Exception as error:
            said = str(error) if isinstance(error, StudioError) else "the server's log says why"
            self._status = Status(name, "failed", said)
            raise
        self._memory = loaded.memory
        self._status = Status(name, "ready", loaded.where)


def suggested_prompts(recipe: Recipe) -> list[tuple[str, str]]:
    """Prompts worth comparing, each as (role, prompt); the role is "erased", "synonym" or "kept"."""
    return prompts.suggestions(recipe)
