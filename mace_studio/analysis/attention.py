"""Use cases inspect() and residual(): what the model attends to for each word, and what the other words still carry."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from PIL.Image import Image, fromarray
from torch import Tensor

from mace_studio import text_files
from mace_studio.core import attention
from mace_studio.erasure import Erasure, check_fits
from mace_studio.errors import FileError, RecipeError
from mace_studio.methods.mace import refine
from mace_studio.progress import Progress, Report, silent, timed, within
from mace_studio.recipe import ImageRequest
from mace_studio.sd import attention_hooks, attention_maps, judges, projections, sampling, text
from mace_studio.sd.attention_maps import TokenMaps
from mace_studio.sd.model import Model
from mace_studio.sd.text import Word
from mace_studio.settings import KeepWeights

BEFORE, AFTER = "before", "after"
ORIGINAL, REFINED, ERASED = "original", "refined", "erased"
SIDES = ("conditional", "unconditional")


@dataclass(frozen=True)
class Run:
    """One image, and where the model looked while it was generated.

    Attributes:
        image: RGB.
        conditional: maps of the prompt's words.
        unconditional: maps of the negative prompt's words; None without guidance.
        presence: erased phrase of the prompt -> the probability that the image shows it, as the model's judge says;
            without phrases that no judge knows.
    """

    image: Image
    conditional: TokenMaps
    unconditional: TokenMaps | None
    presence: dict[str, float] = field(default_factory=dict)

    def mask(self) -> Mask | None:
        """The mask of the concept's words, or else of the word after them that stands out most; None without any.

        A text encoder that reads from left to right lets only what follows the concept carry it along.
        """
        maps_TIJ, words = self.conditional.mean().mean(dim=0), self.conditional.words
        named = [i for i, word in enumerate(words) if word.role == "concept"]
        if not named:
            return None
        concept = {words[named[0]].text: maps_TIJ[named].sum(dim=0)}
        after = {word.text: maps_TIJ[i] for i, word in enumerate(words) if i > named[0] and word.role == "word"}
        for group in (concept, after):
            best = attention.clearest(torch.stack(list(group.values()))) if group else None
            if best is not None:
                word = list(group)[best]
                mask_IJ = attention.mask(group[word])
                return None if mask_IJ is None else Mask(word, mask_IJ)
        return None


@dataclass(frozen=True)
class Mass:
    """How much attention a word gets.

    Attributes:
        word: the word.
        total: share of all attention, the mean over pixels, steps, heads and layers; all words' sum to 1.
        inside: the same over the pixels of the concept's mask; None without a mask.
    """

    word: Word
    total: float
    inside: float | None


@dataclass(frozen=True)
class Mask:
    """Where the concept is in the first image, as far as attention tells.

    Attributes:
        word: whose map it is: the concept, or where that stands out nowhere, a later word that carries it.
        mask_IJ: at the size of the largest maps.
    """

    word: str
    mask_IJ: Tensor


@dataclass(frozen=True)
class Inspection:
    """The same prompt and seed under several sets of weights.

    Attributes:
        runs: "before" and "after", or before alone; of the residual experiment "original", "refined" (MACE alone) and
            "erased".
        mask: of the concept; None where the prompt does not name it, or nothing stands out, or its words are replaced.
        settings: everything needed to do it again; `kind` is "attention" or "residual".
    """

    runs: dict[str, Run]
    mask: Mask | None
    settings: dict[str, Any]

    @property
    def words(self) -> tuple[Word, ...]:
        """The words of the prompt, the same in all runs."""
        return next(iter(self.runs.values())).conditional.words

    def masses(self, name: str) -> list[Mass]:
        """The attention to each word of the prompt in one of the runs."""
        maps_TIJ = self.runs[name].conditional.mean().mean(dim=0)
        totals = maps_TIJ.mean(dim=(1, 2)).tolist()
        inside = [None] * len(totals) if self.mask is None else maps_TIJ[:, self.mask.mask_IJ].mean(dim=1).tolist()
        return [Mass(*row) for row in zip(self.words, totals, inside, strict=True)]


def inspect(
    model: Model,
    request: ImageRequest,
    erasure: Erasure | None = None,
    phrases: Sequence[str] = (),
    steps: range | None = None,
    progress: Report = silent,
) -> Inspection:
    """Generate a prompt before and after an erasure and record the attention to its words.

    Args:
        model: is bit for bit the same afterwards.
        request: one prompt and one seed.
        erasure: None looks at the model as it is.
        phrases: what counts as one word, beside the erasure's concepts and their synonyms.
        steps: which denoising steps are kept; all when None.
        progress: called with stage "generate", steps in images, at every denoising step; the concept is the run's name.
            Between two runs with the `Inspection` of those that are there, as `result`.

    Raises:
        FileError: the erasure was made from another model.
        RecipeError: a setting that no image can be generated with, or more than one prompt or seed.

    Example:
        >>> inspection = inspect(model, ImageRequest(prompts=("a photo of a cat",), seeds=(0,)), erasure)
    """
    request.check_alone()
    models: dict[str, AbstractContextManager[None]] = {BEFORE: nullcontext()}
    if erasure is not None:
        check_fits(erasure, model)
        models[AFTER] = erasure.applied(model)
    words = text.words(model, request.prompts[0], [*_phrases(erasure), *phrases])
    about = _settings("attention", model, request, erasure)
    return _inspected(model, request, models, words, steps, about, report=timed(progress, {"generate": 1.0}))


def residual(
    model: Model, request: ImageRequest, erasure: Erasure, cache: Path | None = None, progress: Report = silent
) -> Inspection:
    """What the other words carry: the concept's embeddings replaced by that of the final end token (Fig. 2, 9).

    With the original weights, after the refinement alone (MACE's), and after the whole erasure.

    Args:
        model: is bit for bit the same afterwards.
        request: one prompt that names an erased concept, and one seed.
        erasure: its recipe is refined anew, since its file holds the final weights only.
        cache: folder that keeps the Gram of the general captions, or None.
        progress: called with stage "refine", then of "generate" as by `inspect`.

    Raises:
        FileError: the erasure was made from another model.
        RecipeError: the prompt names no erased concept, or a setting that no image can be generated with.
    """
    request.check_alone()
    check_fits(erasure, model)
    words = text.words(model, request.prompts[0], _phrases(erasure))
    if not any(word.role == "concept" for word in words):
        named = ", ".join(c.phrase for c in erasure.recipe.concepts[:3])
        raise RecipeError("prompt", f"The prompt names no erased concept; use one of them in it, such as {named}.")
    models: dict[str, AbstractContextManager[None]] = {ORIGINAL: nullcontext()}
    if erasure.recipe.method == "mace":
        report = timed(progress, {"refine": 1.0, "generate": 3.0})
        # Without the fusion's weights, so that no general captions are read for them.
        sums = refine.gather(model, erasure.recipe.with_settings(fuse=KeepWeights()), cache, report)
        refined = refine.weights(model, refine.solve(sums, erasure.recipe.settings.refine), report)
        models[REFINED] = projections.swapped(model.unet, refined)
    else:
        report = timed(progress, {"generate": 1.0})
    models[ERASED] = erasure.applied(model)
    positions = [p for word in words if word.role == "concept" for p in word.positions]
    source = text.final_end(model, text.ids(model, request.prompts)[0])
    with attention_hooks.context(model.unet, lambda context_BTD: replaced(context_BTD, positions, source)):
        about = _settings("residual", model, request, erasure)
        return _inspected(model, request, models, words, None, about, report=report)


def replaced(context_BTD: Tensor, positions: Sequence[int], source: int) -> Tensor:
    """A context whose last row, the conditional one, has the embedding at `source` in place of those at `positions`."""
    other_BTD = context_BTD.clone()
    other_BTD[-1, list(positions)] = context_BTD[-1, source]
    return other_BTD


def _inspected(
    model: Model,
    request: ImageRequest,
    models: Mapping[str, AbstractContextManager[None]],
    words: list[Word],
    steps: range | None,
    settings: dict[str, Any],
    *,
    report: Report,
) -> Inspection:
    """One run inside each of several context managers that put other weights in place."""
    judge, found = judges.of(model), Inspection({}, None, settings)
    size = attention_maps.latent_size(model, request.size)
    sides = (text.words(model, request.negative), words)
    for i, (name, in_place) in enumerate(models.items()):
        recorder = attention_maps.Recorder(sides, steps or range(request.steps), size)
        with in_place, attention_hooks.attention(model.unet, recorder.receive):
            (image,) = sampling.generate(model, request, within(report, "generate", name, i, len(models)))
        *unconditional, conditional = recorder.sides()
        seen = {word.text: judges.presence(judge, image, word.text) for word in words if word.role == "concept"}
        run = Run(
            image=image,
            conditional=conditional,
            unconditional=unconditional[0] if unconditional else None,
            presence={phrase: share for phrase, share in seen.items() if share is not None},
        )
        found = Inspection({**found.runs, name: run}, run.mask() if name == BEFORE else found.mask, settings)
        if i + 1 < len(models):
            report(Progress("generate", name, i + 1, len(models), result=found))
    return found


def _phrases(erasure: Erasure | None) -> list[str]:
    concepts = erasure.recipe.concepts if erasure is not None else ()
    return [phrase for concept in concepts for phrase in (concept.phrase, *concept.synonyms)]


def _settings(kind: str, model: Model, request: ImageRequest, erasure: Erasure | None) -> dict[str, Any]:
    settings = {"kind": kind} | asdict(request) | {"model": model.name, "model_fingerprint": model.fingerprint}
    if erasure is not None:
        settings |= {"recipe": json.loads(erasure.recipe.to_json()), "recipe_digest": erasure.recipe.digest()}
    return settings


def save(inspection: Inspection, path: Path) -> Path:
    """Write arrays to `path`, an .npz, and everything else as JSON beside it; returns the path.

    Raises:
        FileError: a file cannot be written.
    """
    about: dict[str, Any] = {"settings": inspection.settings, "runs": {}}
    arrays: dict[str, Any] = {}
    if inspection.mask is not None:
        about["mask"], arrays["mask_IJ"] = inspection.mask.word, inspection.mask.mask_IJ.numpy()
    for name, run in inspection.runs.items():
        arrays[f"{name}/image"] = np.asarray(run.image)
        about["runs"][name] = {"presence": run.presence}
        for side in SIDES:
            if (token_maps := getattr(run, side)) is not None:
                arrays |= {f"{name}/{side}/{group}": maps.numpy() for group, maps in token_maps.maps.items()}
                words = [asdict(word) for word in token_maps.words]
                about["runs"][name][side] = {"words": words, "layers": token_maps.layers}
    try:
        with text_files.whole(path) as part:
            np.savez_compressed(part, **arrays)
        with text_files.whole(path.with_suffix(".json")) as part:
            part.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise FileError(f"{path} could not be written: {error.strerror or error}. Choose another folder.") from error
    return path


def load(path: Path) -> Inspection:
    """Read what `save` wrote.

    Raises:
        FileError: a file is missing or is none of these.
    """
    try:
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: torch.from_numpy(file[name]) for name in file.files}
        runs = {}
        for name, run in about["runs"].items():
            sides = {}
            for side in (side for side in SIDES if side in run):
                layers = run[side]["layers"]
                words = [
                    Word(w["text"], tuple(w["tokens"]), tuple(w["positions"]), w["role"]) for w in run[side]["words"]
                ]
                maps = {group: arrays[f"{name}/{side}/{group}"] for group in layers}
                sides[side] = TokenMaps(tuple(words), maps, layers)
            runs[name] = Run(
                image=fromarray(arrays[f"{name}/image"].numpy()),
                conditional=sides["conditional"],
                unconditional=sides.get("unconditional"),
                presence=run["presence"],
            )
        mask = Mask(about["mask"], arrays["mask_IJ"]) if "mask" in about else None
        return Inspection(runs, mask, about["settings"])
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError, BadZipFile) as error:
        raise FileError(f"{path} is no inspection of MACE Studio, or the JSON file beside it is missing.") from error
