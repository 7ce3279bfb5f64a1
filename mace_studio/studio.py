"""The studio: one loaded model, the use cases as methods that return a Job, and the erasures on disk.

The libraries behind the model take seconds to import. `engine.start` imports them on the worker's thread, so that the
page is up before.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mace_studio import library, prompts
from mace_studio.engine import start as _engine
from mace_studio.errors import FileError, StudioError
from mace_studio.jobs import Job, Worker
from mace_studio.library import Entry, slug
from mace_studio.packing import Packing
from mace_studio.recipe import Drawing, Recipe

if TYPE_CHECKING:
    from mace_studio.comparison import Pair
    from mace_studio.exporting import Exported
    from mace_studio.inspection import Inspection
    from mace_studio.preview import Known, Preview
    from mace_studio.progress import Progress
    from mace_studio.sd.loading import Model

ROOT = Path(__file__).parents[1]
BUILT_IN = ROOT / "assets" / "miniature" / "model"
PRESETS = ROOT / "presets"
PATIENCE = 15.0


@dataclass(frozen=True)
class Status:
    """What the header of the page says of the model.

    Attributes:
        name: what to call the model.
        state: "waiting", "loading", "ready" or "failed".
        detail: device and dtype when ready, the reason in a sentence when failed.
    """

    name: str
    state: str
    detail: str = ""


@dataclass(frozen=True)
class Estimate:
    """What a run will take, counted before it starts.

    Attributes:
        concepts: how many are erased.
        prompts: how many sentences are encoded.
        unet_forwards: forwards of one sample through the UNet, guidance counted twice.
        memory: bytes of weights and of the largest step, or None until the model is loaded.
    """

    concepts: int
    prompts: int
    unet_forwards: int
    memory: int | None


@dataclass(frozen=True)
class Preset:
    """A recipe that comes with the project; `recipe.about` says in a sentence what it is."""

    name: str
    recipe: Recipe


class Studio:
    """Owns the model through one worker thread.

    Args:
        source: folder, hub id or single .safetensors file of the model; the built-in miniature when None.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        dtype: "auto", "float32", "float16" or "bfloat16".
        output: where erasures, pictures and cached training images go.
    """

    def __init__(
        self, source: str | None = None, device: str = "auto", dtype: str = "auto", output: Path = Path("output")
    ) -> None:
        self.source = source or str(BUILT_IN)
        self.output = output
        self._device, self._dtype = device, dtype
        self._model: Model | None = None
        self._status = Status("built-in miniature" if source is None else Path(source).name, "waiting")
        self._worker = Worker()
        self._previewed: Known | None = None

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

    def erase(self, recipe: Recipe) -> Job:
        """Run a recipe. Events are `Progress`; the result is the `Entry` of the file that was written.

        Raises:
            RecipeError: the recipe cannot be run; nothing was queued.
        """
        recipe.check()

        def work() -> Generator[Progress, None, Entry]:
            engine = _engine()
            result = yield from engine.erasure.erase(self._loaded(), recipe, self.output / "cache")
            path = self.output / f"{slug(recipe.title())}-{recipe.digest()}.safetensors"
            engine.erasure.save(result, path)
            return library.read(path)

        return self._worker.submit(f"Erase {recipe.title()}", work, recipe, PATIENCE)

    def compare(self, name: str, drawing: Drawing) -> Job:
        """Draw every prompt with every seed, before and after an erasure. Events are `Progress`; the result is [Pair].

        Raises:
            FileError: there is no erasure of this name.
            RecipeError: a setting that cannot be drawn; the message names it.
        """
        entry = self.entry(name)
        drawing.check()

        def work() -> Generator[Progress, None, list[Pair]]:
            engine = _engine()
            return (yield from engine.comparison.compare(self._loaded(), engine.erasure.load(entry.path), drawing))

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
            engine = _engine()
            erasure = engine.erasure.load(entry.path) if entry else None
            return (yield from engine.inspection.inspect(self._loaded(), drawing, erasure, phrases))

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
            engine = _engine()
            erasure = engine.erasure.load(entry.path)
            return (yield from engine.inspection.residual(self._loaded(), drawing, erasure, self.output / "cache"))

        return self._worker.submit(f"What is left of {name}", work, drawing, PATIENCE)

    def preview(self, recipe: Recipe, drawing: Drawing) -> Job:
        """Draw one picture with and without the refinement of a recipe, training nothing; the result is a `Preview`.

        Raises:
            RecipeError: the recipe or the drawing cannot be run; nothing was queued.
        """
        recipe.check()
        drawing.check_alone()

        def work() -> Generator[Progress, None, Preview]:
            engine, model = _engine(), self._loaded()
            self._previewed = self._previewed or engine.preview.Known()
            cache = self.output / "cache"
            return (yield from engine.preview.preview(model, recipe, drawing, self._previewed, cache))

        return self._worker.submit(f"Preview {recipe.title()}", work, drawing, PATIENCE)

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
            engine = _engine()
            return (yield from engine.exporting.export(self._loaded(), engine.erasure.load(entry.path), packing))

        return self._worker.submit(f"Export {name}", work, packing, PATIENCE)

    def entries(self) -> list[Entry]:
        """Every erasure in the output folder, newest first."""
        return library.entries(self.output)

    def entry(self, name: str) -> Entry:
        """The erasure of this name.

        Raises:
            FileError: there is none.
        """
        return library.named(self.output, name)

    def recipe_file(self, recipe: Recipe) -> Path:
        """Write the recipe as JSON, for download."""
        folder = self.output / "recipes"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{slug(recipe.title())}-{recipe.digest()}.json"
        path.write_text(recipe.to_json(), encoding="utf-8")
        return path

    def pair_file(self, pair: Pair, folder: Path | None = None) -> Path:
        """Write before and after side by side as a PNG with the settings in it, into `folder` or the output folder."""
        path = (folder or self.output / "pairs") / f"{slug(pair.prompt)}-{pair.seed}.png"
        _engine().comparison.save_pair(pair, path)
        return path

    def inspection_files(self, inspection: Inspection, folder: Path | None = None) -> list[Path]:
        """Write figures (PNG and PDF), images and data of an inspection into `folder` or the output folder."""
        about, engine = inspection.settings, _engine()
        folder = folder or self.output / "attention"
        name = f"{slug(about['prompts'][0])}-{about['seeds'][0]}-{about['kind']}"
        return [
            engine.inspection.save(inspection, folder / f"{name}.npz"),
            *engine.figures.write(inspection, folder, name),
        ]

    def _loaded(self) -> Model:
        if self._model is None:
            name = self._status.name
            self._status = Status(name, "loading")
            try:
                self._model = _engine().loading.load(self.source, self._device, self._dtype)
            except Exception as error:
                said = str(error) if isinstance(error, StudioError) else "the server's log says why"
                self._status = Status(name, "failed", said)
                raise
            self._status = Status(name, "ready", self._model.where())
        return self._model


def presets() -> list[Preset]:
    """The recipes that come with the project, by folder and name."""
    found = []
    for path in sorted(PRESETS.rglob("*.json")):
        name = path.relative_to(PRESETS).with_suffix("").as_posix()
        found.append(Preset(name, Recipe.from_json(path.read_text(encoding="utf-8"))))
    return found


def suggested_prompts(recipe: Recipe) -> list[tuple[str, str]]:
    """Prompts worth comparing, each as (role, prompt); the role is "erased", "synonym" or "kept"."""
    return prompts.suggestions(recipe)
