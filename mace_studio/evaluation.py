"""Use case evaluate(): what is gone, what should be gone and is not, and what has suffered."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from mace_studio.sd import classify, generate, projections
from mace_studio.sd.classify import Judge
from mace_studio.sd.loading import Model

ERASED, SYNONYM, KEPT, GENERAL = "erased", "synonym", "kept", "general"
ROLES = {ERASED: "Efficacy", SYNONYM: "Generality", KEPT: "Specificity"}
BEFORE, AFTER = "before", "after"
FIRST_SEED = 10_000  # far from those of training images and of searches
SHOWN = 8  # images of each word that are kept for the sheets
IMAGES = {"quick": 10, "full": 50}
CAPTIONS = {"quick": 48, "full": 256}
ALL = "all"  # the word of the row of a whole role


@dataclass(frozen=True)
class Probe:
    """One prompt and what a judge should see in its images, were nothing erased.

    Attributes:
        role: "erased", "synonym" or "kept".
        word: what the prompt names.
        label: the phrase that the judge is asked for: the word itself, or the concept whose synonym it is.
        prompt: the sentence.
    """

    role: str
    word: str
    label: str
    prompt: str


@dataclass(frozen=True)
class Plan:
    """What will be drawn, known before anything is.

    Attributes:
        probes: prompts about what is erased, its synonyms and what is kept.
        captions: general prompts, for the quality of everything else; one image each.
        seeds: of the images of each probe, the same before and after.
        steps, guidance: of all images.
    """

    probes: tuple[Probe, ...]
    captions: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    guidance: float

    @property
    def images(self) -> int:
        """How many images are drawn, before and after together."""
        return 2 * (len(self.probes) * len(self.seeds) + len(self.captions))

    @property
    def forwards(self) -> int:
        """UNet forwards of one sample, guidance counted twice."""
        return self.images * self.steps * (2 if self.guidance > 1 else 1)


@dataclass(frozen=True)
class Tally:
    """How often a judge saw the label that was asked for.

    Attributes:
        correct, count: top-1: images whose most probable label was the right one, of how many.
        probability: mean probability of the right label, 0 to 1: the paper's "accuracy".
        interval: 95 % interval of the mean probability, by bootstrap.
    """

    correct: int
    count: int
    probability: float
    interval: tuple[float, float]

    @property
    def top1(self) -> float:
        return self.correct / self.count

    @property
    def top1_interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the top-1 accuracy."""
        return scores.wilson(self.correct, self.count)


@dataclass(frozen=True)
class Row:
    """One word, or all words of a role, before and after.

    Attributes:
        role: as in `Probe`.
        word: of the probes; "all" for the role as a whole.
        before, after: tallies over the same prompts and seeds.
        change: mean absolute change of a pixel value, 0 to 255.
        images: before and after of the first seeds; none for a whole role.
    """

    role: str
    word: str
    before: Tally
    after: Tally
    change: float
    images: tuple[tuple[Image.Image, Image.Image], ...] = ()


@dataclass(frozen=True)
class Quality:
    """What became of images that have nothing to do with the erasure: original against erased, general captions.

    Attributes:
        count: images on each side.
        features: whose features the distances are taken over.
        kid, fid: distances between the two sets; 0 is the same. FID depends on the count.
        feature_change: mean cosine distance of the features of each pair, 0 to 2.
        pixel_change: mean absolute change of a pixel value, 0 to 255.
    """

    count: int
    features: str
    kid: float
    fid: float
    feature_change: float
    pixel_change: float


@dataclass(frozen=True)
class Report:
    """The result of an evaluation.

    Attributes:
        recipe: of the erasure.
        judge: who judged, and among which labels.
        labels: what the judge chose among.
        plan: what was drawn.
        rows: every word, and after the words of a role the role as a whole.
        harmonic: name, such as "H_o, top-1" -> the harmonic mean of the accuracies, 0 to 1.
        quality: of images that have nothing to do with the erasure; None without general captions.
        model, fingerprint: what was erased from.
        seconds: that it took.
    """

    recipe: Recipe
    judge: str
    labels: tuple[str, ...]
    plan: Plan
    rows: tuple[Row, ...]
    harmonic: dict[str, float]
    quality: Quality | None
    model: str
    fingerprint: str
    seconds: float = field(default=0.0, compare=False)

    def pooled(self, role: str) -> Row | None:
        """The row of a role as a whole, or None where the plan has no such words."""
        return next((row for row in self.rows if row.role == role and row.word == ALL), None)

    def spill_over(self) -> list[Row]:
        """The kept words, those that suffered most first."""
        kept = [row for row in self.rows if row.role == KEPT and row.word != ALL]
        return sorted(kept, key=lambda r: (r.before.probability - r.after.probability, r.change), reverse=True)


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
    images = {}
    for side, other in weights.items():
        drawing = _drawn(model, other, items, plan, cache)
        images[side] = yield from relay(drawing, lambda n, side=side: Progress(side, "", n, len(items)))
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


def _drawn(
    model: Model, weights: Mapping[str, Tensor], items: Sequence[tuple[str, int]], plan: Plan, cache: Path | None
) -> Generator[int, None, list[Image.Image]]:
    """Images of prompts and seeds with some weights in place, from the cache where they are in it."""
    drawing = Drawing(("",), steps=plan.steps, guidance=plan.guidance)
    key = _key(model, weights, plan)
    images: list[Image.Image] = []
    with projections.swapped(model.unet, weights):
        for batch in generate.batches(items):
            paths = [None if cache is None else _path(cache, key, item) for item in batch]
            found = [None if path is None or not path.exists() else _read(path) for path in paths]
            missing = [item for item, image in zip(batch, found, strict=True) if image is None]
            drawing_them = relay(generate.draw_pairs(model, missing, drawing), lambda n, done=len(images): done + n)
            fresh = iter((yield from drawing_them))
            for path, image in zip(paths, found, strict=True):
                images.append(next(fresh) if image is None else image)
                if image is None and path is not None:
                    _write(images[-1], path)
            yield len(images)
    return images


def _key(model: Model, weights: Mapping[str, Tensor], plan: Plan) -> str:
    """Changes with everything that an image depends on, but for its prompt and seed."""
    digest = hashlib.sha256(f"{model.fingerprint} {model.dtype} {plan.steps} {plan.guidance}".encode())
    for name, weight_PD in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(weight_PD.to("cpu", torch.float32).contiguous().numpy())
    return digest.hexdigest()[:24]


def _path(cache: Path, key: str, item: tuple[str, int]) -> Path:
    prompt, seed = item
    return cache / "images" / key / f"{hashlib.sha256(prompt.encode()).hexdigest()[:24]}-{seed}.png"


def _read(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _write(image: Image.Image, path: Path) -> None:
    """Whole or not at all: what is cut short must not be read later."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    image.save(part, "PNG")
    part.replace(path)


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
    return Tally(correct, len(numbers), probability_N.mean().item(), interval)


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
