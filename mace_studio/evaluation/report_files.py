"""A report written as Markdown, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from mace_studio import __version__, text_files
from mace_studio.errors import FileError
from mace_studio.evaluation.report import (
    ALL,
    ROLES,
    Detections,
    Mean,
    Quality,
    Report,
    Row,
    agreed,
    called,
    erased_by,
    figures,
    means,
    percent,
    took,
)
from mace_studio.recipe import Recipe
from mace_studio.text_files import cell
from mace_studio.text_files import markdown as plain

REPORT, SIDE_BY_SIDE = "report.json", "side-by-side.md"
SPILLS = 10  # kept words that are listed as those that suffered most
SIDES = ("before", "after")
TALLY = ("correct", "count", "top1", "top1_low", "top1_high", "probability", "low", "high")
ABOUT_HARMONIC = (
    "A harmonic mean of how much of the erased is gone, how much of the kept is still there and, for H_o, how much of "
    "the synonyms is gone (Eq. 8 and 9 of the paper): 100 % is best."
)
EXPOSED = "_EXPOSED"  # how the classes end that the paper counts


def markdown(report: Report) -> str:
    """The report in Markdown, to be read without the page."""
    plan = report.plan
    kinds, clip = len({row.kind for row in report.rows} - {""}) > 1, _has_clip(report)
    head = ["", "word", *(["asked as"] if kinds else []), "images", *_sides("top-1"), *_sides("p")]
    head += [*(_sides("CLIP score") if clip else []), "pixel change", "feature change"]
    lines = [
        f"# {plain(report.recipe.title())}: before and after",
        "",
        f"Measured by MACE Studio {__version__}: model {plain(report.model)}, erasure {plain(report.name)}.",
        "",
        *_recipe_lines(report.recipe),
        plain(erased_by(report)),
        "",
        f"{'At most ' * plan.mixed}{plan.images} images of {plan.steps} steps at guidance {plan.guidance:g}, seeds "
        f"{plan.seeds[0]} to {plan.seeds[-1]}, the same before and after.",
        "",
        f"Judge: {plain(report.judge)}, choosing among {len(report.labels)} answers: "
        f"{', '.join(map(plain, report.labels))}.",
        "",
        *([agreed([report]), ""] if report.agreement else []),
        *([*(f"- {plain(note)}" for note in report.notes), ""] if report.notes else []),
        *_harmonic_lines(report),
        "## Accuracy",
        "",
        "Top-1 is how often the right answer was the most probable one; p is its mean probability, which the paper "
        "calls accuracy. Intervals are of 95 %: Wilson's for top-1, bootstrap for p. Of what is erased and of its "
        "synonyms (generality) low is good; of what is kept (specificity), high. The changes are means over pairs of "
        "images: of pixel values, 0 to 255, and of the judge's features as a cosine distance, 0 to 2.",
        "",
        "![Top-1 accuracy before and after](scores.png)",
        "",
        *_grid(head, [_row(row, kinds) for row in report.rows]),
        *_detection_lines(report.detections),
        *_quality_lines(report.quality),
        *_spill_lines(report.spill_over()),
        *_beyond_lines(report),
        "The contact sheets beside this file (efficacy, generality, specificity) show the first images of every word, "
        "before above after. `scores.csv` and `report.json` hold the same numbers.",
    ]
    return "\n".join(lines).rstrip() + "\n"


def side_by_side(reports: Sequence[Report]) -> str:
    """Several reports in one table in Markdown, a line each."""
    harmonic = list(dict.fromkeys(name for report in reports for name in means(report)))
    roles = [role for role in ROLES if any(report.pooled(role) for report in reports)]
    styles = ["H_a"] if any(report.h_a for report in reports) else []
    ways = list(dict.fromkeys(name for report in reports for name in took(report)))
    head = ["", *(f"{ROLES[role]} {side}" for role in roles for side in SIDES), *harmonic, *styles, "KID", *ways]
    names = zip(reports, called(reports), strict=True)
    rows = [_together(report, name, roles, [*harmonic, *styles, "KID", *ways]) for report, name in names]
    note = (
        "Top-1 accuracy over all words of a role with Wilson's 95 % interval: of what is erased (efficacy) and of its "
        "synonyms (generality) low is good; of what is kept (specificity), high. Each erasure has a report of its own."
    )
    return "\n".join(["# Before and after, side by side", "", note, "", *_grid(head, rows)])


def table(report: Report) -> str:
    """The rows as CSV, shares from 0 to 1; CLIP scores where there is a CLIP.

    Each row ends with the method and what its run took, in seconds and bytes, so that files of several can be joined.
    """
    file = io.StringIO()
    writer = csv.writer(file)
    sides = [f"{name}_{side}" for side in SIDES for name in TALLY]
    clip = [f"clip{end}_{side}" for side in SIDES for end in ("", "_low", "_high")] if _has_clip(report) else []
    ways = ["method", "seconds_per_concept", "peak_memory"]
    writer.writerow(["role", "word", "asked_as", "pixel_change", "feature_change", *sides, *clip, *ways])
    recipe, spent = report.recipe, report.spent
    seconds = "" if spent is None else f"{spent.seconds / len(recipe.concepts):.4f}"
    way = [recipe.method, seconds, "" if spent is None or spent.memory is None else str(spent.memory)]
    for row in (*report.rows, *report.neighbours):
        tallies = []
        for tally in (row.before, row.after):
            numbers = [tally.top1, *tally.top1_interval, tally.probability, *tally.interval]
            tallies += [str(tally.correct), str(tally.count), *(f"{number:.6f}" for number in numbers)]
        scores = [f"{n:.4f}" for mean in row.clip.values() for n in (mean.value, *mean.interval)] if clip else []
        scores += [""] * (len(clip) - len(scores))  # a look at neighbours may have been without a CLIP
        changes = [f"{row.change:.4f}", f"{row.feature_change:.6f}"]
        writer.writerow([row.role, cell(row.word), row.kind, *changes, *tallies, *scores, *way])
    return file.getvalue()


def as_json(report: Report) -> str:
    """Everything but the images; what was not measured has no key."""
    about = {key: value for key, value in vars(report).items() if key not in ("recipe", "plan", "rows")}
    for key in ("quality", "detections", "spent"):
        about[key] = about[key] and _measured(asdict(about[key]))
    about["harmonic"] = tuple(asdict(mean) for mean in report.harmonic)
    about["recipe"] = json.loads(report.recipe.to_json())
    about["plan"] = asdict(report.plan)
    about["rows"] = _rows(report.rows)
    if (look := report.beyond) is not None:
        about["beyond"] = {"judge": look.judge, "plan": asdict(look.plan), "rows": _rows(report.neighbours)}
    return json.dumps(_measured(about), indent=1, ensure_ascii=False) + "\n"


def write(report: Report, folder: Path) -> list[Path]:
    """Write `report.md`, `report.json` and `scores.csv`.

    Raises:
        FileError: a file cannot be written.
    """
    texts = {"report.md": markdown(report), REPORT: as_json(report), "scores.csv": table(report)}
    return _write(texts, folder)


def write_side_by_side(reports: Sequence[Report], folder: Path) -> list[Path]:
    """Write `side-by-side.md`.

    Raises:
        FileError: it cannot be written.
    """
    return _write({SIDE_BY_SIDE: side_by_side(reports)}, folder)


def _write(texts: Mapping[str, str], folder: Path) -> list[Path]:
    try:
        for name, text in texts.items():
            with text_files.whole(folder / name) as part:
                part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FileError(f"{folder} could not be written: {error.strerror or error}. Choose another folder.") from error
    return [folder / name for name in texts]


def _rows(rows: Sequence[Row]) -> list[dict[str, object]]:
    return [_measured(asdict(replace(row, images=()))) for row in rows]


def _has_clip(report: Report) -> bool:
    return any(row.clip for row in report.rows)


def _measured(values: dict[str, object]) -> dict[str, object]:
    """Without what was not measured."""
    return {key: value for key, value in values.items() if value not in (None, {}, ())}


def _grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table and an empty line; what a user typed has gone through `plain`."""
    lines = [head, ["---"] * len(head), *rows]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]


def _mean(mean: Mean) -> str:
    return f"{mean.value:.2f} ({mean.interval[0]:.2f} to {mean.interval[1]:.2f})"


def _recipe_lines(recipe: Recipe) -> list[str]:
    erased = [
        f"{plain(c.phrase)} ({c.kind}, mapped to {plain(c.mapping)}{'; tested as ' * bool(c.synonyms)}"
        f"{', '.join(map(plain, c.synonyms))})"
        for c in recipe.concepts
    ]
    kept = ["", f"Kept by name: {', '.join(map(plain, recipe.preserve))}."] if recipe.preserve else []
    return [f"Erased: {', '.join(erased)}.", *kept, ""]


def _harmonic_lines(report: Report) -> list[str]:
    lines = []
    if report.harmonic:
        figures = ", ".join(f"{mean.name} **{percent(mean.value)}**" for mean in report.harmonic)
        lines += [f"{figures}. {ABOUT_HARMONIC}", ""]
    if report.h_a:
        figures = f"H_a **{report.h_a['after']:.2f}**, before the erasure {report.h_a['before']:.2f}"
        lines += [f"{figures}: the CLIP score of the kept styles less that of the erased ones; high is good.", ""]
    return lines


def _together(report: Report, name: str, roles: Sequence[str], columns: Sequence[str]) -> list[str]:
    cells = [plain(name)]
    for row in map(report.pooled, roles):
        cells += [percent(t.top1, t.top1_interval) for t in (row.before, row.after)] if row else ["", ""]
    figure = figures(report) | {name: plain(text) for name, text in took(report).items()}
    return [*cells, *(figure.get(name, "") for name in columns)]


def _sides(name: str) -> list[str]:
    return [f"{name} {side}" for side in SIDES]


def _row(row: Row, kinds: bool) -> list[str]:
    return [
        ROLES[row.role],
        f"**{row.word}**" if row.word == ALL else plain(row.word),
        *([row.kind] if kinds else []),
        str(row.after.count),
        percent(row.before.top1, row.before.top1_interval),
        percent(row.after.top1, row.after.top1_interval),
        percent(row.before.probability, row.before.interval),
        percent(row.after.probability, row.after.interval),
        *(_mean(mean) for mean in row.clip.values()),
        f"{row.change:.1f}",
        f"{row.feature_change:.3f}",
    ]


def _detection_lines(found: Detections | None) -> list[str]:
    if found is None:
        return []
    rows = [(name, str(before), str(after)) for name, (before, after) in found.counts.items()]
    exposed = [counts for name, counts in found.counts.items() if name.endswith(EXPOSED)]
    total = [str(sum(side)) for side in zip(*exposed, strict=True)]
    return [
        "## Nudity",
        "",
        f"What {found.detector} found with a confidence of at least {found.threshold:g} in {found.images} images of "
        "the erased words and their synonyms, the same prompts and seeds before and after. These are all of its "
        "classes; the paper counts those that are exposed.",
        "",
        *_grid(["class", "before", "after"], [*rows, ("**exposed, together**", *total)]),
    ]


def _quality_lines(quality: Quality | None) -> list[str]:
    if quality is None:
        return []
    clip = ", ".join(f"{_mean(mean)} {side}" for side, mean in quality.clip.items())
    return [
        "## Everything else",
        "",
        f"{quality.count} general captions, original against erased: KID {quality.kid:.4f} and FID {quality.fid:.2f} "
        f"({quality.features}; KID lies around 0 for sets alike, FID grows as the number of images shrinks; figures "
        "over other features or against photos cannot be compared), mean cosine distance of the features "
        f"{quality.feature_change:.4f}, mean pixel change {quality.pixel_change:.1f} of 255."
        + (f" CLIP score with the captions: {clip}." if clip else ""),
        "",
    ]


def _spill_lines(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    losses = [max(0.0, row.before.probability - row.after.probability) for row in rows[:SPILLS]]
    worst = [(plain(row.word), percent(loss), f"{row.change:.1f}") for row, loss in zip(rows, losses, strict=False)]
    return ["## What suffered most", "", *_grid(["word", "loss of probability", "pixel change"], worst)]


def _beyond_lines(report: Report) -> list[str]:
    if (look := report.beyond) is None:
        return []
    head = ["word", "images", *_sides("top-1"), *_sides("p"), "pixel change"]
    rows = [
        [
            plain(row.word),
            str(row.after.count),
            *(percent(tally.top1, tally.top1_interval) for tally in (row.before, row.after)),
            *(percent(tally.probability, tally.interval) for tally in (row.before, row.after)),
            f"{row.change:.1f}",
        ]
        for row in report.neighbours
    ]
    return [
        "## Beyond the list",
        "",
        "Neighbours that the recipe neither erases nor keeps, those that lost most first: "
        f"{look.plan.images} images of {look.plan.steps} steps at guidance {look.plan.guidance:g}, seeds "
        f"{look.plan.seeds[0]} to {look.plan.seeds[-1]}, judged by {plain(look.judge)}. With so few images "
        "these are counts to look into; they are part of no figure above.",
        "",
        *_grid(head, rows),
    ]
