"""The study of methods: all on the same tasks, in the layout of the paper's Tables 10, 3 and 4.

For the terminal: `cases(task, methods, only)` gives the rows that `study.run` makes and measures, `markdown` their
tables. `methods_search` looks for the settings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from statistics import fmean
from typing import Any

from mace_studio import presets, text_files
from mace_studio.errors import RecipeError
from mace_studio.evaluation.plan import ERASED, KEPT, SYNONYM
from mace_studio.evaluation.report import PROBABILITY, TOP1, Report, Tally, agreed, percent
from mace_studio.evaluation.study import Case, Outcome
from mace_studio.methods import METHODS, find
from mace_studio.methods.settings import PUBLISHED
from mace_studio.recipe import Recipe
from mace_studio.spent import gigabytes

TASKS = ("objects", "people", "artists", "weapons", "mixed")
COUNTS = (1, 5, 10, 50, 100)  # of people, Table 3
FORMS = {"esd": ("x", "u")}  # method -> values of `select` that papers compare as methods of their own
FOLDER = "methods"  # in presets/miniature: a recipe for each method, with the settings of a search
MANY = 100  # from so many people on OCE has other published settings
UNREAD = "†"


def subjects(task: str) -> dict[str, Recipe]:
    """What a task erases: name -> MACE's preset of it. Of people, the first of the largest preset, as many as it has,
    with the settings of the preset of that number.

    Raises:
        RecipeError: there is no such task.
    """
    own = {p.name.removeprefix("miniature/"): p.recipe for p in presets.presets() if p.name.startswith("miniature/")}
    own = {name: recipe for name, recipe in own.items() if "/" not in name}
    if task not in TASKS:
        raise RecipeError("task", f"“{task}” is not known; use one of {', '.join(TASKS)}.")
    if task == "objects":
        return {name: r for name, r in own.items() if [concept.kind for concept in r.concepts] == ["object"]}
    prefix = task if task in ("weapons", "mixed") else f"{task}-"
    sizes = {len(recipe.concepts): recipe for name, recipe in own.items() if name.startswith(prefix)}
    largest = sizes[max(sizes)]
    if task != "people":
        return {task: largest}
    return {
        f"{count} {'person' if count == 1 else 'people'}": replace(
            largest,
            concepts=largest.concepts[:count],
            settings=sizes.get(count, largest).settings,
            name=f"{count} people",
            about="",
        )
        for count in COUNTS
        if count <= len(largest.concepts)
    }


def cases(task: str, names: Sequence[str] = (), only: Sequence[str] = ()) -> list[Case]:
    """The rows of the study, subject by subject.

    Args:
        task: of `TASKS`.
        names: of methods, such as "esd", or of one of its `FORMS`, such as "esd-x"; all of them when empty.
        only: some of the task's subjects; all of them when empty.

    Raises:
        RecipeError: one of these is not known.
    """
    found = subjects(task)
    for subject in only:
        if subject not in found:
            raise RecipeError("only", f"“{subject}” is not in this task; use some of {', '.join(found)}.")
    return [
        Case(f"{subject} · {title(recipe)}", recipe, guidance(found[subject]))
        for subject in only or found
        for name in names or METHODS
        for recipe in _variants(found[subject], name)
    ]


def title(recipe: Recipe) -> str:
    """What a row calls its method, with its form where it has several: ESD-x and ESD-u.

    MACE is the published one, or with LoRAs at own tokens alone, which are ours.
    """
    own = recipe.method == "mace" and recipe.settings.lora.own_tokens
    return find(recipe.method).title + (", own tokens" if own else f"-{form}" if (form := form_of(recipe)) else "")


def form_of(recipe: Recipe) -> str:
    """Of `FORMS`; empty where the method has one."""
    return recipe.settings.select if recipe.method in FORMS else ""


def _variants(recipe: Recipe, name: str) -> list[Recipe]:
    """A preset of MACE by each form of a method; by MACE as published, and as in the preset where that differs."""
    method, _, form = name.rpartition("-")
    if form in FORMS.get(method, ()):
        return [with_method(recipe, method, form)]
    if name in FORMS:
        return [with_method(recipe, name, form) for form in FORMS[name]]
    made = with_method(recipe, name)
    if name != "mace" or not recipe.settings.lora.own_tokens:
        return [made]
    return [made.with_settings(lora=replace(made.settings.lora, own_tokens=False)), recipe]


def guidance(recipe: Recipe) -> float:
    """Of all images of a subject, whatever the method: that of MACE's preset."""
    return recipe.settings.images.guidance


def with_method(recipe: Recipe, name: str, form: str = "") -> Recipe:
    """MACE's preset of a subject as a recipe of another method, in one of its forms where it has several.

    The settings are those of a search over the same kinds, from presets/miniature/methods; else the published ones for
    the kind; else the method's defaults. Of MACE they are the preset's own where no search has others.
    """
    kinds = {concept.kind for concept in recipe.concepts}
    for preset in presets.presets():
        own = preset.recipe
        alike = own.method == name and {c.kind for c in own.concepts} == kinds and form in ("", form_of(own))
        if f"/{FOLDER}/" in preset.name and alike:
            return replace(recipe, method=name, settings=own.settings)
    if name == "mace":
        return recipe
    settings = first_settings(recipe, name)
    return replace(recipe, method=name, settings=replace(settings, select=form) if form else settings)


def first_settings(recipe: Recipe, name: str) -> Any:
    """Published settings, with the images of the method made as those of MACE's preset."""
    kinds = {concept.kind for concept in recipe.concepts}
    (kind,) = kinds if len(kinds) == 1 else ("",)
    published = PUBLISHED.get(name, {})
    if name == "oce" and kind == "celebrity":
        kind = "celebrity, 100" if len(recipe.concepts) >= MANY else "celebrity, 10"
    settings = published.get(kind) or find(name).settings()
    if name == "uce":  # the form that the paper of MACE compares with
        settings = replace(settings, form="tail")
    if name == "mace-free":  # the same closed forms, so the same weights
        settings = replace(settings, refine=recipe.settings.refine, fuse=recipe.settings.fuse)
    if name == "speed" and kind == "object":
        settings = replace(settings, anchor="mapping")
    own = {part.name for part in fields(settings)}
    for part in ("image_guidance", *(["guidance"] if name == "sld" else [])):
        if part in own:
            settings = replace(settings, **{part: guidance(recipe)})
    return settings


# The tables


def markdown(heading: str, task: str, outcomes: Sequence[Outcome]) -> str:
    """The tables of a study: the average over all subjects of objects, and each subject.

    Args:
        heading: of the page.
        task: of `TASKS`.
        outcomes: of its cases.
    """
    groups = by_subject(outcomes)
    lines = [f"# {heading}", ""]
    if task == "objects" and len(groups) > 1:
        lines += ["## Average", "", *_table(_averages(groups)), ""]
    for subject, group in groups.items():
        rows = [(title(o.case.recipe), o.case.recipe, [o]) for o in group]
        lines += [f"## {subject}", "", *_table(rows), ""]
    reports = [outcome.report for outcome in outcomes if outcome.report is not None]
    return "\n".join([*lines, *(_notes(reports) if reports else [])]) + "\n"


def by_subject(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Subject -> its rows."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.case.label.rpartition(" · ")[0], []).append(outcome)
    return groups


Line = tuple[str, Recipe, list[Outcome]]  # method, one recipe of it, its outcomes over the subjects


def _averages(groups: Mapping[str, list[Outcome]]) -> list[Line]:
    found: dict[str, list[Outcome]] = {}
    for outcome in (one for group in groups.values() for one in group):
        found.setdefault(title(outcome.case.recipe), []).append(outcome)
    return [(name, own[0].case.recipe, own) for name, own in found.items()]


def _table(lines: Sequence[Line]) -> list[str]:
    usual = next((spent for _, r, own in lines if r.method == "mace" and (spent := _seconds(own)) is not None), None)
    styles = any(o.report is not None and o.report.h_a for _, _, own in lines for o in own)
    head = ["method", "Acc_e", "Acc_s", "Acc_g", "H", "H, mean p", *(["H_a"] if styles else []), "images e / s / g"]
    head += ["seconds per concept", "times MACE", "peak memory"]
    rows = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    measured = [(name, recipe, [o for o in own if o.report is not None], own) for name, recipe, own in lines]
    if shown := next((kept for _, _, kept, _ in measured if kept), None):
        cells = [_share(tally(shown, role, "before")) for role in (ERASED, KEPT, SYNONYM)]
        before = [f"{shown[0].report.h_a['before']:.2f}"] if styles and shown[0].report else []
        cells += ["", "", *before] + [""] * 4
        rows.append(f"| original model | {' | '.join(cells)} |")
    for name, recipe, kept, own in measured:
        mark = "" if "preserve" in find(recipe.method).reads else f" {UNREAD}"
        if not kept:
            rows.append(f"| {name}{mark} | {text_files.markdown(own[0].problem)} |{' |' * (len(head) - 2)}")
            continue
        tallies = [tally(kept, role) for role in (ERASED, KEPT, SYNONYM)]
        counts = " / ".join("0" if one is None else str(one.count) for one in tallies)
        means = [_mean(kept, over) for over in (TOP1, PROBABILITY)]
        spent = _seconds(kept)
        times = "" if spent is None or not usual else f"{spent / usual:.2g}"
        after = (
            [f"{o.report.h_a['after']:.2f}" for o in kept if o.report is not None and o.report.h_a] if styles else []
        )
        seconds = "" if spent is None else f"{spent:.2f}"
        memory = gigabytes(max((o.memory for o in kept if o.memory is not None), default=None))
        cells = [*map(_share, tallies), *means, *after, counts, seconds, times, memory]
        rows.append(f"| {name}{mark} | {' | '.join(cells)} |")
    return rows


def tally(outcomes: Sequence[Outcome], role: str, side: str = "after") -> Tally | None:
    """All images of a role over some outcomes, with Wilson's interval of all; None where there are none.

    The mean probability is the mean over the images, its interval that of the first outcome.
    """
    from mace_studio.core.scores import wilson  # noqa: PLC0415 - torch, which is loaded where images were judged

    rows = [row for o in outcomes if o.report is not None and (row := o.report.pooled(role)) is not None]
    own: list[Tally] = [getattr(row, side) for row in rows]
    if not own:
        return None
    correct, count = sum(one.correct for one in own), sum(one.count for one in own)
    return replace(
        own[0],
        correct=correct,
        count=count,
        top1_interval=wilson(correct, count),
        probability=sum(one.probability * one.count for one in own) / count,
    )


def _share(one: Tally | None) -> str:
    return "" if one is None else percent(one.top1, one.top1_interval)


def _mean(outcomes: Sequence[Outcome], over: str) -> str:
    values = [value for o in outcomes if o.report is not None and (value := o.report.mean(over)) is not None]
    return percent(fmean(values)) if values else ""


def _seconds(outcomes: Sequence[Outcome]) -> float | None:
    """Per concept, over all outcomes; None where one of them has no time."""
    spent = [outcome.seconds for outcome in outcomes if outcome.report is not None]
    if not spent or None in spent:
        return None
    return sum(filter(None, spent)) / sum(len(o.case.recipe.concepts) for o in outcomes if o.report is not None)


def _notes(reports: Sequence[Report]) -> list[str]:
    plan, report = reports[0].plan, reports[0]
    styles = " H_a is CLIP_s - CLIP_e of the CLIP that comes with the model."
    return [
        f"Judged by the {report.judge}. Acc_e (erased; low is good), Acc_s (kept; high is good) and Acc_g (synonyms; "
        "low is good) are top-1 accuracies after the erasure with Wilson's 95 % intervals; H is H_o (Eq. 8) of objects "
        "with synonyms, H_c (Eq. 9) of all else, an average the mean over the subjects."
        f"{styles * bool(report.h_a)} {UNREAD}: the method cannot read the keep list; all others were given the "
        f"same. {len(plan.seeds)} seeds from {plan.seeds[0]}, {plan.steps} steps, guidance {plan.guidance:g} for every "
        f"method, model {report.fingerprint[:12]}. Seconds are those of the erasure with its training images; a method "
        "finds only what it made itself for an earlier row. SLD and AdaVD take their time with every image instead. "
        "Peak memory is the most that was held while an erasure was made, the model among it; on a CPU it is that of "
        "the whole process.",
        *(["", agreed(reports)] if agreed(reports) else []),
    ]


def points(outcomes: Sequence[Outcome]) -> dict[str, list[tuple[str, Tally, Tally]]]:
    """Subject -> method, what is erased and what is kept; of several objects their average, as in Table 10."""
    groups = by_subject(outcomes)
    objects = all(o.case.recipe.concepts[0].kind == "object" for group in groups.values() for o in group)
    whole = {"average": list(outcomes)} if objects and len(groups) > 1 else groups
    found: dict[str, list[tuple[str, Tally, Tally]]] = {}
    for subject, group in whole.items():
        for name, _, own in _averages({subject: group}):
            erased, kept = tally(own, ERASED), tally(own, KEPT)
            if erased and kept:
                found.setdefault(subject, []).append((name, erased, kept))
    return found


def rows(outcomes: Sequence[Outcome]) -> Iterator[dict[str, Any]]:
    """The numbers of the tables as data, one line for each row."""
    for subject, group in by_subject(outcomes).items():
        for one in group:
            found = {role: tally([one], role) for role in (ERASED, KEPT, SYNONYM)}
            yield {
                "subject": subject,
                "method": one.case.recipe.method,
                "settings": json.loads(one.case.recipe.to_json())["settings"],
                "reads_keep_list": "preserve" in find(one.case.recipe.method).reads,
                "concepts": len(one.case.recipe.concepts),
                "seconds": one.seconds,
                "memory": one.memory,
                "problem": one.problem,
                "harmonic": {} if one.report is None else {over: one.report.mean(over) for over in (TOP1, PROBABILITY)},
            } | {role: t and {"correct": t.correct, "count": t.count, "p": t.probability} for role, t in found.items()}
