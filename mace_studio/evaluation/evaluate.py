"""Use case evaluate(): what is gone, what should be gone and is not, and what has suffered."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean

from PIL.Image import Image, new

from mace_studio import prompts
from mace_studio.erasure import Erasure, check_fits
from mace_studio.errors import RecipeError
from mace_studio.evaluation import metrics
from mace_studio.evaluation.metrics import AFTER, BEFORE, EXPLICIT, Answers, Shot
from mace_studio.evaluation.report import ALL, ERASED, KEPT, ROLES, SYNONYM, Plan, Probe, Quality, Report, Row
from mace_studio.progress import Progress, clocked, relay
from mace_studio.recipe import ImageRequest, Recipe
from mace_studio.sd import image_cache
from mace_studio.sd.judges import Judge
from mace_studio.sd.model import Model

FIRST_SEED = 10_000  # far from those of training images and of searches
IMAGES = {"quick": 8, "full": 56}  # of each word, at least; multiples of a batch
CAPTIONS = {"quick": 48, "full": 256}


@dataclass(frozen=True)
class Case:
    """One erasure to measure, what to call it, and its plan."""

    name: str
    erasure: Erasure
    plan: Plan


def make_plan(
    recipe: Recipe,
    size: str,
    steps: int = 20,
    captions: Sequence[str] = (),
    first: int = FIRST_SEED,
    known: Mapping[str, str] | None = None,
) -> Plan:
    """The plan of an evaluation.

    Args:
        recipe: its concepts, synonyms and preserve list are tested.
        size: "quick" (at least 8 images a word) or "full" (at least 56).
        steps: denoising steps.
        captions: general captions to take evenly from.
        first: seed of the first image of every prompt.
        known: phrase in lower case -> kind, for kept phrases where several kinds are erased.

    Raises:
        RecipeError: no concept, or a size that is none of these.
    """
    recipe.check()
    if size not in IMAGES:
        raise RecipeError("plan", f"“{size}” is no plan; use one of {', '.join(IMAGES)}.")
    probes = list(_probes(recipe, known or {}))
    forms = min(len(prompts.TESTS[concept.kind]) for concept in recipe.concepts)
    seeds = range(first, first + -(-IMAGES[size] // forms))
    stride = max(1, len(captions) // CAPTIONS[size])
    chosen = tuple(captions[::stride][: CAPTIONS[size]])
    return Plan(tuple(probes), chosen, tuple(seeds), steps, recipe.settings.images.guidance)


def evaluate(
    model: Model, cases: Sequence[Case], judge: Judge, cache: Path | None
) -> Generator[Progress, None, list[Report]]:
    """Draw plans before and after erasures, one after another, and let a judge say what it sees.

    Args:
        model: is bit for bit the same afterwards.
        cases: erasures of this model with plans from `make_plan`.
        judge: from `classify`.
        cache: folder of images drawn before, or None. With it, a cancelled evaluation goes on where it was.

    Yields:
        Progress, stage "draw"; its result is the name of the case and the `Row` of a word, whenever one is finished.

    Raises:
        FileError: an erasure was made from another model.
        RecipeError: the judge does not know a word, or has nothing to choose among. Nothing was drawn.
    """
    for case in cases:
        check_fits(case.erasure, model)
        _check_judge(judge, _labels(case.plan))
    return (yield from clocked(_evaluate(model, cases, judge, cache), {"draw": 1.0}))


def _evaluate(
    model: Model, cases: Sequence[Case], judge: Judge, cache: Path | None
) -> Generator[Progress, None, list[Report]]:
    reports, before, total = [], 0, sum(case.plan.images for case in cases)
    for case in cases:
        measure = _Measure(model, case, judge, cache, before, total)
        reports.append((yield from measure.report()))
        before += case.plan.images
    return reports


def _labels(plan: Plan) -> tuple[str, ...]:
    return tuple(dict.fromkeys(probe.label for probe in plan.probes))


def _check_judge(judge: Judge, labels: Sequence[str]) -> None:
    if judge.none is None and len(labels) == 1:
        raise RecipeError("preserve", "CLIP has to choose among several words; keep at least one by name.")
    try:
        judge.probabilities([new("RGB", (8, 8))], labels)
    except ValueError as error:
        raise RecipeError("concepts", f"This cannot be evaluated: {error}.") from error


class _Measure:
    """The evaluation of one case.

    Args:
        done: images that earlier cases count.
        total: images of all cases.
    """

    def __init__(self, model: Model, case: Case, judge: Judge, cache: Path | None, done: int, total: int) -> None:
        self.model, self.case, self.plan, self.judge, self.cache = model, case, case.plan, judge, cache
        self.done, self.total = done, total
        self.drawing = ImageRequest(("",), steps=case.plan.steps, guidance=case.plan.guidance)
        self.names = _labels(case.plan)
        self.labels = self.names if judge.none is None else (*self.names, judge.none)
        self.detector = metrics.detector(judge, case.erasure.recipe)
        self.explicit: list[Shot] = []

    def report(self) -> Generator[Progress, None, Report]:
        recipe, rows = self.case.erasure.recipe, []
        for role in ROLES:
            pooled: list[Answers] = []
            for word, probes in _words(self.plan, role).items():
                rows.append((yield from self._word(role, word, probes, pooled)))
                yield Progress("draw", word, self.done, self.total, result=(self.case.name, rows[-1]))
            if pooled:
                rows.append(metrics.row(role, ALL, "", pooled))
        quality = yield from self._general()
        found = metrics.detections(self.detector, self.explicit) if self.detector else None
        return Report(
            self.case.name,
            recipe,
            self.judge.name,
            self.labels,
            self.plan,
            tuple(rows),
            metrics.harmonic(recipe, rows),
            metrics.h_a(recipe, rows),
            quality,
            found,
            metrics.notes(self.judge, self.labels, self.plan, recipe, found is not None),
            self.model.name,
            self.model.fingerprint,
        )

    def _word(
        self, role: str, word: str, probes: Sequence[Probe], pooled: list[Answers]
    ) -> Generator[Progress, None, Row]:
        """Draw a word and judge it; the answers are added to `pooled`."""
        # One of each prompt first, then the next seeds: so the first images show every prompt.
        asked = [(probe, seed) for seed, probe in product(self.plan.seeds, probes)]
        before = yield from self._images(BEFORE, [(probe.prompt, seed) for probe, seed in asked], word)
        right = self.labels.index(probes[0].label)
        kind = self._suited(right, [probe.kind for probe, _ in asked], before)
        chosen = [i for i, (probe, _) in enumerate(asked) if probe.kind == kind]
        self.done += len(asked) - len(chosen)
        items = [(asked[i][0].prompt, asked[i][1]) for i in chosen]
        after = yield from self._images(AFTER, items, word)
        shots = [Shot(prompt, before[i], image) for i, (prompt, _), image in zip(chosen, items, after, strict=True)]
        if self.detector and kind == EXPLICIT and role != KEPT:
            self.explicit += shots
        pooled.append(metrics.answers(self.judge, self.labels, right, shots))
        return metrics.row(role, word, kind, pooled[-1:], shots)

    def _suited(self, right: int, kinds: Sequence[str], images: Sequence[Image]) -> str:
        """The kind of prompts in which the original model shows a word best."""
        if len(set(kinds)) == 1:
            return kinds[0]
        seen_N = self.judge.probabilities(images, self.labels)[:, right].tolist()
        shown = {kind: [p for p, of in zip(seen_N, kinds, strict=True) if of == kind] for kind in dict.fromkeys(kinds)}
        return max(shown, key=lambda kind: fmean(shown[kind]))

    def _general(self) -> Generator[Progress, None, Quality | None]:
        items = [(caption, self.plan.seeds[0]) for caption in self.plan.captions]
        if not items:
            return None
        before = yield from self._images(BEFORE, items, "general captions")
        after = yield from self._images(AFTER, items, "general captions")
        shots = [Shot(*one) for one in zip(self.plan.captions, before, after, strict=True)]
        return metrics.quality(self.judge, self.model.device, shots)

    def _images(
        self, side: str, items: Sequence[image_cache.Item], word: str
    ) -> Generator[Progress, None, list[Image]]:
        weights = self.case.erasure.weights if side == AFTER else {}
        tell = partial(_told, word, self.done, self.total)
        images = yield from relay(image_cache.generate(self.model, weights, items, self.drawing, self.cache), tell)
        self.done += len(items)
        return images


def _told(word: str, before: int, total: int, count: int) -> Progress:
    return Progress("draw", word, before + count, total)


def _probes(recipe: Recipe, known: Mapping[str, str]) -> Iterator[Probe]:
    kinds = dict.fromkeys(concept.kind for concept in recipe.concepts)
    for concept in recipe.concepts:
        for role, words in ((ERASED, (concept.phrase,)), (SYNONYM, concept.synonyms)):
            for word in words:
                for form in prompts.TESTS[concept.kind]:
                    yield Probe(role, word, concept.phrase, concept.kind, form.format(word))
    for word in recipe.preserve:
        own = known.get(word.strip().lower())
        for kind in [own] if own in kinds else kinds:
            for form in prompts.TESTS[kind]:
                yield Probe(KEPT, word, word, kind, form.format(word))


def _words(plan: Plan, role: str) -> dict[str, list[Probe]]:
    """The probes of each word of a role."""
    words: dict[str, list[Probe]] = {}
    for probe in plan.probes:
        if probe.role == role:
            words.setdefault(probe.word, []).append(probe)
    return words
