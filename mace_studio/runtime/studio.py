"""The studio: one loaded model, the use cases as methods that return a Job, and the erasures on disk.

The work itself is a generator of `tasks`, which may run in another process. The libraries behind the model take
seconds to import: that happens on the worker's thread, so that the page is up before.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mace_studio import masks
from mace_studio.errors import FileError, RecipeError
from mace_studio.export.formats import ExportRequest
from mace_studio.recipe import ImageRequest, Recipe, joined
from mace_studio.runtime import engine, library, quota, tasks
from mace_studio.runtime import estimate as status
from mace_studio.runtime.estimate import Estimate, Status
from mace_studio.runtime.jobs import DONE, Job, Worker
from mace_studio.runtime.library import Entry
from mace_studio.runtime.loaded_model import BUILT_IN, BUILT_IN_NAME, LoadedModel
from mace_studio.settings import ImageSettings

if TYPE_CHECKING:
    from mace_studio.evaluation.report import Plan
    from mace_studio.progress import Progress

PATIENCE = 15.0

Settings = TypeVar("Settings", ImageRequest, ImageSettings, "Plan")


class Studio:
    """Owns the model through one worker thread.

    What is asked of a method is looked at before a job is queued: a FileError says that there is no erasure of a name,
    a RecipeError names the setting that cannot be run.

    Args:
        source: folder, hub id or single .safetensors file of the model; the built-in miniature when None.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        dtype: "auto", "float32", "float16" or "bfloat16".
        output: where erasures, pictures and cached training images go.
        low_memory: for small graphics cards: slower, see `sd.model.load`.
        captions: file of general captions, text or MS-COCO's JSON; None takes those that go with the model.
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
        captions: Path | None = None,
        perform: Callable[..., tasks.Events] = tasks.perform,
        fixed: bool = False,
        visitor: Callable[[], str | None] = lambda: None,
    ) -> None:
        place = tasks.Place(source or str(BUILT_IN), device, dtype, low_memory, output, output / "cache", captions)
        self.fixed = fixed
        self._visitor = visitor
        self._perform = perform
        self._base = LoadedModel(place, perform)
        self._worker = Worker()
        self._compared: Job | None = None

    @property
    def source(self) -> str:
        """Folder, hub id or file of the model."""
        return self._base.place.source

    @property
    def place(self) -> tasks.Place:
        """Where whoever is asking works."""
        place, name = self._base.place, self._visitor() if self.fixed else None
        return replace(place, output=place.output / "visitors" / name) if name else place

    @property
    def output(self) -> Path:
        """The folder of erasures of whoever is asking."""
        return self.place.output

    def status(self) -> Status:
        """What is known of the model at this moment."""
        return self._base.status

    def job(self, job_id: str | None) -> Job | None:
        """The job with this id, or None when it is unknown or long gone."""
        return self._worker.find(job_id)

    def ahead(self, job: Job) -> int:
        """How many other jobs must end before this one begins."""
        return self._worker.ahead(job)

    def load(self) -> Job:
        """Import the libraries and load the model, so that the first erasure does not have to."""
        return self._worker.submit("Load the model", self._base.loaded)

    def change(self, source: str, device: str = "auto", dtype: str = "auto", low_memory: bool = False) -> Job:
        """Load another base model, as the studio itself or by `BUILT_IN_NAME`; jobs queued before still use this one.

        Raises:
            RecipeError: the base model is fixed; the job's, that the other one cannot be loaded, in which case the one
                before is loaded again. The field is "source".
        """
        if self.fixed:
            raise RecipeError("source", "The base model stays as it is, since many visitors share this studio.")
        wanted = str(BUILT_IN) if source.strip() in ("", BUILT_IN_NAME) else source.strip()

        def work() -> Generator[Progress, None, None]:
            before, self._compared = self._base.place, None
            how = {"device": device, "dtype": dtype, "low_memory": low_memory}
            yield from self._base.exchange(replace(before, source=wanted, **how))
            for used in (before.source, wanted):
                if used != str(BUILT_IN):
                    library.remember(self.output, used)

        return self._worker.submit(f"Load {source}", work, source, PATIENCE)

    def measure(self) -> Job:
        """Load the model and time a few of its steps, so that a run can be estimated; nothing is done twice."""
        return self._worker.submit("Time the model", self._base.measured)

    @property
    def timed(self) -> bool:
        """Whether `measure` has been done."""
        return self._base.costs is not None

    def with_defaults(self, asked: Settings) -> Settings:
        """Steps and guidance as asked, or what suits a distilled model, once it is loaded."""
        return tasks.with_defaults(self.place, asked)

    def prepare(self) -> None:
        """Load the model now, in this thread: ZeroGPU hands on to its workers what the main thread has loaded."""
        for _ in self._base.loaded():
            pass

    def estimate(self, recipe: Recipe) -> Estimate:
        """Count what a run of this recipe takes; nothing is computed."""
        return status.estimate(recipe, self.status().memory, self._base.costs, self.place.cache)

    def erase(self, recipe: Recipe, given: masks.UserMasks | None = None) -> Job:
        """Run a recipe. Events are `Progress`; the result is the `Entry` of the file that was written.

        Args:
            recipe: what to erase.
            given: masks that a person made, in place of those of the recipe's source; the file's name tells them apart.
        """
        recipe.check()
        return self._submit(f"Erase {recipe.title()}", recipe, tasks.erase, recipe, given)

    def masks(self, recipe: Recipe) -> Job:
        """Draw the training images of a recipe and mask them by its source; the result is a `masks.Sheet`."""
        recipe.check()
        return self._submit(f"Masks of {recipe.title()}", recipe, tasks.masks, recipe)

    def compose(
        self, entries: Sequence[Entry], remove: Sequence[str] = (), add: Recipe | None = None, name: str = ""
    ) -> Job:
        """Fuse erasures of this studio's model into one, see `composition.compose`. The result is an `Entry`.

        Raises:
            RecipeError: as of `joining.joined`; nothing was queued.
        """
        recipe = joined([entry.recipe for entry in entries], remove, add, name)
        paths = tuple(entry.path for entry in entries)
        return self._submit(f"Compose {recipe.title()}", recipe, tasks.compose, paths, tuple(remove), add, name)

    def compare(self, name: str, drawing: ImageRequest) -> Job:
        """Draw every prompt with every seed, before and after; events are `Progress`, the result is [Pair]."""
        entry = self.entry(name)
        drawing.check()
        self._compared = self._submit(f"Compare {name}", drawing, tasks.compare, entry.path, drawing)
        return self._compared

    def inspect(self, name: str | None, drawing: ImageRequest, phrases: Sequence[str] = ()) -> Job:
        """Record the attention to one prompt's words, before and after an erasure; the result is an `Inspection`.

        Args:
            name: of the erasure; None looks at the model as it is.
            drawing: one prompt and one seed.
            phrases: what counts as one word, beside the erasure's concepts and synonyms.
        """
        entry = self.entry(name) if name else None
        drawing.check_alone()
        path = entry.path if entry else None
        return self._submit(f"Inspect {name or self.source}", drawing, tasks.inspect, path, drawing, tuple(phrases))

    def residual(self, name: str, drawing: ImageRequest) -> Job:
        """Draw a prompt with the concept's embeddings replaced, in three stages; the result is an `Inspection`."""
        entry = self.entry(name)
        drawing.check_alone()
        return self._submit(f"What is left of {name}", drawing, tasks.residual, entry.path, drawing)

    def preview(self, recipe: Recipe, drawing: ImageRequest) -> Job:
        """Draw one picture with and without the refinement of a recipe, training nothing; the result is a `Preview`."""
        recipe.check()
        drawing.check_alone()
        return self._submit(f"Preview {recipe.title()}", drawing, tasks.preview, recipe, drawing)

    def plan(self, name: str, size: str = "quick", first: int | None = None) -> Plan:
        """What an evaluation of an erasure will draw; nothing is drawn.

        Args:
            name: of the erasure.
            size: "quick" or "full".
            first: the first seed; None for the usual one.
        """
        parts = engine.engine()
        captions = parts.loading.read_captions(self.place.captions or parts.loading.captions_of(self.source))
        first = parts.evaluation.FIRST_SEED if first is None else first
        recipe, known = self.entry(name).recipe, library.known_kinds()
        plan = parts.evaluation.make_plan(recipe, size, captions=captions, first=first, known=known)
        return self.with_defaults(plan)

    def seconds(self, plan: Plan) -> float | None:
        """How long a plan will take at the pace of the last comparison; None while there is none."""
        job = self._compared
        if job is None or job.state != DONE:
            return None
        drawing: ImageRequest = job.request
        forwards = 2 * len(job.result) * drawing.steps * (2 if drawing.guidance > 1 else 1)
        return job.events[-1].seconds / forwards * plan.forwards

    def evaluate(
        self, names: Sequence[str], size: str = "quick", judge: str | None = None, first: int | None = None
    ) -> Job:
        """Measure erasures one after another. Events are `Progress`; the result is a `Report` of each.

        Args:
            names: of the erasures.
            size: "quick" or "full".
            judge: hub id or folder of a CLIP model; None takes the model's own judge, or else CLIP ViT-L/14.
            first: the first seed; None for the usual one.

        Raises:
            RecipeError: also for a judge where the studio is fixed.
        """
        if self.fixed and judge:
            raise RecipeError("judge", "Only the model’s own judge can be used here; leave the field blank.")
        plans = [(self.entry(name).path, self.plan(name, size, first)) for name in names or [""]]
        return self._submit(f"Evaluate {', '.join(names)}", (tuple(names), size), tasks.evaluate, plans, judge)

    def export(self, name: str, packing: ExportRequest) -> Job:
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
        own = library.entries(self.output)
        if self.output == self._base.place.output:
            return own
        names = {entry.name for entry in own}
        return own + [entry for entry in library.entries(self._base.place.output) if entry.name not in names]

    def entry(self, name: str) -> Entry:
        """The erasure of this name: one's own, or one that all see.

        Raises:
            FileError: there is none.
        """
        own = library.exists(self.output, name)
        return library.named(self.output if own else self._base.place.output, name)

    def _submit(self, title: str, request: object, task: tasks.Task, *arguments: Any) -> Job:
        """Queue a task, with the model loaded before it.

        Args:
            title: what a person calls the job.
            request: for whoever comes back to watch it.
            task, arguments: of `tasks`, and what it takes beside the place; plain data, to be pickled.

        Raises:
            RecipeError: it is too much for a studio that is fixed.
        """
        if self.fixed:
            quota.check(task, *arguments)
        output = self.output  # on the job's thread nobody is asking any more

        def work() -> Generator[Progress, None, Any]:
            yield from self._base.loaded()
            place = replace(self._base.place, output=output)
            return (yield from tasks.outcome(self._perform(task, place, *arguments)))

        return self._worker.submit(title, work, request, PATIENCE)
