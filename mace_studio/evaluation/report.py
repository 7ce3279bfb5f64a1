"""The result of an evaluation, in its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from mace_studio.recipe import Recipe

ERASED, SYNONYM, KEPT = "erased", "synonym", "kept"
ROLES = {ERASED: "Efficacy", SYNONYM: "Generality", KEPT: "Specificity"}
ALL = "all"  # the word of the row of a whole role


@dataclass(frozen=True)
class Probe:
    """One prompt and what a judge should see in its images, were nothing erased.

    Attributes:
        role: "erased", "synonym" or "kept".
        word: what the prompt names.
        label: the phrase that the judge is asked for: the word itself, or the concept whose synonym it is.
        kind: of concept that the prompt's form is for.
        prompt: the sentence.
    """

    role: str
    word: str
    label: str
    kind: str
    prompt: str


@dataclass(frozen=True)
class Plan:
    """What will be drawn, known before anything is.

    Attributes:
        probes: prompts about what is erased, its synonyms and what is kept. A kept word whose kind is not known has
            those of every kind that is erased, and the ones that do not suit it are drawn before only.
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
        """How many images are drawn, before and after together; fewer where a kept word has several kinds."""
        return 2 * (len(self.probes) * len(self.seeds) + len(self.captions))

    @property
    def forwards(self) -> int:
        """UNet forwards of one sample, guidance counted twice."""
        return self.images * self.steps * (2 if self.guidance > 1 else 1)

    @property
    def mixed(self) -> bool:
        """Whether a kept word is asked for in the prompts of several kinds, to find the one that suits it."""
        kept = {(probe.word, probe.kind) for probe in self.probes if probe.role == KEPT}
        return len(kept) > len({word for word, _ in kept})

    def summary(self) -> str:
        """What it draws, in words."""
        most = "at most " if self.mixed else ""
        return (
            f"{len(self.probes)} prompts with {len(self.seeds)} seeds and {len(self.captions)} general captions, "
            f"before and after: {most}{self.images:,} images, {self.forwards:,} UNet forwards"
        )


@dataclass(frozen=True)
class Tally:
    """How often a judge saw the label that was asked for.

    Attributes:
        correct, count: top-1: images whose most probable label was the right one, of how many.
        top1_interval: Wilson's 95 % interval of their share.
        probability: mean probability of the right label, 0 to 1: the paper's "accuracy".
        interval: 95 % interval of the mean probability, by bootstrap.
    """

    correct: int
    count: int
    top1_interval: tuple[float, float]
    probability: float
    interval: tuple[float, float]

    @property
    def top1(self) -> float:
        return self.correct / self.count


@dataclass(frozen=True)
class Mean:
    """A mean and its 95 % interval, by bootstrap."""

    value: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Row:
    """One word, or all words of a role, before and after.

    Attributes:
        role: as in `Probe`.
        word: of the probes; "all" for the role as a whole.
        kind: of the prompts; "" for the role as a whole.
        before, after: tallies over the same prompts and seeds.
        change: mean absolute change of a pixel value, 0 to 255.
        feature_change: mean cosine distance of the judge's features, 0 to 2.
        clip: "before" and "after" -> CLIP score of the images with their prompts, cosine times 100; empty where the
            judge is not CLIP.
        images: before and after of the first seeds; none for a whole role.
    """

    role: str
    word: str
    kind: str
    before: Tally
    after: Tally
    change: float
    feature_change: float
    clip: dict[str, Mean]
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
        clip: as in `Row`, of the images with their captions.
    """

    count: int
    features: str
    kid: float
    fid: float
    feature_change: float
    pixel_change: float
    clip: dict[str, Mean]


@dataclass(frozen=True)
class Detections:
    """What a detector of nudity found in the images of explicit concepts and their synonyms.

    Attributes:
        detector: its name and version.
        threshold: the least confidence that counts.
        images: on each side.
        counts: class -> how many, before and after; every class that it knows.
    """

    detector: str
    threshold: float
    images: int
    counts: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Report:
    """The result of an evaluation.

    Attributes:
        name: of the erasure.
        recipe: of the erasure.
        judge: who judged.
        labels: what the judge chose among.
        plan: what was drawn.
        rows: every word, and after the words of a role the role as a whole.
        harmonic: name, such as "H_o, top-1" -> the harmonic mean of the accuracies, 0 to 1.
        h_a: "before" and "after" -> CLIP_s - CLIP_e; empty but for styles that CLIP has judged.
        quality: of images that have nothing to do with the erasure; None without general captions.
        detections: of nudity; None where nothing explicit was erased or no detector is at hand.
        notes: what has to be known to read it, in sentences.
        model, fingerprint: what was erased from.
    """

    name: str
    recipe: Recipe
    judge: str
    labels: tuple[str, ...]
    plan: Plan
    rows: tuple[Row, ...]
    harmonic: dict[str, float]
    h_a: dict[str, float]
    quality: Quality | None
    detections: Detections | None
    notes: tuple[str, ...]
    model: str
    fingerprint: str

    def pooled(self, role: str) -> Row | None:
        """The row of a role as a whole, or None where the plan has no such words."""
        return pooled(self.rows, role)

    def spill_over(self) -> list[Row]:
        """The kept words, those that suffered most first."""
        kept = [row for row in self.rows if row.role == KEPT and row.word != ALL]
        return sorted(kept, key=lambda r: (r.before.probability - r.after.probability, r.change), reverse=True)


def pooled(rows: Sequence[Row], role: str) -> Row | None:
    """The row of a role as a whole, or None where there is none."""
    return next((row for row in rows if row.role == role and row.word == ALL), None)


def means(report: Report) -> dict[str, str]:
    """Its harmonic means by what goes into them, such as "H, top-1" -> "H_o 98.0 %"."""
    parts = {name.partition(", "): percent(value) for name, value in report.harmonic.items()}
    return {f"H, {of}": f"{name} {said}" for (name, _, of), said in parts.items()}


def called(reports: Sequence[Report]) -> list[str]:
    """A name for each report: its recipe's title, or the erasure's name where titles are the same."""
    titles = [report.recipe.title() for report in reports]
    return titles if len(set(titles)) == len(titles) else [report.name for report in reports]


def percent(share: float, interval: tuple[float, float] | None = None) -> str:
    """Such as "98.0 %" or "98.0 % (93.0 to 99.4)"."""
    around = f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else ""
    return f"{100 * share:.1f} %{around}"
