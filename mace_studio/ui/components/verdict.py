"""A look at a few images of an erasure, as escaped HTML: images before and after, and what the judge counted."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

from mace_studio.evaluation.plan import ERASED, FIRST_SEED, KEPT, NEIGHBOUR, SYNONYM
from mace_studio.evaluation.report import ALL, Row
from mace_studio.recipe import Recipe
from mace_studio.ui.components.files import png_url

TITLES = {ERASED: "Erased", SYNONYM: "Synonym", KEPT: "Kept", NEIGHBOUR: "Not on your list"}
NAMED, SHOWN = 3, 4
LOST = 0.25  # of the judge's probability: from here on a word counts as changed
LEFT = 0.5  # of the judge's probability of what was to go: from here on it is told what to do
NOTHING = '<p class="hint">The judge knows none of these words.</p>'


def figures(rows: Sequence[Row]) -> str:
    """The first image of the first word of each role, before and after, with the judge's probabilities."""
    words = [row for row in rows if row.word != ALL]
    first = {row.role: row for row in reversed(words) if row.role != NEIGHBOUR}
    shown = [first[role] for role in TITLES if role in first]
    shown += changed(words)[:1]
    return f'<div class="outcome">{"".join(map(_figure, shown))}</div>'


def verdict(rows: Sequence[Row], recipe: Recipe | None = None) -> str:
    """One line: how often the judge still sees what, and which words that are not on the list changed.

    Args:
        rows: of the words that were looked at.
        recipe: of the erasure, to say of how many words these are some.
    """
    return _line("Of a few images the judge sees", rows, lambda some: f"in {_count(some)}", recipe)


def probabilities(rows: Sequence[Row], recipe: Recipe | None = None) -> str:
    """The same with a judge's mean probabilities, for one that chooses among the words that it is asked about."""
    return _line("The judge’s probability:", rows, _probability, recipe)


def _line(begins: str, rows: Sequence[Row], figure: Callable[[Sequence[Row]], str], recipe: Recipe | None) -> str:
    words = [row for row in rows if row.word != ALL]
    parts = []
    erased = [row for row in words if row.role == ERASED]
    for row in erased[:NAMED]:
        parts.append(f"<b>{html.escape(row.word)}</b> {figure([row])}")
    for role, name in ((SYNONYM, "synonyms"), (KEPT, "kept")):
        if found := [row for row in words if row.role == role]:
            parts.append(f"{name} {figure(found)}")
    beyond = [row for row in words if row.role == NEIGHBOUR]
    if beyond:
        lost = ", ".join(html.escape(row.word) for row in changed(words))
        looked = f"{len(beyond)} looked at, none changed"
        parts.append(f"not on your list: {f'<b>{lost}</b> changed' if lost else looked}")
    if not parts:
        return NOTHING
    if recipe is not None and (some := _some(words, recipe)):
        parts.append(some)
    return f'<p class="verdict" role="status">{begins} {" · ".join(parts)}</p>'


def advice(rows: Sequence[Row], recipe: Recipe) -> str:
    """What to do where much of what was to go is still seen, or kept phrases suffer; "" where neither is so.

    Args:
        rows: of the words that were looked at.
        recipe: of the erasure.
    """
    words = [row for row in rows if row.word != ALL]
    gone = [row for row in words if row.role in (ERASED, SYNONYM)]
    kept = [row for row in words if row.role == KEPT]
    if gone and _sum(gone, "after") >= LEFT * _sum(gone, "before") > 0:
        said, end, settings = "Much of what was to go is still seen", "Thorough", "stronger"
    elif kept and _sum(kept, "before") - _sum(kept, "after") >= LOST * len(kept):
        said, end, settings = "Kept phrases suffer", "Gentle", "weaker"
    else:
        return ""
    how = f"Give the method {settings} settings, or choose another"
    if recipe.method == "mace":
        how = f"Move the strength towards {end} in the Simple view"
    return f'<p class="hint">{said}. {how}, and erase again.</p>'


def _sum(rows: Sequence[Row], side: str) -> float:
    return sum(getattr(row, side).probability for row in rows)


def _some(words: Sequence[Row], recipe: Recipe) -> str:
    """Such as "2 of 3 concepts looked at"; "" where none of the recipe's words was left out."""
    listed = {
        ERASED: ("concepts", len(recipe.concepts)),
        SYNONYM: ("synonyms", sum(len(concept.synonyms) for concept in recipe.concepts)),
        KEPT: ("kept phrases", len(recipe.kept)),
    }
    seen = {role: sum(row.role == role for row in words) for role in listed}
    parts = [f"{seen[role]} of {count} {name}" for role, (name, count) in listed.items() if seen[role] < count]
    return f"{', '.join(parts)} looked at" if parts else ""


def ranks(rows: Sequence[Row]) -> str:
    """Every neighbour with its counts and images, those that lost most first."""
    ordered = sorted(rows, key=lambda row: row.before.probability - row.after.probability, reverse=True)
    lost = {row.word for row in changed(rows)}
    lines = "".join(_rank(row, row.word in lost) for row in ordered)
    return f'<div class="spills">{lines}</div>'


def _rank(row: Row, fell: bool) -> str:
    pictures = "".join(
        f'<img src="{png_url(pair[side])}" alt="{html.escape(row.word)} {name}">'
        for side, name in enumerate(("before", "after"))
        for pair in row.images[:SHOWN]
    )
    said = "changed" if fell else "as before"
    return (
        f"<figure{' data-changed' if fell else ''}><figcaption><b>{html.escape(row.word)}</b> {said} · "
        f"seen in {_count([row])} · pixel change {row.change:.1f} · {seeds(row)}</figcaption>"
        f'<div class="spill-images">{pictures}</div></figure>'
    )


def seeds(row: Row, forms: int = 1) -> str:
    """Of the images that are shown; every look and evaluation of the page begins with the same seed.

    Args:
        row: of a word.
        forms: prompts that there are of it; its images are one of each, and then those of the next seed.
    """
    last = FIRST_SEED + max(0, min(SHOWN, len(row.images)) - 1) // forms
    return f"seed {FIRST_SEED}" if last == FIRST_SEED else f"seeds {FIRST_SEED} to {last}"


def changed(rows: Sequence[Row]) -> list[Row]:
    """Words that are neither erased nor kept and that the judge sees less, those that lost most first."""
    lost = {id(row): row.before.probability - row.after.probability for row in rows if row.role == NEIGHBOUR}
    found = [row for row in rows if lost.get(id(row), 0.0) >= LOST]
    return sorted(found, key=lambda row: lost[id(row)], reverse=True)


def _count(rows: Sequence[Row]) -> str:
    """Such as "0 of 8 (8 before)"."""
    after, before = (
        sum(tally.correct for tally in side) for side in ([r.after for r in rows], [r.before for r in rows])
    )
    count = sum(row.after.count for row in rows)
    return f"{after} of {count} ({before} before)"


def _probability(rows: Sequence[Row]) -> str:
    """Such as "3 % (91 % before)"."""
    after, before = (100 * _sum(rows, side) / len(rows) for side in ("after", "before"))
    return f"{after:.0f} % ({before:.0f} % before)"


def _figure(row: Row) -> str:
    before, after = row.images[0]
    good = "should fall" if row.role in (ERASED, SYNONYM) else "should stay"
    word, was, now = html.escape(row.word), 100 * row.before.probability, 100 * row.after.probability
    return (
        f"<figure><figcaption>{TITLES[row.role]}: {word} · seed {FIRST_SEED}</figcaption>"
        f'<img src="{png_url(before)}" alt="{word}, before">'
        f'<img src="{png_url(after)}" alt="{word}, after"><p>judge: {was:.0f} % → {now:.0f} %; {good}</p>'
        "</figure>"
    )
