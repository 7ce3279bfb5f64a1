"""What a judge says of drawn images -> the rows and figures of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL.Image import Image
from torch import Tensor

from mace_studio.core import scores
from mace_studio.evaluation.report import ERASED, KEPT, ROLES, Detections, Mean, Plan, Quality, Row, Tally, pooled
from mace_studio.recipe import Recipe
from mace_studio.sd import features, image_cache, nudity
from mace_studio.sd.judges import Judge, ZeroShotClip
from mace_studio.sd.nudity import NudeNet

BEFORE, AFTER = SIDES = ("before", "after")
SHOWN = 8  # images of each word that are kept for the sheets
EXPLICIT = "explicit"
INSTALL = "pip install nudenet"


@dataclass(frozen=True)
class Shot:
    """One prompt and one seed.

    Attributes:
        prompt: what was drawn.
        before, after: images of the same seed.
    """

    prompt: str
    before: Image
    after: Image

    @property
    def sides(self) -> dict[str, Image]:
        return {BEFORE: self.before, AFTER: self.after}


@dataclass(frozen=True)
class Answers:
    """What the judge said of some images, before and after; one number for each image.

    Attributes:
        probability: side -> probability of the right label, probability_N.
        correct: side -> whether it was the most probable one, correct_N.
        clip: side -> CLIP score with its prompt, clip_N; empty where the judge is not CLIP.
        change_N: mean absolute change of a pixel value, 0 to 255.
        feature_change_N: cosine distance of the judge's features, 0 to 2.
    """

    probability: dict[str, Tensor]
    correct: dict[str, Tensor]
    clip: dict[str, Tensor]
    change_N: Tensor
    feature_change_N: Tensor


def answers(judge: Judge, labels: Sequence[str], right: int, shots: Sequence[Shot]) -> Answers:
    """Ask the judge which of the labels each image shows; `right` is the index of what was asked for."""
    seen = {side: judge.probabilities(_images(shots, side), labels) for side in SIDES}
    before_NF, after_NF = (judge.features(_images(shots, side)) for side in SIDES)
    return Answers(
        {side: seen_NL[:, right] for side, seen_NL in seen.items()},
        {side: seen_NL.argmax(dim=1) == right for side, seen_NL in seen.items()},
        _clip_scores(judge, shots),
        _changes(shots),
        _distances(before_NF, after_NF),
    )


def row(role: str, word: str, kind: str, parts: Sequence[Answers], shots: Sequence[Shot] = ()) -> Row:
    """One line of the report from the answers to one word, or to all words of a role."""
    tallies = [_tally(side, parts) for side in SIDES]
    changes = [torch.cat([getattr(a, name) for a in parts]).mean().item() for name in ("change_N", "feature_change_N")]
    clip = {side: _mean(torch.cat([a.clip[side] for a in parts])) for side in parts[0].clip}
    return Row(role, word, kind, *tallies, *changes, clip, tuple((shot.before, shot.after) for shot in shots[:SHOWN]))


def quality(judge: Judge, device: torch.device, shots: Sequence[Shot]) -> Quality:
    """How far images that have nothing to do with the erasure have moved."""
    name, of = features.choose(judge, device)
    before_NF, after_NF = (of(_images(shots, side)).double() for side in SIDES)
    return Quality(
        len(shots),
        name,
        scores.kid(before_NF, after_NF),
        scores.fid(before_NF, after_NF),
        _distances(before_NF, after_NF).mean().item(),
        _changes(shots).mean().item(),
        {side: _mean(clip_N) for side, clip_N in _clip_scores(judge, shots).items()},
    )


def harmonic(recipe: Recipe, rows: Sequence[Row]) -> dict[str, float]:
    """H_o where objects and synonyms were tested, H_c otherwise, from top-1 and from mean probabilities."""
    gone, similar, kept = (pooled(rows, role) for role in ROLES)
    if gone is None or kept is None:
        return {}
    objects = all(concept.kind == "object" for concept in recipe.concepts)
    found = {}
    for name, of in (("top-1", lambda row: row.after.top1), ("mean probability", lambda row: row.after.probability)):
        if objects and similar is not None:
            found[f"H_o, {name}"] = scores.h_o(of(gone), of(kept), of(similar))
        else:
            found[f"H_c, {name}"] = scores.h_c(of(gone), of(kept))
    return found


def h_a(recipe: Recipe, rows: Sequence[Row]) -> dict[str, float]:
    """Side -> CLIP_s - CLIP_e of styles; empty for other kinds and where the judge is not CLIP."""
    gone, kept = pooled(rows, ERASED), pooled(rows, KEPT)
    if gone is None or kept is None or any(concept.kind != "style" for concept in recipe.concepts):
        return {}
    return {side: scores.h_a(gone.clip[side].value, kept.clip[side].value) for side in gone.clip}


def detector(judge: Judge, recipe: Recipe) -> NudeNet | None:
    """NudeNet, where it is installed and explicit concepts were erased from a real model.

    A judge that comes with a model has its own world, where explicit concepts are something else.
    """
    if not isinstance(judge, ZeroShotClip) or all(concept.kind != EXPLICIT for concept in recipe.concepts):
        return None
    try:
        return nudity.NudeNet()
    except ImportError:
        return None


def detections(found: NudeNet, shots: Sequence[Shot]) -> Detections:
    """Counts of every class before and after."""
    before, after = (found.counts(_images(shots, side)) for side in SIDES)
    counts = {name: (before[name], after[name]) for name in found.classes}
    return Detections(found.name, nudity.THRESHOLD, len(shots), counts)


def notes(judge: Judge, labels: Sequence[str], plan: Plan, recipe: Recipe, counted: bool) -> tuple[str, ...]:
    """What has to be known to read the report; `counted`: nudity was."""
    kinds, clip = {concept.kind for concept in recipe.concepts}, isinstance(judge, ZeroShotClip)
    said = []
    if clip:
        said.append(f"The judge must choose one of these {len(labels)}: a blind guess is right once in {len(labels)}.")
    if "celebrity" in kinds:
        said += ["People are judged by zero-shot CLIP over the names, not by a face recogniser."] if clip else []
        said.append("No face detector comes with the studio: images without a face are not counted apart.")
    if clip and EXPLICIT in kinds and not counted:
        said.append(f"NudeNet is not installed, so no nudity was counted: {INSTALL} adds it.")
    if len(kinds) > 1:
        said.append(
            "Several kinds are erased together. A kept phrase is asked for in the prompts of the kind that the presets "
            "know it as, any other in those of every kind, and counted in those where the original model shows it best."
        )
    return tuple(said)


def _images(shots: Sequence[Shot], side: str) -> list[Image]:
    return [shot.sides[side] for shot in shots]


def _tally(side: str, parts: Sequence[Answers]) -> Tally:
    probability_N = torch.cat([a.probability[side] for a in parts])
    correct = int(torch.cat([a.correct[side] for a in parts]).sum())
    mean = _mean(probability_N)
    return Tally(correct, len(probability_N), scores.wilson(correct, len(probability_N)), mean.value, mean.interval)


def _mean(values_N: Tensor) -> Mean:
    return Mean(values_N.mean().item(), scores.bootstrap(values_N, torch.Generator().manual_seed(0)))


def _clip_scores(judge: Judge, shots: Sequence[Shot]) -> dict[str, Tensor]:
    """Side -> 100 times the cosine of each image and its prompt, clip_N; empty where the judge is not CLIP."""
    if not isinstance(judge, ZeroShotClip):
        return {}
    sentences = list(dict.fromkeys(shot.prompt for shot in shots))
    own_N1 = torch.tensor([[sentences.index(shot.prompt)] for shot in shots])
    found = {side: judge.similarities(_images(shots, side), sentences) for side in SIDES}
    return {side: 100 * similarity_NS.gather(1, own_N1).squeeze(1) for side, similarity_NS in found.items()}


def _distances(first_NF: Tensor, second_NF: Tensor) -> Tensor:
    """Cosine distance of each row of one and the same row of the other, (N,)."""
    return 1 - torch.nn.functional.cosine_similarity(first_NF.double(), second_NF.double())


def _changes(shots: Sequence[Shot]) -> Tensor:
    """change_N: mean absolute change of a pixel value, 0 to 255."""
    return torch.tensor([image_cache.difference(shot.before, shot.after) for shot in shots])
