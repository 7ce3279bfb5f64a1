"""Settings that several parts share: keep weights, LoRA, training images, with what may stand in them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from mace_studio.errors import RecipeError

TUNE = ("both", "key", "value")
TIMESTEPS = 1000
LARGEST = 2**63 - 1  # seed that torch takes


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
    flat: float = 0.0


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
    at_least("lora.steps", lora.steps, 0)
    at_least("lora.rank", lora.rank, 1)
    above_zero("lora.learning_rate", lora.learning_rate)
    above_zero("lora.alpha", lora.alpha)
    above_zero("lora.gamma", lora.gamma)
    one_of("lora.tune", lora.tune, TUNE)
    at_least("lora.flat", lora.flat, 0)
    at_least("lora.t1", lora.t1, 0)
    if not lora.t2 < TIMESTEPS:
        raise RecipeError("lora.t2", f"t2 is {lora.t2:g}; timesteps end at {TIMESTEPS - 1}.")
    if not lora.t1 < lora.t2:
        raise RecipeError("lora.t1", f"t1 ({lora.t1:g}) must be below t2 ({lora.t2:g}).")


def check_images(images: ImageSettings) -> None:
    at_least("images.per_concept", images.per_concept, 1)
    at_least("images.steps", images.steps, 1)
    at_least("images.guidance", images.guidance, 1)


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise RecipeError(name, f"“{value}” is not known; use one of {', '.join(choices)}.")


def at_least(name: str, value: float, least: float) -> None:
    if value > LARGEST:
        raise RecipeError(name, "This number is too large.")
    if not value >= least:
        raise RecipeError(name, f"{value:g} is not allowed; use a number of at least {least:g}.")


def above_zero(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise RecipeError(name, f"{value:g} is not allowed; use a number above 0.")
