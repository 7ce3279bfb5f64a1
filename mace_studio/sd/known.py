"""Whether a model knows a concept: what a CLIP sees in images that the model made of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL.Image import Image
from torch import Tensor

from mace_studio import neighbours, presets, prompts
from mace_studio.errors import ModelError
from mace_studio.progress import Report, silent
from mace_studio.recipe import Concept, Recipe
from mace_studio.sd import judges, pixels
from mace_studio.sd.judges import ZeroShotClip
from mace_studio.sd.model import Model

log = logging.getLogger(__name__)

VARIABLE = "MACE_STUDIO_JUDGE"  # hub id or folder of a CLIP that looks at training images
LOOKS, OTHERS = 4, 15  # images of a concept that are looked at; phrases of its kind that CLIP may choose instead
LOW = 0.2  # mean probability below which the images are doubted; by chance it is 1 / (1 + OTHERS)
REMEDY = "The model may not know it: look at its training images, use a name that the model knows, or leave it out."


def judge(model: Model, warnings: list[str]) -> ZeroShotClip | None:
    """The CLIP that `MACE_STUDIO_JUDGE` names, or else the one in the folder `clip` beside the model, or None.

    There is none for a model that comes with a judge of its own: which words that one has learned is written down.

    Args:
        model: its source is looked at.
        warnings: is told of one that cannot be loaded.
    """
    beside = Path(model.source).parent / "clip"
    named = os.environ.get(VARIABLE) or (str(beside) if (beside / "config.json").is_file() else "")
    if not named or judges.of(model) is not None:
        return None
    try:
        return ZeroShotClip(named, "cpu" if model.low_memory else model.device)
    except ModelError as error:
        log.warning("no judge looks at the training images: %s", error)
        warnings.append(f"No judge looked at the training images. {error}")
        return None


def seen(judged: ZeroShotClip, concept: Concept, images: Sequence[Image]) -> float | None:
    """The mean probability that images show a concept rather than others of its kind; None where that says nothing.

    Args:
        judged: chooses.
        concept: explicit content has no others: its words mean the same.
        images: made of it.
    """
    others = neighbours.of(Recipe(concepts=(concept,)), presets.known_phrases(), count=OTHERS)
    if concept.kind == "explicit" or not others:
        return None
    form = prompts.image_prompt("{}", concept.kind)
    return judged.probabilities(images, [concept.phrase.strip(), *others], form)[:, 0].mean().item()


def doubts(
    model: Model,
    concepts: Sequence[Concept],
    latents: Iterable[Tensor],
    warnings: list[str],
    progress: Report = silent,
) -> dict[str, str]:
    """Phrase -> a sentence, of each concept of which its training images show little or nothing.

    Args:
        model: generated the images; its VAE decodes them.
        concepts: whose images they are.
        latents: of each concept, latents_NCHW.
        warnings: is told of a judge that cannot be loaded.
        progress: called at every batch that is decoded.
    """
    if not concepts or (judged := judge(model, warnings)) is None:
        return {}
    found = {}
    for concept, latents_NCHW in zip(concepts, latents, strict=True):
        share = seen(judged, concept, pixels.decoded(model, latents_NCHW[:LOOKS], progress))
        if share is not None and share < LOW:
            found[concept.phrase] = (
                f"In the training images of “{concept.phrase}” the judge sees it with a probability of {share:.0%}."
            )
    return found
