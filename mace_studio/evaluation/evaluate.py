"""Use case evaluate(): what is gone, what should be gone and is not, and what has suffered.

A plan is measured in parts, a word or some captions each, by `measured`, and `reported` puts together what was found.
The parts may be measured in any order and anywhere: `cluster/evaluate.py` has workers do it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from math import lcm
from pathlib import Path
from statistics import fmean

from PIL.Image import Image, new

from mace_studio.erasure import Erasure, check_fits, doubt
from mace_studio.errors import RecipeError
from mace_studio.evaluation import metrics
from mace_studio.evaluation.metrics import AFTER, BEFORE, EXPLICIT, Answers, Moved, Shot
from mace_studio.evaluation.plan import ERASED, NEIGHBOUR, SYNONYM, Plan
from mace_studio.evaluation.report import ALL, ROLES, Detections, Report, Row
from mace_studio.progress import Progress, silent, timed, within
from mace_studio.progress import Report as Callback
from mace_studio.recipe import ImageRequest
from mace_studio.sd import features, image_cache, judges
from mace_studio.sd.features import Features
from mace_studio.sd.judges import Judge, ZeroShotClip
from mace_studio.sd.model import Model
from mace_studio.sd.nudity import NudeNet

STAGE = "generate"


@dataclass(frozen=True)
class Case:
    """One erasure to measure, what to call it, and its plan."""

    name: str
    erasure: Erasure
    plan: Plan

    @cached_property
    def changes(self) -> str:
        """Digits of the erasure, by which its images are kept."""
        return self.erasure.checksum()


@dataclass(frozen=True)
class Bench:
    """What a process measures with; what not every plan needs is loaded when it is needed first.

    Attributes:
        model: generates.
        judge: from `judges.choose`.
        cache: folder of images generated before, or None.
    """

    model: Model
    judge: Judge
    cache: Path | None

    @cached_property
    def clip(self) -> ZeroShotClip | None:
        """Scores images beside the judge, and is the second judge where it is not the first."""
        return judges.clip_of(self.model, self.judge)

    @cached_property
    def fingerprint(self) -> str:
        """Of who judges."""
        return judges.fingerprint(self.judge, self.clip)

    @cached_property
    def features(self) -> tuple[str, Features]:
        """By which sets of images are compared, and what reports call them."""
        return features.choose(self.judge, self.model.device)

    @cached_property
    def detector(self) -> NudeNet | None:
        """Counts nudity."""
        return metrics.detector(self.judge)

    def labels(self, plan: Plan) -> tuple[str, ...]:
        """What the judge chooses among over a whole plan."""
        return plan.labels if self.judge.none is None else (*plan.labels, self.judge.none)

    def parts(self, plan: Plan) -> list[Plan]:
        """A plan cut into what is measured together.

        Images of one batch differ in their last digits with what is beside them, so captions are cut where batches of
        the model and of the judge end.
        """
        return plan.parts(lcm(judges.BATCH, self.model.batches.size))


@dataclass(frozen=True)
class Judged:
    """What was found of a word.

    Attributes:
        row: of the report, with the first few images.
        answers: one for each image, from which the row of the whole role is made.
        detections: of nudity in the images of an explicit concept or synonym; None of others and without a detector.
    """

    row: Row
    answers: Answers
    detections: Detections | None


def evaluate(
    model: Model, cases: Sequence[Case], judge: Judge, cache: Path | None = None, progress: Callback = silent
) -> list[Report]:
    """Generate the images of plans before and after erasures, one after another, and let a judge say what it sees.

    Args:
        model: is bit for bit the same afterwards.
        cases: erasures of this model with plans from `plan.make_plan`.
        judge: from `judges.choose`.
        cache: folder of images generated before, or None. With it, a cancelled evaluation goes on where it was.
        progress: called with stage "generate", steps in images of all cases; whenever a word is finished, the event's
            result is the name of the case and the word's `Row`.

    Returns:
        A report of each case.

    Raises:
        FileError: an erasure was made from another model.
        RecipeError: the judge does not know a word, or has nothing to choose among. Nothing was generated.

    Example:
        >>> (report,) = evaluate(model, [Case("cat", erasure, plan)], judges.choose(model))
    """
    bench = Bench(model, judge, cache)
    check(bench, cases)
    report = timed(progress, {STAGE: 1.0})
    reports, done, total = [], 0, sum(case.plan.images for case in cases)
    for case in cases:
        found = []
        for part in bench.parts(case.plan):
            found.append(measured(bench, case, part, within(report, STAGE, before=done, total=total)))
            done += part.images
            report(event(case, found[-1], done, total))
        reports.append(reported(bench, case, found))
    return reports


def check(bench: Bench, cases: Sequence[Case]) -> None:
    """Raise a FileError or RecipeError, as `evaluate` does, where an erasure or a word of a plan cannot be measured."""
    for case in cases:
        check_fits(case.erasure, bench.model)
        if bench.judge.none is None and len(case.plan.labels) == 1:
            raise RecipeError("preserve", "CLIP has to choose among several words; keep at least one by name.")
        try:
            bench.judge.probabilities([new("RGB", (8, 8))], case.plan.labels)
        except ValueError as error:
            raise RecipeError("concepts", f"This cannot be evaluated: {error}.") from error


def event(case: Case, found: Judged | Moved, done: float, total: int) -> Progress:
    """The event of a part that is finished, which of a word has the name of the case and the row as its result."""
    row = found.row if isinstance(found, Judged) else None
    return Progress(STAGE, row.word if row else "", done, total, result=(case.name, row) if row else None)


def measured(bench: Bench, case: Case, part: Plan, progress: Callback = silent) -> Judged | Moved:
    """Generate the images of one part of a plan, before and after the erasure, and judge them.

    Args:
        bench: with what.
        case: whose erasure, and whose labels the judge chooses among.
        part: of `Bench.parts`.
        progress: told of the images of this part.
    """
    measurement = _Measurement(bench, case, part, progress)
    return measurement.word() if part.probes else measurement.captions()


def reported(bench: Bench, case: Case, found: Sequence[Judged | Moved]) -> Report:
    """Put together what was found.

    Args:
        bench: with what; only the names of its model and judge, and what they are, count here.
        case: what was measured.
        found: by `measured`, in the order of `Bench.parts`.
    """
    recipe, rows = case.erasure.recipe, list[Row]()
    words = [one for one in found if isinstance(one, Judged)]
    for role in (*ROLES, NEIGHBOUR):
        if own := [one for one in words if one.row.role == role]:
            rows += [one.row for one in own]
            rows.append(metrics.row(role, ALL, "", [one.answers for one in own]))
    explicit = [one.detections for one in words if _explicit(one.row.role, one.row.kind)]
    detections = metrics.together(explicit)
    moved = [one for one in found if isinstance(one, Moved)]
    labels = bench.labels(case.plan)
    agreed = [same for one in words for same in one.answers.agreed_M.tolist()]
    return Report(
        name=case.name,
        recipe=recipe,
        judge=bench.judge.name,
        labels=labels,
        plan=case.plan,
        rows=tuple(rows),
        harmonic=metrics.harmonic(recipe, rows),
        h_a=metrics.h_a(recipe, rows),
        quality=metrics.quality(moved) if moved else None,
        detections=detections,
        notes=(
            *filter(None, [doubt(case.erasure, bench.model)]),
            *metrics.notes(bench.judge, labels, recipe, bool(detections) or not explicit),
        ),
        model=bench.model.name,
        fingerprint=bench.model.fingerprint,
        spent=case.erasure.spent,
        second="" if bench.clip is None or bench.clip is bench.judge else bench.clip.name,
        agreement=(sum(agreed), len(agreed)) if agreed else None,
    )


def _explicit(role: str, kind: str) -> bool:
    """Whether nudity is counted in the images of a word."""
    return kind == EXPLICIT and role in (ERASED, SYNONYM)


class _Measurement:
    """The images of one part of a plan, and what a judge says of them.

    Args:
        bench, case, part, progress: of `measured`.

    Attributes:
        done: how many images of the part are generated, or known not to be needed.
    """

    def __init__(self, bench: Bench, case: Case, part: Plan, progress: Callback) -> None:
        self.bench, self.case, self.part, self.progress = bench, case, part, progress
        self.request = ImageRequest(prompts=("",), steps=part.steps, guidance=part.guidance)
        self.labels = bench.labels(case.plan)
        self.name = part.probes[0].word if part.probes else "general captions"
        self.done = 0

    def word(self) -> Judged:
        """Of a part with a word."""
        # One of each prompt first, then the next seeds: so the first images show every prompt.
        asked = [(probe, seed) for seed, probe in product(self.part.seeds, self.part.probes)]
        role, right = asked[0][0].role, self.labels.index(asked[0][0].label)
        before = self._images(BEFORE, [(probe.prompt, seed) for probe, seed in asked])
        kind = self._clearest_kind(right, [probe.kind for probe, _ in asked], before)
        chosen = [i for i, (probe, _) in enumerate(asked) if probe.kind == kind]
        self.done += len(asked) - len(chosen)
        items = [(asked[i][0].prompt, asked[i][1]) for i in chosen]
        after = self._images(AFTER, items)
        shots = [Shot(prompt, before[i], image) for i, (prompt, _), image in zip(chosen, items, after, strict=True)]
        answers = metrics.answers(self.bench.judge, self.bench.clip, self.labels, right, shots, self._tick)
        detector = self.bench.detector if _explicit(role, kind) else None
        detections = metrics.detections(detector, shots, self._tick) if detector else None
        return Judged(metrics.row(role, self.name, kind, [answers], shots), answers, detections)

    def captions(self) -> Moved:
        """Of a part with captions."""
        items = [(caption, self.part.seeds[0]) for caption in self.part.captions]
        before, after = self._images(BEFORE, items), self._images(AFTER, items)
        shots = [Shot(*one) for one in zip(self.part.captions, before, after, strict=True)]
        return metrics.moved(self.bench.clip, self.bench.features, shots, self._tick)

    def _clearest_kind(self, right: int, kinds: Sequence[str], images: Sequence[Image]) -> str:
        """The kind of prompts in which the original model shows a word best."""
        if len(set(kinds)) == 1:
            return kinds[0]
        shown_N = metrics.probabilities(self.bench.judge, images, self.labels, self._tick)[:, right].tolist()
        shown = {kind: [p for p, of in zip(shown_N, kinds, strict=True) if of == kind] for kind in dict.fromkeys(kinds)}
        return max(shown, key=lambda kind: fmean(shown[kind]))

    def _images(self, side: str, items: Sequence[image_cache.Item]) -> list[Image]:
        model = self.bench.model
        part = within(self.progress, STAGE, self.name, self.done, self.part.images)
        generate = partial(image_cache.generate, model, items, self.request, self.bench.cache, part)
        if side == AFTER:
            with self.case.erasure.applied(model):
                images = generate(changes=self.case.changes)
        else:
            images = generate()
        self.done += len(items)
        return images

    def _tick(self) -> None:
        self.progress(Progress(STAGE, self.name, self.done, self.part.images))
