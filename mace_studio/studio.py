"""The studio: one loaded model, the use cases as methods that return a Job, and the erasures on disk.

The libraries behind the model take seconds to import. They are imported on the worker's thread, by `engine`, so that
the page is up before.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mace_studio import engine, masks, prompts, shelf
from mace_studio.errors import FileError, StudioError
from mace_studio.jobs import Job, Worker
from mace_studio.packing import Packing
from mace_studio.recipe import Drawing, Recipe
from mace_studio.shelf import Entry, slug
from mace_studio.status import Estimate, Status

if TYPE_CHECKING:
    from mace_studio.comparison import Pair
    from mace_studio.exporting import Exported
    from mace_studio.inspection import Inspection
    from mace_studio.preview import Known, Preview
    from mace_studio.progress import Progress
    from mace_studio.report import Plan, Report
    from mace_studio.sd.loading import Model

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
    """

    def __init__(
        self,
        source: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        output: Path = Path("output"),
        low_memory: bool = False,
    ) -> None:
        self.source = source or str(BUILT_IN)
        self.output = output
        self._how = (device, dtype, low_memory)
        self._model: Model | None = None
        self._status = Status("built-in miniature" if source is None else Path(source).name, "waiting")
        self._worker = Worker()
        self._previewed: Known | None = None
        self._pace: float | None = None  # seconds for each UNet forward of the last comparison

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

        def work() -> Generator[Progress, None, None]:
            self._loaded()
            yield from ()

        return self._worker.submit("Load the model", work)

    def estimate(self, recipe: Recipe) -> Estimate:
        """Count what a run of this recipe takes; nothing is computed."""
        images = recipe.images.per_concept * recipe.images.steps * 2 if recipe.lora.steps else 0
        forwards = len(recipe.concepts) * (images + recipe.lora.steps)
        memory = self._model.memory() if self._model is not None else None
        return Estimate(len(recipe.concepts), prompts.count(recipe), forwards, memory)

    def erase(self, recipe: Recipe, given: masks.Given | None = None) -> Job:
        """Run a recipe. Events are `Progress`; the result is the `Entry` of the file that was written.

        Args:
            recipe: what to erase.
            given: masks that a person made, in place of those of the recipe's source; the file's name tells them apart.

        Raises:
            RecipeError: the recipe cannot be run; nothing was queued.
        """
        recipe.check()
        name = "-".join(filter(None, [slug(recipe.title()), recipe.digest(), masks.digest(given or {})]))

        def work() -> Generator[Progress, None, Entry]:
            parts = engine.engine()
            result = yield from parts.erasure.erase(self._loaded(), recipe, self.output / "cache", given)
            path = self.output / f"{name}.safetensors"
            parts.erasure.save(result, path)
            return shelf.read(path)

        return self._worker.submit(f"Erase {recipe.title()}", work, recipe, PATIENCE)

    def masks(self, recipe: Recipe) -> Job:
        """Draw the training images of a recipe and mask them by its source; the result is a `masks.Sheet`.

        Raises:
            RecipeError: the recipe cannot be run; nothing was queued.
        """
        recipe.check()

        def work() -> Generator[Progress, None, masks.Sheet]:
            parts = engine.engine()
            return (yield from parts.pictures.show(self._loaded(), recipe, self.output / "cache"))

        return self._worker.submit(f"Masks of {recipe.title()}", work, recipe, PATIENCE)

    def compare(self, name: str, drawing: Drawing) -> Job:
        """Draw every prompt with every seed, before and after an erasure. Events are `Progress`; the result is [Pair].

        Raises:
            FileError: there is no erasure of this name.
            RecipeError: a setting that cannot be drawn; the message names it.
        """
        entry = self.entry(name)
        drawing.check()

        def work() -> Generator[Progress, None, list[Pair]]:
            parts, model = engine.engine(), self._loaded()
            begun = time.monotonic()
            pairs = yield from parts.comparison.compare(model, parts.erasure.load(entry.path), drawing)
            forwards = 2 * len(pairs) * drawing.steps * (2 if drawing.guidance > 1 else 1)
            self._pace = (time.monotonic() - begun) / forwards
            return pairs

        return self._worker.submit(f"Compare {name}", work, drawing, PATIENCE)

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

        def work() -> Generator[Progress, None, Inspection]:
            parts = engine.engine()
            erasure = parts.erasure.load(entry.path) if entry else None
            return (yield from parts.inspection.inspect(self._loaded(), drawing, erasure, phrases))

        return self._worker.submit(f"Inspect {name or self.source}", work, drawing, PATIENCE)

    def residual(self, name: str, drawing: Drawing) -> Job:
        """Draw a prompt with the concept's embeddings replaced, in three stages; the result is an `Inspection`.

        Raises:
            FileError: there is no erasure of this name.
            RecipeError: a setting that cannot be drawn; the message names it.
        """
        entry = self.entry(name)
        drawing.check_alone()

        def work() -> Generator[Progress, None, Inspection]:
            parts = engine.engine()
            erasure = parts.erasure.load(entry.path)
            return (yield from parts.inspection.residual(self._loaded(), drawing, erasure, self.output / "cache"))

        return self._worker.submit(f"What is left of {name}", work, drawing, PATIENCE)

    def preview(self, recipe: Recipe, drawing: Drawing) -> Job:
        """Draw one picture with and without the refinement of a recipe, training nothing; the result is a `Preview`.

        Raises:
            RecipeError: the recipe or the drawing cannot be run; nothing was queued.
        """
        recipe.check()
        drawing.check_alone()

        def work() -> Generator[Progress, None, Preview]:
            parts, model = engine.engine(), self._loaded()
            self._previewed = self._previewed or parts.preview.Known()
            cache = self.output / "cache"
            return (yield from parts.preview.preview(model, recipe, drawing, self._previewed, cache))

        return self._worker.submit(f"Preview {recipe.title()}", work, drawing, PATIENCE)

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
        """How long a plan will take at the pace of the last pictures; None before any were drawn."""
        return None if self._pace is None else self._pace * plan.forwards

    def evaluate(self, name: str, size: str = "quick", judge: str | None = None, first: int | None = None) -> Job:
        """Measure an erasure by a plan. Events are `Progress`; the result is a `Report`.

        Args:
            name: of the erasure.
            size: "quick" or "full".
            judge: hub id or folder of a CLIP model; None takes the model's own judge, or else CLIP ViT-L/14.
            first: the first seed; None for the usual one.

        Raises:
            FileError: there is no erasure of this name.
            RecipeError: there is no such size.
        """
        entry, plan = self.entry(name), self.plan(name, size, first)

        def work() -> Generator[Progress, None, Report]:
            parts, model = engine.engine(), self._loaded()
            judged = parts.classify.choose(model, judge)
            erasure = parts.erasure.load(entry.path)
            return (yield from parts.evaluation.evaluate(model, erasure, plan, judged, self.output / "cache"))

        return self._worker.submit(f"Evaluate {name}", work, (name, size), PATIENCE)

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

        def work() -> Generator[Progress, None, Exported]:
            parts = engine.engine()
            return (yield from parts.exporting.export(self._loaded(), parts.erasure.load(entry.path), packing))

        return self._worker.submit(f"Export {name}", work, packing, PATIENCE)

    def entries(self) -> list[Entry]:
        """Every erasure in the output folder, newest first."""
        return shelf.entries(self.output)

    def entry(self, name: str) -> Entry:
        """The erasure of this name.

        Raises:
            FileError: there is none.
        """
        return shelf.named(self.output, name)

    def _loaded(self) -> Model:
        if self._model is None:
            name = self._status.name
            self._status = Status(name, "loading")
            try:
                self._model = engine.engine().loading.load(self.source, *self._how)
            except Exception as error:
                said = str(error) if isinstance(error, StudioError) else "the server's log says why"
                self._status = Status(name, "failed", said)
                raise
            self._status = Status(name, "ready", self._model.where())
        return self._model


def suggested_prompts(recipe: Recipe) -> list[tuple[str, str]]:
    """Prompts worth comparing, each as (role, prompt); the role is "erased", "synonym" or "kept"."""
    return prompts.suggestions(recipe)
