"""How to erase: one row a method. Torch is imported only when a method runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mace_studio import prompts
from mace_studio.errors import NotFinite, RecipeError
from mace_studio.methods.mace import MaceSettings
from mace_studio.methods.settings import (
    AdaVdSettings,
    ConceptAblationSettings,
    DoubleProjectionSettings,
    EsdSettings,
    ForgetMeNotSettings,
    OceSettings,
    ReceSettings,
    SelectiveAmnesiaSettings,
    SldSettings,
    SpeedSettings,
    TrainingFreeSettings,
    UceSettings,
    Work,
)
from mace_studio.phrases import doubts
from mace_studio.progress import silent
from mace_studio.settings import TIMESTEPS, ImageSettings

if TYPE_CHECKING:
    from mace_studio.erasure import Erasure
    from mace_studio.masks import UserMasks
    from mace_studio.progress import Report
    from mace_studio.recipe import Recipe
    from mace_studio.sd.model import Model

log = logging.getLogger(__name__)

GROUP = "mace_studio.methods"  # of the entry points by which other packages add methods


def _phrases(recipe: Recipe) -> Work:
    """Of a closed form, which reads bare phrases: concepts, what takes their place, and what is kept."""
    concepts, method = len(recipe.concepts), METHODS[recipe.method]
    anchors = concepts if "mapping" in method.reads else 0
    return Work(sentences=concepts + anchors + len(recipe.kept) * ("preserve" in method.reads))


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to erase.

    Attributes:
        title: what to call it.
        about: what it does, in a sentence.
        settings: type of its own settings: a frozen dataclass whose defaults are the published ones, with a method
            `check` that raises a RecipeError.
        erase: (model, recipe, progress, cache) -> Erasure; leaves the model bit for bit as it was.
        kinds: of concepts that it is meant for, of `recipe.KINDS`.
        reads: which parts of a recipe it reads beside the concepts: "mapping", "preserve", "captions", "images".
        changes: which weights: "projections" for keys and values of cross-attention, "unet" for any of the UNet.
        guide: of a method that acts while images are generated: (model, recipe) -> context manager inside of which it
            does, and after which the model is bit for bit as before. Its erasures have no weights.
        work: recipe -> what a run takes beside reading prompts.
        stages: of a run, in order, as its progress names them.
        masks: whether it trains on images with masks, of which users may draw their own.
        on_cluster: whether `cluster.erase` knows how to share out a run of it.
        composes: whether its erasures can be composed: their files hold a LoRA of each concept, for `mace.compose`.
    """

    title: str
    about: str
    settings: type[Any]
    erase: Callable[[Model, Recipe, Report, Path | None], Erasure]
    kinds: tuple[str, ...] = ("object", "celebrity", "style", "explicit")
    reads: tuple[str, ...] = ()
    changes: str = "projections"
    guide: Callable[[Model, Recipe], AbstractContextManager[None]] | None = None
    work: Callable[[Recipe], Work] = _phrases
    stages: tuple[str, ...] = ("refine",)
    masks: bool = False
    on_cluster: bool = False
    composes: bool = False


def _runs(module: str, function: str = "erase") -> Callable[..., Any]:
    """A function of a module in this folder, imported when it is first called."""

    def run(*arguments: Any, **options: Any) -> Any:
        return getattr(import_module(f"mace_studio.methods.{module}"), function)(*arguments, **options)

    return run


def _mace(recipe: Recipe) -> Work:
    settings, count = recipe.settings, len(recipe.concepts)
    return Work(
        images=count * settings.images.per_concept if settings.lora.steps else 0,
        image_steps=settings.images.steps,
        guidance=settings.images.guidance,
        training_steps=count * settings.lora.steps,
        side_by_side=count,
        at_once=settings.concepts_at_once,
        captions=bool(settings.refine.general or (settings.lora.steps and settings.fuse.general)),
        rank=settings.lora.rank,
        kept_samples=settings.lora.kept_samples,
    )


def _esd(recipe: Recipe) -> Work:
    # In every step on average half of 50 denoising steps, and two predictions of the frozen model.
    settings = recipe.settings
    return Work(
        images=settings.steps,
        image_steps=26,
        guidance=settings.guidance,
        training_steps=settings.steps,
        sentences=len(recipe.concepts) + 1,
    )


def _oce(recipe: Recipe) -> Work:
    return replace(_phrases(recipe), captions=recipe.settings.general_scale > 0)


def _images_of(recipe: Recipe, images: int, training_steps: int, sentences: int) -> Work:
    """Of a method that trains on images, each of which has its sentence."""
    settings = recipe.settings
    return Work(
        images=images if settings.steps else 0,
        image_steps=settings.image_steps,
        guidance=settings.image_guidance,
        training_steps=training_steps if settings.steps else 0,
        sentences=sentences if settings.steps else 0,
    )


def _ac(recipe: Recipe) -> Work:
    settings = recipe.settings
    read = sum(2 * len(prompts.templates(concept.kind)) for concept in recipe.concepts)
    return _images_of(recipe, len(recipe.concepts) * settings.images, settings.steps * settings.batch, read)


def _fmn(recipe: Recipe) -> Work:
    settings, count = recipe.settings, len(recipe.concepts)
    shown = settings.images if settings.real_images or settings.inversion_steps else 0
    return _images_of(recipe, count * shown, count * (settings.steps + settings.inversion_steps), count)


def _sa(recipe: Recipe) -> Work:
    settings = recipe.settings
    gradients = settings.replay * len(range(0, TIMESTEPS, settings.stride)) if settings.fisher_weight else 0
    images = len(recipe.concepts) * settings.surrogates + settings.replay
    return _images_of(recipe, images, 2 * settings.steps + gradients, images)


OWN: dict[str, Method] = {
    "mace": Method(
        title="MACE",
        about="Refines the cross-attention in closed form, trains a LoRA for each concept and fuses them all.",
        settings=MaceSettings,
        erase=_runs("mace.erase"),
        reads=("mapping", "preserve", "captions", "images"),
        work=_mace,
        stages=("images", "masks", "refine", "lora", "fuse"),
        masks=True,
        on_cluster=True,
        composes=True,
    ),
    "mace-free": Method(
        title="MACE without training",
        about="The closed forms of MACE with targets from the mapping: seconds, no images and no LoRAs.",
        settings=TrainingFreeSettings,
        erase=_runs("training_free"),
        reads=("mapping", "preserve", "captions"),
        work=lambda recipe: Work(captions=bool(recipe.settings.refine.general or recipe.settings.fuse.general)),
        stages=("refine", "fuse"),
    ),
    "uce": Method(
        title="UCE",
        about="One closed-form solve that gives each concept the output of an anchor.",
        settings=UceSettings,
        erase=_runs("uce"),
        reads=("mapping", "preserve"),
    ),
    "rece": Method(
        title="RECE",
        about="UCE, then in rounds the embedding that brings the concept back is found and erased too.",
        settings=ReceSettings,
        erase=_runs("rece"),
    ),
    "speed": Method(
        title="SPEED",
        about="A closed-form edit within the null space of what is kept, so that long preserve lists hold.",
        settings=SpeedSettings,
        erase=_runs("speed"),
        reads=("mapping", "preserve"),
    ),
    "oce": Method(
        title="OCE",
        about="Rotates the values instead of adding to them, so that their singular values stay.",
        settings=OceSettings,
        erase=_runs("oce"),
        reads=("mapping", "preserve", "captions"),
        work=_oce,
        stages=("captions", "refine"),
    ),
    "dp": Method(
        title="DP",
        about="Sends concepts to their projection on what is safe, without moving what is kept at all.",
        settings=DoubleProjectionSettings,
        erase=_runs("double_projection"),
        reads=("mapping", "preserve"),
    ),
    "esd": Method(
        title="ESD",
        about="Trains the model to predict, for a concept, what guidance away from it gives.",
        settings=EsdSettings,
        erase=_runs("esd"),
        work=_esd,
        changes="unet",
        stages=("train",),
    ),
    "ac": Method(
        title="AC",
        about="Trains a concept's prompts to predict what the model predicts for its mapping's prompts.",
        settings=ConceptAblationSettings,
        erase=_runs("concept_ablation"),
        work=_ac,
        reads=("mapping", "images"),
        stages=("images", "train"),
    ),
    "fmn": Method(
        title="FMN",
        about="Trains the attention to a concept's words down.",
        settings=ForgetMeNotSettings,
        erase=_runs("forget_me_not"),
        work=_fmn,
        reads=("images",),
        changes="unet",
        stages=("images", "tokens", "train"),
    ),
    "sa": Method(
        title="SA, reduced",
        about="Teaches a concept's prompt its mapping's images, and holds the weights that general captions need.",
        settings=SelectiveAmnesiaSettings,
        erase=_runs("selective_amnesia"),
        work=_sa,
        reads=("mapping", "captions", "images"),
        changes="unet",
        stages=("images", "fisher", "train"),
    ),
    "sld": Method(
        title="SLD",
        about="Changes no weight: guides every image away from the concepts while it is generated.",
        settings=SldSettings,
        erase=_runs("sld"),
        guide=_runs("sld", "guide"),
    ),
    "adavd": Method(
        title="AdaVD",
        about="Changes no weight: takes the concepts out of the values of cross-attention while images are generated.",
        settings=AdaVdSettings,
        erase=_runs("adavd"),
        guide=_runs("adavd", "guide"),
    ),
}


class Methods(Mapping[str, Method]):
    """Name -> row: the studio's own, and those of installed packages that declare some.

    A package names each of its rows in its pyproject.toml:

        [project.entry-points."mace_studio.methods"]
        my-method = "my_package:METHOD"

    They are read when the table is first used, so that a package may import this module before. One that cannot be
    read, or has the name of another, is left out with a warning in the log.
    """

    @cached_property
    def _rows(self) -> dict[str, Method]:
        rows = dict(OWN)
        for point in entry_points(group=GROUP):
            try:
                row = point.load()
                if not isinstance(row, Method) or point.name in rows:
                    raise TypeError("it is no Method, or its name is taken")
                rows[point.name] = row
            except Exception as error:  # a broken package must not take the studio with it
                log.warning("The method %s of %s was left out: %s", point.name, point.value, error)
        return rows

    def __getitem__(self, name: str) -> Method:
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


METHODS = Methods()


def find(name: str) -> Method:
    """The row of a method.

    Args:
        name: a key of `METHODS`, such as "mace".

    Raises:
        RecipeError: there is none of this name; the field is "method".
    """
    if not isinstance(name, str) or name not in METHODS:
        raise RecipeError("method", f"“{str(name)[:80]}” is not known; use one of {', '.join(METHODS)}.")
    return METHODS[name]


def usual_guidance(recipe: Recipe) -> float:
    """The guidance scale to look at a recipe's images with: that of its training images, where it has any.

    Args:
        recipe: its method decides; the recipe need not be checked yet.

    Returns:
        Classifier-free guidance scale; 1 is without guidance.
    """
    method = find(recipe.method)
    return method.work(recipe).guidance if "images" in method.reads else ImageSettings.guidance


def erase(
    model: Model,
    recipe: Recipe,
    progress: Report = silent,
    cache: Path | None = None,
    *,
    user_masks: UserMasks | None = None,
) -> Erasure:
    """Erase concepts from a model, by the method that the recipe names, and measure what that takes.

    Page, terminal and studies run every method through this; only a cluster has a way of its own.

    Args:
        model: from `load`; bit for bit the same afterwards, also when this is cancelled or fails.
        recipe: what to erase, what must stay, and every setting.
        progress: called with a `Progress` at every step; to cancel, it raises `Cancelled`.
        cache: folder that keeps training images and sums over captions for later runs, or None.
        user_masks: for MACE, (phrase, number from 1) -> mask of a training image.

    Returns:
        Weights that take the place of some of the model's: to save, to apply to a pipeline or to compare. `spent` says
        what the run took.

    Raises:
        RecipeError: the recipe cannot be run; the message names the field and the remedy.
        NotFinite: what comes out is no finite numbers.

    Example:
        >>> from mace_studio import Concept, Recipe, erase, load
        >>> erasure = erase(load(), Recipe(concepts=[Concept("cat", "forest")], preserve=["dog"]))
        >>> erasure.save("cat.safetensors")
    """
    from torch.linalg import LinAlgError  # noqa: PLC0415 - which takes seconds

    from mace_studio import masks  # noqa: PLC0415 - which imports recipes, and these the table of methods
    from mace_studio.sd import finite, metering, projections, text  # noqa: PLC0415 - torch

    text.check(model, recipe.check())
    run = find(recipe.method).erase
    if user_masks:
        masks.check_takes_masks(recipe)
        run = partial(_runs("mace.erase"), user_masks=user_masks)
    try:
        made, spent = metering.measured(model, partial(run, model, recipe, progress, cache))
    except LinAlgError as error:
        raise NotFinite(
            f"{find(recipe.method).title} cannot solve for these weights, since some are no finite numbers or too far "
            f"apart in {str(model.dtype).removeprefix('torch.')}. Use smaller scales, or load the model in float32."
        ) from error
    # MACE, which composing calls too, says the doubts itself.
    grown = finite.grown(projections.read(model.unet, find(recipe.method).changes), made.weights)
    warnings = tuple(dict.fromkeys((*doubts(recipe.concepts), *made.warnings, *grown)))
    return replace(made, spent=spent, warnings=warnings)
