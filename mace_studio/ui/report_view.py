"""What the page shows of evaluations, as escaped HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from mace_studio.report import ALL, KEPT, ROLES, Report, Row, Tally, percent
from mace_studio.ui.files import picture_url

EMPTY = '<p class="hint">Nothing is measured yet.</p>'
SPILLED = 6
SHOWN = 4
LOW_IS_GOOD = {role: role != KEPT for role in ROLES}


def table(rows: Iterable[Row]) -> str:
    """The rows so far, each with bars and intervals before and after."""
    lines = "".join(_line(row) for row in rows)
    head = "".join(
        f"<th scope='col'>{title}</th>" for title in ("", "Word", "Before", "After", "p before → after", "Pixel change")
    )
    return f'<table class="scores"><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>' if lines else EMPTY


def headline(reports: Sequence[Report]) -> str:
    """The accuracies and harmonic means of each report, one line each."""
    names = list(dict.fromkeys(name for report in reports for name in report.harmonic))
    lines = "".join(_summary(report, names) for report in reports)
    titles = ["Erased model", *ROLES.values(), *names, "KID"]
    head = "".join(f"<th scope='col'>{html.escape(title)}</th>" for title in titles)
    return f'<table class="scores is-summary"><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>'


def spill_over(report: Report) -> str:
    """The kept words that suffered most, with their images."""
    parts = "".join(_spilled(row) for row in report.spill_over()[:SPILLED])
    return f'<div class="spills">{parts}</div>' if parts else '<p class="hint">The recipe keeps nothing by name.</p>'


def judged(report: Report) -> str:
    """Who judged, and what was drawn."""
    quality = report.quality
    lines = [f"Judge: {report.judge}, choosing among {', '.join(report.labels)}."]
    if quality is not None:
        lines.append(
            f"{quality.count} general captions, original against erased: KID {quality.kid:.4f}, FID {quality.fid:.2f} "
            f"({quality.features}), mean pixel change {quality.pixel_change:.1f} of 255."
        )
    return "".join(f'<p class="hint">{html.escape(line)}</p>' for line in lines)


def _summary(report: Report, names: Sequence[str]) -> str:
    pooled = [report.pooled(role) for role in ROLES]
    shares = ["" if row is None else percent(row.after.top1, row.after.top1_interval) for row in pooled]
    means = [percent(report.harmonic[name]) if name in report.harmonic else "" for name in names]
    kid = "" if report.quality is None else f"{report.quality.kid:.4f}"
    cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in [*shares, *means, kid])
    return f'<tr><th scope="row">{html.escape(report.recipe.title())}</th>{cells}</tr>'


def _line(row: Row) -> str:
    kind = "is-all" if row.word == ALL else ""
    word = "all" if row.word == ALL else row.word
    move = f"{row.before.probability:.2f} → {row.after.probability:.2f}"
    good = "low is good" if LOW_IS_GOOD[row.role] else "high is good"
    return (
        f'<tr class="{kind}"><td>{ROLES[row.role]}<small>{good}</small></td><th scope="row">{html.escape(word)}</th>'
        f"<td>{_bar(row.before, 'is-before')}</td><td>{_bar(row.after, 'is-after')}</td><td>{move}</td>"
        f"<td>{row.change:.1f}</td></tr>"
    )


def _bar(tally: Tally, side: str) -> str:
    """The top-1 accuracy as a bar with its interval."""
    low, high = (100 * end for end in tally.top1_interval)
    return (
        f'<span class="score {side}"><i style="width:{100 * tally.top1:.1f}%"></i>'
        f'<em style="left:{low:.1f}%;width:{high - low:.1f}%"></em></span>{percent(tally.top1, tally.top1_interval)}'
    )


def _spilled(row: Row) -> str:
    loss = max(0.0, 100 * (row.before.probability - row.after.probability))
    pictures = "".join(
        f'<img src="{picture_url(pair[side])}" alt="{html.escape(row.word)} {name}">'
        for side, name in enumerate(("before", "after"))
        for pair in row.images[:SHOWN]
    )
    return (
        f"<figure><figcaption><b>{html.escape(row.word)}</b> {loss:.1f} points lost · pixel change {row.change:.1f}"
        f'</figcaption><div class="spill-images">{pictures}</div></figure>'
    )
