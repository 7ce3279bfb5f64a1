"""Use case evaluate(): what is gone, what should be gone and is not, and what has suffered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean

from PIL.Image import Image, new

from mace_studio.erasure import Erasure, check_fits, doubt
from mace_studio.errors import RecipeError
from mace_studio.evaluation import metrics
from mace_studio.evaluation.metrics import AFTER, BEFORE, EXPLICIT, Answers, Shot
from mace_studio.evaluation.plan import KEPT, NEIGHBOUR, Plan, Probe
from mace_studio.evaluation.report import ALL, ROLES, Quality, Report, Row
from mace_studio.progress import Progress, silent, timed, within
from mace_studio.progress import Report as Callback
from mace_studio.recipe import ImageRequest
from mace_studio.sd import image_cache, judges
from mace_studio.sd.judges import Judge
from mace_studio.sd.model import Model

STAGE = "generate"


@dataclass(frozen=True)
class Case:
    """One erasure to measure, what to call it, and its plan."""

    name: str
    erasure: Erasure
    plan: Plan


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
    """
    for case in cases:
        check_fits(case.erasure, model)
        _check_judge(judge, case.plan.labels)
    report = timed(progress, {STAGE: 1.0})
    clip = judges.clip_of(model, judge)
    reports, before, total = [], 0, sum(case.plan.images for case in cases)
    for case in cases:
        measurement = _Measurement(model, case, judge, clip, cache, within(report, STAGE, before=before, total=total))
        reports.append(measurement.report())
        before += case.plan.images
    return reports


def _check_judge(judge: Judge, labels: Sequence[str]) -> None:
    if judge.none is None and len(labels) == 1:
        raise RecipeError("preserve", "CLIP has to choose among several words; keep at least one by name.")
    try:
        judge.probabilities([new("RGB", (8, 8))], labels)
    except ValueError as error:
        raise RecipeError("concepts", f"This cannot be evaluated: {error}.") from error


class _Measurement:
    """The evaluation of one case.

    Args:
        clip: from `judges.clip_of`.
        progress: told of the images of this case.

    Attributes:
        done: how many images of the plan are generated, or known not to be needed.
        explicit: the images of explicit concepts and their synonyms, for the detector.
    """

    def __init__(
        self,
        model: Model,
        case: Case,
        judge: Judge,
        clip: judges.ZeroShotClip | None,
        cache: Path | None,
        progress: Callback,
    ) -> None:
        self.model, self.case, self.plan, self.judge, self.clip, self.cache = model, case, case.plan, judge, clip, cache
        self.progress = progress
        self.request = ImageRequest(prompts=("",), steps=case.plan.steps, guidance=case.plan.guidance)
        self.labels = case.plan.labels if judge.none is None else (*case.plan.labels, judge.none)
        self.detector = metrics.detector(judge, case.erasure.recipe)
        self.changes = case.erasure.checksum()
        self.done, self.word = 0, ""
        self.explicit: list[Shot] = []
        self.agreed: list[bool] = []

    def report(self) -> Report:
        recipe, rows = self.case.erasure.recipe, []
        for role in (*ROLES, NEIGHBOUR):
            pooled: list[Answers] = []
            for word, probes in self.plan.words(role).items():
                rows.append(self._row(role, word, probes, pooled))
                self._tick(result=(self.case.name, rows[-1]))
            if pooled:
                rows.append(metrics.row(role, ALL, "", pooled))
        quality = self._quality()
        found = metrics.detections(self.detector, self.explicit, self._tick) if self.detector else None
        return Report(
            name=self.case.name,
            recipe=recipe,
            judge=self.judge.name,
            labels=self.labels,
            plan=self.plan,
            rows=tuple(rows),
            harmonic=metrics.harmonic(recipe, rows),
            h_a=metrics.h_a(recipe, rows),
            quality=quality,
            detections=found,
            notes=(
                *filter(None, [doubt(self.case.erasure, self.model)]),
                *metrics.notes(self.judge, self.labels, recipe, found is not None),
            ),
            model=self.model.name,
            fingerprint=self.model.fingerprint,
            spent=self.case.erasure.spent,
            second="" if self.clip in (None, self.judge) else self.clip.name,
            agreement=(sum(self.agreed), len(self.agreed)) if self.agreed else None,
        )

    def _row(self, role: str, word: str, probes: Sequence[Probe], pooled: list[Answers]) -> Row:
        """Generate the images of a word and judge them; the answers are added to `pooled`."""
        self.word = word
        # One of each prompt first, then the next seeds: so the first images show every prompt.
        asked = [(probe, seed) for seed, probe in product(self.plan.seeds, probes)]
        before = self._images(BEFORE, [(probe.prompt, seed) for probe, seed in asked])
        right = self.labels.index(probes[0].label)
        kind = self._clearest_kind(right, [probe.kind for probe, _ in asked], before)
        chosen = [i for i, (probe, _) in enumerate(asked) if probe.kind == kind]
        self.done += len(asked) - len(chosen)
        items = [(asked[i][0].prompt, asked[i][1]) for i in chosen]
        after = self._images(AFTER, items)
        shots = [Shot(prompt, before[i], image) for i, (prompt, _), image in zip(chosen, items, after, strict=True)]
        if self.detector and kind == EXPLICIT and role != KEPT:
            self.explicit += shots
        pooled.append(metrics.answers(self.judge, self.clip, self.labels, right, shots, self._tick))
        self.agreed += pooled[-1].agreed_M.tolist()
        return metrics.row(role, word, kind, pooled[-1:], shots)

    def _clearest_kind(self, right: int, kinds: Sequence[str], images: Sequence[Image]) -> str:
        """The kind of prompts in which the original model shows a word best."""
        if len(set(kinds)) == 1:
            return kinds[0]
        shown_N = metrics.probabilities(self.judge, images, self.labels, self._tick)[:, right].tolist()
        shown = {kind: [p for p, of in zip(shown_N, kinds, strict=True) if of == kind] for kind in dict.fromkeys(kinds)}
        return max(shown, key=lambda kind: fmean(shown[kind]))

    def _quality(self) -> Quality | None:
        if not self.plan.captions:
            return None
        self.word = "general captions"
        items = [(caption, self.plan.seeds[0]) for caption in self.plan.captions]
        before, after = self._images(BEFORE, items), self._images(AFTER, items)
        shots = [Shot(*one) for one in zip(self.plan.captions, before, after, strict=True)]
        return metrics.quality(self.judge, self.clip, self.model.device, shots, self._tick)

    def _images(self, side: str, items: Sequence[image_cache.Item]) -> list[Image]:
        part = within(self.progress, STAGE, self.word, self.done, self.plan.images)
        generate = partial(image_cache.generate, self.model, items, self.request, self.cache, part)
        if side == AFTER:
            with self.case.erasure.applied(self.model):
                images = generate(changes=self.changes)
        else:
            images = generate()
        self.done += len(items)
        return images

    def _tick(self, result: object = None) -> None:
        self.progress(Progress(STAGE, self.word, self.done, self.plan.images, result=result))
