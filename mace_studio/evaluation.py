"""Use case evaluate(): what is gone, what should be gone and is not, and what has suffered."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from PIL.Image import Image, new
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

SIDES = ("before", "after")
FIRST_SEED = 10_000  # far from those of training images and of searches
SHOWN = 8  # images of each word that are kept for the sheets
IMAGES = {"quick": 8, "full": 56}  # of each word, at least; multiples of a batch
CAPTIONS = {"quick": 48, "full": 256}


def make_plan(
    recipe: Recipe, size: str, steps: int = 20, captions: Sequence[str] = (), first: int = FIRST_SEED
) -> Plan:
    """The plan of an evaluation.

    Args:
        recipe: its concepts, synonyms and preserve list are tested.
        size: "quick" (at least 8 images a word) or "full" (at least 56).
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
    seeds = range(first, first + -(-IMAGES[size] // forms))
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
        Progress, stage "draw"; its result is the `Row` of a word whenever one is finished.

    Raises:
        FileError: the erasure was made from another model.
        RecipeError: the judge does not know a word.
    """
    check_fits(erasure, model)
    labels = tuple(dict.fromkeys(probe.label for probe in plan.probes))
    try:
        judge.probabilities([new("RGB", (8, 8))], labels)
    except ValueError as error:
        raise RecipeError("concepts", f"This cannot be evaluated: {error}.") from error
    return (yield from clocked(_evaluate(model, erasure, plan, judge, labels, cache), {"draw": 1.0}))


@dataclass(frozen=True)
class _Answers:
    """What the judge said of the images of some prompts, before and after; one number for each image.

    Attributes:
        probability: side -> probability of the right label, probability_N.
        correct: side -> whether it was the most probable one, correct_N.
        change_N: mean absolute change of a pixel value, 0 to 255.
    """

    probability: dict[str, Tensor]
    correct: dict[str, Tensor]
    change_N: Tensor


def _evaluate(
    model: Model, erasure: Erasure, plan: Plan, judge: Judge, labels: tuple[str, ...], cache: Path | None
) -> Generator[Progress, None, Report]:
    asked = (*labels, judge.none) if judge.none is not None else labels
    drawing, done = Drawing(("",), steps=plan.steps, guidance=plan.guidance), 0

    def pairs(items: Sequence[gallery.Item], word: str) -> Generator[Progress, None, list[tuple[Image, Image]]]:
        nonlocal done
        sides = []
        for weights in ({}, erasure.weights):
            tell = partial(_told, word, done, plan.images)
            sides.append((yield from relay(gallery.drawn(model, weights, items, drawing, cache), tell)))
            done += len(items)
        return list(zip(*sides, strict=True))

    rows: list[Row] = []
    for role in ROLES:
        pooled: list[_Answers] = []
        for word, probes in _words(plan, role).items():
            # One of each prompt first, then the next seeds: so the first images show every prompt.
            drawn = yield from pairs([(probe.prompt, seed) for seed in plan.seeds for probe in probes], word)
            pooled.append(_answers(judge, asked, labels.index(probes[0].label), drawn))
            rows.append(_row(role, word, pooled[-1:], drawn[:SHOWN]))
            yield Progress("draw", word, done, plan.images, result=rows[-1])
        if pooled:
            rows.append(_row(role, ALL, pooled))
    general = yield from pairs([(caption, plan.seeds[0]) for caption in plan.captions], "general captions")
    quality = _quality(judge, general) if general else None
    report = Report(erasure.recipe, judge.name, asked, plan, tuple(rows), {}, quality, model.name, model.fingerprint)
    return replace(report, harmonic=_harmonic(report))


def _told(word: str, before: int, total: int, count: int) -> Progress:
    return Progress("draw", word, before + count, total)


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


def _words(plan: Plan, role: str) -> dict[str, list[Probe]]:
    """The probes of each word of a role."""
    words: dict[str, list[Probe]] = {}
    for probe in plan.probes:
        if probe.role == role:
            words.setdefault(probe.word, []).append(probe)
    return words


def _answers(judge: Judge, asked: Sequence[str], right: int, pairs: Sequence[tuple[Image, Image]]) -> _Answers:
    seen = {side: judge.probabilities([pair[i] for pair in pairs], asked) for i, side in enumerate(SIDES)}
    return _Answers(
        {side: seen_NL[:, right] for side, seen_NL in seen.items()},
        {side: seen_NL.argmax(dim=1) == right for side, seen_NL in seen.items()},
        _changes(pairs),
    )


def _row(role: str, word: str, answers: Sequence[_Answers], shown: Sequence[tuple[Image, Image]] = ()) -> Row:
    tallies = [_tally(side, answers) for side in SIDES]
    return Row(role, word, *tallies, torch.cat([a.change_N for a in answers]).mean().item(), tuple(shown))


def _tally(side: str, answers: Sequence[_Answers]) -> Tally:
    probability_N = torch.cat([a.probability[side] for a in answers])
    correct = int(torch.cat([a.correct[side] for a in answers]).sum())
    interval = scores.bootstrap(probability_N, torch.Generator().manual_seed(0))
    share = scores.wilson(correct, len(probability_N))
    return Tally(correct, len(probability_N), share, probability_N.mean().item(), interval)


def _changes(pairs: Sequence[tuple[Image, Image]]) -> Tensor:
    """change_N: mean absolute change of a pixel value, 0 to 255."""
    return torch.tensor([gallery.difference(before, after) for before, after in pairs])


def _quality(judge: Judge, pairs: Sequence[tuple[Image, Image]]) -> Quality:
    before_ND, after_ND = (judge.features([pair[i] for pair in pairs]).double() for i in range(2))
    cosine_N = torch.nn.functional.cosine_similarity(before_ND, after_ND)
    return Quality(
        len(pairs),
        f"{judge.name} features",
        scores.kid(before_ND, after_ND),
        scores.fid(before_ND, after_ND),
        1 - cosine_N.mean().item(),
        _changes(pairs).mean().item(),
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
