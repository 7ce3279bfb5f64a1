"""What is done with the model, as generators of plain events that may run in another process.

On ZeroGPU they run in a forked process that is used again for the next visitor: arguments and events are pickled, what
a generator returns does not come back, of an exception only its name does, and what is changed there is not seen here.
So a task takes plain arguments and writes weights to a file, and the last event of `perform` holds what came of it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mace_studio.errors import StudioError
from mace_studio.masks import MaskSheet, UserMasks
from mace_studio.paths import slug
from mace_studio.recipe import ImageRequest, Recipe
from mace_studio.runtime import library
from mace_studio.runtime.engine import engine
from mace_studio.runtime.library import Entry

if TYPE_CHECKING:
    from mace_studio.analysis.attention import Inspection
    from mace_studio.analysis.compare import Pair
    from mace_studio.erasure import Erasure
    from mace_studio.evaluation.report import Plan, Report
    from mace_studio.export.export import Exported
    from mace_studio.export.formats import ExportRequest
    from mace_studio.methods.mace.preview import Preview, PreviewCache
    from mace_studio.progress import Progress
    from mace_studio.sd.costs import Costs
    from mace_studio.sd.model import Model

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Which model a task works with, and where its files go.

    Attributes:
        source, device, dtype, low_memory: as `sd.model.load` takes them.
        output: the folder of erasures.
        cache: the folder of training images and of what else can be made again.
        captions: file of general captions; None takes those that go with the model.
    """

    source: str
    device: str = "auto"
    dtype: str = "auto"
    low_memory: bool = False
    output: Path = Path("output")
    cache: Path = Path("output/cache")
    captions: Path | None = None

    @property
    def model(self) -> tuple[str, str, str, bool, Path | None]:
        return self.source, self.device, self.dtype, self.low_memory, self.captions


@dataclass(frozen=True)
class Loaded:
    """A model that is ready: where it computes, in words, `Model.memory()` in bytes, and its fingerprint."""

    where: str
    memory: int
    fingerprint: str


@dataclass(frozen=True)
class Done:
    """The last event of a task that came to its end."""

    result: Any


@dataclass(frozen=True)
class Failed:
    """The last event of a task that ended in an error which the user can read."""

    error: StudioError


Settings = TypeVar("Settings")  # anything with steps and a guidance
Task = Callable[..., "Generator[Progress, None, Any]"]
Events = Generator["Progress | Done | Failed", None, None]


# The model of this process


@dataclass
class Held:
    """The one model that a process keeps, its seal when it was loaded, and what the last preview computed."""

    of: tuple[str, str, str, bool, Path | None]
    model: Model
    checksum: str
    known: PreviewCache


_held: Held | None = None
_in_use = threading.Lock()


def held(place: Place) -> Held:
    """The model of a place: loaded where this process holds another or none, or where a task left its mark on it.

    Every task restores the model itself. That is checked before the next one, so that a call that was broken off in the
    middle cannot lend its weights to another visitor's.
    """
    global _held
    if _held is not None and _held.of == place.model and _held.model.checksum() != _held.checksum:
        log.warning("the last task left the model changed; it is loaded again")
        _held = None
    if _held is None or _held.of != place.model:
        _held = None  # two models may not fit
        parts = engine()
        parts.room.free()
        model = parts.loading.load(*place.model)
        _held = Held(place.model, model, model.checksum(), parts.preview.PreviewCache())
    return _held


def with_defaults(place: Place, asked: Settings) -> Settings:
    """Steps and guidance as asked, or what suits a distilled model, if it is held in this process."""
    if _held is None or _held.of != place.model:
        return asked
    return engine().generate.with_defaults(_held.model, asked)


def perform(task: Task, place: Place, *arguments: Any) -> Events:
    """Run one of the tasks below; one at a time in a process.

    Yields:
        Its Progress; at last `Done` with what it returned, or `Failed` with a StudioError.
    """
    end: Done | Failed
    with _in_use:
        try:
            end = Done((yield from task(place, *arguments)))
        except StudioError as error:
            end = Failed(error)
    yield end


def outcome(events: Events) -> Generator[Progress, None, Any]:
    """What `perform` yields, as a generator of Progress alone that returns the result or raises the error."""
    end: Done | Failed | None = None
    with closing(events):
        for event in events:
            if isinstance(event, Done | Failed):
                end = event
            else:
                yield event
    if isinstance(end, Failed):
        raise end.error
    if end is None:
        raise StudioError("The run was broken off before its end, as if its time was over; ask for less at once.")
    return end.result


# The tasks


def load(place: Place) -> Generator[Progress, None, Loaded]:
    """Have the model ready."""
    model = held(place).model
    yield from ()
    return Loaded(model.where(), model.memory(), model.fingerprint)


def measure(place: Place) -> Generator[None, None, Costs]:
    """Time a few steps of the model."""
    return (yield from engine().cost.measure(held(place).model))


def erase(place: Place, recipe: Recipe, given: UserMasks | None = None) -> Generator[Progress, None, Entry]:
    """Run a recipe, with the masks that a person made, and write its erasure into the output folder."""
    return _kept(place, (yield from engine().erase.erase(held(place).model, recipe, place.cache, given=given)))


def compose(
    place: Place, paths: Sequence[Path], remove: Sequence[str], add: Recipe | None, name: str
) -> Generator[Progress, None, Entry]:
    """Fuse the erasures at `paths` into one and write it into the output folder."""
    parts, model = engine(), held(place).model
    erasures = [parts.erasure.load(path) for path in paths]
    return _kept(place, (yield from parts.composition.compose(model, erasures, place.cache, remove, add, name)))


def _kept(place: Place, result: Erasure) -> Entry:
    """Write an erasure: another recipe's LoRAs, or masks by hand, make another file than the same recipe alone."""
    parts = engine()
    path = place.output / f"{slug(result.recipe.title())}-{parts.erasure.digest(result)}.safetensors"
    parts.erasure.save(result, path)
    return library.read(path)


def masks(place: Place, recipe: Recipe) -> Generator[Progress, None, MaskSheet]:
    """Draw the training images of a recipe and mask them by its source."""
    return (yield from engine().pictures.show(held(place).model, recipe, place.cache))


def compare(place: Place, path: Path, drawing: ImageRequest) -> Generator[Progress, None, list[Pair]]:
    """Draw before and after the erasure at `path`."""
    parts = engine()
    return (yield from parts.comparison.compare(held(place).model, parts.erasure.load(path), drawing))


def inspect(
    place: Place, path: Path | None, drawing: ImageRequest, phrases: Sequence[str]
) -> Generator[Progress, None, Inspection]:
    """Record the attention before and after the erasure at `path`, or of the model as it is."""
    parts = engine()
    erasure = parts.erasure.load(path) if path is not None else None
    return (yield from parts.inspection.inspect(held(place).model, drawing, erasure, phrases))


def residual(place: Place, path: Path, drawing: ImageRequest) -> Generator[Progress, None, Inspection]:
    """Draw what the other words carry."""
    parts = engine()
    return (yield from parts.inspection.residual(held(place).model, drawing, parts.erasure.load(path), place.cache))


def preview(place: Place, recipe: Recipe, drawing: ImageRequest) -> Generator[Progress, None, Preview]:
    """Draw with and without the refinement alone."""
    here = held(place)
    drawing = with_defaults(place, drawing)
    return (yield from engine().preview.preview(here.model, recipe, drawing, here.known, place.cache))


def evaluate(
    place: Place, plans: Sequence[tuple[Path, Plan]], judge: str | None
) -> Generator[Progress, None, list[Report]]:
    """Measure each erasure at its path by its plan, and note its scores beside it."""
    parts, model = engine(), held(place).model
    cases = [
        parts.evaluation.Case(path.stem, parts.erasure.load(path), with_defaults(place, plan)) for path, plan in plans
    ]
    judged = parts.classify.choose(model, judge)
    reports = yield from parts.evaluation.evaluate(model, cases, judged, place.cache)
    for (path, _), report in zip(plans, reports, strict=True):
        library.note_scores(library.read(path), report.harmonic)
    return reports


def export(place: Place, path: Path, packing: ExportRequest) -> Generator[Progress, None, Exported]:
    """Write the erasure at `path` for other programs."""
    parts = engine()
    return (yield from parts.exporting.export(held(place).model, parts.erasure.load(path), packing))
