"""The search of a method's settings on one preset: `candidates` gives what is tried, `best` what won."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from mace_studio import presets, text_files
from mace_studio.errors import RecipeError
from mace_studio.evaluation.methods_study import FORMS, first_settings, form_of, guidance, title
from mace_studio.evaluation.plan import ERASED
from mace_studio.evaluation.report import PROBABILITY, TOP1, Report
from mace_studio.evaluation.study import Case, Outcome
from mace_studio.methods import find
from mace_studio.recipe import Recipe

# Method -> settings of each candidate of a search: six of each method, so that all have the same budget.
SEARCHED: dict[str, Mapping[str, Sequence[Any]]] = {
    "mace": {"lora.own_tokens": (False, True), "lora.learning_rate": (3e-3, 6e-3, 1.2e-2)},
    "mace-free": {"preserve": (0.1, 1.0, 10.0), "general": (1e-6, 1e-4)},
    "uce": {"ridge": (0.05, 0.5, 5.0), "anchor": ("published", "mapping")},
    "rece": {"rounds": (1, 2, 3), "rho": (1e-3, 0.1)},
    "speed": {"tune": ("value", "key", "both"), "anchor": ("published", "mapping")},
    "oce": {"erase_scale": (500.0, 2000.0, 8000.0), "keep_scale": (0.0, 5.0)},
    "dp": {"directions": (0, 1, 2, 4, 6, 8)},
    "esd": {"learning_rate": (3e-5, 1e-4, 3e-4), "select": ("x", "u"), "steps": (100,)},
    "ac": {"learning_rate": (5e-5, 1.6e-4, 5e-4), "steps": (50, 100)},
    "fmn": {"learning_rate": (2e-5, 1e-4, 5e-4), "attention_only": (False, True)},
    "sa": {"learning_rate": (1e-5, 5e-5, 2e-4), "fisher_weight": (5.0, 50.0), "steps": (100,)},
    "sld": {"safety_scale": (1000.0, 5000.0), "warmup": (0, 3, 7), "threshold": (1.0,)},
    "adavd": {"threshold": (0.5, 0.8, 0.93), "scale": (1.0, 2.0)},
}


def candidates(name: str, preset: str) -> list[Case]:
    """The settings that a search tries for one method on one subject.

    Args:
        name: of a method with an entry in `SEARCHED`.
        preset: of the built-in model, such as "cat".

    Raises:
        RecipeError: there is no such method or preset.
    """
    own = {p.name.removeprefix("miniature/"): p.recipe for p in presets.presets()}
    for field, value, choices in (("method", name, SEARCHED), ("preset", preset, own)):
        if value not in choices:
            raise RecipeError(field, f"“{value}” is not known; use one of {', '.join(choices)}.")
    recipe = own[preset]
    start = recipe if name == "mace" else replace(recipe, method=name, settings=first_settings(recipe, name))
    axes = SEARCHED[name]
    tried = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    return [
        Case(", ".join(f"{key} {value}" for key, value in one.items()), _set(start, one), guidance(recipe))
        for one in tried
    ]


def _set(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """A recipe with settings by their paths; "preserve" and "general" set the keep weights of both stages."""
    for path, value in changes.items():
        settings, (head, _, last) = recipe.settings, path.partition(".")
        if head in ("preserve", "general"):
            recipe = recipe.with_settings(
                **{stage: replace(getattr(settings, stage), **{head: value}) for stage in ("refine", "fuse")}
            )
        else:
            recipe = recipe.with_settings(
                **{head: replace(getattr(settings, head), **{last: value}) if last else value}
            )
    return recipe


def winners(outcomes: Sequence[Outcome], name: str) -> list[Outcome]:
    """The best of a search over a method's settings, or of each of its forms that was tried.

    Raises:
        RecipeError: none could be measured.
    """
    groups = [[o for o in outcomes if form in ("", form_of(o.case.recipe))] for form in FORMS.get(name, ("",))]
    return [best(group) for group in groups if group]


def best(outcomes: Sequence[Outcome]) -> Outcome:
    """The one with the largest harmonic mean of top-1 accuracies, and of mean probabilities where these are the same.

    Where that is 0 for all, as nothing is erased or nothing kept, the one with the least of the erased in its images.

    Raises:
        RecipeError: none could be measured.
    """
    measured = [(outcome, outcome.report) for outcome in outcomes if outcome.report is not None]
    if not measured:
        raise RecipeError("method", f"None of the settings could be measured: {outcomes[0].problem}")

    def worth(report: Report) -> list[float]:
        if (harmonic := [report.mean(over) or 0.0 for over in (TOP1, PROBABILITY)])[0]:
            return harmonic
        return [0.0, -erased.after.probability] if (erased := report.pooled(ERASED)) else [-1.0]

    return max(measured, key=lambda one: worth(one[1]))[0]


def write_recipe(recipe: Recipe, preset: str, folder: Path, settings: str = "the best settings of a search") -> Path:
    """Write a recipe of a method as a preset, with nothing in it that is a default.

    Args:
        recipe: of `best`, or from `with_method`.
        preset: that it does by another method.
        folder: of the file `PRESET-METHOD.json`, or `PRESET-METHOD-FORM.json` where the method has forms.
        settings: which they are, in words.
    """
    data = asdict(recipe) | {
        "name": f"{recipe.title()}: {title(recipe)}",
        "about": f"The same as the preset {preset}, by {title(recipe)}, with {settings}.",
        "settings": _changed(recipe.settings, find(recipe.method).settings()),
    }
    usual = vars(Recipe()) | {"settings": {}}
    kept = {key: value for key, value in data.items() if key == "method" or value != usual[key]}
    form = form_of(recipe)
    path = folder / f"{preset}-{recipe.method}{f'-{form}' if form else ''}.json"
    with text_files.whole(path) as part:
        part.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _changed(settings: Any, default: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in fields(settings):
        own, usual = getattr(settings, part.name), getattr(default, part.name)
        if own != usual:
            # What is missing in a group of settings is read as the group's own default, whatever the method's is.
            group: type[Any] = type(own)
            found[part.name] = _changed(own, group()) if is_dataclass(own) else own
    return found
