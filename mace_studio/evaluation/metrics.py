"""What a judge says of generated images -> the rows and figures of a report.

A judge sees `BATCH` images at a time. The callback `tick` is called after each batch, so that the caller sees that
it goes on, and can cancel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from PIL.Image import Image
from torch import Tensor

from mace_studio.core import scores
from mace_studio.errors import StudioError
from mace_studio.evaluation.plan import ERASED, KEPT
from mace_studio.evaluation.report import (
    PROBABILITY,
    ROLES,
    TOP1,
    Detections,
    Harmonic,
    Mean,
    Quality,
    Row,
    Tally,
    pooled,
)
from mace_studio.recipe import Recipe
from mace_studio.sd import image_cache, nudity
from mace_studio.sd.features import Features
from mace_studio.sd.judges import BATCH, Judge, ZeroShotClip
from mace_studio.sd.nudity import NudeNet

BEFORE, AFTER = SIDES = ("before", "after")
SHOWN = 8  # images of each word that are kept for the contact sheets
EXPLICIT = "explicit"
INSTALL = "pip install nudenet"

Tick = Callable[[], None]


@dataclass(frozen=True)
class Shot:
    """One prompt and one seed.

    Attributes:
        prompt: the sentence.
        before: RGB image of the original model.
        after: RGB image of the erased model, of the same seed.
    """

    prompt: str
    before: Image
    after: Image

    @property
    def sides(self) -> dict[str, Image]:
        return {BEFORE: self.before, AFTER: self.after}


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the judge said of some images, before and after; one number for each image.

    Attributes:
        probability: side -> probability of the right label, probability_N, float64, 0 to 1.
        correct: side -> whether it was the most probable one, correct_N.
        clip: side -> CLIP score with its prompt, clip_N; empty without a CLIP.
        agreed_M: of the images of both sides in which the judge finds one of the words, whether CLIP as a second judge
            finds the same; none without a second judge.
        change_N: mean absolute change of a pixel value, 0 to 255.
        feature_change_N: cosine distance of the judge's features, 0 to 2.
    """

    probability: dict[str, Tensor]
    correct: dict[str, Tensor]
    clip: dict[str, Tensor]
    agreed_M: Tensor
    change_N: Tensor
    feature_change_N: Tensor


@dataclass(frozen=True, kw_only=True)
class Moved:
    """What became of some images of general captions.

    Attributes:
        features: whose they are.
        before_NF, after_NF: features of the images of each side.
        change_N: mean absolute change of a pixel value, 0 to 255.
        clip: side -> CLIP score with its caption, clip_N; empty without a CLIP.
    """

    features: str
    before_NF: Tensor
    after_NF: Tensor
    change_N: Tensor
    clip: dict[str, Tensor]


def probabilities(judge: Judge, images: Sequence[Image], labels: Sequence[str], tick: Tick) -> Tensor:
    """How probable each label is for each image, probability_NL, float64."""
    return _in_batches(partial(judge.probabilities, labels=labels), images, tick)


def answers(
    judge: Judge, clip: ZeroShotClip | None, labels: Sequence[str], right: int, shots: Sequence[Shot], tick: Tick
) -> Answers:
    """Ask the judge which of the labels each image shows, and a CLIP how well it fits its prompt.

    Args:
        judge: answers.
        clip: from `judges.clip_of`; where it is not the judge itself it is asked for a second opinion.
        labels: of the answers; the judge's "none", if it has one, is the last.
        right: index of what the prompts ask for.
        shots: of one word.
        tick: called after every batch.
    """
    features = {side: _in_batches(judge.features, _images(shots, side), tick) for side in SIDES}
    if clip is not None and clip is judge:  # what it compares is what it looks at
        embedded = features
        probability = {side: clip.choice(embedding_ND, labels) for side, embedding_ND in features.items()}
    else:
        embedded = _embedded(clip, shots, tick)
        probability = {side: probabilities(judge, _images(shots, side), labels, tick) for side in SIDES}
    return Answers(
        probability={side: probability_NL[:, right] for side, probability_NL in probability.items()},
        correct={side: probability_NL.argmax(dim=1) == right for side, probability_NL in probability.items()},
        clip=_clip_scores(clip, embedded, shots),
        agreed_M=_agreed(judge, clip, labels, embedded, probability),
        change_N=_changes(shots),
        feature_change_N=_distances(features[BEFORE], features[AFTER]),
    )


def row(role: str, word: str, kind: str, parts: Sequence[Answers], shots: Sequence[Shot] = ()) -> Row:
    """One line of the report from the answers to one word, or to all words of a role."""
    before, after = (_tally(side, parts) for side in SIDES)
    return Row(
        role=role,
        word=word,
        kind=kind,
        before=before,
        after=after,
        change=torch.cat([a.change_N for a in parts]).mean().item(),
        feature_change=torch.cat([a.feature_change_N for a in parts]).mean().item(),
        clip={side: _mean(torch.cat([a.clip[side] for a in parts])) for side in parts[0].clip},
        images=tuple((shot.before, shot.after) for shot in shots[:SHOWN]),
    )


def moved(clip: ZeroShotClip | None, features: tuple[str, Features], shots: Sequence[Shot], tick: Tick) -> Moved:
    """What sets of images that have nothing to do with the erasure are compared by; `features` as they were chosen."""
    name, of = features
    seen = {side: _in_batches(of, _images(shots, side), tick) for side in SIDES}
    embedded = seen if clip is not None and of == clip.features else _embedded(clip, shots, tick)
    return Moved(
        features=name,
        before_NF=seen[BEFORE],
        after_NF=seen[AFTER],
        change_N=_changes(shots),
        clip=_clip_scores(clip, embedded, shots),
    )


def quality(parts: Sequence[Moved]) -> Quality:
    """How far images that have nothing to do with the erasure have moved, all parts together.

    Raises:
        StudioError: the parts have features of different networks.
    """
    names = list(dict.fromkeys(part.features for part in parts))
    if len(names) > 1:
        raise StudioError(
            f"The images were compared by {' on one machine and by '.join(names)} on another; install torchvision and "
            "its weights on all machines or on none."
        )
    before_NF = torch.cat([part.before_NF for part in parts]).double()
    after_NF = torch.cat([part.after_NF for part in parts]).double()
    return Quality(
        count=len(before_NF),
        features=names[0],
        kid=scores.kid(before_NF, after_NF),
        fid=scores.fid(before_NF, after_NF),
        feature_change=_distances(before_NF, after_NF).mean().item(),
        pixel_change=torch.cat([part.change_N for part in parts]).mean().item(),
        clip={side: _mean(torch.cat([part.clip[side] for part in parts])) for side in parts[0].clip},
    )


def harmonic(recipe: Recipe, rows: Sequence[Row]) -> tuple[Harmonic, ...]:
    """H_o (Eq. 8) where objects and synonyms were tested, H_c (Eq. 9) otherwise, of top-1 and of mean probabilities."""
    erased, similar, kept = (pooled(rows, role) for role in ROLES)
    if erased is None or kept is None:
        return ()
    objects = all(concept.kind == "object" for concept in recipe.concepts)
    found = []
    for over, of in ((TOP1, lambda row: row.after.top1), (PROBABILITY, lambda row: row.after.probability)):
        if objects and similar is not None:
            found.append(Harmonic("H_o", over, scores.h_o(of(erased), of(kept), of(similar))))
        else:
            found.append(Harmonic("H_c", over, scores.h_c(of(erased), of(kept))))
    return tuple(found)


def h_a(recipe: Recipe, rows: Sequence[Row]) -> dict[str, float]:
    """Side -> CLIP_s - CLIP_e of styles; empty for other kinds and without a CLIP."""
    erased, kept = pooled(rows, ERASED), pooled(rows, KEPT)
    if erased is None or kept is None or any(concept.kind != "style" for concept in recipe.concepts):
        return {}
    return {side: scores.h_a(erased.clip[side].value, kept.clip[side].value) for side in erased.clip}


def detector(judge: Judge) -> NudeNet | None:
    """NudeNet, where it is installed and CLIP judges.

    A judge that comes with a model has its own world, where explicit concepts are something else.
    """
    if not isinstance(judge, ZeroShotClip):
        return None
    try:
        return nudity.NudeNet()
    except ImportError:
        return None


def detections(found: NudeNet, shots: Sequence[Shot], tick: Tick) -> Detections:
    """Counts of every class before and after."""
    counts: dict[str, Counter[str]] = {side: Counter() for side in SIDES}
    for shot in shots:
        for side, image in shot.sides.items():
            counts[side].update(found.counts([image]))
        tick()
    return Detections(
        detector=found.name,
        threshold=nudity.THRESHOLD,
        images=len(shots),
        counts={name: (counts[BEFORE][name], counts[AFTER][name]) for name in found.classes},
    )


def together(parts: Sequence[Detections | None]) -> Detections | None:
    """The counts of several words added up; None where no word was counted, or not all of them by the same detector."""
    counted = [part for part in parts if part is not None]
    if not counted or len(counted) < len(parts) or len({part.detector for part in counted}) > 1:
        return None
    sums = {
        name: (sum(part.counts[name][0] for part in counted), sum(part.counts[name][1] for part in counted))
        for name in counted[0].counts
    }
    return replace(counted[0], images=sum(part.images for part in counted), counts=sums)


def notes(judge: Judge, labels: Sequence[str], recipe: Recipe, counted: bool) -> tuple[str, ...]:
    """How to read the report, in sentences.

    Args:
        judge: who judged.
        labels: what it chose among.
        recipe: of the erasure.
        counted: nudity was.
    """
    kinds, clip = {concept.kind for concept in recipe.concepts}, isinstance(judge, ZeroShotClip)
    found = []
    if clip:
        found.append(f"The judge must choose one of these {len(labels)}: a blind guess is right once in {len(labels)}.")
    if "celebrity" in kinds:
        found += ["People are judged by zero-shot CLIP over the names, not by a face recogniser."] if clip else []
        found.append("No face detector comes with the studio: images without a face are not counted apart.")
    if clip and EXPLICIT in kinds and not counted:
        found.append(f"NudeNet is not installed, so no nudity was counted: {INSTALL} adds it.")
    if len(kinds) > 1:
        found.append(
            "Several kinds are erased together. A kept phrase is asked for in the prompts of the kind that the presets "
            "know it as, any other in those of every kind, and counted in those where the original model shows it best."
        )
    return tuple(found)


def _in_batches(of: Callable[[Sequence[Image]], Tensor], images: Sequence[Image], tick: Tick) -> Tensor:
    """What a function says of images, a row for each, `BATCH` of them at a time."""
    parts = []
    for start in range(0, len(images), BATCH):
        parts.append(of(images[start : start + BATCH]))
        tick()
    return torch.cat(parts)


def _images(shots: Sequence[Shot], side: str) -> list[Image]:
    return [shot.sides[side] for shot in shots]


def _tally(side: str, parts: Sequence[Answers]) -> Tally:
    probability_N = torch.cat([a.probability[side] for a in parts])
    correct, mean = int(torch.cat([a.correct[side] for a in parts]).sum()), _mean(probability_N)
    return Tally(
        correct=correct,
        count=len(probability_N),
        top1_interval=scores.wilson(correct, len(probability_N)),
        probability=mean.value,
        interval=mean.interval,
    )


def _mean(values_N: Tensor) -> Mean:
    return Mean(values_N.mean().item(), scores.bootstrap(values_N, torch.Generator().manual_seed(0)))


def _embedded(clip: ZeroShotClip | None, shots: Sequence[Shot], tick: Tick) -> dict[str, Tensor]:
    """Side -> embedding_ND of its images by a CLIP; empty without one."""
    return {} if clip is None else {side: _in_batches(clip.features, _images(shots, side), tick) for side in SIDES}


def _agreed(
    judge: Judge,
    clip: ZeroShotClip | None,
    labels: Sequence[str],
    embedded: dict[str, Tensor],
    probability: dict[str, Tensor],
) -> Tensor:
    """agreed_M of `Answers`; `probability` is what the judge said, side -> probability_NL."""
    if clip is None or clip is judge:
        return torch.zeros(0, dtype=torch.bool)
    words, parts = [label for label in labels if label != judge.none], []
    for side in SIDES:
        first_N = probability[side].argmax(dim=1)
        second_N = clip.choice(embedded[side], words).argmax(dim=1)
        parts.append((first_N == second_N)[first_N < len(words)])
    return torch.cat(parts)


def _clip_scores(clip: ZeroShotClip | None, embedded: dict[str, Tensor], shots: Sequence[Shot]) -> dict[str, Tensor]:
    """Side -> 100 times the cosine of each image and its prompt, clip_N; empty without a CLIP."""
    if clip is None:
        return {}
    sentences = list(dict.fromkeys(shot.prompt for shot in shots))
    own_N1 = torch.tensor([[sentences.index(shot.prompt)] for shot in shots])
    return {
        side: 100 * clip.similarities(embedding_ND, sentences).gather(1, own_N1).squeeze(1)
        for side, embedding_ND in embedded.items()
    }


def _distances(first_NF: Tensor, second_NF: Tensor) -> Tensor:
    """Cosine distance of each row of one and the same row of the other, (N,)."""
    return 1 - torch.nn.functional.cosine_similarity(first_NF.double(), second_NF.double())


def _changes(shots: Sequence[Shot]) -> Tensor:
    """change_N: mean absolute change of a pixel value, 0 to 255."""
    return torch.tensor([image_cache.difference(shot.before, shot.after) for shot in shots])
