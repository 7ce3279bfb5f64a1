"""What the user asks for: concepts, what must stay, and every setting of a run.

A recipe is plain data. `Recipe.check()` says what is wrong with it in words; `to_json` and `from_json` are exact
inverses, and unknown keys or wrong types are refused by name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, Any

from mace_studio.errors import RecipeError
from mace_studio.phrases import distinct, folded
from mace_studio.schema import build, listed
from mace_studio.schema import check as check_types
from mace_studio.settings import MOST, PIXELS, SIDE, bounded, counted, fits, one_of
from mace_studio.text_files import blank, broken, unattached, visible

if TYPE_CHECKING:
    from mace_studio.methods import Method

KINDS = ("object", "celebrity", "style", "explicit")
MAX_CONCEPTS = MOST["concepts"]
BROKEN = "This text has a broken character in it; type it again."
UNATTACHED = "This begins with an accent or another mark of a letter that is not there; type it again."
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
    synonyms: Sequence[str] = ()

    def __post_init__(self) -> None:
        for part in ("phrase", "mapping"):
            object.__setattr__(self, part, _visible(getattr(self, part)))
        object.__setattr__(self, "synonyms", tuple(map(_visible, listed(self.synonyms, "synonyms"))))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the result of an erasure.

    Attributes:
        concepts: what to erase, in any order.
        preserve: phrases that must keep their meaning; each counts once, in the templates of one kind
            (`prompts.kept_kind`).
        name: what to call the result; made of the concepts when empty.
        about: one sentence on what this recipe is and which model it is for.
        method: how to erase, one of `methods.METHODS`.
        settings: the method's own, an instance of its `settings` type; its defaults when left out.
        seed: of images, noise and timesteps.
    """

    concepts: Sequence[Concept] = ()
    preserve: Sequence[str] = ()
    name: str = ""
    about: str = ""
    method: str = "mace"
    settings: Any = None
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "concepts", listed(self.concepts, "concepts"))
        object.__setattr__(self, "preserve", tuple(map(_visible, listed(self.preserve, "preserve"))))
        object.__setattr__(self, "name", _visible(self.name))
        if self.settings is None:
            object.__setattr__(self, "settings", _method(self.method).settings())

    @property
    def kept(self) -> tuple[str, ...]:
        """The phrases of the preserve list without blanks around them, the first of those that are the same."""
        return tuple(distinct(phrase.strip() for phrase in self.preserve))

    def with_settings(self, **changes: Any) -> Recipe:
        """This recipe with some of the method's settings changed, such as `lora` or `refine`."""
        return replace(self, settings=replace(self.settings, **changes))

    def check(self) -> Recipe:
        """Return this recipe, or raise a RecipeError that names the first field at fault and the remedy."""
        counted("concepts", len(self.concepts))
        counted("preserve", len(self.preserve))
        check_types(self)
        for i, concept in enumerate(self.concepts):
            counted(f"concepts[{i}].synonyms", len(concept.synonyms), "synonyms")
        _check_text(self)
        _check_concepts(self.concepts)
        _check_preserve(self)
        method = _method(self.method)
        if not isinstance(self.settings, method.settings):
            raise RecipeError("settings", f"These are not the settings of {method.title}; leave them out.")
        check_types(self.settings)
        self.settings.check()
        # Masks may be looked at without training, so their images count then too.
        own = len(self.concepts) * self.settings.images.per_concept if method.masks else 0
        counted("concepts", max(own, method.work(self).images), "training images")
        bounded("seed", self.seed)
        return self

    @property
    def takes_masks(self) -> bool:
        """Whether its method trains on images with masks, of which users may draw their own."""
        return _method(self.method).masks

    @property
    def composes(self) -> bool:
        """Whether erasures of its method can be composed."""
        return _method(self.method).composes

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
        same = _from_data(json.loads(json.dumps(dataclasses.asdict(self))))
        return json.dumps(dataclasses.asdict(same), indent=2, ensure_ascii=False)

    @staticmethod
    def from_json(text: str) -> Recipe:
        """Read a recipe; fields left out take their defaults.

        A file of version 0.1, which has the settings of MACE beside its other fields, is read too.

        Raises:
            RecipeError: not JSON, an unknown key, or a value of the wrong type; the message names the field. Fields of
                the settings are named as they are there, such as "lora.steps".
        """
        text = text.removeprefix("\ufeff")  # which Windows writes before a text
        fits("", text, "recipe")
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise RecipeError("", f"This is not a recipe: it is not valid JSON ({error}).") from error
        except (ValueError, RecursionError) as error:
            message = "This is not a recipe: it is nested too deeply, or has a number of thousands of digits."
            raise RecipeError("", message) from error
        return _from_data(data)

    @staticmethod
    def from_data(data: object) -> Recipe:
        """Read a recipe as a program has it: what `json.loads` makes of its file; errors as of `from_json`."""
        try:
            return Recipe.from_json(json.dumps(data))
        except (RecursionError, TypeError, ValueError) as error:
            raise RecipeError("", "This is not a recipe: it is nested too deeply, or holds what is no JSON.") from error

    def digest(self) -> str:
        """Eight hexadecimal digits that differ between different recipes.

        Those of a recipe for MACE are the same as in version 0.1, so that files keep their names and LoRAs their
        origin.
        """
        data = json.loads(self.to_json())
        if self.method == "mace":
            del data["method"]
            seed, settings = data.pop("seed"), data.pop("settings")
            first = ("name", "about", "refine", "fuse", "lora", "fusion", "images", "masks", "concepts_at_once")
            whole = data | settings
            data = {key: whole[key] for key in ("concepts", "preserve", *first)} | {"seed": seed}
            for later in ("flat", "kept_samples", "own_tokens"):  # there was no such setting in 0.1
                if not data["lora"][later]:
                    del data["lora"][later]
            if not data["images"]["path"]:
                del data["images"]["path"]
        text = json.dumps(data, indent=2, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


@dataclass(frozen=True)
class ImageRequest:
    """Which images to generate: every prompt with every seed.

    Attributes:
        prompts: what to generate.
        seeds: one image of every prompt for each.
        steps: denoising steps.
        guidance: classifier-free guidance scale; 1 is none.
        negative: what to steer away from.
        size: height and width in pixels; the model's own when None.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    _: KW_ONLY
    steps: int = 20
    guidance: float = 7.5
    negative: str = ""
    size: tuple[int, int] | None = None

    def pairs(self) -> list[tuple[str, int]]:
        """Every prompt with every seed, in that order."""
        return [(prompt, seed) for prompt in self.prompts for seed in self.seeds]

    def check(self) -> ImageRequest:
        """Return this request, or raise a RecipeError that names the setting at fault and the remedy."""
        check_types(self)
        if not self.prompts or not all(p.strip() for p in self.prompts):
            raise RecipeError("prompt", "Type a prompt, or choose a suggested one.")
        counted("prompt", len(self.prompts), "prompts")
        counted("seed", len(self.seeds), "seeds")
        counted("prompt", len(self.prompts) * len(self.seeds), "images")
        for field, text in (*(("prompt", prompt) for prompt in self.prompts), ("negative", self.negative)):
            fits(field, text, "prompt")
            if broken(text):
                raise RecipeError(field, BROKEN)
        if not self.seeds:
            raise RecipeError("seed", "Give at least one seed.")
        for seed in self.seeds:
            bounded("seed", seed)
        bounded("steps", self.steps)
        bounded("guidance", self.guidance)
        self._check_size()
        return self

    def _check_size(self) -> None:
        if self.size is None:
            return
        if len(sides := listed(self.size, "size")) != 2 or not all(type(side) is int for side in sides):
            raise RecipeError("size", "Give height and width, two whole numbers of pixels.")
        height, width = sides
        if not all(0 < side <= SIDE and side % SIZE_STEP == 0 for side in sides) or height * width > PIXELS:
            raise RecipeError(
                "size",
                f"{height} x {width} cannot be generated; use multiples of {SIZE_STEP} pixels, at most {SIDE}, and at "
                f"most {PIXELS:,} pixels in all.",
            )

    def check_alone(self) -> ImageRequest:
        """The same as `check`, for what is generated one at a time: one prompt, one seed."""
        for name, values in (("prompt", self.prompts), ("seed", self.seeds)):
            if len(values) > 1:
                raise RecipeError(name, f"{len(values)} {name}s are given; only one can be generated at a time here.")
        return self.check()


def _visible(text: Any) -> Any:
    """A text as people see it; what is no text is left for the checks."""
    return visible(text) if isinstance(text, str) else text


def _method(name: str) -> Method:
    """The row of a method. Imported late, since its own module reads recipes."""
    from mace_studio.methods import find  # noqa: PLC0415

    return find(name)


def _from_data(data: object) -> Recipe:
    """A recipe from what `json.loads` returned."""
    if not isinstance(data, dict):
        return build(Recipe, data)
    own = dict(data)
    method = _method(build(str, own.get("method", "mace"), "method"))
    settings = own.pop("settings", {})
    if "method" not in own and isinstance(settings, dict):  # version 0.1 has the settings beside the other fields
        names = [part.name for part in dataclasses.fields(method.settings)]
        settings = {name: own.pop(name) for name in names if name in own} | settings
    if not isinstance(settings, dict):
        raise RecipeError("settings", "An object with named fields is needed here; leave it out for the defaults.")
    return replace(build(Recipe, own), settings=build(method.settings, settings))


def _check_text(recipe: Recipe) -> None:
    """Raise a RecipeError at a text that is too long, or that holds half of a character, which no file could take."""
    texts = [("name", recipe.name, "name"), ("about", recipe.about, "about")]
    for i, concept in enumerate(recipe.concepts):
        texts += [(f"concepts[{i}].{part}", getattr(concept, part), "phrase") for part in ("phrase", "mapping")]
        texts += [(f"concepts[{i}].synonyms[{j}]", synonym, "phrase") for j, synonym in enumerate(concept.synonyms)]
    texts += [(f"preserve[{i}]", phrase, "phrase") for i, phrase in enumerate(recipe.preserve)]
    for field, text, what in texts:
        fits(field, text, what)
        if broken(text) or (what == "phrase" and unattached(text)):
            raise RecipeError(field, BROKEN if broken(text) else UNATTACHED)


def _check_concepts(concepts: Sequence[Concept]) -> None:
    if not concepts:
        raise RecipeError("concepts", "Add at least one concept to erase.")
    seen: dict[str, int] = {}
    for i, concept in enumerate(concepts):
        where = f"concepts[{i}]"
        if blank(concept.phrase):
            raise RecipeError(f"{where}.phrase", f"Row {i + 1} names no concept; type one or remove the row.")
        if blank(concept.mapping):
            raise RecipeError(f"{where}.mapping", f"Say what “{concept.phrase}” maps to: what is shown in its place.")
        one_of(f"{where}.kind", concept.kind, KINDS)
        key = folded(concept.phrase)
        if key == folded(concept.mapping):
            raise RecipeError(
                f"{where}.mapping", f"Row {i + 1} maps “{concept.phrase}” to itself; choose another mapping."
            )
        if key in seen:
            raise RecipeError(
                f"{where}.phrase",
                f"Rows {seen[key] + 1} and {i + 1} are the same concept, “{concept.phrase}”; remove one.",
            )
        seen[key] = i
        _check_synonyms(concept, i)


def _check_synonyms(concept: Concept, row: int) -> None:
    others = (folded(concept.phrase), folded(concept.mapping))
    for i, synonym in enumerate(concept.synonyms):
        if blank(synonym) or folded(synonym) in others:
            raise RecipeError(
                f"concepts[{row}].synonyms[{i}]",
                f"“{synonym}” is no other word for “{concept.phrase}” in row {row + 1}; remove it from its synonyms.",
            )


def _check_preserve(recipe: Recipe) -> None:
    erased = {folded(word): row for row, c in enumerate(recipe.concepts, 1) for word in (c.phrase, *c.synonyms)}
    for i, phrase in enumerate(recipe.preserve):
        if blank(phrase):
            raise RecipeError(f"preserve[{i}]", "An empty phrase cannot be kept; remove it.")
        if (row := erased.get(folded(phrase))) is not None:
            raise RecipeError(
                f"preserve[{i}]", f"“{phrase}” is to be kept, and to be erased in row {row}; remove it from one list."
            )


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
    concepts: list[Concept] = []
    for recipe in recipes:
        concepts = _together(concepts, recipe.concepts, "models", "erased in two of the chosen models")
    concepts = _without(concepts, remove)
    if add is not None:
        add.check()
        concepts = _together(concepts, add.concepts, "add", "to be added, and erased already")
    if not concepts:
        raise RecipeError("remove", "Nothing would be left to erase; keep at least one concept.")
    erased, first = {folded(c.phrase) for c in concepts}, recipes[0]
    kept, known = list(first.preserve), {folded(phrase) for phrase in first.preserve}
    for phrase in (p for recipe in [*recipes[1:], *([add] if add else [])] for p in recipe.preserve):
        if folded(phrase) not in known:
            kept.append(phrase)
            known.add(folded(phrase))
    preserve = tuple(phrase for phrase in kept if folded(phrase) not in erased)
    result = replace(first, concepts=tuple(concepts), preserve=preserve)
    if result != first:
        result = replace(result, name="", about="")
    return (replace(result, name=name.strip()) if name.strip() else result).check()


def _together(concepts: Sequence[Concept], more: Sequence[Concept], field: str, twice: str) -> list[Concept]:
    known = {folded(c.phrase) for c in concepts}
    for concept in more:
        if folded(concept.phrase) in known:
            remedy = "take it out of one" if field == "add" else "remove it from one of them first"
            raise RecipeError(field, f"“{concept.phrase}” is {twice}; {remedy}.")
    return [*concepts, *more]


def _without(concepts: Sequence[Concept], remove: Collection[str]) -> list[Concept]:
    unwanted, present = {folded(phrase) for phrase in remove}, {folded(c.phrase) for c in concepts}
    for phrase in remove:
        if folded(phrase) not in present:
            erased = ", ".join(c.phrase for c in concepts)
            raise RecipeError("remove", f"“{phrase}” is not among what is erased: {erased}.")
    return [c for c in concepts if folded(c.phrase) not in unwanted]
