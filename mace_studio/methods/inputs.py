"""What the methods read of a recipe beside MACE's templates: vectors of bare phrases, anchors, the preserve list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from mace_studio import __version__
from mace_studio.caption_files import read_captions
from mace_studio.erasure import Erasure
from mace_studio.progress import Progress, Report, timed, within
from mace_studio.recipe import Concept, Recipe
from mace_studio.sd import files, finite, grams, text
from mace_studio.sd.model import Model

PACKAGES = ("torch", "diffusers", "transformers", "peft")

# Kind -> the word that takes a concept's place in the authors' runs.
UCE_ANCHORS = {"object": "", "explicit": "", "style": "art", "celebrity": "person"}
OCE_ANCHORS = {"object": "sky", "explicit": "", "style": "real", "celebrity": "person"}
OCE_MANY = 100  # from so many people on the published anchor is "tree"
EXPANDED = {
    "style": ("painting by {}", "art by {}", "artwork by {}", "picture by {}", "style of {}"),
    "object": ("image of {}", "photo of {}", "portrait of {}", "picture of {}", "painting of {}"),
}


@dataclass(frozen=True)
class Phrases:
    """Phrases as the text encoder reads them alone.

    Attributes:
        context_NTD: their contexts, float64 on the CPU.
        last_N: pos* of each: the position of its last token, the one before the end token; 0, the start token, for
            a phrase without tokens.
    """

    context_NTD: Tensor
    last_N: list[int]

    @property
    def vectors_ND(self) -> Tensor:
        """One vector for each phrase, at its last token."""
        return self.context_NTD[range(len(self.last_N)), self.last_N]


class Encoder:
    """Encodes lists of bare phrases and reports them as one stage, "refine".

    Args:
        model: its text encoder is read.
        progress: told after every batch of phrases.
        total: how many phrases there are in all lists.
    """

    def __init__(self, model: Model, progress: Report, total: int) -> None:
        self._model, self._progress, self._total, self._done = model, progress, total, 0

    def __call__(self, phrases: Sequence[str]) -> Phrases:
        """The contexts of some of the phrases; none may be given."""
        model = self._model
        if not phrases:
            return Phrases(torch.zeros(0, model.length, model.width).double(), [])
        context_NTD = text.embed(model, phrases, within(self._progress, "refine", "", self._done, self._total))
        self._done += len(phrases)
        last_N = [max(len(row) - 2, 0) for row in text.ids(model, phrases)]
        return Phrases(context_NTD.double().cpu(), last_N)


def phrases(recipe: Recipe) -> list[str]:
    """The concepts' bare names.

    Args:
        recipe: any.
    """
    return [concept.phrase.strip() for concept in recipe.concepts]


def anchor(concept: Concept, choice: str, published: dict[str, str]) -> str:
    """What takes a concept's place: the recipe's mapping, or the published word for its kind.

    Args:
        concept: of the recipe.
        choice: "mapping", or anything else for the published word.
        published: kind of concept -> word.
    """
    return concept.mapping.strip() if choice == "mapping" else published[concept.kind]


def expanded(concept: Concept, anchor_phrase: str) -> list[tuple[str, str]]:
    """The concept and its anchor, and both within five short phrases, where there are any for its kind.

    Args:
        concept: of the recipe.
        anchor_phrase: what takes its place; "" for the empty prompt.

    Returns:
        Pairs (sentence of the concept, sentence of the anchor), first the bare ones.
    """
    forms = EXPANDED.get(concept.kind, EXPANDED["object"])
    inside = [(form.format(concept.phrase.strip()), form.format(anchor_phrase).strip()) for form in forms]
    return [(concept.phrase.strip(), anchor_phrase), *inside]


def result(
    model: Model,
    recipe: Recipe,
    weights: Mapping[str, Tensor],
    warnings: Sequence[str] = (),
    conditions: Mapping[str, float] | None = None,
    losses: Mapping[str, Sequence[float]] | None = None,
) -> Erasure:
    """The Erasure of a method that leaves no LoRAs behind; its weights in the model's dtype on the CPU.

    Args:
        model: that the weights are for.
        recipe: that was run.
        weights: name of a parameter of the UNet -> weight, in any dtype and on any device.
        warnings: sentences for the user.
        conditions: name of a solve -> condition number of its matrix.
        losses: phrase -> the loss of each step in which it was at work.

    Raises:
        NotFinite: a weight has numbers that are not finite, or are too large for the model's dtype.
    """
    own = {key: weight.detach().to("cpu", model.dtype).contiguous() for key, weight in weights.items()}
    finite.check_weights(own, f"The weights of “{recipe.title()}”")
    return Erasure(
        recipe=recipe,
        weights=own,
        fingerprint=model.fingerprint,
        unet=model.unet_fingerprint,
        conditions=conditions or {},
        losses={phrase: tuple(values) for phrase, values in (losses or {}).items()},
        warnings=tuple(warnings),
        versions={"mace_studio": __version__} | {name: version(name) for name in PACKAGES},
    )


def without_weights(model: Model, recipe: Recipe, progress: Report, warnings: Sequence[str] = ()) -> Erasure:
    """The Erasure of a method that changes no weights and acts while images are generated: nothing is computed.

    Args:
        model: that it is for.
        recipe: what to act on.
        progress: told of stage "refine" once.
        warnings: sentences for the user.
    """
    recipe.check()
    timed(progress, {"refine": 1.0})(Progress("refine", step=1, total=1))
    return result(model, recipe, {}, warnings)


def general_words(model: Model, cache: Path | None, progress: Report) -> Tensor:
    """K0: the mean of e e^T over all tokens of the general captions but padding, (D, D) float64.

    Args:
        model: its `captions` are read.
        cache: folder that keeps the sum, one for each model and file of captions, or None.
        progress: told of stage "captions" after every batch of them.
    """
    captions = read_captions(model.captions)
    path = cache / grams.file_name("words-general", model.fingerprint, captions) if cache else None
    if path and (known := files.cached(path, {"mean_DD": (model.width, model.width)}, (torch.float64,))):
        return known["mean_DD"]
    total_DD, count = torch.zeros(model.width, model.width).double(), 0
    for start in range(0, len(captions), text.BATCH):
        batch = captions[start : start + text.BATCH]
        context_NTD = text.embed(model, batch).double().cpu()
        for context_TD, row in zip(context_NTD, text.ids(model, batch), strict=True):
            total_DD += context_TD[: len(row)].T @ context_TD[: len(row)]
            count += len(row)
        progress(Progress("captions", "", start + len(batch), len(captions)))
    if path:
        files.keep(path, {"mean_DD": total_DD / count})
    return total_DD / count
