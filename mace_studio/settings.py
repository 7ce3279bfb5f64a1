"""Settings that several parts share: keep weights, LoRA, training images, with what may stand in them."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from mace_studio.errors import RecipeError

TUNE = ("both", "key", "value")
TIMESTEPS = 1000
LARGEST = 2**63 - 1  # seed that torch takes
LARGEST_FLOAT = 3.4e38  # number that float32 holds

# What a recipe may hold, and what may be asked of images: the form, the API and files share these bounds, since every
# way in ends in the same `check`. Least and most of a number, by its field; most of a list or a text.
BOUNDS = {
    "seed": (0, LARGEST),
    "lora.steps": (0, 100_000),
    "lora.rank": (1, 256),
    "lora.kept_samples": (0, 64),
    "images.per_concept": (1, 1000),
    "images.steps": (1, TIMESTEPS - 1),
    "images.guidance": (1, 1000),
    "concepts_at_once": (1, 64),
    "steps": (1, TIMESTEPS - 1),  # with an offset of 1, as in SD, the last of 1000 would be past the end
    "guidance": (1, 1000),
    "rank": (1, 4096),  # of an exported LoRA
}
MOST = {
    "concepts": 10_000,
    "preserve": 10_000,
    "synonyms": 50,
    "prompts": 1000,
    "seeds": 1000,
    "images": 10_000,  # prompts times seeds
    "training images": 100_000,  # of all concepts
    "erasures": 50,  # that are measured together
    "phrases": 100,  # that are looked at as one word each, beside the concepts
}
CHARACTERS = {"phrase": 255, "name": 200, "about": 2000, "prompt": 4000, "recipe": 16 * 2**20}
PIXELS = 2048 * 2048  # of one image
SIDE = 4096


@dataclass(frozen=True)
class KeepWeights:
    """How strongly a closed-form solve holds on to what must stay.

    Attributes:
        general: weight of the general captions: lambda1 in the refinement, lambda2 in the fusion. Relative to the
            616,767 captions of the paper, whatever number of captions is at hand.
        preserve: weight of the preserve list: lambda3.
        identity: weight of the plain prior ||W' - W||^2, for objects (appendix C.2).
    """

    general: float = 0.0
    preserve: float = 0.0
    identity: float = 0.0


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """One LoRA per concept on the key and value projections of cross-attention.

    Attributes:
        steps: optimiser steps per concept; 0 leaves the LoRA out and stops after the refinement.
        learning_rate: of AdamW.
        rank: rank of each LoRA.
        alpha: the LoRA is scaled by alpha / rank.
        t1, t2, gamma: bounds and steepness of the timestep density xi(t) (Eq. 5); t1 < t2 within 0..999.
        uniform: draw timesteps uniformly instead (the ablation, and the paper's explicit-content run).
        tune: "both", "key" or "value" projections.
        pad_tokens: also press down the attention to the end and padding tokens, which carry residual information.
        squared: the squared norm of Eq. 3 instead of the norm.
        own_tokens: the LoRA acts, and is fused, at the concept's own tokens alone, less those with which a kept phrase
            begins, too. Not of the paper: it keeps far more of people who share names with those that are erased.
        kept_samples: train on so many noisy latents of a concept, each with one prompt, whose queries are computed once
            by the refined model: a step then needs no forward of the UNet, and only keys can be trained. 0 draws a new
            sample at every step.
        flat: a concept stops training early where the mean loss of its last ten steps is less than this share below
            that of the ten before; 0 trains all steps.
    """

    steps: int = 50
    learning_rate: float = 1e-4
    rank: int = 1
    alpha: float = 1.0
    t1: float = 200.0
    t2: float = 400.0
    gamma: float = 0.05
    uniform: bool = False
    tune: str = "both"
    pad_tokens: bool = True
    squared: bool = False
    own_tokens: bool = False
    flat: float = 0.0
    kept_samples: int = 0


@dataclass(frozen=True)
class ImageSettings:
    """The training images that the model draws of each concept.

    Attributes:
        per_concept: how many.
        steps: denoising steps of each (DPM-Solver++, multistep).
        guidance: classifier-free guidance scale.
        path: train on the noisy latents between t1 and t2 that the images pass on their way, instead of finished
            images with noise added; what comes after them is not computed.
    """

    per_concept: int = 8
    steps: int = 15
    guidance: float = 7.5
    path: bool = False


def check_keep_weights(name: str, weights: KeepWeights) -> None:
    for part in dataclasses.fields(weights):
        at_least(f"{name}.{part.name}", getattr(weights, part.name), 0)


def check_lora(lora: LoraSettings) -> None:
    bounded("lora.steps", lora.steps)
    bounded("lora.rank", lora.rank)
    above_zero("lora.learning_rate", lora.learning_rate)
    above_zero("lora.alpha", lora.alpha)
    above_zero("lora.gamma", lora.gamma)
    one_of("lora.tune", lora.tune, TUNE)
    at_least("lora.flat", lora.flat, 0)
    bounded("lora.kept_samples", lora.kept_samples)
    if lora.kept_samples and lora.tune != "key":
        raise RecipeError("lora.tune", "With kept samples only key projections can be trained; choose key.")
    at_least("lora.t1", lora.t1, 0)
    if not lora.t2 < TIMESTEPS:
        raise RecipeError("lora.t2", f"{number(lora.t2)} is not allowed; timesteps end at {TIMESTEPS - 1}.")
    at_least("lora.t2", lora.t2, 0)
    if not lora.t1 < lora.t2:
        raise RecipeError("lora.t1", f"t1 ({lora.t1:g}) must be below t2 ({lora.t2:g}).")
    if math.ceil(lora.t1) > lora.t2:
        raise RecipeError("lora.t1", f"No whole timestep lies from t1 ({lora.t1:g}) to t2 ({lora.t2:g}); widen them.")


def check_images(images: ImageSettings) -> None:
    bounded("images.per_concept", images.per_concept)
    bounded("images.steps", images.steps)
    bounded("images.guidance", images.guidance)


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise RecipeError(name, f"“{value}” is not known; use one of {', '.join(choices)}.")


def bounded(name: str, value: float) -> None:
    """Raise a RecipeError unless a number lies within `BOUNDS`."""
    least, most = BOUNDS[name]
    if most < value and most < LARGEST:
        raise RecipeError(name, f"{number(value)} is too much; use at most {most:g}.")
    at_least(name, value, least)


def counted(field: str, count: int, what: str = "") -> None:
    """Raise a RecipeError where a list has more items than `MOST`; `what` is its name there, where that is another."""
    if count > (most := MOST[what or field]):
        raise RecipeError(field, f"{count} {what or field} are too many; at most {most} fit in one run.")


def check_phrases(phrases: Sequence[str]) -> None:
    """Raise a RecipeError where more phrases are looked at than `MOST`, or longer ones than one may be."""
    counted("phrase", len(phrases), "phrases")
    for phrase in phrases:
        fits("phrase", phrase, "phrase")


def fits(field: str, text: str, what: str) -> None:
    """Raise a RecipeError where a text has more `CHARACTERS` than a `what` may have."""
    if len(text) > (most := CHARACTERS[what]):
        raise RecipeError(field, f"This text has {len(text):,} characters; use at most {most:,}.")


def at_least(name: str, value: float, least: float) -> None:
    if value > LARGEST:
        raise RecipeError(name, "This number is too large.")
    if not value >= least:
        raise RecipeError(name, f"{number(value)} is not allowed; use a number of at least {least:g}.")


def number(value: float) -> str:
    """A number in a message; a whole one may have more digits than a float can take."""
    return f"{value:g}" if abs(value) <= LARGEST or not isinstance(value, int) else "This number"


def above_zero(name: str, value: float) -> None:
    if not is_finite(value) or value <= 0:
        raise RecipeError(name, f"{number(value)} is not allowed; use a number above 0.")
    if value > LARGEST_FLOAT:
        raise RecipeError(name, f"{number(value)} is too large for any weight.")


def is_finite(value: float) -> bool:
    """Whether a number is finite as a float; a whole one may have more digits than a float can take."""
    return abs(value) <= sys.float_info.max
