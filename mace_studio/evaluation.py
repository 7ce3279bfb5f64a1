"""Use case evaluate(): what is gone, what should be gone and is not, and what has suffered."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mace_studio import prompts
from mace_studio.core import scores
from mace_studio.erasure import Erasure, check_fits
from mace_studio.errors import RecipeError
from mace_studio.progress import Progress, clocked, relay
from mace_studio.recipe import Drawing, Recipe
from mace_studio.report import ALL, ERASED, KEPT, ROLES, SYNONYM, Plan, Probe, Quality, Report, Row, Tally
from mace_studio.sd import gallery
from mace_studio.sd.classify import Judge
from mace_studio.sd.loading import Model

BEFORE, AFTER = "before", "after"
FIRST_SEED = 10_000  # far from those of training images and of searches
SHOWN = 8  # images of each word that are kept for the sheets
IMAGES = {"quick": 10, "full": 50}
CAPTIONS = {"quick": 48, "full": 256}


def make_plan(
    recipe: Recipe, size: str, steps: int = 20, captions: Sequence[str] = (), first: int = FIRST_SEED
) -> Plan:
    """The plan of an evaluation.

    Args:
        recipe: its concepts, synonyms and preserve list are tested.
        size: "quick" (about 10 images a word) or "full" (about 50).
        steps: denoising steps.
        captions: general captions to take evenly from.
        first: seed of the first image of every prompt.

    Raises:
        RecipeError: no concept, or a size that is none of these.
    """
    recipe.check()
    if size not in IMAGES:
        raise RecipeError("plan", f"“{size}” is no plan; use one of {', '.join(IMAGES)}.")
    probes = list(_probes(recipe))
    forms = max(len(prompts.TESTS[concept.kind]) for concept in recipe.concepts)
    seeds = range(first, first + max(1, IMAGES[size] // forms))
    stride = max(1, len(captions) // CAPTIONS[size])
    chosen = tuple(captions[::stride][: CAPTIONS[size]])
    return Plan(tuple(probes), chosen, tuple(seeds), steps, recipe.images.guidance)


def evaluate(
    model: Model, erasure: Erasure, plan: Plan, judge: Judge, cache: Path | None
) -> Generator[Progress, None, Report]:
    """Draw a plan before and after an erasure and let a judge say what it sees.

    Args:
        model: is bit for bit the same afterwards.
        erasure: of this model.
        plan: from `make_plan`.
        judge: from `classify`.
        cache: folder of images drawn before, or None. With it, a cancelled evaluation goes on where it was.

    Yields:
        Progress, stage "before" or "after".

    Raises:
        FileError: the erasure was made from another model.
        RecipeError: the judge does not know a word.
    """
    check_fits(erasure, model)
    labels = tuple(dict.fromkeys(probe.label for probe in plan.probes))
    try:
        judge.probabilities([Image.new("RGB", (8, 8))], labels)
    except ValueError as error:
        raise RecipeError("concepts", f"This cannot be evaluated: {error}.") from error
    return (yield from clocked(_evaluate(model, erasure, plan, judge, labels, cache), {BEFORE: 1.0, AFTER: 1.0}))


def _evaluate(
    model: Model, erasure: Erasure, plan: Plan, judge: Judge, labels: tuple[str, ...], cache: Path | None
) -> Generator[Progress, None, Report]:
    weights: dict[str, Mapping[str, Tensor]] = {BEFORE: {}, AFTER: erasure.weights}
    items = [(probe.prompt, seed) for probe in plan.probes for seed in plan.seeds]
    items += [(caption, plan.seeds[0]) for caption in plan.captions]
    drawing = Drawing(("",), steps=plan.steps, guidance=plan.guidance)
    images = {}
    for side, other in weights.items():
        drawing_them = gallery.drawn(model, other, items, drawing, cache)
        images[side] = yield from relay(drawing_them, lambda n, side=side: Progress(side, "", n, len(items)))
    probed = len(plan.probes) * len(plan.seeds)
    asked = [*labels, judge.none] if judge.none is not None else [*labels]
    seen = {side: judge.probabilities(drawn[:probed], asked) for side, drawn in images.items()}
    rows = tuple(_rows(plan, labels, images, seen))
    quality = _quality(judge, *(drawn[probed:] for drawn in images.values())) if plan.captions else None
    report = Report(erasure.recipe, judge.name, tuple(asked), plan, rows, {}, quality, model.name, model.fingerprint)
    return replace(report, harmonic=_harmonic(report))


def _probes(recipe: Recipe) -> Iterator[Probe]:
    kinds = dict.fromkeys(concept.kind for concept in recipe.concepts)
    for concept in recipe.concepts:
        for role, words in ((ERASED, (concept.phrase,)), (SYNONYM, concept.synonyms)):
            for word in words:
                for form in prompts.TESTS[concept.kind]:
                    yield Probe(role, word, concept.phrase, form.format(word))
    for word in recipe.preserve:
        for kind in kinds:
            for form in prompts.TESTS[kind]:
                yield Probe(KEPT, word, word, form.format(word))


def _rows(
    plan: Plan,
    labels: Sequence[str],
    images: Mapping[str, Sequence[Image.Image]],
    seen: Mapping[str, Tensor],
) -> Iterator[Row]:
    """The words of each role, and the role as a whole."""
    each = len(plan.seeds)
    for role in ROLES:
        probes = [(i, probe) for i, probe in enumerate(plan.probes) if probe.role == role]
        words: dict[str, list[int]] = {}
        for i, probe in probes:
            words.setdefault(probe.word, []).extend(range(i * each, (i + 1) * each))
        wanted = {n: labels.index(plan.probes[n // each].label) for numbers in words.values() for n in numbers}
        for word, numbers in words.items():
            pairs = [(images[BEFORE][n], images[AFTER][n]) for n in numbers]
            # One of each prompt first, then the next seeds.
            shown = sorted(range(len(numbers)), key=lambda i: (numbers[i] % each, i))[:SHOWN]
            tallies = [_tally(seen[side], numbers, wanted) for side in (BEFORE, AFTER)]
            yield Row(role, word, *tallies, _change(pairs), tuple(pairs[i] for i in shown))
        if words:
            every = list(wanted)
            pairs = [(images[BEFORE][n], images[AFTER][n]) for n in every]
            yield Row(role, ALL, *(_tally(seen[side], every, wanted) for side in (BEFORE, AFTER)), _change(pairs))


def _tally(seen_NL: Tensor, numbers: Sequence[int], wanted: Mapping[int, int]) -> Tally:
    rows = seen_NL[list(numbers)]
    right_N = torch.tensor([wanted[n] for n in numbers])
    probability_N = rows[torch.arange(len(numbers)), right_N]
    interval = scores.bootstrap(probability_N, torch.Generator().manual_seed(0))
    correct = int((rows.argmax(dim=1) == right_N).sum())
    share = scores.wilson(correct, len(numbers))
    return Tally(correct, len(numbers), share, probability_N.mean().item(), interval)


def _change(pairs: Sequence[tuple[Image.Image, Image.Image]]) -> float:
    """Mean absolute change of a pixel value, 0 to 255."""
    return float(np.mean([np.abs(np.asarray(a, np.float32) - np.asarray(b, np.float32)).mean() for a, b in pairs]))


def _quality(judge: Judge, before: Sequence[Image.Image], after: Sequence[Image.Image]) -> Quality:
    first_ND, second_ND = (judge.features(images).double() for images in (before, after))
    cosine_N = torch.nn.functional.cosine_similarity(first_ND, second_ND)
    return Quality(
        len(before),
        f"{judge.name} features",
        scores.kid(first_ND, second_ND),
        scores.fid(first_ND, second_ND),
        1 - cosine_N.mean().item(),
        _change(list(zip(before, after, strict=True))),
    )


def _harmonic(report: Report) -> dict[str, float]:
    """H_o where objects and synonyms were tested, H_c otherwise, from top-1 and from mean probabilities."""
    gone, similar, kept = (report.pooled(role) for role in ROLES)
    if gone is None or kept is None:
        return {}
    objects = all(concept.kind == "object" for concept in report.recipe.concepts)
    found = {}
    for name, of in (("top-1", lambda row: row.after.top1), ("mean probability", lambda row: row.after.probability)):
        if objects and similar is not None:
            found[f"H_o, {name}"] = scores.h_o(of(gone), of(kept), of(similar))
        else:
            found[f"H_c, {name}"] = scores.h_c(of(gone), of(kept))
    return found
