"""A report written as Markdown, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mace_studio.errors import FileError
from mace_studio.report import ALL, ROLES, Quality, Report, Row, Tally, percent

SPILLS = 10  # kept words that are told as those that suffered most
TALLY = ("correct", "count", "top1", "top1_low", "top1_high", "probability", "low", "high")


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
