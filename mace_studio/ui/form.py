"""Component values <-> Recipe: the only place where a value's position becomes a name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import reduce
from typing import Any

from mace_studio import methods
from mace_studio.errors import RecipeError
from mace_studio.recipe import Concept, ImageRequest, Recipe
from mace_studio.runtime.studio import Studio
from mace_studio.settings import LARGEST, ImageSettings
from mace_studio.text_files import visible
from mace_studio.ui import concept_text
from mace_studio.ui.components.notice import CLEAR
from mace_studio.ui.components.text import number_text
from mace_studio.ui.form_fields import BY_KEY, COMMON, FIELDS, METHOD_GROUPS, STRENGTH, Field, method_fields, value_at

SEEDS_AT_ONCE = 64
GENERATED_STEPS = "20"  # what every tab begins with
NOTICES = 6  # about the form: of the buttons that erase, queue and make masks, and of files that were opened into it
NUMBERS = {"decimal": float, "whole": int}


def recipe_from(values: Sequence[Any]) -> Recipe:
    """The recipe that the form shows. Whether it can be run is for `Recipe.check` to say.

    Args:
        values: one for each of `FIELDS`, in that order.

    Raises:
        RecipeError: a value that is no number, no text, ...; the message names the recipe's field.
    """
    typed = dict(zip((f.key for f in FIELDS), values, strict=True))
    origin = _origin(typed["about"])
    typed["name"] = name_from(typed["name"], typed["concepts"], typed["about"])
    typed["about"] = origin["about"] if _phrases(typed["concepts"]) == origin["phrases"] else ""
    typed["concepts"] = [asdict(c) for c in concept_text.concepts_from(typed["concepts"])]
    typed["preserve"] = typed["preserve"] or []
    data: dict[str, Any] = {f.path: _value(f, typed) for f in COMMON} | {"settings": {}}
    methods.find(str(data["method"]))
    for field in method_fields(data["method"]):
        *parents, last = field.path.split(".")
        home = reduce(lambda inner, part: inner.setdefault(part, {}), parents, data["settings"])
        home[last] = _value(field, typed)
    return Recipe.from_data(data)


def values_from(recipe: Recipe) -> list[Any]:
    """What the form shows of a recipe: the exact inverse of `recipe_from`. Other methods show their defaults."""
    owners = {f.key: recipe for f in COMMON}
    for name in METHOD_GROUPS:
        settings = recipe.settings if name == recipe.method else methods.find(name).settings()
        owners |= {f.key: settings for f in method_fields(name)}
    shown = {f.key: value_at(owners[f.key], f) for f in FIELDS}
    shown["concepts"] = rows = concept_text.rows_from(recipe.concepts)
    origin: dict[str, Any] = {"about": recipe.about, "name": recipe.name, "phrases": _phrases(rows)}
    origin["mappings"] = [concept.mapping for concept in recipe.concepts]
    origin["strength"] = {key: shown[key] for key in STRENGTH.get(recipe.method, {})}
    shown["about"] = origin
    shown["preserve"] = list(recipe.preserve)
    for field in FIELDS:
        if field.kind in NUMBERS:
            shown[field.key] = number_text(shown[field.key])
    for field in FIELDS:
        if field.same_as and shown[field.key] == shown[field.same_as]:
            shown[field.key] = ""
    return list(shown.values())


def filling(recipe: Recipe) -> list[Any]:
    """What fills the form: its values, the dial in the middle, and no notice: what one says is of the values before."""
    return [*values_from(recipe), 0, *[CLEAR] * NOTICES]


def offered(start: Recipe, recipe: Recipe) -> tuple[Any, list[list[Any]]]:
    """What fills a form that the user may be typing into, see `gradio_compat.offer`.

    Args:
        start: what the form began with.
        recipe: what it is filled with where it still is so.

    Returns:
        The value of "about", which only the server has, and one (value before, new value) for each other control.
    """
    before, after = (dict(zip(BY_KEY, values_from(one), strict=True)) for one in (start, recipe))
    return after["about"], [[before[key], value] for key, value in after.items() if key != "about"]


def name_from(name: str, concepts: Any, about: Any) -> str:
    """The name in the form; one that came with a preset or a file goes when other concepts take the place of its own.

    Args:
        name, concepts, about: values of the form's controls of these names.
    """
    origin = _origin(about)
    return "" if name == origin["name"] and _phrases(concepts) != origin["phrases"] else name


def left_over(recipe: Recipe, values: Sequence[Any]) -> set[int]:
    """Places of the concepts whose mapping came with another phrase, which theirs took the place of.

    Args:
        recipe: that of the form.
        values: as of `recipe_from`.
    """
    origin = _origin(values[list(BY_KEY).index("about")])
    came = dict(zip(origin["phrases"], origin["mappings"], strict=False))
    brought = set(came.values())
    return {i for i, c in enumerate(recipe.concepts) if c.phrase not in came and c.mapping in brought and c.mapping}


def with_strength(values: Sequence[Any], turned: int) -> dict[str, str]:
    """What the strength dial makes of the settings that filled the form: key -> number as text.

    Args:
        values: as of `recipe_from`.
        turned: from -2, which erases least, to 2.
    """
    typed = dict(zip((f.key for f in FIELDS), values, strict=True))
    filled = _origin(typed["about"])["strength"]
    powers = STRENGTH.get(typed["method"], {})
    turn = {key: filled[key] * 10 ** (power * turned) for key, power in powers.items() if key in filled}
    return {key: number_text(float(f"{value:.2g}") if turned else filled[key]) for key, value in turn.items()}


def differences(now: Recipe, then: Recipe) -> list[tuple[str, str, str]]:
    """What changes when `then` takes the place of `now`: (label, value now, value then); of lists, what differs."""
    pairs = [(f, _common(now, f), _common(then, f)) for f in COMMON]
    if now.method == then.method:
        pairs += [(f, value_at(now.settings, f), value_at(then.settings, f)) for f in method_fields(now.method)]
    return [(field.label, *_apart(a, b)) for field, a, b in pairs if a != b]


def _common(recipe: Recipe, field: Field) -> Any:
    """A value of the recipe itself, of its method what that is called."""
    return methods.find(recipe.method).title if field.key == "method" else value_at(recipe, field)


def recipe_of_file(data: bytes) -> Recipe:
    """Read an uploaded recipe.

    Raises:
        RecipeError: it is no recipe, or one that cannot be run; the message names the field.
    """
    return Recipe.from_json(concept_text.decoded(data)).check()


def prompts_from(text: str) -> list[str]:
    """Prompts, one a line."""
    return [line.strip() for line in visible(str(text or "")).splitlines() if line.strip()]


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
        start, end = _seed(first), _seed(last or first)
        if end < start:
            raise RecipeError("seed", f"“{part}” ends before it begins; type the smaller seed first.")
        if end - start >= SEEDS_AT_ONCE or len(seeds) >= SEEDS_AT_ONCE:
            raise RecipeError("seed", f"At most {SEEDS_AT_ONCE} seeds fit in one run.")
        seeds.update(dict.fromkeys(range(start, end + 1)))
    return list(seeds)


def _seed(digits: str) -> int:
    """A seed from digits; Python reads no number of thousands of them."""
    if len(digits) > len(str(LARGEST)):
        raise RecipeError("seed", f"“{digits}” is too large; the largest seed is {LARGEST}.")
    return int(digits)


def images_from(prompts: Sequence[str], seeds: str, steps: Any, guidance: Any, negative: str | None) -> ImageRequest:
    """The images that the fields of a tab ask for.

    Raises:
        RecipeError: a value that is no number; the field is "seed", "steps" or "guidance".
    """
    count, scale = number("steps", steps, int), number("guidance", guidance, float)
    return ImageRequest(tuple(prompts), tuple(seeds_from(seeds)), steps=count, guidance=scale, negative=negative or "")


def usual_settings(studio: Studio, steps: str, guidance: str, first: str) -> list[list[str]]:
    """Steps and guidance for a tab, once the model is known: of each what stands in its field, and what suits.

    Args:
        studio: knows what suits the loaded model.
        steps, guidance: as they stand in the fields; what the user typed stays.
        first: the guidance that the page began with.
    """
    if (steps, guidance) != (GENERATED_STEPS, first):
        return [[steps, steps], [guidance, guidance]]
    usual = studio.with_defaults(ImageSettings(steps=int(GENERATED_STEPS), guidance=float(first)))
    return [[steps, str(usual.steps)], [guidance, number_text(usual.guidance)]]


def rank_from(value: Any) -> int | None:
    """The rank of an exported LoRA, as typed; None when blank."""
    return number("rank", value, int) if str(value or "").strip() else None


def energy_from(value: Any) -> float | None:
    """The share of a change that an exported LoRA keeps, as typed; None when blank."""
    return number("energy", value, float) if str(value or "").strip() else None


def _origin(about: Any) -> dict[str, Any]:
    """Name, about, phrases, mappings and strength of the recipe that filled the form."""
    return {"about": "", "name": "", "phrases": [], "mappings": [], "strength": {}} | (
        about if isinstance(about, dict) else {}
    )


def _phrases(rows: Any) -> list[Any]:
    return [row[0] if isinstance(row, list) and row else None for row in rows] if isinstance(rows, list) else []


def _value(field: Field, typed: dict[str, Any]) -> Any:
    """A control's value as the recipe holds it."""
    value = typed[field.key]
    if field.same_as and (value is None or value == ""):
        value = typed[field.same_as]
    return number(field.path, value, NUMBERS[field.kind]) if field.kind in NUMBERS else value


def number(path: str, value: Any, kind: type) -> Any:
    """What a control holds, as a number of this kind.

    Raises:
        RecipeError: it is none; the sentence says what to type.
    """
    text = "This number"
    try:
        text = "" if value is None else str(value).strip()  # of thousands of digits Python writes none
        return kind(text)
    except (ValueError, OverflowError):
        pass
    what = "a whole number such as 50" if kind is int else "a number such as 0.5 or 1e-4"
    raise RecipeError(path, f"“{text}” is not a number here; type {what}." if text else f"Type {what}.")


def _apart(now: Any, then: Any) -> tuple[str, str]:
    """Two values that differ, in words."""
    if not isinstance(now, tuple):
        return _words(now), _words(then)
    gone, new = list((Counter(now) - Counter(then)).elements()), list((Counter(then) - Counter(now)).elements())
    if not gone and not new:
        return "the same", "in another order"
    return _listed(gone, now), _listed(new, then)


def _listed(items: Sequence[Any], whole: Sequence[Any]) -> str:
    if not items:
        return "nothing more" if whole else "none"
    more = f" and {len(items) - 4} more" if len(items) > 4 else ""
    return ", ".join(_item(item) for item in items[:4]) + more


def _item(item: Any) -> str:
    """A phrase, or a concept in full."""
    if not isinstance(item, Concept):
        return str(item)
    if not item.phrase:
        return "an empty row"
    parts = [f"{item.phrase} → {item.mapping}", item.kind, concept_text.synonyms_text(item.synonyms)]
    return " · ".join(part for part in parts if part)


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return number_text(value) if isinstance(value, int | float) else str(value or "none")
