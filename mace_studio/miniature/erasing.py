"""The half of `faithful` that erases: the only module of the miniature that imports the studio, for that command.

What the studio measures is put here into the words of `faithful`, so that one table has both halves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mace_studio.evaluation import faithful as studio
from mace_studio.miniature.faithful import Finding, share
from mace_studio.miniature.judge import Judge
from mace_studio.miniature.vocabulary import PEOPLE_TO_ERASE, PEOPLE_TO_KEEP
from mace_studio.sd.model import load


def findings(
    source: Path, judge: Judge, stages: Sequence[int], fusions: Sequence[int], mass: Sequence[int],
    cache: Path | None, device: str = "cpu",
) -> Iterator[Finding]:  # fmt: skip
    """Stages, both fusions at several learning rates, and mass, measured.

    Args:
        source: folder of the model.
        judge: names whom an image shows.
        stages: numbers of people for the third behaviour.
        fusions: numbers of people for the curves of the two fusions.
        mass: numbers of people for the fourth.
        cache: folder of training images and Grams.
        device: where the model computes, in float32.
    """
    model = load(str(source), device, "float32")
    people = studio.People(
        erased=PEOPLE_TO_ERASE, kept=PEOPLE_TO_KEEP, names=lambda images: judge.names(images, "thing")
    )
    for number in stages:
        rows = {}
        for row in studio.stages(model, people, number, cache):
            rows[row.done] = row
            yield from _row(f"3. stages, {number} people", row, "the order of the paper's Table 4")
        for wanted, held in studio.verdicts(rows).items():
            yield Finding(
                behaviour=f"3. stages, {number} people", measured=wanted, value="", count=number, wanted="", held=held
            )
    for number in fusions:
        behaviour, curve = f"3. fusions, {number} people", []
        for row in studio.fusions(model, people, number, cache):
            curve.append(row)
            yield from _row(behaviour, row, "the closed form keeps more where both erase alike")
        yield Finding(
            behaviour=behaviour, measured="the closed form's best H_c is the higher one", value="", count=number,
            wanted="", held=studio.closed_form_ahead(curve),
        )  # fmt: skip
    for number in mass:
        ours = studio.own_tokens(studio.settings_for(number))
        for row in (
            studio.plain(model, people, number, cache),
            studio.full(model, people, number, cache),
            studio.full(model, people, number, cache, ours),
        ):
            yield from _row(f"4. mass, {number} people", row, "kept people are lost by a plain map as numbers grow")


def _row(behaviour: str, row: studio.Measured, wanted: str) -> Iterator[Finding]:
    fall = "" if row.fall is None else f", loss -{row.fall:.0%}"
    for measured, (right, count) in (("Acc_e", row.erased), ("Acc_s", row.kept)):
        yield Finding(
            behaviour=behaviour, measured=f"{row.done}: {measured}", value=share(right, count), count=count,
            wanted=wanted,
        )  # fmt: skip
    yield Finding(
        behaviour=behaviour, measured=f"{row.done}: H_c{fall}", value=f"{row.h_c:.1%}", count=row.kept[1], wanted=wanted
    )
