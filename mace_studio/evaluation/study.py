"""Studies: many erasures of the built-in model, each made and measured, in one table as the paper has them.

An erasure that is in the folder already is not made again, and no image is generated twice, so a study that was cut
short goes on where it was.

For the terminal: `run(rows, size, folder, first_seed=FIRST_SEED, progress=silent) -> list[Outcome]` with rows from
`cases(name, base)`; to cancel, the callback raises `Cancelled`. What needs torch is imported by `run`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from mace_studio import methods, text_files
from mace_studio.errors import RecipeError, StudioError
from mace_studio.evaluation import scaling
from mace_studio.evaluation.plan import ERASED, FIRST_SEED, KEPT, SYNONYM, Plan, make_plan
from mace_studio.evaluation.report import PROBABILITY, TOP1, Report, agreed, percent
from mace_studio.paths import BUILT_IN
from mace_studio.presets import known_kinds, presets
from mace_studio.progress import Progress, silent, timed
from mace_studio.progress import Report as Callback
from mace_studio.recipe import Recipe
from mace_studio.settings import KeepWeights
from mace_studio.spent import Spent, from_json
from mace_studio.text_files import markdown as plain

if TYPE_CHECKING:
    from mace_studio.erasure import Erasure
    from mace_studio.sd.model import Model

SEARCH_SEED = 50_000  # far from the seeds of the evaluations that follow a search
GENERAL, PRESERVE, RATES = (1e-6, 3e-5, 1e-3), (0.1, 1.0, 10.0), (1e-3, 3e-3)
ABLATED = 20  # people
STEPS = 12  # of an image of the built-in model, as in the evaluation in its card
HEAD = (
    "| | concepts | Acc_e | Acc_g | Acc_s | Acc_s before | H, top-1 | H, mean p | seconds | worst kept | condition "
    "| forwards |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


@dataclass(frozen=True)
class Case:
    """One row of a study.

    Attributes:
        label: what the row says.
        recipe: what is erased, and how.
        guidance: of all images that are measured; None takes that of the recipe's training images.
    """

    label: str
    recipe: Recipe
    guidance: float | None = None


@dataclass(frozen=True)
class Outcome:
    """The result of a case.

    Attributes:
        case: the row.
        report: its evaluation, or None where it failed.
        seconds: that the erasure took, in this run or the one that made it; None where no study made it.
        memory: the most bytes that were held then, see `sd.metering`; None where that is not known.
        problem: why it failed, in a sentence.
        condition: the largest condition number of its solves, or None where there is none.
        forwards: samples through the UNet for training images and LoRAs, counted; None for other methods than MACE.
    """

    case: Case
    report: Report | None
    _: KW_ONLY
    seconds: float | None = None
    memory: int | None = None
    problem: str = ""
    condition: float | None = None
    forwards: int | None = None


def cases(name: str, base: str = "cat", only: Sequence[str] = ()) -> list[Case]:
    """The rows of a study.

    Args:
        name: of `STUDIES`.
        base: the preset that a search varies.
        only: texts, of which a row's label must have one in it; all rows when empty.

    Raises:
        RecipeError: there is no such study, preset or row.
    """
    own = {p.name.removeprefix("miniature/"): p.recipe for p in presets() if p.name.startswith("miniature/")}
    own = {name: recipe for name, recipe in own.items() if "/" not in name}
    for field, value, choices in (("study", name, STUDIES), ("preset", base, own)):
        if value not in choices:
            raise RecipeError(field, f"“{value}” is not known; use one of {', '.join(choices)}.")
    return some(list(STUDIES[name](own, base)), only)


def some(rows: Sequence[Case], only: Sequence[str]) -> list[Case]:
    """The rows of which the label has one of some texts in it; all where there is no text.

    Raises:
        RecipeError: none has.
    """
    found = [row for row in rows if not only or any(text in row.label for text in only)]
    if not found:
        raise RecipeError("only", f"No row has that in its name; the rows are {', '.join(row.label for row in rows)}.")
    return found


def run(
    rows: Sequence[Case],
    size: str,
    folder: Path,
    first_seed: int = FIRST_SEED,
    progress: Callback = silent,
    *,
    erase: Callable[..., Erasure] = methods.erase,
    evaluate: Callable[..., list[Report]] | None = None,
) -> list[Outcome]:
    """Make and measure each case with the built-in model.

    Rows of one method share training images and sums over captions; no method gains seconds from what another made.

    Args:
        rows: from `cases`.
        size: of the plan, "quick" or "full".
        folder: of erasures, with a cache of images beside them.
        first_seed: of the images of the evaluations.
        progress: told of the rows; a row's label is the stage, and its own stage and phrase are the concept. The result
            of a row's last event is its `Outcome`.
        erase, evaluate: as of `runtime.machines.Machines`; None measures here, with the model's own judge.

    Returns:
        An outcome of each row, also of one that cannot be erased or measured.
    """
    # Here, since they take seconds to import and the terminal asks for `STUDIES` at every start.
    from mace_studio import erasure as erasure_file  # noqa: PLC0415
    from mace_studio.evaluation.evaluate import Case as Measured  # noqa: PLC0415
    from mace_studio.methods.mace import train_loras  # noqa: PLC0415
    from mace_studio.sd import model as sd_model  # noqa: PLC0415

    # In float32 everywhere, so that tables made on a GPU compare with those made without one.
    model = sd_model.load(str(BUILT_IN), dtype="float32")
    cache, measure = folder / "cache", evaluate or _measured
    report = timed(progress, {case.label: 1.0 for case in rows})

    def outcome(case: Case) -> Outcome:
        def half(before: float, part: Progress) -> None:
            phrase = f"{part.stage} {part.concept}".strip()
            report(Progress(case.label, phrase, step=before + part.fraction / 2, total=1))

        recipe = case.recipe
        path, spent = _erased(model, recipe, folder, erase, partial(half, 0.0))
        erasure = erasure_file.load(path)
        asked = [Measured(path.stem, erasure, _plan(model, case, size, first_seed))]
        (found,) = measure(model, asked, None, cache, partial(half, 0.5))
        condition = max(erasure.conditions.values(), default=None)
        forwards = train_loras.forwards(model, erasure.recipe, erasure.loras) if recipe.method == "mace" else None
        seconds, memory = (spent.seconds, spent.memory) if spent else (None, None)
        return Outcome(case, found, seconds=seconds, memory=memory, condition=condition, forwards=forwards)

    outcomes = []
    for case in rows:
        try:
            outcomes.append(outcome(case))
        except StudioError as error:
            outcomes.append(Outcome(case, None, problem=str(error)))
        report(Progress(case.label, step=1, total=1, result=outcomes[-1]))
    return outcomes


def _measured(model: Model, cases: Sequence[Any], judge: None, cache: Path, progress: Callback) -> list[Report]:
    from mace_studio.evaluation import evaluate  # noqa: PLC0415
    from mace_studio.sd import judges  # noqa: PLC0415

    return evaluate.evaluate(model, cases, judges.choose(model, judge), cache, progress)


def _plan(model: Model, case: Case, size: str, first_seed: int) -> Plan:
    """What is generated of a row; no general captions, of which no table of a study tells."""
    from mace_studio.sd import sampling  # noqa: PLC0415

    plan = make_plan(case.recipe, size, steps=STEPS, first_seed=first_seed, kinds=known_kinds())
    return sampling.with_defaults(model, replace(plan, guidance=case.guidance or plan.guidance))


def _erased(
    model: Model, recipe: Recipe, folder: Path, erase: Callable[..., Erasure], progress: Callback
) -> tuple[Path, Spent | None]:
    """The file of an erasure, made where it is not there yet, and what this took if that is known."""
    from mace_studio import erasure as erasure_file  # noqa: PLC0415 - torch

    path = erasure_file.file_in(folder, recipe, recipe.digest(), model.fingerprint)
    times = path.with_suffix(".seconds")
    if not path.is_file():
        own = folder / "cache" if recipe.method == "mace" else folder / "cache" / recipe.method
        erasure = erase(model, recipe, progress, own)
        text_files.write(times, json.dumps(erasure.spent and asdict(erasure.spent)))
        erasure.save(path)
    return path, from_json(text_files.note(times))


def markdown(title: str, outcomes: Sequence[Outcome], averaged: bool = False) -> str:
    """The table of a study, and how its numbers were measured.

    Args:
        title: of the table.
        outcomes: its rows.
        averaged: whether the mean of the harmonic means says anything, as it does over the ten objects.
    """
    reports = [outcome.report for outcome in outcomes if outcome.report is not None]
    lines = [f"# {title}", "", HEAD, *(_line(outcome) for outcome in outcomes)]
    if averaged and reports:
        means = ([report.mean(over) for report in reports] for over in (TOP1, PROBABILITY))
        h_top1, h_p = (mean(value for value in values if value is not None) for values in means)
        lines.append(f"| average | | | | | | {percent(h_top1)} | {percent(h_p)} | | | | |")
    if reports:
        plan, report = reports[0].plan, reports[0]
        lines += [
            "",
            f"Judged by the {report.judge}: Acc_e (erased), Acc_g (its synonyms) and Acc_s (kept) are top-1 accuracies "
            "after the erasure with Wilson's 95 % intervals; low is good for the first two, high for the last. H is "
            "H_o (Eq. 8) where synonyms were tested, else H_c (Eq. 9); p is the mean probability of the right answer. "
            f"{len(plan.seeds)} seeds from {plan.seeds[0]}, {plan.steps} steps, guidance {plan.guidance:g}, model "
            f"{report.fingerprint[:12]}. Seconds are those of the erasure alone; training images that an earlier row "
            "generated are not generated again. Worst kept: the kept word that suffered most, and its accuracy.",
            *(["", agreed(reports)] if agreed(reports) else []),
        ]
    return "\n".join(lines) + "\n"


def _line(outcome: Outcome) -> str:
    count = len(outcome.case.recipe.concepts)
    if outcome.report is None:
        return f"| {plain(outcome.case.label)} | {count} | {plain(str(outcome.problem))} | | | | | | | | | |"
    rows = [outcome.report.pooled(role) for role in (ERASED, SYNONYM, KEPT)]
    shares = ["" if row is None else percent(row.after.top1, row.after.top1_interval) for row in rows]
    before = "" if rows[-1] is None else percent(rows[-1].before.top1)
    means = [outcome.report.mean(over) for over in (TOP1, PROBABILITY)]
    harmonic = ["" if value is None else percent(value) for value in means]
    seconds = "" if outcome.seconds is None else f"{outcome.seconds:.1f}"
    suffered = outcome.report.spill_over()
    worst = f"{plain(suffered[0].word)} {percent(suffered[0].after.top1)}" if suffered else ""
    condition = "" if outcome.condition is None else f"{outcome.condition:.1e}"
    forwards = "" if outcome.forwards is None else f"{outcome.forwards:,}"
    cells = [*shares, before, *harmonic, seconds, worst, condition, forwards]
    return f"| {plain(outcome.case.label)} | {count} | {' | '.join(cells)} |"


Presets = dict[str, Recipe]


def _objects(own: Presets, base: str) -> Iterator[Case]:
    for name, recipe in own.items():
        if [concept.kind for concept in recipe.concepts] == ["object"]:
            yield Case(name, recipe)


def _people(own: Presets, base: str) -> Iterator[Case]:
    for name in ("people-1", "people-5", "people-10", "people-100"):
        yield Case(name, own[name])


def _others(own: Presets, base: str) -> Iterator[Case]:
    for name in ("artists-20", "weapons", "mixed"):
        yield Case(name, own[name])


def _ablation(own: Presets, base: str) -> Iterator[Case]:
    """Table 4, and LoRAs at own tokens alone, which are ours."""
    ours = _some(own, ABLATED)
    whole = ours.with_settings(lora=replace(ours.settings.lora, own_tokens=False))
    uniform = whole.with_settings(lora=replace(whole.settings.lora, uniform=True))
    yield Case("refinement only", whole.with_settings(lora=replace(whole.settings.lora, steps=0)))
    yield Case("+ LoRA, weighted sum, uniform t", uniform.with_settings(fusion="weighted-sum"))
    yield Case("+ LoRA, closed form, uniform t", uniform)
    yield Case("all, with importance sampling", whole)
    yield Case("all, at own tokens alone", whole.with_settings(lora=replace(whole.settings.lora, own_tokens=True)))


def _keys_values(own: Presets, base: str) -> Iterator[Case]:
    """Table 11."""
    whole = _some(own, ABLATED)
    for tune, steps in (("key", 50), ("value", 50), ("value", 25), ("value", 10), ("both", 50)):
        yield Case(
            f"{tune}, {steps} steps", whole.with_settings(lora=replace(whole.settings.lora, tune=tune, steps=steps))
        )


def _some(own: Presets, count: int) -> Recipe:
    """The first of 100 people, with the settings for ten."""
    name, concepts = f"{count} {'person' if count == 1 else 'people'}", own["people-100"].concepts[:count]
    return replace(own["people-10"], concepts=concepts, name=name, about="")


def _scaling(own: Presets, base: str) -> Iterator[Case]:
    for count in (1, 2, 5, 10, 20, 50):
        # A seed of its own, so that no row finds training images of another and the seconds compare.
        less = replace(_some(own, count), seed=count)
        yield Case(less.name, less)


def _mass(own: Presets, base: str) -> Iterator[Case]:
    """Figure 5's axes, over many methods."""
    for label, recipe in scaling.recipes(own["people-100"]):
        yield Case(label, recipe)


def _fast(own: Presets, base: str) -> Iterator[Case]:
    """What is lost by training in fewer forwards."""
    for label, recipe in scaling.quicker(own):
        yield Case(label, recipe)


def _search(own: Presets, base: str) -> Iterator[Case]:
    """Every combination of the keep weights and the learning rate."""
    recipe = own[base]
    for general, preserve, rate in product(GENERAL, PRESERVE, RATES):
        keep = KeepWeights(general, preserve)
        label = f"λ1 = λ2 = {general:g}, λ3 = {preserve:g}, rate {rate:g}"
        yield Case(
            label, recipe.with_settings(refine=keep, fuse=keep, lora=replace(recipe.settings.lora, learning_rate=rate))
        )


STUDIES: dict[str, Callable[[Presets, str], Iterator[Case]]] = {
    "objects": _objects,
    "people": _people,
    "others": _others,
    "ablation": _ablation,
    "keys-values": _keys_values,
    "scaling": _scaling,
    "mass": _mass,
    "fast": _fast,
    "search": _search,
}
