"""The rows of the studies "mass" and "fast".

"mass": more and more people, and people, artists and things at once, by MACE and closed forms. Whom the model knows is
read from its judge, so the same study fits every edition of the built-in model. "fast": what MACE loses by training in
fewer forwards.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace

from mace_studio.methods import METHODS
from mace_studio.paths import BUILT_IN
from mace_studio.recipe import Concept, Recipe

COMPARED = ("mace-free", "uce", "rece", "speed", "oce", "dp")  # beside both forms of MACE
COUNTS = (1, 5, 10, 25, 50, 100)
FLAT = 0.02
KEPT_SAMPLES, FEW_IMAGES, FEW_STEPS = 8, 2, 25
THINGS = 60  # of those that are erased with all people and artists


def recipes(people: Recipe) -> Iterator[tuple[str, Recipe]]:
    """What a row says and its recipe, method by method.

    Args:
        people: the preset whose settings MACE takes; its own people come first, in its order.
    """
    heads = json.loads((BUILT_IN.parent / "judge" / "judge.json").read_text(encoding="utf-8"))["heads"]
    known, artists = heads["thing"][:-1], heads["artist"][:-1]  # "none of these" is last
    things = [word for word in known if not word[0].isupper()]  # people have names
    erased, kept = _people([word for word in known if word[0].isupper()], people)
    celebrities = [Concept(name, "a person", "celebrity") for name in erased]
    # Things first: what is kept and in no preset, which are things, gets the templates of the first concept.
    mixed = [
        *(Concept(thing, "forest", "object") for thing in things[:THINGS]),
        *celebrities,
        *(Concept(artist, "art", "style") for artist in artists[::2]),
    ]
    rest = [*things[THINGS:], *kept, *artists[1::2]]
    bases = {
        "MACE": people.with_settings(lora=replace(people.settings.lora, own_tokens=False)),
        "MACE, own tokens": people.with_settings(lora=replace(people.settings.lora, own_tokens=True)),
    } | {METHODS[name].title: replace(people, method=name, settings=METHODS[name].settings()) for name in COMPARED}
    for title, base in bases.items():
        for count in [*(n for n in COUNTS if n < len(celebrities)), len(celebrities)]:
            name = f"{title}, {count} {'person' if count == 1 else 'people'}"
            yield name, replace(base, name=name, concepts=celebrities[:count], preserve=kept)
        name = f"{title}, {len(mixed)} of all kinds"
        yield name, replace(base, name=name, concepts=mixed, preserve=rest)


def quicker(presets: Mapping[str, Recipe]) -> Iterator[tuple[str, Recipe]]:
    """What a row says and its recipe: each preset of people and of one object, as it is and in fewer forwards."""
    for name, recipe in presets.items():
        if not name.startswith("people-") and [concept.kind for concept in recipe.concepts] != ["object"]:
            continue
        images, lora = recipe.settings.images, recipe.settings.lora
        way, early = replace(images, path=True), replace(lora, flat=FLAT)
        kept = replace(lora, kept_samples=KEPT_SAMPLES, tune="key")
        yield name, recipe
        yield f"{name}, on the way", recipe.with_settings(images=way)
        few = replace(way, per_concept=FEW_IMAGES)
        yield f"{name}, on the way, {FEW_IMAGES} images", recipe.with_settings(images=few)
        short = replace(lora, steps=FEW_STEPS, learning_rate=lora.learning_rate * lora.steps / FEW_STEPS)
        one = recipe.with_settings(images=replace(way, per_concept=1), lora=short)
        yield f"{name}, on the way, 1 image, {FEW_STEPS} steps", one
        yield f"{name}, stops when flat", recipe.with_settings(lora=early)
        yield f"{name}, keys alone", recipe.with_settings(lora=replace(lora, tune="key"))
        yield f"{name}, kept samples", recipe.with_settings(lora=kept)
        yield f"{name}, on the way, kept samples", recipe.with_settings(images=way, lora=kept)
        yield (
            f"{name}, on the way, kept samples, {FEW_IMAGES} images",
            recipe.with_settings(images=few, lora=kept),
        )


def _people(names: list[str], preset: Recipe) -> tuple[list[str], list[str]]:
    """Half of the people to erase and half to keep: as the preset has them, and the others in turns."""
    erased = [concept.phrase for concept in preset.concepts if concept.phrase in names]
    kept = [phrase for phrase in preset.preserve if phrase in names]
    for name in names:
        if name not in erased and name not in kept:
            (erased if len(erased) <= len(kept) else kept).append(name)
    return erased, kept
