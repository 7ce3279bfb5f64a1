"""What can be done with the model, each as a function of a place and of plain data, for `perform`.

A task may run in another process than the one that asked for it: its arguments and what it returns are pickled, and
what it changes in memory is not seen there. So an erasure is given, and returned, as the path of its file.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mace_studio import erasure as erasure_file
from mace_studio import text_files
from mace_studio.analysis import attention
from mace_studio.analysis import capacity as capacities
from mace_studio.analysis import compare as comparison
from mace_studio.analysis.attention import Inspection
from mace_studio.analysis.capacity import Capacity
from mace_studio.analysis.compare import Pair
from mace_studio.erasure import Erasure
from mace_studio.errors import FileError
from mace_studio.evaluation import evaluate as evaluation
from mace_studio.evaluation import report
from mace_studio.evaluation.evaluate import Case
from mace_studio.evaluation.plan import Plan
from mace_studio.exports import export as exporting
from mace_studio.exports.export import Exported
from mace_studio.exports.formats import ExportRequest
from mace_studio.masks import MaskSheet, UserMasks
from mace_studio.methods.mace import compose as composition
from mace_studio.methods.mace import preview as previews
from mace_studio.methods.mace import training_images
from mace_studio.methods.mace.preview import Preview, PreviewCache
from mace_studio.paths import BUILT_IN
from mace_studio.progress import Report, silent
from mace_studio.recipe import ImageRequest, Recipe
from mace_studio.runtime import library, vocabulary
from mace_studio.runtime.library import Entry
from mace_studio.runtime.machines import Machines
from mace_studio.runtime.perform import Place
from mace_studio.sd import batching, costs, files, judges, sampling, text
from mace_studio.sd import model as sd_model
from mace_studio.sd.costs import Costs
from mace_studio.sd.model import Model
from mace_studio.sd.sampling import Settings
from mace_studio.settings import CHARACTERS, MOST

log = logging.getLogger(__name__)


# The model of this process


@dataclass(frozen=True, kw_only=True)
class ProcessModel:
    """The one model that a process keeps.

    Attributes:
        asked: what `sd.model.load` was called with.
        model: it.
        checksum: of its weights and hooks when it was loaded, see `Model.checksum`.
        tokenizer: a copy of the model's, which other threads may use while a task runs.
        previews: what the last preview computed.
    """

    asked: tuple[Any, ...]
    model: Model
    checksum: str
    tokenizer: Any
    previews: PreviewCache


_process_model: ProcessModel | None = None


def process_model(place: Place) -> ProcessModel:
    """The model of a place: loaded where this process keeps another or none, or where a task left it changed.

    Every task restores the model itself. That is checked before the next one, so that a call that was broken off in the
    middle cannot lend its weights to another user's.
    """
    global _process_model
    asked = (place.source, place.device, place.dtype, place.low_memory, place.captions, place.vae, place.text_encoder)
    kept = _process_model if _process_model is not None and _process_model.asked == asked else None
    if kept is not None and kept.model.checksum() != kept.checksum:
        log.warning("the last task left the model changed; it is loaded again")
        kept = None
    if kept is None:
        _process_model = None  # before the other is loaded: two models may not fit
        batching.free()
        for folder in (place.output, place.cache):
            files.remove_abandoned(folder)
        model = sd_model.load(*asked)
        kept = ProcessModel(
            asked=asked,
            model=model,
            checksum=model.checksum(),
            tokenizer=copy.deepcopy(model.pipeline.tokenizer),
            previews=PreviewCache(),
        )
        _process_model = kept
    return kept


def with_defaults(asked: Settings) -> Settings:
    """Steps and guidance as asked, or what suits this process's model where that is a distilled one."""
    return asked if _process_model is None else sampling.with_defaults(_process_model.model, asked)


def check_lengths(recipe: Recipe) -> None:
    """Raise a RecipeError at the first phrase that this process's model cannot read or tell from another one."""
    if (reader := _reader()) is not None:
        text.check(reader, recipe)


def token_counts(prompts: Sequence[str]) -> list[tuple[int, int, str]]:
    """Of each prompt how many tokens it has, how many this process's model reads, and the end that it does not read.

    Empty while no model is loaded.
    """
    if (reader := _reader()) is None:
        return []
    # No longer one is generated, and to count tokens takes seconds for a megabyte.
    # Half a character, which no tokenizer takes, counts as a question mark.
    prompts = [
        prompt[: CHARACTERS["prompt"]].encode(errors="replace").decode() for prompt in prompts[: MOST["prompts"]]
    ]
    counts = [text.count(reader, prompt) for prompt in prompts]
    return [
        (count, reader.length, text.unread(reader, prompt) if count > reader.length else "")
        for count, prompt in zip(counts, prompts, strict=True)
    ]


def _reader() -> text.Reader | None:
    if _process_model is None:
        return None
    return replace(text.Reader.of(_process_model.model), tokenizer=_process_model.tokenizer)


# The tasks


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model that is ready.

    Attributes:
        where: device and dtype in words.
        memory: `Model.memory()`, in bytes.
        fingerprint: of its weights.
        width: D, of the text context.
        unet: of those of its UNet.
    """

    where: str
    memory: int
    fingerprint: str
    width: int
    unet: str


def load(place: Place, progress: Report = silent) -> Loaded:
    """Have the model ready."""
    model = process_model(place).model
    return Loaded(
        where=model.where(),
        memory=model.memory(),
        fingerprint=model.fingerprint,
        width=model.width,
        unet=model.unet_fingerprint,
    )


def measure(place: Place, progress: Report = silent) -> Costs:
    """Time a few steps of the model."""
    return costs.measure(process_model(place).model, progress)


def capacity(place: Place, recipe: Recipe, progress: Report = silent) -> Capacity:
    """What the model's projections can hold of a recipe."""
    return capacities.measure(process_model(place).model, recipe, place.cache, progress)


def erase(place: Place, recipe: Recipe, user_masks: UserMasks | None = None, progress: Report = silent) -> Entry:
    """Run a recipe and write its erasure into the output folder.

    Args:
        place: which model, and which folders.
        recipe: what to erase, and how.
        user_masks: for MACE: masks that a user made for some of its training images.
        progress: gets the events of the method.
    """
    text_files.make_folder(place.output)
    model, machines = process_model(place).model, Machines(place.cluster, place.worker_gpus)
    return _save(place, machines.erase(model, recipe, progress, place.cache, user_masks=user_masks))


def compose(
    place: Place,
    paths: Sequence[Path],
    remove: Sequence[str],
    add: Recipe | None,
    name: str,
    progress: Report = silent,
) -> Entry:
    """Fuse the erasures at `paths` into one and write it into the output folder; the rest as `mace.compose`."""
    text_files.make_folder(place.output)
    model = process_model(place).model
    erasures = [erasure_file.load(path) for path in paths]
    result = composition.compose(
        model, erasures, remove=remove, add=add, name=name, cache=place.cache, progress=progress
    )
    return _save(place, result)


def _save(place: Place, result: Erasure) -> Entry:
    """Write an erasure, and beside it what its run took.

    Another recipe's LoRAs, masks by hand or another model make another file than the same recipe alone.
    """
    if place.source == str(BUILT_IN) and (said := vocabulary.built_in().warning(result.recipe)):
        result = replace(result, warnings=tuple(dict.fromkeys((*result.warnings, said))))
    path = erasure_file.file_in(place.output, result.recipe, erasure_file.digest(result), result.fingerprint)
    result.save(path)
    if result.spent is not None:
        try:
            library.write_spent(library.read(path), result.spent)
        except FileError as error:  # the erasure itself is there
            log.warning("what the run took could not be written: %s", error)
    return library.read(path)


def masks(place: Place, recipe: Recipe, progress: Report = silent) -> MaskSheet:
    """Generate the training images of a recipe and mask them by its source."""
    return training_images.show(process_model(place).model, recipe, progress=progress, cache=place.cache)


def compare(place: Place, paths: Sequence[Path], request: ImageRequest, progress: Report = silent) -> list[Pair]:
    """Generate images before and after each of the erasures at `paths`."""
    model = process_model(place).model
    first, *others = (erasure_file.load(path) for path in paths)
    return comparison.compare(model, first, request, progress, others)


def inspect(
    place: Place, path: Path | None, request: ImageRequest, phrases: Sequence[str], progress: Report = silent
) -> Inspection:
    """Record the attention before and after the erasure at `path`, or of the model as it is where that is None."""
    erasure = erasure_file.load(path) if path is not None else None
    return attention.inspect(process_model(place).model, request, erasure, phrases, progress=progress)


def residual(place: Place, path: Path, request: ImageRequest, progress: Report = silent) -> Inspection:
    """Generate what the prompt's other words carry of the concept, before and after the erasure at `path`."""
    model = process_model(place).model
    return attention.residual(model, request, erasure_file.load(path), progress=progress, cache=place.cache)


def preview(place: Place, recipe: Recipe, request: ImageRequest, progress: Report = silent) -> Preview:
    """Generate an image with and without the refinement alone."""
    kept = process_model(place)
    return previews.preview(
        kept.model, recipe, with_defaults(request), kept.previews, progress=progress, cache=place.cache
    )


def evaluate(
    place: Place, plans: Sequence[tuple[Path, Plan]], judge: str | None, progress: Report = silent
) -> list[report.Report]:
    """Measure each erasure at its path by its plan, and write its scores beside it."""
    model = process_model(place).model
    cases = [
        Case(path.stem, replace(erasure_file.load(path), spent=library.read(path).spent), with_defaults(plan))
        for path, plan in plans
    ]
    reports = Machines(place.cluster, place.worker_gpus).evaluate(model, cases, judge, place.cache, progress)
    return [_noted(path, measured) for (path, _), measured in zip(plans, reports, strict=True)]


def _noted(path: Path, measured: report.Report) -> report.Report:
    """A report whose scores stand beside the erasure; it is worth more than the note, and says where that failed."""
    try:
        library.write_scores(library.read(path), measured.harmonic)
    except FileError as error:
        log.warning("the scores of %s could not be noted: %s", path.stem, error)
        return replace(measured, notes=(*measured.notes, f"Its scores are not in the list of erased models: {error}"))
    return measured


def sample(place: Place, path: Path, plan: Plan, judge: str | None = None, progress: Report = silent) -> report.Report:
    """Look at a few images before and after the erasure at `path`: as `evaluate`, but no scores are noted."""
    model = process_model(place).model
    case = Case(path.stem, erasure_file.load(path), with_defaults(plan))
    return evaluation.evaluate(model, [case], judges.choose(model, judge), progress=progress, cache=place.cache)[0]


def export(place: Place, path: Path, request: ExportRequest, progress: Report = silent) -> Exported:
    """Write the erasure at `path` for other programs."""
    return exporting.export(process_model(place).model, erasure_file.load(path), request, progress)


TASKS: dict[str, Callable[..., Any]] = {
    task.__name__: task
    for task in (
        load,
        measure,
        capacity,
        erase,
        compose,
        masks,
        compare,
        inspect,
        residual,
        preview,
        evaluate,
        sample,
        export,
    )
}
