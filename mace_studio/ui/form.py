"""Component values <-> Recipe: the only place where a value's position becomes a name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any

from mace_studio.errors import RecipeError
from mace_studio.recipe import Recipe
from mace_studio.ui import concept_text

SEEDS_AT_ONCE = 64


@dataclass(frozen=True)
class Field:
    """One control of the form.

    Attributes:
        key: its name here; with hyphens it is the control's elem_id.
        label: what the user calls it.
        path: the recipe field that it shows, dotted; for a setting of the method within its settings.
    """

    key: str
    label: str
    path: str

    @property
    def elem_id(self) -> str:
        return self.key.replace("_", "-")


FIELDS = (
    Field("concepts", "Concepts", "concepts"),
    Field("preserve", "Keep unchanged", "preserve"),
    Field("lambda1", "λ1", "refine.general"),
    Field("lambda2", "λ2", "fuse.general"),
    Field("lambda3", "λ3", "refine.preserve"),
    Field("identity", "Identity weight", "refine.identity"),
    Field("lambda3_fuse", "λ3 in the fusion", "fuse.preserve"),
    Field("identity_fuse", "Identity weight in the fusion", "fuse.identity"),
    Field("t1", "t₁", "lora.t1"),
    Field("t2", "t₂", "lora.t2"),
    Field("gamma", "γ", "lora.gamma"),
    Field("uniform", "Uniform timesteps", "lora.uniform"),
    Field("lora_steps", "LoRA steps", "lora.steps"),
    Field("learning_rate", "Learning rate", "lora.learning_rate"),
    Field("rank", "Rank", "lora.rank"),
    Field("alpha", "Alpha", "lora.alpha"),
    Field("tune", "LoRA trains", "lora.tune"),
    Field("pad_tokens", "End and padding tokens", "lora.pad_tokens"),
    Field("squared", "Squared loss", "lora.squared"),
    Field("fusion", "Fusion", "fusion"),
    Field("masks", "Masks", "masks"),
    Field("image_count", "Images per concept", "images.per_concept"),
    Field("image_steps", "Image steps", "images.steps"),
    Field("image_guidance", "Image guidance", "images.guidance"),
    Field("concepts_at_once", "Concepts at once", "concepts_at_once"),
    Field("seed", "Seed", "seed"),
    Field("name", "Name", "name"),
    Field("about", "About", "about"),
)
BY_KEY = {f.key: f for f in FIELDS}
TOP = {"concepts", "preserve", "seed", "name", "about"}  # what is no setting of the method
# These are typed as text, so that 1e-7, 0 and a seed of twenty digits reach the recipe as they were written.
DECIMALS = (
    "lambda1",
    "lambda2",
    "lambda3",
    "identity",
    "t1",
    "t2",
    "gamma",
    "learning_rate",
    "alpha",
    "image_guidance",
)
WHOLES = ("lora_steps", "rank", "image_count", "image_steps", "concepts_at_once", "seed")
SAME_AS = {"lambda3_fuse": "lambda3", "identity_fuse": "identity"}


def recipe_from(values: Sequence[Any]) -> Recipe:
    """The recipe that the form shows. Whether it can be run is for `Recipe.check` to say.

    Args:
        values: one for each of `FIELDS`, in that order.

    Raises:
        RecipeError: a value that is no number, no text, ...; the message names the recipe's field.
    """
    form = dict(zip((f.key for f in FIELDS), values, strict=True))
    for key, other in SAME_AS.items():
        form[key] = form[other] if form[key] is None or form[key] == "" else form[key]
    for key in (*DECIMALS, *SAME_AS):
        form[key] = _number(BY_KEY[key], form[key], float)
    for key in WHOLES:
        form[key] = _number(BY_KEY[key], form[key], int)
    form["concepts"] = [asdict(c) for c in concept_text.concepts_from(form["concepts"])]
    form["preserve"] = form["preserve"] or []
    data: dict[str, Any] = {"settings": {}}
    for f in FIELDS:
        *parents, last = f.path.split(".")
        home = data if f.path in TOP else data["settings"]
        reduce(lambda inner, part: inner.setdefault(part, {}), parents, home)[last] = form[f.key]
    return Recipe.from_json(json.dumps(data))


def values_from(recipe: Recipe) -> list[Any]:
    """What the form shows of a recipe: the exact inverse of `recipe_from`."""
    form = {f.key: _at(recipe, f) for f in FIELDS}
    form["concepts"] = concept_text.rows_from(recipe.concepts)
    form["preserve"] = list(recipe.preserve)
    for key in (*DECIMALS, *WHOLES, *SAME_AS):
        form[key] = number_text(form[key])
    for key, other in SAME_AS.items():
        form[key] = "" if form[key] == form[other] else form[key]
    return list(form.values())


def differences(now: Recipe, then: Recipe) -> list[tuple[str, str, str]]:
    """What changes when `then` takes the place of `now`: (label, value now, value then)."""
    changed = ((f.label, _at(now, f), _at(then, f)) for f in FIELDS)
    return [(label, _words(a), _words(b)) for label, a, b in changed if a != b]


def recipe_of_file(data: bytes) -> Recipe:
    """Read an uploaded recipe.

    Raises:
        RecipeError: it is no recipe, or one that cannot be run; the message names the field.
    """
    return Recipe.from_json(concept_text.decoded(data)).check()


def window_from(values: Sequence[Any]) -> tuple[float, float, float, bool] | None:
    """t1, t2, gamma and whether timesteps are uniform, or None while one of them is being typed."""
    try:
        t1, t2, gamma = (float(value) for value in values[:3])
    except (TypeError, ValueError):
        return None
    return (t1, t2, gamma, bool(values[3])) if t1 < t2 and gamma > 0 else None


def prompts_from(text: str) -> list[str]:
    """Prompts, one a line."""
    return [line.strip() for line in str(text or "").splitlines() if line.strip()]


def seeds_from(text: str) -> list[int]:
    """Seeds of a text such as "0, 1, 2" or "0-3", each once, in that order.

    Raises:
        RecipeError: not such a text, or more than `SEEDS_AT_ONCE`.
    """
    seeds: dict[int, None] = {}
    for part in str(text or "").replace(",", " ").split():
        first, dash, last = part.partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash)):
            raise RecipeError("seed", f"“{part}” is not a seed; type numbers such as 0, 1, 2 or a range such as 0-3.")
        start, end = int(first), int(last or first)
        if end - start >= SEEDS_AT_ONCE or len(seeds) >= SEEDS_AT_ONCE:
            raise RecipeError("seed", f"At most {SEEDS_AT_ONCE} seeds fit in one run.")
        seeds.update(dict.fromkeys(range(start, end + 1)))
    return list(seeds)


def steps_from(value: Any) -> int:
    """A number of denoising steps, as typed."""
    return _number(Field("steps", "Steps", "steps"), value, int)


def guidance_from(value: Any) -> float:
    """A guidance scale, as typed."""
    return _number(Field("guidance", "Guidance", "guidance"), value, float)


def rank_from(value: Any) -> int | None:
    """The rank of an exported LoRA, as typed; None when blank."""
    return _number(Field("rank", "Rank", "rank"), value, int) if str(value or "").strip() else None


def energy_from(value: Any) -> float | None:
    """The share of a change that an exported LoRA keeps, as typed; None when blank."""
    return _number(Field("energy", "Share kept", "energy"), value, float) if str(value or "").strip() else None


def number_text(value: float) -> str:
    """The shortest text that reads back as this very number, such as 1e-7, 0.8 or 1000."""
    text = repr(value).removesuffix(".0").replace("e-0", "e-").replace("e+", "e")
    return "1e-4" if text == "0.0001" else text


def _number(field: Field, value: Any, kind: type) -> Any:
    text = "" if value is None else str(value).strip()
    try:
        return kind(text)
    except (ValueError, OverflowError):
        pass
    what = "a whole number such as 50" if kind is int else "a number such as 0.5 or 1e-4"
    raise RecipeError(field.path, f"“{text}” is not a number here; type {what}." if text else f"Type {what}.")


def _at(recipe: Recipe, field: Field) -> Any:
    return reduce(getattr, field.path.split("."), recipe if field.path in TOP else recipe.settings)


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int | float):
        return number_text(value)
    if isinstance(value, str):
        return value or "none"
    phrases = [getattr(item, "phrase", item) for item in value]
    more = f" and {len(phrases) - 4} more" if len(phrases) > 4 else ""
    return (", ".join(phrases[:4]) or "none") + more
