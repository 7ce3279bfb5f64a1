"""The result of an evaluation, in its parts. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mace_studio.evaluation.plan import ERASED, KEPT, NEIGHBOUR, SYNONYM, Plan
from mace_studio.methods import find
from mace_studio.recipe import Recipe
from mace_studio.spent import Spent, gigabytes

if TYPE_CHECKING:
    from PIL.Image import Image

ROLES = {ERASED: "Efficacy", SYNONYM: "Generality", KEPT: "Specificity"}
TOP1, PROBABILITY = "top-1", "mean probability"
ALL = "all"  # the word of the row of a whole role


@dataclass(frozen=True)
class Harmonic:
    """A harmonic mean of how much of the erased is gone and how much of the kept is still there (Eq. 8, 9); 1 is best.

    Attributes:
        metric: "H_o", with the synonyms, or "H_c", without.
        over: what it is the mean of: "top-1" or "mean probability".
        value: 0 to 1.
    """

    metric: str
    over: str
    value: float

    @property
    def name(self) -> str:
        return f"{self.metric}, {self.over}"


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
class Row:
    """One word, or all words of a role, before and after.

    Attributes:
        role: "erased", "synonym", "kept" or "neighbour".
        word: of the probes; "all" for the role as a whole.
        kind: of the prompts; "" for the role as a whole.
        before, after: tallies over the same prompts and seeds.
        change: mean absolute change of a pixel value, 0 to 255.
        feature_change: mean cosine distance of the judge's features, 0 to 2.
        clip: "before" and "after" -> CLIP score of the images with their prompts, cosine times 100; empty without a
            CLIP.
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
    images: tuple[tuple[Image, Image], ...] = ()


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of an evaluation.

    Attributes:
        name: of the erasure.
        recipe: of the erasure.
        judge: name of the judge.
        labels: what the judge chose among.
        plan: what was generated.
        rows: every word, and after the words of a role the role as a whole.
        harmonic: of the accuracies; none where nothing was erased or nothing kept.
        h_a: "before" and "after" -> CLIP_s - CLIP_e; empty but for styles that CLIP has judged.
        quality: of images that have nothing to do with the erasure; None without general captions.
        detections: of nudity; None where nothing explicit was erased or no detector is installed.
        notes: how to read it, in sentences.
        model: name of the base model.
        fingerprint: of the base model.
        second: name of the second judge; "" without one.
        agreement: in how many images the second judge finds what the judge finds, and in how many the judge finds one
            of the words at all, before and after; None without a second judge.
        spent: what the run took that made the erasure; None where that is not known.
        beyond: a look at a few images of neighbours that the recipe neither erases nor keeps, by a plan of its own;
            None where nobody looked.
    """

    name: str
    recipe: Recipe
    judge: str
    labels: tuple[str, ...]
    plan: Plan
    rows: tuple[Row, ...]
    harmonic: tuple[Harmonic, ...]
    h_a: dict[str, float]
    quality: Quality | None
    detections: Detections | None
    notes: tuple[str, ...]
    model: str
    fingerprint: str
    second: str = ""
    agreement: tuple[int, int] | None = None
    spent: Spent | None = None
    beyond: Report | None = None

    @property
    def neighbours(self) -> list[Row]:
        """The words of `beyond`, those that suffered most first."""
        return self.beyond.spill_over() if self.beyond else []

    def pooled(self, role: str) -> Row | None:
        """The row of a role as a whole, or None where the plan has no such words."""
        return pooled(self.rows, role)

    def mean(self, over: str) -> float | None:
        """The harmonic mean over "top-1" or "mean probability"; None where there is none."""
        return next((mean.value for mean in self.harmonic if mean.over == over), None)

    def spill_over(self) -> list[Row]:
        """The kept words and those that are neither erased nor kept, those that suffered most first."""
        kept = [row for row in self.rows if row.role in (KEPT, NEIGHBOUR) and row.word != ALL]
        return sorted(kept, key=lambda r: (r.before.probability - r.after.probability, r.change), reverse=True)


def pooled(rows: Sequence[Row], role: str) -> Row | None:
    """The row of a role as a whole, or None where there is none."""
    return next((row for row in rows if row.role == role and row.word == ALL), None)


def means(report: Report) -> dict[str, str]:
    """Column title -> cell of each harmonic mean, such as "H, top-1" -> "H_o 98.0 %"."""
    return {f"H, {mean.over}": f"{mean.metric} {percent(mean.value)}" for mean in report.harmonic}


def took(report: Report) -> dict[str, str]:
    """Column title -> cell: the method, and what its run took as far as that is known."""
    cells = {"Method": find(report.recipe.method).title}
    if (spent := report.spent) is not None:
        cells["Seconds per concept"] = f"{spent.seconds / len(report.recipe.concepts):.2f}"
        if spent.memory is not None:
            cells["Peak memory"] = gigabytes(spent.memory)
    return cells


def erased_by(report: Report) -> str:
    """The same in a sentence, with the device."""
    method, *known = took(report).values()
    if report.spent is None:
        return f"Erased by {method}."
    memory = f", peak memory {known[1]}" if len(known) > 1 else ""
    where = f" on {report.spent.where}" if report.spent.where else ""
    return f"Erased by {method}{where}: {known[0]} s per concept{memory}."


def figures(report: Report) -> dict[str, str]:
    """Column title -> cell of what a line of a table says of a report beside its accuracies."""
    cells = means(report) | took(report)
    if report.h_a:
        cells["H_a"] = f"{report.h_a['after']:.2f}"
    if report.quality is not None:
        cells["KID"] = f"{report.quality.kid:.4f}"
    return cells


def agreed(reports: Sequence[Report]) -> str:
    """How far two judges agree over some reports, in a sentence; "" where there is no second judge."""
    from mace_studio.core.scores import wilson  # noqa: PLC0415 - torch, which is loaded where images were judged

    counts = [report.agreement for report in reports if report.agreement is not None]
    same, of = (sum(pair[i] for pair in counts) for i in (0, 1))
    if not of:
        return ""
    return (
        f"Of {of} images in which the judge finds one of the words, {percent(same / of, wilson(same, of))} show the "
        f"same word to a second judge, {reports[0].second}, which must choose one."
    )


def harmonic_from(data: Any) -> tuple[Harmonic, ...]:
    """Harmonic means as JSON holds them; version 0.1 wrote {"H_o, top-1": 0.98}.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is something else.
    """
    if isinstance(data, Mapping):
        names = {name: name.split(", ", 1) for name in data}
        return tuple(Harmonic(metric, over, float(data[name])) for name, (metric, over) in names.items())
    return tuple(Harmonic(str(mean["metric"]), str(mean["over"]), float(mean["value"])) for mean in data)


def called(reports: Sequence[Report]) -> list[str]:
    """A name for each report: its recipe's title, with the method where titles are alike, else the erasure's name."""
    titles = [report.recipe.title() for report in reports]
    ways = [f"{title} · {find(report.recipe.method).title}" for title, report in zip(titles, reports, strict=True)]
    for names in (titles, ways):
        if len(set(names)) == len(names):
            return names
    return [report.name for report in reports]


def percent(share: float, interval: tuple[float, float] | None = None) -> str:
    """Such as "98.0 %" or "98.0 % (93.0 to 99.4)"."""
    around = f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else ""
    return f"{100 * share:.1f} %{around}"
