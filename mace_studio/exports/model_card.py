"""The model card of an export, in Markdown with the front matter that the hub reads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mace_studio.evaluation.report import ALL, ERASED, KEPT, SYNONYM, harmonic_from, percent
from mace_studio.exports.formats import FORMATS
from mace_studio.recipe import Recipe
from mace_studio.text_files import markdown

ROLES = {ERASED: "erased", SYNONYM: "synonyms of it", KEPT: "kept"}
LIMITS = (
    "An erased concept comes up far less often; that it never does has not been shown. A file that is loaded beside a "
    "base model erases nothing once it is taken out again, and whoever has the base model has the concept."
)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a card says beside the recipe.

    Attributes:
        format: a key of `formats.FORMATS`.
        file: name of the file or folder.
        base: what to call the base model.
        on_hub: whether that is a hub id.
        fingerprint: of the base model.
        licence: what the base model's card calls its licence, or None.
        versions: of the packages that made the erasure.
        warnings: of the erasure.
        residuals: layer -> rank, and the share of the difference that a LoRA leaves out; empty for other formats.
        image: name of an image beside the card, before and after in rows, or None.
        rows: one sentence for each of its rows.
        scores: from `scores`, or nothing.
    """

    format: str
    file: str
    base: str
    on_hub: bool
    fingerprint: str
    licence: str | None
    versions: Mapping[str, str]
    warnings: Sequence[str] = ()
    residuals: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    image: str | None = None
    rows: Sequence[str] = ()
    scores: Sequence[str] = ()


OTHER_THAN_TEXT = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")  # to YAML


def licence_note(base: str, licence: str | None) -> str:
    """Whose licence holds, in words."""
    if licence is None:
        return (
            f"The weights come from {base}. Its licence is not stated beside it: look it up before you share this; "
            "its terms hold here too."
        )
    return f"The weights come from {base}, whose licence is {licence}; its terms, also those of use, hold here too."


def write(recipe: Recipe, facts: Facts) -> str:
    """The whole card."""
    front = [f"license: {_yaml(facts.licence or 'other')}", "pipeline_tag: text-to-image"]
    front += [f"base_model: {_yaml(facts.base)}"] if facts.on_hub else []
    front += ["library_name: diffusers"] if FORMATS[facts.format].folder else []
    concepts = [f"| {markdown(c.phrase)} | {markdown(c.mapping)} | {c.kind} |" for c in recipe.concepts]
    sections = [
        "\n".join(["---", *front, "tags:", "- concept-erasure", "---"]),
        f"# {markdown(recipe.title())}, erased from {markdown(facts.base)}",
        FORMATS[facts.format].usage.format(file=facts.file.replace("`", "'")),
        *_images(facts),
        "## What was erased",
        "\n".join(["| concept | generated instead | kind |", "| --- | --- | --- |", *concepts]),
        *(["Kept: " + ", ".join(markdown(phrase) for phrase in recipe.preserve) + "."] if recipe.preserve else []),
        *(f"- {markdown(warning)}" for warning in facts.warnings),
        *_residuals(facts),
        *facts.scores,
        "## Limits",
        LIMITS,
        "## Licence",
        markdown(licence_note(facts.base, facts.licence)),
        "## How it was made",
        f"With MACE Studio, from a base model of the fingerprint `{facts.fingerprint}`. Versions: "
        + ", ".join(markdown(f"{name} {number}") for name, number in facts.versions.items())
        + ". The recipe, which `python -m mace_studio erase` runs again:",
        f"```json\n{recipe.to_json().strip()}\n```",
    ]
    return "\n\n".join(sections) + "\n"


def _yaml(text: str) -> str:
    """A text as a value of YAML, which reads every string of JSON."""
    plain = " ".join(text.split())
    simple = re.fullmatch(r"[A-Za-z][\w./-]*", plain) and plain.lower() not in OTHER_THAN_TEXT
    return plain if simple else json.dumps(plain)


def scores(about: Mapping) -> list[str]:
    """The section on what was measured.

    Args:
        about: what `report_files.as_json` of this version or the one before wrote.

    Raises:
        KeyError, TypeError, IndexError, ValueError, AttributeError: it is something else.
    """
    plan, quality = about["plan"], about.get("quality")
    rows = [
        f"| {ROLES[row['role']]} | {row['after']['count']} | {_share(row['before'])} | {_share(row['after'])} |"
        for row in about["rows"]
        if row["word"] == ALL
    ]
    table = ["| | images | recognised before | recognised after |", "| --- | --- | --- | --- |", *rows]
    figures = [f"{markdown(mean.name)}: {percent(mean.value)}." for mean in harmonic_from(about.get("harmonic", ()))]
    if quality:
        figures.append(f"KID of {quality['count']} general captions, before against after: {quality['kid']:.4f}.")
    judged = (
        f"By {markdown(about['judge'])} among {len(about['labels'])} answers, images of {plan['steps']} steps, seeds "
        f"{plan['seeds'][0]} to {plan['seeds'][-1]}; top-1 with intervals of 95 % (Wilson)."
    )
    return ["## What was measured", judged, "\n".join(table), " ".join(figures)]


def _share(tally: Mapping) -> str:
    low, high = tally["top1_interval"]
    return percent(tally["correct"] / tally["count"], (low, high))


def _images(facts: Facts) -> list[str]:
    if facts.image is None:
        return []
    rows = "\n".join(f"{i}. {markdown(row)}" for i, row in enumerate(facts.rows, 1))
    return ["## Before and after", f"![The same prompts and seeds before and after]({facts.image})", rows]


def _residuals(facts: Facts) -> list[str]:
    if not facts.residuals:
        return []
    rows = [f"| {layer} | {rank} | {share:.2%} |" for layer, (rank, share) in facts.residuals.items()]
    table = "\n".join(["| layer | rank | left out |", "| --- | --- | --- |", *rows])
    worst = max(share for _, share in facts.residuals.values())
    summary = f"Of each layer's difference (Frobenius norm) the LoRA leaves out at most {worst:.2%}."
    return ["## What the LoRA leaves out", summary, table]
