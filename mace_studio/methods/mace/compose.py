"""Use case compose(): erased models of one base into one, their LoRAs fused again; concepts added or taken out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from mace_studio.erasure import Erasure, check_fits, origin
from mace_studio.errors import FileError, RecipeError
from mace_studio.methods import find
from mace_studio.methods.mace.erase import erase
from mace_studio.progress import Report, silent
from mace_studio.recipe import Recipe, joined
from mace_studio.sd.lora import LoraDelta
from mace_studio.sd.model import Model

APPROXIMATE = "Approximate: "
NAMED = 5


def compose(
    model: Model,
    erasures: Sequence[Erasure],
    progress: Report = silent,
    cache: Path | None = None,
    *,
    remove: Collection[str] = (),
    add: Recipe | None = None,
    name: str = "",
) -> Erasure:
    """Refine and fuse the concepts of several erasures together, each with the LoRA that it has.

    A LoRA is trained on top of a refinement. One that was trained on another refinement than this one's, or with other
    settings, is used all the same, and a warning says so. Where each is on its own refinement again, the result is
    exact, bit for bit: if nothing changes, if what was added is taken out again with all that it brought along to
    keep, and if nothing has a LoRA.

    Args:
        model: from `sd.model.load`; bit for bit the same afterwards.
        erasures: of this model; settings are those of the first.
        progress, cache: as of `erase`.
        remove: phrases that are erased no longer.
        add: a recipe whose concepts are erased beside them; LoRAs are trained for these alone.
        name: what to call the result.

    Raises:
        RecipeError: as of `recipe.joined`, an erasure or addition of another method, or refined-only erasures among
            others.
        FileError: an erasure was made from another model, or by a version that kept no LoRAs.
    """
    for other in [recipe for recipe in [*(e.recipe for e in erasures), add] if recipe and recipe.method != "mace"]:
        raise RecipeError(
            "models",
            f"“{other.title()}” is of the method {find(other.method).title}, and only erasures of MACE can be "
            "composed; leave it out.",
        )
    for erasure in erasures:
        check_fits(erasure, model)
    recipe = joined([erasure.recipe for erasure in erasures], remove, add, name)
    loras = _trained_loras(recipe, erasures)
    result = erase(model, recipe, progress, cache, known=loras)
    # What the erasures warned of still holds, but for concepts that are gone.
    gone = {c.phrase for erasure in erasures for c in erasure.recipe.concepts} - {c.phrase for c in recipe.concepts}
    warnings = dict.fromkeys(warning for erasure in erasures for warning in erasure.warnings)
    kept = [w for w in warnings if not w.startswith(APPROXIMATE) and not any(f"“{phrase}”" in w for phrase in gone)]
    return replace(result, warnings=(*kept, *result.warnings, *_approximate(recipe, loras)))


def _trained_loras(recipe: Recipe, erasures: Sequence[Erasure]) -> dict[str, LoraDelta]:
    """The LoRAs of all concepts of the recipe that are in one of the erasures."""
    trained = {erasure.recipe.settings.lora.steps > 0: erasure.recipe.title() for erasure in erasures}
    if len(trained) > 1:
        raise RecipeError(
            "models",
            f"“{trained[False]}” is refined only, with 0 LoRA steps, and “{trained[True]}” has LoRAs; compose models "
            "of one sort.",
        )
    loras: dict[str, LoraDelta] = {}
    wanted = {concept.phrase for concept in recipe.concepts} if recipe.settings.lora.steps else set()
    for erasure in erasures:
        for phrase in (c.phrase for c in erasure.recipe.concepts if c.phrase in wanted):
            delta = erasure.loras.get(phrase)
            if delta is None or not delta.pairs:
                raise FileError(
                    f"“{erasure.recipe.title()}” was made by an older version, which did not keep the LoRAs that are "
                    "needed here; erase it again with its recipe."
                )
            loras[phrase] = delta
    return loras


def _approximate(recipe: Recipe, loras: dict[str, LoraDelta]) -> list[str]:
    here = origin(recipe)
    # Masks by hand, after the “+”, are part of what the concept's LoRA is, also on its own refinement.
    others = [f"“{phrase}”" for phrase, delta in loras.items() if delta.origin.partition("+")[0] != here]
    if not others:
        return []
    more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
    return [
        f"{APPROXIMATE}the LoRAs of {', '.join(others[:NAMED])}{more} were trained beside other concepts or with other "
        "settings than this model's; erasing all of it in one run is exact."
    ]
