"""Use case erase() on a cluster: two rounds in which the workers map and this process reduces. MACE alone.

First the workers encode prompts and return sums, from which M is solved here. Then they make training images, masks
and LoRAs, and return these with what the fusion reads of their prompts. The functions are those of a run on one
machine, the parts are cut where its batches end, and sums are added in its order: on a CPU the file has the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from math import gcd, lcm
from pathlib import Path

from mace_studio import masks as mask_files
from mace_studio import phrases
from mace_studio.caption_files import captions_of
from mace_studio.cluster.worker import Asked, Trained
from mace_studio.cluster.workers import Cluster, Workers, started
from mace_studio.core.moments import PairSums
from mace_studio.core.ridge import Refinement
from mace_studio.erasure import Erasure, origin
from mace_studio.errors import RecipeError
from mace_studio.masks import UserMasks
from mace_studio.methods import find
from mace_studio.methods.mace import erase as mace
from mace_studio.methods.mace import fuse, masks, refine
from mace_studio.progress import Progress, Report, silent, timed
from mace_studio.recipe import Recipe
from mace_studio.sd import text
from mace_studio.sd.embeddings import Embeddings
from mace_studio.sd.model import Model
from mace_studio.spent import Spent


def erase(
    model: Model,
    recipe: Recipe,
    progress: Report = silent,
    cache: Path | None = None,
    *,
    cluster: Cluster = Cluster(),  # noqa: B008 - frozen
    user_masks: UserMasks | None = None,
) -> Erasure:
    """Run a recipe of MACE on a model with the machines of a Ray cluster; `spent` says seconds, but no memory.

    Args:
        model: from `sd.model.load`; each worker loads the same one, with its dtype, from its own machine or the hub.
        recipe: checked here.
        progress: called with the stages "refine", "lora", which has images and masks in it, and "fuse".
        cache: folder for training images, LoRAs and Grams. Workers use it where it is on their machine too: a run that
            was broken off goes on from there.
        cluster: its address, and what a worker takes of it.
        user_masks: (phrase, number from 1) -> mask of a training image.

    Raises:
        RecipeError: another method than MACE, or what a run on one machine raises.
        StudioError: there is no cluster, or no room in it.

    Example:
        >>> erasure = erase_on_cluster(load(), recipe, cluster=Cluster(address="auto"))
    """
    begun = time.monotonic()
    if not find(recipe.method).on_cluster:
        raise RecipeError("method", "Only MACE runs on a cluster; leave the cluster out for the others.")
    text.check(model, recipe.check())
    masks.check(user_masks or {}, recipe)
    warnings, trains = phrases.doubts(recipe.concepts), recipe.settings.lora.steps > 0
    costs = mace.costs(recipe, replace(recipe, concepts=recipe.concepts if trains else ()))
    second = costs["images"] + costs["masks"] + costs["lora"]
    report = timed(progress, {"refine": costs["refine"], "lora": second, "fuse": costs["fuse"]})
    if cache:
        cache.mkdir(parents=True, exist_ok=True)
    most = max(len(refine.parts(recipe)), len(blocks(recipe, model.batches.size)))
    with started(cluster, Asked.of(model, cache), most) as workers:
        sums = _sums(workers, model, recipe, cache, report)
        solved = refine.solve(sums, recipe.settings.refine)
        trained = list(_trained(workers, model, recipe, user_masks or {}, solved, report)) if trains else []
    warnings += dict.fromkeys(warning for part in trained for warning in part.warnings)
    if user_masks and trained:
        warnings.append(mask_files.summary(user_masks))
    if sums.general is not None and model.captions != captions_of(model.source):
        warnings.append(f"General knowledge was taken from {model.captions.name}.")
    conditions = {"refine": solved.condition}
    found = {phrase: lora for part in trained for phrase, lora in part.loras.items()}
    loras = {phrase: replace(lora, origin=origin(recipe, phrase, user_masks)) for phrase, lora in found.items()}
    if trained:
        pulls = {phrase: pulled for part in trained for phrase, pulled in part.pulls.items()}
        weights, condition = fuse.fuse(model, recipe, solved, loras, sums, Embeddings(model, 0), report, pulls)
        conditions |= condition
    else:
        weights = refine.weights(model, solved, report)
    report(Progress("fuse", step=1, total=1))
    made = mace.finished(model, recipe, weights, loras, conditions, warnings)
    return replace(made, spent=Spent(time.monotonic() - begun, "a Ray cluster"))


def blocks(recipe: Recipe, images_at_once: int) -> list[Recipe]:
    """The recipe cut into some concepts each, where the batches of a run on one machine end.

    Samples of one forward are computed together and differ in their last digits with what is beside them.

    Args:
        recipe: of MACE.
        images_at_once: in a batch.
    """
    each = recipe.settings.images.per_concept
    size = lcm(recipe.settings.concepts_at_once, images_at_once // gcd(images_at_once, each))
    starts = range(0, len(recipe.concepts), size)
    return [replace(recipe, concepts=recipe.concepts[i : i + size]) for i in starts]


def _sums(workers: Workers, model: Model, recipe: Recipe, cache: Path | None, report: Report) -> refine.Sums:
    """The first round: the sums of parts, merged in their order, whichever ends first."""
    general, preserve, kept = refine.kept(model, recipe, cache, report)
    parts, early, sums = refine.parts(recipe), dict[int, PairSums](), PairSums(model.width)
    merged, sizes = 0, list(map(refine.sentences, parts))

    def told(done: float, said: str) -> None:
        report(Progress("refine", said, round(kept + done), kept + sum(sizes)))

    for number, part in workers.map("sums", [(part,) for part in parts], sizes, told):
        early[number] = part
        while merged in early:
            sums.merge(early.pop(merged))
            merged += 1
    return refine.Sums(sums.moments(), sums.all_positions(), general, preserve)


def _trained(
    workers: Workers, model: Model, recipe: Recipe, user_masks: UserMasks, solved: Refinement, report: Report
) -> Iterator[Trained]:
    """The second round: what the workers trained, in the order of the concepts."""
    items, shared = [], workers.share(solved)
    for block in blocks(recipe, model.batches.size):
        named = {concept.phrase for concept in block.concepts}
        items.append((block, {key: mask for key, mask in user_masks.items() if key[0] in named}, shared))

    def told(done: float, said: str) -> None:
        report(Progress("lora", said, round(done, 1), len(recipe.concepts)))

    results = dict(workers.map("loras", items, [len(block.concepts) for block, _, _ in items], told))
    return (results[number] for number in range(len(items)))
