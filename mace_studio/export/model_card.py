"""The model card of an export, in Markdown with the front matter that the hub reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mace_studio.recipe import Recipe

USE = {
    "diffusers": "A whole model. `DiffusionPipeline.from_pretrained` of diffusers loads this folder, and so does "
    "InvokeAI. Of the weights, only the key and value projections under `unet/` differ from the base model.",
    "unet": "The changed weights alone, under the names of diffusers. Load the base model with diffusers, then "
    '`pipeline.unet.load_state_dict(safetensors.torch.load_file("{file}"), strict=False)`.',
    "lycoris": "The difference to the base model, exact up to rounding. ComfyUI, A1111 and InvokeAI load it like a "
    "LoRA, on top of the base model, at a strength of 1. `load_lora_weights` of diffusers does not read this kind.",
    "lora": "The difference to the base model as a LoRA, which leaves a part of it out (below). ComfyUI, A1111, "
    "InvokeAI and `load_lora_weights` of diffusers load it on top of the base model, at a strength of 1.",
    "checkpoint": "A whole model in one file, in the layout of the original checkpoints, for ComfyUI and A1111. Its "
    "metadata names the base model; programs that ask for a configuration take the base model's.",
}
WHAT = {"erased": "erased", "synonym": "synonyms of it", "kept": "kept"}
LIMITS = (
    "An erased concept comes up far less often; that it never does has not been shown. A file that is loaded beside a "
    "base model erases nothing once it is taken out again, and whoever has the base model has the concept."
)


@dataclass(frozen=True)
class Facts:
    """What a card says beside the recipe.

    Attributes:
        format, file: the format's name, and that of the file or folder.
        base, hub: what to call the base model, and whether that is a hub id.
        fingerprint: of the base model.
        licence: what the base model's card calls its licence, or None.
        versions: of the packages that made the erasure.
        warnings: of the erasure.
        residuals: layer -> share of the difference that a LoRA leaves out, and the rank.
        picture: name of a picture beside the card, or None, and what its rows show.
        rows: one sentence for each row.
        scores: from `scores`, or nothing.
    """

    format: str
    file: str
    base: str
    hub: bool
    fingerprint: str
    licence: str | None
    versions: Mapping[str, str]
    warnings: Sequence[str] = ()
    residuals: Mapping[str, tuple[int, float]] | None = None
    picture: str | None = None
    rows: Sequence[str] = ()
    scores: Sequence[str] = ()


def licence_note(base: str, licence: str | None) -> str:
    """Whose licence holds, in words."""
    if licence is None:
        return (
            f"The weights come from {base}. Its licence is not stated beside it: look it up before you share this; "
            "its terms hold here too."
        )
    return f"The weights come from {base}, whose licence is {licence}; its terms, also those of use, hold here too."


def with_residuals(facts: Facts, residuals: Mapping[str, tuple[int, float]]) -> Facts:
    """The same facts with what a LoRA leaves out, which is known only after it was made."""
    return replace(facts, residuals=residuals)


def write(recipe: Recipe, facts: Facts) -> str:
    """The whole card."""
    sections = [
        _front(facts),
        f"# {_plain(recipe.title())}, erased from {_plain(facts.base)}",
        USE[facts.format].format(file=facts.file),
        *_pictures(facts),
        "## What was erased",
        _concepts(recipe),
        *(["Kept: " + ", ".join(_plain(phrase) for phrase in recipe.preserve) + "."] if recipe.preserve else []),
        *(f"- {warning}" for warning in facts.warnings),
        *_residuals(facts),
        *facts.scores,
        "## Limits",
        LIMITS,
        "## Licence",
        licence_note(facts.base, facts.licence),
        "## How it was made",
        f"With MACE Studio, from a base model of the fingerprint `{facts.fingerprint}`. Versions: "
        + ", ".join(f"{name} {number}" for name, number in facts.versions.items())
        + ". The recipe, which `python -m mace_studio erase` runs again:",
        f"```json\n{recipe.to_json().strip()}\n```",
    ]
    return "\n\n".join(sections) + "\n"


def scores(about: Mapping) -> list[str]:
    """The section on what was measured.

    Args:
        about: what `report.as_json` wrote.

    Raises:
        KeyError, TypeError, IndexError: it is something else.
    """
    plan, quality = about["plan"], about["quality"]
    rows = [
        f"| {WHAT[row['role']]} | {row['after']['count']} | {_share(row['before'])} | {_share(row['after'])} |"
        for row in about["rows"]
        if row["word"] == "all"
    ]
    table = ["| | images | recognised before | recognised after |", "| --- | --- | --- | --- |", *rows]
    means = [f"{_plain(name)}: {100 * float(mean):.1f} %." for name, mean in about["harmonic"].items()]
    means += (
        [f"KID of {quality['count']} general captions, before against after: {quality['kid']:.4f}."] if quality else []
    )
    said = (
        f"By {_plain(about['judge'])} among {len(about['labels'])} answers, images of {plan['steps']} steps, seeds "
        f"{plan['seeds'][0]} to {plan['seeds'][-1]}; top-1 with intervals of 95 % (Wilson)."
    )
    return ["## What was measured", said, "\n".join(table), " ".join(means)]


def _share(tally: Mapping) -> str:
    low, high = tally["top1_interval"]
    return f"{100 * tally['correct'] / tally['count']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _front(facts: Facts) -> str:
    lines = [f"license: {facts.licence or 'other'}", "pipeline_tag: text-to-image"]
    lines += [f"base_model: {facts.base}"] if facts.hub else []
    lines += ["library_name: diffusers"] if facts.format == "diffusers" else []
    return "\n".join(["---", *lines, "tags:", "- concept-erasure", "---"])


def _concepts(recipe: Recipe) -> str:
    rows = [f"| {_plain(c.phrase)} | {_plain(c.mapping)} | {c.kind} |" for c in recipe.concepts]
    return "\n".join(["| concept | drawn instead | kind |", "| --- | --- | --- |", *rows])


def _pictures(facts: Facts) -> list[str]:
    if facts.picture is None:
        return []
    rows = "\n".join(f"{i}. {_plain(row)}" for i, row in enumerate(facts.rows, 1))
    return ["## Before and after", f"![The same prompts and seeds before and after]({facts.picture})", rows]


def _residuals(facts: Facts) -> list[str]:
    if not facts.residuals:
        return []
    rows = [f"| {layer} | {rank} | {share:.2%} |" for layer, (rank, share) in facts.residuals.items()]
    table = "\n".join(["| layer | rank | left out |", "| --- | --- | --- |", *rows])
    worst = max(share for _, share in facts.residuals.values())
    said = f"Of each layer's difference (Frobenius norm) the LoRA leaves out at most {worst:.2%}."
    return ["## What the LoRA leaves out", said, table]


def _plain(text: str) -> str:
    """A phrase that cannot break out of its place: no line break, no column, no markup."""
    flat = " ".join(text.split())
    return "".join("\\" + c if c in "\\`*_[]<>|#" else c for c in flat)
