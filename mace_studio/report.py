"""The result of an evaluation: its parts, and how it is written as Markdown, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from PIL import Image

from mace_studio.errors import FileError
from mace_studio.recipe import Recipe

ERASED, SYNONYM, KEPT = "erased", "synonym", "kept"
ROLES = {ERASED: "Efficacy", SYNONYM: "Generality", KEPT: "Specificity"}
ALL = "all"  # the word of the row of a whole role
SPILLS = 10  # kept words that are told as those that suffered most
TALLY = ("correct", "count", "top1", "top1_low", "top1_high", "probability", "low", "high")


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

    def summary(self) -> str:
        """What it draws, in words."""
        return (
            f"{len(self.probes)} prompts with {len(self.seeds)} seeds and {len(self.captions)} general captions, "
            f"before and after: {self.images:,} images, {self.forwards:,} UNet forwards"
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


def markdown(report: Report) -> str:
    """The report in Markdown, to be read without the page."""
    plan, kinds = report.plan, sorted({concept.kind for concept in report.recipe.concepts})
    lines = [
        f"# {report.recipe.title()}: before and after",
        "",
        f"Model {report.model}, recipe {report.recipe.digest()}, {len(report.recipe.concepts)} concepts "
        f"({', '.join(kinds)}). {plan.images} images of {plan.steps} steps at guidance {plan.guidance:g}, seeds "
        f"{plan.seeds[0]} to {plan.seeds[-1]}, the same before and after.",
        "",
        f"Judge: {report.judge}, choosing among {len(report.labels)} answers: {', '.join(report.labels)}.",
        "",
        *_harmonic_lines(report),
        "## Accuracy",
        "",
        "Top-1 is how often the right answer was the most probable one; p is its mean probability, which the paper "
        "calls accuracy. Intervals are of 95 %: Wilson's for top-1, bootstrap for p. Of what is erased and of its "
        "synonyms (generality) low is good; of what is kept, high.",
        "",
        "| | word | images | top-1 before | top-1 after | p before | p after | pixel change |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_line(row) for row in report.rows),
        "",
        *_quality_lines(report.quality),
        *_spill_lines(report.spill_over()),
    ]
    return "\n".join(lines).rstrip() + "\n"


def table(report: Report) -> str:
    """The rows as CSV, shares from 0 to 1."""
    file = io.StringIO()
    writer = csv.writer(file)
    sides = [f"{name}_{side}" for side in ("before", "after") for name in TALLY]
    writer.writerow(["role", "word", "pixel_change", *sides])
    for row in report.rows:
        cells = [cell for tally in (row.before, row.after) for cell in _cells(tally)]
        writer.writerow([row.role, row.word, f"{row.change:.4f}", *cells])
    return file.getvalue()


def as_json(report: Report) -> str:
    """Everything but the images."""
    about = {key: value for key, value in vars(report).items() if key not in ("rows", "recipe", "plan", "quality")}
    about["recipe"] = json.loads(report.recipe.to_json())
    about["plan"] = asdict(report.plan)
    about["quality"] = None if report.quality is None else asdict(report.quality)
    about["rows"] = [
        {"role": r.role, "word": r.word, "before": asdict(r.before), "after": asdict(r.after), "change": r.change}
        for r in report.rows
    ]
    return json.dumps(about, indent=1, ensure_ascii=False) + "\n"


def write(report: Report, folder: Path) -> list[Path]:
    """Write `report.md`, `report.json` and `scores.csv`.

    Raises:
        FileError: a file cannot be written.
    """
    texts = {"report.md": markdown(report), "report.json": as_json(report), "scores.csv": table(report)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise FileError(f"{folder} could not be written: {error.strerror or error}. Choose another folder.") from error
    return [folder / name for name in texts]


def percent(share: float, interval: tuple[float, float] | None = None) -> str:
    """Such as "98.0 %" or "98.0 % (93.0 to 99.4)"."""
    around = f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else ""
    return f"{100 * share:.1f} %{around}"


def _harmonic_lines(report: Report) -> list[str]:
    if not report.harmonic:
        return []
    said = ", ".join(f"{name} **{percent(value)}**" for name, value in report.harmonic.items())
    return [f"{said}. These are harmonic means of what is gone and what is kept; high is good.", ""]


def _line(row: Row) -> str:
    cells = [
        ROLES[row.role],
        f"**{row.word}**" if row.word == ALL else row.word,
        str(row.after.count),
        percent(row.before.top1, row.before.top1_interval),
        percent(row.after.top1, row.after.top1_interval),
        percent(row.before.probability, row.before.interval),
        percent(row.after.probability, row.after.interval),
        f"{row.change:.1f}",
    ]
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _quality_lines(quality: Quality | None) -> list[str]:
    if quality is None:
        return []
    return [
        "## Everything else",
        "",
        f"{quality.count} general captions, original against erased: KID {quality.kid:.4f} and FID {quality.fid:.2f} "
        f"({quality.features}; FID grows as the number of images shrinks), mean cosine distance of the features "
        f"{quality.feature_change:.4f}, mean pixel change {quality.pixel_change:.1f} of 255.",
        "",
    ]


def _spill_lines(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    lines = ["## What suffered most", "", "| word | loss of probability | pixel change |", "| --- | --- | --- |"]
    for row in rows[:SPILLS]:
        loss = max(0.0, row.before.probability - row.after.probability)
        lines.append(f"| {row.word} | {percent(loss)} | {row.change:.1f} |")
    return lines


def _cells(tally: Tally) -> list[str]:
    numbers = [tally.top1, *tally.top1_interval, tally.probability, *tally.interval]
    return [str(tally.correct), str(tally.count), *(f"{number:.6f}" for number in numbers)]
