"""The list of erased models and what the page says of them, of exports and of the base model."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import count
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import gradio as gr

from mace_studio import sources
from mace_studio.methods import METHODS
from mace_studio.paths import slug
from mace_studio.recipe import Recipe
from mace_studio.runtime.estimate import Estimate, Status, counted_as
from mace_studio.runtime.estimate import size as size_text
from mace_studio.runtime.library import Entry
from mace_studio.runtime.studio import Studio
from mace_studio.settings import KeepWeights
from mace_studio.ui.components.files import script
from mace_studio.ui.components.text import estimate, explained, number_text, pairs
from mace_studio.ui.components.text import warnings as warning_list
from mace_studio.ui.form import differences
from mace_studio.ui.tab import Newest

if TYPE_CHECKING:
    from mace_studio.exports.export import Exported

NAMED = 6
NONE_CHOSEN = '<p class="hint">Choose a model in the list to see what it is; choose several to compose them.</p>'
OTHER_BASE = "Made from another base model than the one that is loaded."
OTHER_PARTS = "Made from the same UNet beside another VAE or text encoder; images may differ in that."
OLDER = "Made by an older version, without its LoRAs: it cannot be composed."
LIST = """<div class="model-list"><table><thead><tr><th scope="col">Name</th><th scope="col">Erased</th>
<th scope="col" class="hide-phone">Scores</th><th scope="col" class="hide-phone">Size</th>
<th scope="col" class="hide-phone">Made</th></tr></thead><tbody></tbody></table>
<p class="hint">No erased model yet. The Erase tab makes one, or open a file.</p>
<ul class="warnings passed-over" aria-label="Files that are not listed" hidden></ul></div>"""
PASSED_OVER = 5  # files that are named

Wanted = tuple[int, Sequence[str]]  # the number of a request that models be chosen, and their names

NOTHING_WANTED: Wanted = (0, ())
_asked = count(1)


def model_list() -> gr.HTML:
    """The list with a checkbox for each model; its value is made by `value`."""
    return gr.HTML(
        {"rows": [], "passedOver": [], "wanted": NOTHING_WANTED, "chosen": []},
        label="Erased models",
        html_template=LIST,
        js_on_load=script(__file__),
        apply_default_css=False,
        elem_id="models",
    )


def erased_models(studio: Studio, newest: Newest, seen: int | None, chosen: str | None, *other: str) -> gr.Dropdown:
    """The choice of erased models; `other` choices come first.

    What was chosen stays, unless it is gone or the newest is another request than the one that was `seen`.
    """
    listed = choices(studio.entries())
    names = [name for _, name in listed]
    choice: str | None
    if seen == newest.asked and chosen in (*other, *names):
        choice = chosen
    else:
        choice = next((name for name in (newest.name, chosen, *names) if name in names), other[0] if other else None)
    return listing(gr.Dropdown, [*((one, one) for one in other), *listed], choice, chosen)


def listing(kind: Callable[..., Any], listed: Sequence[str | tuple[str, str]], value: Any, chosen: Any) -> Any:
    """An update of a choice's list, and of what is chosen only where that changes.

    Args:
        kind: of the component.
        listed: the choices, or (label, value) of each.
        value: what is to be chosen.
        chosen: what was chosen when the event happened; the user may have chosen something else since.
    """
    return kind(choices=listed) if value == chosen else kind(choices=listed, value=value)


def choices(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """(label, name) of each erased model; the label is such as "guitar, pizza · 17:53 · MACE".

    It begins with the file's name where the user gave it one.
    """
    now = datetime.now().date()
    labels = []
    for entry in entries:
        when = f"{entry.made:%H:%M}" if entry.made.date() == now else f"{entry.made:%d %b %H:%M}"
        title = entry.recipe.title()
        title = title if entry.name.startswith(slug(title)) else entry.name
        labels.append(f"{title} · {when} · {METHODS[entry.recipe.method].title}")
    return [
        (f"{label} · {entry.name}" if labels.count(label) > 1 else label, entry.name)
        for label, entry in zip(labels, entries, strict=True)
    ]


def called(studio: Studio, names: Sequence[str]) -> list[str]:
    """What the lists call erased models; one that is gone by its name."""
    labels = {name: label for label, name in choices(studio.entries())}
    return [labels.get(name, name) for name in names]


def rows(entries: Sequence[Entry], status: Status) -> list[dict[str, str]]:
    """What the list shows of each model."""
    return [
        {
            "name": entry.name,
            "erased": _few([concept.phrase for concept in entry.recipe.concepts]),
            "scores": "\n".join(f"{mean.name}: {100 * mean.value:.1f}\u00a0%" for mean in entry.scores),
            "size": size_text(entry.size),
            "made": f"{entry.made:%Y-%m-%d %H:%M}",
            "method": METHODS[entry.recipe.method].title,
            "note": _note(entry, status),
        }
        for entry in entries
    ]


def details(entry: Entry, status: Status, local: bool = False, made: Mapping[str, str] = MappingProxyType({})) -> str:
    """One model: what it erases, how, and what to know of it.

    Args:
        entry: the model.
        status: of the base model that is loaded.
        local: whether it is this machine's own user who asks, who is told where the file is.
        made: what was made from it, see `result_files.made_from`.
    """
    recipe, base = entry.recipe, f"fingerprint {entry.fingerprint[:8]}"
    if status.fingerprint:
        known = status.name if entry.fingerprint == status.fingerprint else "another one"
        base = f"{known} ({entry.fingerprint[:8]})"
    facts = [
        ("Erased", _few([f"{c.phrase} → {c.mapping}" for c in recipe.concepts])),
        ("Kept", _few(recipe.preserve) or "no list"),
        *_method(recipe),
        ("Seed", sources.shown(str(recipe.seed))),
        ("Base model", base),
        *([("File", str(entry.path))] if local else []),
        *made.items(),
        ("Size", size_text(entry.size)),
        ("Made", f"{entry.made:%Y-%m-%d %H:%M}"),
        *((mean.name, f"{100 * mean.value:.1f} %") for mean in entry.scores),
    ]
    notes = [note for note in (_note(entry, status), *entry.warnings) if note]
    return (
        f"<h2>{html.escape(entry.name)}</h2>{warning_list(notes)}{pairs(facts)}{explained(name for name, _ in facts)}"
    )


def _method(recipe: Recipe) -> list[tuple[str, str]]:
    """How it was erased: MACE's weights, or the settings of another method."""
    settings = recipe.settings
    if recipe.method != "mace":
        own = [f"{name.replace('_', ' ')} {_shown(value)}" for name, value in vars(settings).items()]
        return [("Method", METHODS[recipe.method].title), ("Settings", " · ".join(own))]
    lora, weights = settings.lora, (settings.refine.general, settings.fuse.general, settings.refine.preserve)
    return [
        ("LoRA", f"{lora.steps} steps, rank {lora.rank}" if lora.steps else "none, refined only"),
        ("λ1 · λ2 · λ3", " · ".join(map(number_text, weights))),
    ]


def _shown(value: Any) -> str:
    if isinstance(value, KeepWeights):
        return " / ".join(number_text(part) for part in (value.general, value.preserve, value.identity))
    if isinstance(value, bool):
        return "on" if value else "off"
    return value if isinstance(value, str) else number_text(value)


def several(entries: Sequence[Entry]) -> str:
    """What is chosen when it is more than one model; of two, in what their recipes differ."""
    head = f"<h2>{len(entries)} models</h2>"
    names = [html.escape(entry.name) for entry in entries]
    found = differences(entries[0].recipe, entries[1].recipe) if len(entries) == 2 else []
    if not found:
        listed = "".join(f"<li>{name}</li>" for name in names)
        same = '<p class="hint">Their recipes are the same.</p>' if len(entries) == 2 else ""
        return f'{head}<ul class="chosen">{listed}</ul>{same}'
    lines = "".join(
        f"<tr><th scope='row'>{html.escape(label)}</th><td>{html.escape(one)}</td><td>{html.escape(other)}</td></tr>"
        for label, one, other in found
    )
    columns = "".join(f"<th scope='col'>{name}</th>" for name in ("Differs", *names))
    return f'{head}<table class="scores differences"><thead><tr>{columns}</tr></thead><tbody>{lines}</tbody></table>'


def composition(recipe: Recipe, training: Estimate | None) -> str:
    """What composing would make, and what it takes to train what is added."""
    erased = _few([concept.phrase for concept in recipe.concepts])
    takes = (
        f"{counted_as(training.concepts, 'LoRA')} to train, {counted_as(training.unet_forwards, 'UNet forward')}"
        if training and training.unet_forwards
        else "nothing to train"
    )
    return estimate(f"Erases {erased} · {takes}")


def exported(written: Exported) -> str:
    """What an export wrote, and what a LoRA leaves out of each layer."""
    head = f'<p class="saved"><b>{html.escape(written.path.name)}</b>, {size_text(written.size)}.</p>'
    if not written.residuals:
        return head
    worst = max(share for _, share in written.residuals.values())
    lines = [
        (layer.removesuffix(".weight"), f"rank {rank}, {share:.2%} left out")
        for layer, (rank, share) in written.residuals.items()
    ]
    return (
        f'{head}<details class="residuals"><summary>At most {worst:.2%} of a layer’s difference is left out</summary>'
        f"{pairs(lines)}</details>"
    )


def base(status: Status) -> str:
    """The base model that is loaded."""
    facts = [("Loaded", status.name if status.state == "ready" else f"{status.name}: {status.state}")]
    facts += [("On", status.detail)] if status.state == "ready" else [("Why", status.detail)] if status.detail else []
    if status.memory is not None:
        facts.append(("Memory", f"about {size_text(status.memory)} with an erasure"))
    return pairs(facts)


def _note(entry: Entry, status: Status) -> str:
    if status.fingerprint and entry.fingerprint != status.fingerprint:
        return OTHER_PARTS if entry.unet and entry.unet == status.unet else OTHER_BASE
    if entry.recipe.method != "mace":
        return f"Made by {METHODS[entry.recipe.method].title}: only models of MACE can be composed."
    return "" if entry.composable else OLDER


def _few(phrases: Sequence[str]) -> str:
    more = f" and {len(phrases) - NAMED} more" if len(phrases) > NAMED else ""
    return ", ".join(phrases[:NAMED]) + more


def value(entries: Sequence[Entry], passed_over: Sequence[str], status: Status, wanted: Wanted) -> dict[str, Any]:
    """The value of the list: its rows, why other files are not among them, and which are to be chosen.

    What is chosen when it arrives stays, unless `wanted` is another request than the last.
    """
    notes = [f"Not listed: {sentence}" for sentence in passed_over[:PASSED_OVER]]
    notes += [f"Not listed: {len(passed_over) - PASSED_OVER} more"] if len(passed_over) > PASSED_OVER else []
    return {"rows": rows(entries, status), "passedOver": notes, "wanted": wanted, "chosen": None}


def wanted(names: Sequence[str]) -> Wanted:
    """A request of its own, also for what was asked for before."""
    return next(_asked), names


def chosen_in(value: dict[str, Any] | None) -> list[str]:
    """The names of the chosen models of the list's value."""
    return list((value or {}).get("chosen") or [])
