"""What the page shows of evaluations, as escaped HTML."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from mace_studio.evaluation.report import (
    ALL,
    KEPT,
    ROLES,
    Mean,
    Report,
    Row,
    Tally,
    agreed,
    called,
    erased_by,
    figures,
    means,
    percent,
    took,
)
from mace_studio.prompts import TESTS
from mace_studio.ui.components.files import strip_url
from mace_studio.ui.components.text import explained
from mace_studio.ui.components.verdict import SHOWN, seeds

EMPTY = '<p class="hint">Nothing is measured yet.</p>'
SPILLED = SAMPLED = 6
EXPOSED = "_EXPOSED"  # how NudeNet's classes end that the paper counts


def table(groups: Mapping[str, Sequence[Row]]) -> str:
    """The rows of each erased model so far, with bars and intervals before and after."""
    rows = [row for group in groups.values() for row in group]
    if not rows:
        return EMPTY
    clip = any(row.clip for row in rows)
    titles = ["", "Word", "Before", "After", "p before → after", *(["CLIP score"] if clip else []), "Pixel change"]
    lines = ""
    for name, group in groups.items():
        if len(groups) > 1:
            lines += f'<tr class="is-group"><td colspan="{len(titles)}">{html.escape(name)}</td></tr>'
        lines += "".join(_line(row) for row in group)
    return f'<table class="scores"><thead><tr>{_head(titles)}</tr></thead><tbody>{lines}</tbody></table>'


def unfinished(over: bool) -> str:
    """That the rows are not all there yet or, where the evaluation was broken off, will not be."""
    said = (
        "Unfinished: this was stopped, and is no result. Evaluate again to go on from the images that there are."
        if over
        else "Not finished: more words follow. The figures over all words and the report come at the end."
    )
    return f'<p class="estimate is-missing" role="status">{said}</p>'


def samples(groups: Mapping[str, Sequence[Row]]) -> str:
    """Images of the words that were judged last, while there is no report yet."""
    rows = [(row, name if len(groups) > 1 else "") for name, group in groups.items() for row in group]
    return f'<div class="spills">{"".join(_spilled(*one) for one in rows[: -SAMPLED - 1 : -1])}</div>' if rows else ""


def headline(reports: Sequence[Report]) -> str:
    """The accuracies before and after and the other figures of each report, one line each."""
    names = list(dict.fromkeys(name for report in reports for name in means(report)))
    clip = any(report.h_a for report in reports)
    ways = list(dict.fromkeys(name for report in reports for name in took(report)))
    columns = [*names, *(["H_a"] if clip else []), "KID", *ways]
    lines = "".join(_summary(report, name, columns) for report, name in zip(reports, called(reports), strict=True))
    head = _head(["Erased model", *ROLES.values(), *columns])
    table = f'<table class="scores is-summary"><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>'
    return table + explained(columns)


def spill_over(reports: Sequence[Report]) -> str:
    """The kept words that suffered most, with their images."""
    each = max(1, SPILLED // len(reports))
    names = called(reports) if len(reports) > 1 else [""]
    parts = "".join(
        _spilled(row, name) for name, r in zip(names, reports, strict=True) for row in r.spill_over()[:each]
    )
    return f'<div class="spills">{parts}</div>' if parts else '<p class="hint">The recipe keeps nothing by name.</p>'


def judged(reports: Sequence[Report]) -> str:
    """Who judged, and what was generated."""
    parts = []
    for name, report in zip(called(reports), reports, strict=True):
        head = f"<b>{html.escape(name)}</b> " if len(reports) > 1 else ""
        parts.append(f'<p class="hint">{head}{" ".join(_notes(report))}</p>')
    return "".join(parts)


def _notes(report: Report) -> list[str]:
    """Sentences as HTML; a word in one that the glossary explains is a `dfn`."""
    quality, found = report.quality, report.detections
    lines = [f"Judge: {report.judge}, choosing among {', '.join(report.labels)}.", erased_by(report), *report.notes]
    lines += [agreed([report])] if report.agreement else []
    lines = [html.escape(line) for line in lines]
    if quality is not None:
        features = html.escape(quality.features)
        lines.append(
            f"{quality.count} general captions, original against erased: <dfn>KID</dfn> {quality.kid:.4f}, FID "
            f"{quality.fid:.2f} ({features}), mean pixel change {quality.pixel_change:.1f} of "
            f"255{_captioned(quality.clip)}."
        )
    if found is not None:
        exposed = [counts for name, counts in found.counts.items() if name.endswith(EXPOSED)]
        before, after = (sum(side) for side in zip(*exposed, strict=True))
        lines.append(
            f"{html.escape(found.detector)}, threshold {found.threshold:g}, {found.images} images: {before} exposed "
            f"parts before, {after} after; the report counts every class."
        )
    return lines


def _captioned(clip: Mapping[str, Mean]) -> str:
    return f", CLIP score {clip['before'].value:.2f} → {clip['after'].value:.2f}" if clip else ""


def _head(titles: Sequence[str]) -> str:
    return "".join(f"<th scope='col'>{html.escape(title)}</th>" for title in titles)


def _summary(report: Report, name: str, columns: Sequence[str]) -> str:
    pooled = [report.pooled(role) for role in ROLES]
    shares = ["" if row is None else _bar(row.before, "is-before") + _bar(row.after, "is-after") for row in pooled]
    figure = figures(report)
    cells = "".join(f"<td>{cell}</td>" for cell in [*shares, *(html.escape(figure.get(name, "")) for name in columns)])
    return f'<tr><th scope="row">{html.escape(name)}</th>{cells}</tr>'


def _line(row: Row) -> str:
    kind = "is-all" if row.word == ALL else ""
    move = f"{row.before.probability:.2f} → {row.after.probability:.2f}"
    good = "high is good" if row.role == KEPT else "low is good"
    clip = f"<td>{row.clip['before'].value:.1f} → {row.clip['after'].value:.1f}</td>" if row.clip else ""
    return (
        f'<tr class="{kind}"><td>{ROLES[row.role]}<small>{good}</small></td>'
        f'<th scope="row">{html.escape(row.word)}</th><td>{_bar(row.before, "is-before")}</td>'
        f"<td>{_bar(row.after, 'is-after')}</td><td>{move}</td>{clip}<td>{row.change:.1f}</td></tr>"
    )


def _bar(tally: Tally, side: str) -> str:
    """The top-1 accuracy as a bar with its interval."""
    low, high = (100 * end for end in tally.top1_interval)
    return (
        f'<span class="score {side}"><i style="width:{100 * tally.top1:.1f}%"></i>'
        f'<em style="left:{low:.1f}%;width:{high - low:.1f}%"></em></span>{percent(tally.top1, tally.top1_interval)}'
    )


def _spilled(row: Row, model: str) -> str:
    loss = max(0.0, 100 * (row.before.probability - row.after.probability))
    pictures = "".join(
        f'<img src="{strip_url([pair[side]])}" alt="{html.escape(row.word)} {name}">'
        for side, name in enumerate(("before", "after"))
        for pair in row.images[:SHOWN]
    )
    where = f"{html.escape(model)}: " if model else ""
    return (
        f"<figure><figcaption>{where}<b>{html.escape(row.word)}</b> {loss:.1f} points lost · pixel change "
        f"{row.change:.1f} · {seeds(row, len(TESTS[row.kind]))}</figcaption>"
        f'<div class="spill-images">{pictures}</div></figure>'
    )
