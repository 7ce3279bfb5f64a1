"""What the user asks for: concepts, what must stay, and every setting of a run.

A recipe is plain data. `Recipe.check()` says what is wrong with it in words; `to_json` and `from_json` are exact
inverses, and unknown keys or wrong types are refused by name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from mace_studio.errors import RecipeError
from mace_studio.schema import build

KINDS = ("object", "celebrity", "style", "explicit")
TUNE = ("both", "key", "value")
FUSIONS = ("closed-form", "weighted-sum")
MASKS = ("attention", "clipseg", "grounded-sam", "none")
TIMESTEPS = 1000
MAX_CONCEPTS = 200
LARGEST = 2**63 - 1  # seed that torch takes
SIZE_STEP = 8  # what the pipelines of diffusers ask of height and width


@dataclass(frozen=True)
class Concept:
    """One thing to erase.

    Attributes:
        phrase: what prompts call it, such as "cat" or "Van Gogh".
        mapping: what takes its place, such as "forest" or "an artist".
        kind: which prompt templates fit it, one of `KINDS`.
        synonyms: other words for it. They are not trained on: they test whether the erasure generalises (Acc_g).
    """

    phrase: str
    mapping: str
    kind: str = "object"
    synonyms: tuple[str, ...] = ()


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


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class ImageSettings:
    """The training images that the model draws of each concept.

    Attributes:
        per_concept: how many.
        steps: denoising steps of each (DPM-Solver++, multistep).
        guidance: classifier-free guidance scale.
    """

    per_concept: int = 8
    steps: int = 15
    guidance: float = 7.5


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result of an erasure.

    Attributes:
        name: what to call the result; made of the concepts when empty.
        about: one sentence on what this recipe is and which model it is for.
        concepts: what to erase, in any order.
        preserve: phrases that must keep their meaning.
        refine: keep weights of stage 1 (Eq. 2).
        fuse: keep weights of stage 3 (Eq. 7).
        lora: stage 2 (Eq. 3-5).
        fusion: "closed-form" (Eq. 7) or "weighted-sum" (Eq. 6, the ablation).
        images: the training images.
        masks: where they come from, one of `MASKS`; styles and explicit content never have any.
        concepts_at_once: how many LoRAs train in one forward; changes memory and speed, not the result.
        seed: of images, noise and timesteps.
    """

    concepts: tuple[Concept, ...] = ()
    preserve: tuple[str, ...] = ()
    name: str = ""
    about: str = ""
    refine: KeepWeights = field(default_factory=lambda: KeepWeights(general=1e-4, preserve=1.0))
    fuse: KeepWeights = field(default_factory=lambda: KeepWeights(general=1e-4, preserve=1.0))
    lora: LoraSettings = field(default_factory=LoraSettings)
    fusion: str = "closed-form"
    images: ImageSettings = field(default_factory=ImageSettings)
    masks: str = "attention"
    concepts_at_once: int = 4
    seed: int = 0

    def check(self) -> Recipe:
        """Return this recipe, or raise a RecipeError that names the first field at fault and the remedy."""
        _check_concepts(self.concepts)
        _check_preserve(self)
        for name in ("refine", "fuse"):
            _check_weights(name, getattr(self, name))
        _check_lora(self.lora)
        _check_images(self.images)
        _one_of("fusion", self.fusion, FUSIONS)
        _one_of("masks", self.masks, MASKS)
        _at_least("concepts_at_once", self.concepts_at_once, 1)
        _at_least("seed", self.seed, 0)
        return self

    def title(self) -> str:
        """A name for the result: the given one, or one made of the first concepts."""
        if self.name.strip():
            return self.name.strip()
        phrases = [c.phrase.strip() for c in self.concepts]
        more = f" and {len(phrases) - 3} more" if len(phrases) > 3 else ""
        return ", ".join(phrases[:3]) + more

    def to_json(self) -> str:
        """The whole recipe as JSON text; the same recipe always gives the same text."""
        # Read back once, so that 1 and 1.0 in a float field, which are equal, are written alike.
        same = build(Recipe, json.loads(json.dumps(dataclasses.asdict(self))))
        return json.dumps(dataclasses.asdict(same), indent=2, ensure_ascii=False)

    @staticmethod
    def from_json(text: str) -> Recipe:
        """Read a recipe; fields left out take their defaults.

        Raises:
            RecipeError: not JSON, an unknown key, or a value of the wrong type; the message names the field.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
            raise RecipeError("", f"This is not a recipe: it is not valid JSON ({error}).") from error
        return build(Recipe, data)

    def digest(self) -> str:
        """Eight hexadecimal digits that differ between different recipes."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:8]


@dataclass(frozen=True)
class ImageRequest:
    """Which images to draw: every prompt with every seed.

    Attributes:
        prompts: what to draw.
        seeds: one image of every prompt for each.
        steps: denoising steps.
        guidance: classifier-free guidance scale; 1 is none.
        negative: what to steer away from.
        size: height and width in pixels; the model's own when None.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    steps: int = 20
    guidance: float = 7.5
    negative: str = ""
    size: tuple[int, int] | None = None

    def pairs(self) -> list[tuple[str, int]]:
        """Every prompt with every seed, in that order."""
        return [(prompt, seed) for prompt in self.prompts for seed in self.seeds]

    def check(self) -> ImageRequest:
        """Return this drawing, or raise a RecipeError that names the setting at fault and the remedy."""
        if not self.prompts or not all(p.strip() for p in self.prompts):
            raise RecipeError("prompt", "Type a prompt, or choose a suggested one.")
        if not self.seeds:
            raise RecipeError("seed", "Give at least one seed.")
        for seed in self.seeds:
            _at_least("seed", seed, 0)
        _at_least("steps", self.steps, 1)
        if self.steps >= TIMESTEPS:  # with an offset of 1, as in SD, the last of 1000 would be past the end
            raise RecipeError("steps", f"{self.steps} steps are too many; use at most {TIMESTEPS - 1}.")
        _at_least("guidance", self.guidance, 1)
        if self.size and not all(side > 0 and side % SIZE_STEP == 0 for side in self.size):
            height, width = self.size
            raise RecipeError("size", f"{height} x {width} cannot be drawn; use multiples of {SIZE_STEP} pixels.")
        return self

    def check_alone(self) -> ImageRequest:
        """The same as `check`, for what is drawn one at a time: one prompt, one seed."""
        for name, values in (("prompt", self.prompts), ("seed", self.seeds)):
            if len(values) > 1:
                raise RecipeError(name, f"{len(values)} {name}s are given; only one can be drawn at a time here.")
        return self.check()


def _check_concepts(concepts: tuple[Concept, ...]) -> None:
    if not concepts:
        raise RecipeError("concepts", "Add at least one concept to erase.")
    if len(concepts) > MAX_CONCEPTS:
        raise RecipeError("concepts", f"{len(concepts)} concepts are too many; at most {MAX_CONCEPTS} fit in one run.")
    seen: dict[str, int] = {}
    for i, concept in enumerate(concepts):
        where = f"concepts[{i}]"
        if not concept.phrase.strip():
            raise RecipeError(f"{where}.phrase", f"Row {i + 1} names no concept; type one or remove the row.")
        if not concept.mapping.strip():
            raise RecipeError(f"{where}.mapping", f"Say what “{concept.phrase}” maps to, for instance “a person”.")
        _one_of(f"{where}.kind", concept.kind, KINDS)
        key = concept.phrase.strip().lower()
        if key in seen:
            raise RecipeError(f"{where}.phrase", f"“{concept.phrase}” is already in row {seen[key] + 1}; remove one.")
        seen[key] = i


def _check_preserve(recipe: Recipe) -> None:
    erased = {c.phrase.strip().lower() for c in recipe.concepts}
    for i, phrase in enumerate(recipe.preserve):
        if not phrase.strip():
            raise RecipeError(f"preserve[{i}]", "An empty phrase cannot be kept; remove it.")
        if phrase.strip().lower() in erased:
            raise RecipeError(f"preserve[{i}]", f"“{phrase}” is to be erased and to be kept; remove it from one list.")


def _check_weights(name: str, weights: KeepWeights) -> None:
    for part in dataclasses.fields(weights):
        _at_least(f"{name}.{part.name}", getattr(weights, part.name), 0)


def _check_lora(lora: LoraSettings) -> None:
    _at_least("lora.steps", lora.steps, 0)
    _at_least("lora.rank", lora.rank, 1)
    _above_zero("lora.learning_rate", lora.learning_rate)
    _above_zero("lora.alpha", lora.alpha)
    _above_zero("lora.gamma", lora.gamma)
    _one_of("lora.tune", lora.tune, TUNE)
    _at_least("lora.t1", lora.t1, 0)
    if not lora.t2 < TIMESTEPS:
        raise RecipeError("lora.t2", f"t2 is {lora.t2:g}; timesteps end at {TIMESTEPS - 1}.")
    if not lora.t1 < lora.t2:
        raise RecipeError("lora.t1", f"t1 ({lora.t1:g}) must be below t2 ({lora.t2:g}).")


def _check_images(images: ImageSettings) -> None:
    _at_least("images.per_concept", images.per_concept, 1)
    _at_least("images.steps", images.steps, 1)
    _at_least("images.guidance", images.guidance, 1)


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise RecipeError(name, f"“{value}” is not known; use one of {', '.join(choices)}.")


def _at_least(name: str, value: float, least: float) -> None:
    if value > LARGEST:
        raise RecipeError(name, "This number is too large.")
    if not value >= least:
        raise RecipeError(name, f"{value:g} is not allowed; use a number of at least {least:g}.")


def _above_zero(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise RecipeError(name, f"{value:g} is not allowed; use a number above 0.")


# Recipes of erased models -> the recipe of the model that they make together


def joined(
    recipes: Sequence[Recipe], remove: Collection[str] = (), add: Recipe | None = None, name: str = ""
) -> Recipe:
    """All concepts and preserve lists; every setting is that of the first recipe.

    Args:
        recipes: of the erased models, at least one.
        remove: phrases among their concepts that are erased no longer.
        add: its concepts are erased beside them; of its settings none counts.
        name: what to call the result. If nothing changes, it is the first recipe as it is, name and all.

    Raises:
        RecipeError: no recipe, a concept in two of them, one to remove that is in none, nothing left to erase, or what
            `Recipe.check` says; the field is "models", "remove", "add" or one of the recipe.
    """
    if not recipes:
        raise RecipeError("models", "Choose at least one erased model.")
    concepts = _without(_all(recipes), remove)
    if add is not None:
        add.check()
        concepts = _together(concepts, add.concepts, "add", "to be added, and erased already")
    if not concepts:
        raise RecipeError("remove", "Nothing would be left to erase; keep at least one concept.")
    erased, first = {_key(c.phrase) for c in concepts}, recipes[0]
    kept = list(first.preserve)
    for phrase in (p for recipe in [*recipes[1:], *([add] if add else [])] for p in recipe.preserve):
        if _key(phrase) not in map(_key, kept):
            kept.append(phrase)
    preserve = tuple(phrase for phrase in kept if _key(phrase) not in erased)
    result = replace(first, concepts=tuple(concepts), preserve=preserve)
    if result != first:
        result = replace(result, name="", about="")
    return (replace(result, name=name.strip()) if name.strip() else result).check()


def _all(recipes: Sequence[Recipe]) -> list[Concept]:
    concepts: list[Concept] = []
    for recipe in recipes:
        concepts = _together(concepts, recipe.concepts, "models", "erased in two of the chosen models")
    return concepts


def _together(concepts: Sequence[Concept], more: Sequence[Concept], field: str, twice: str) -> list[Concept]:
    known = {_key(c.phrase) for c in concepts}
    for concept in more:
        if _key(concept.phrase) in known:
            remedy = "take it out of one" if field == "add" else "remove it from one of them first"
            raise RecipeError(field, f"“{concept.phrase}” is {twice}; {remedy}.")
    return [*concepts, *more]


def _without(concepts: Sequence[Concept], remove: Collection[str]) -> list[Concept]:
    unwanted = {_key(phrase) for phrase in remove}
    for phrase in remove:
        if _key(phrase) not in {_key(c.phrase) for c in concepts}:
            erased = ", ".join(c.phrase for c in concepts)
            raise RecipeError("remove", f"“{phrase}” is not among what is erased: {erased}.")
    return [c for c in concepts if _key(c.phrase) not in unwanted]


def _key(phrase: str) -> str:
    return phrase.strip().lower()
