"""What the page shows of an inspection: maps that the browser draws, and the share of attention of each word."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
from PIL import Image

from mace_studio.analysis import figures
from mace_studio.ui.components.files import png_url, script

if TYPE_CHECKING:
    from mace_studio.analysis.attention import Inspection, Mass, Run

ALL_LAYERS = "All layers, mean"
ALL_HEADS = "All heads, mean"
SIDES = {"Prompt (conditional)": "conditional", "Negative prompt (unconditional)": "unconditional"}
LEVELS = 65535
CLOSING = ("end", "padding")
EMPTY = '<p class="hint">Nothing is read yet.</p>'

TEMPLATE = """<div class="maps is-empty">
<p class="maps-empty">Read a prompt to see where the model looks for each of its words.</p>
<p class="maps-finding"></p><div class="maps-controls">
<fieldset class="maps-steps"><legend>Steps</legend>
<input type="range" min="1" value="1" aria-label="First step">
<input type="range" min="1" value="1" aria-label="Last step">
<output></output><button type="button" class="chip maps-play" aria-pressed="false">▶ Play</button></fieldset>
<label><input type="checkbox" class="maps-over"> Over the image</label>
<label><input type="checkbox" class="maps-shared"> One colour scale</label>
<button type="button" class="chip maps-save">Save this view as PNG</button>
<div class="maps-scales"></div></div>
<div class="maps-scroll" tabindex="0" role="region" aria-label="Attention to each word">
<table class="maps-grid"></table></div>
<p class="maps-value" role="status"></p>
<section class="maps-large" aria-label="The chosen word, enlarged"></section></div>"""


def viewer() -> gr.HTML:
    """Maps of all words, a row for each run, that the browser colours, averages and enlarges; see `shown`."""
    return gr.HTML(
        {},
        label="Attention maps",
        html_template=TEMPLATE,
        js_on_load=script(__file__),
        apply_default_css=False,
        elem_id="maps",
    )


def shown(inspection: Inspection, group: str, head: str, side: str) -> dict[str, Any]:
    """The viewer's value: everything that the browser needs to show one layer group of one side.

    Args:
        inspection: of any number of runs.
        group: of `groups`.
        head: of `heads`.
        side: of `SIDES`.
    """
    chosen = {name: getattr(run, SIDES[side]) for name, run in inspection.runs.items()}
    layer = None if group == ALL_LAYERS else group
    number = None if head == ALL_HEADS else int(head.split()[-1]) - 1
    maps_RSTIJ = np.stack([token_maps.mean(layer, number).numpy() for token_maps in chosen.values()])
    words = next(iter(chosen.values())).words
    highest = float(maps_RSTIJ.max()) or 1.0
    return {
        "rows": [_row(name, run) for name, run in inspection.runs.items()],
        "words": [{"text": w.text, "tokens": " ".join(w.tokens), "role": w.role} for w in words],
        "shape": maps_RSTIJ.shape,
        "highest": highest,
        "maps": _bytes((maps_RSTIJ * (LEVELS / highest)).round().astype("<u2")),
        "maskWord": inspection.mask.word if inspection.mask else "",
        "mask": _bytes(_mask(inspection, maps_RSTIJ.shape[-2:])),
        "palette": _bytes(np.array(figures.palette(figures.COLOURS), np.uint8)),
        "changes": _bytes(np.array(figures.palette(figures.DIFFERENCES), np.uint8)),
        "telling": telling(inspection) if words == inspection.words else 0,  # a negative prompt has words of its own
        "finding": finding(inspection),
        "replaced": inspection.settings["kind"] == figures.RESIDUAL,
        "title": _title(inspection),
        "view": " · ".join([group, head, side]),
    }


def groups(inspection: Inspection) -> list[str]:
    """The layer groups, all of them together first, then by size."""
    found = next(iter(inspection.runs.values())).conditional.maps
    return [ALL_LAYERS, *sorted(found, key=lambda name: -found[name].shape[-1])]


def heads(inspection: Inspection, group: str) -> list[str]:
    """The heads of a layer group."""
    token_maps = next(iter(inspection.runs.values())).conditional
    count = token_maps.heads(None if group == ALL_LAYERS else group)
    return [ALL_HEADS, *(f"Head {i + 1}" for i in range(count))]


def sides(inspection: Inspection) -> list[str]:
    """The halves that were read."""
    run = next(iter(inspection.runs.values()))
    return [title for title, side in SIDES.items() if getattr(run, side) is not None]


def telling(inspection: Inspection) -> int:
    """The word to begin with: the concept; where the prompt names none, the word whose map changed or stands out most.

    Where the concept's words are replaced they say nothing, so another word is chosen.
    """
    words = inspection.words
    own = next((i for i, word in enumerate(words) if word.role == "concept"), None)
    if own is not None and inspection.settings["kind"] != figures.RESIDUAL:
        return own
    maps = [run.conditional.mean().mean(dim=0) for run in inspection.runs.values()]
    told = (maps[0] - maps[-1]).abs().mean(dim=(1, 2)) if len(maps) > 1 else maps[0].amax(dim=(1, 2))
    shares = {i: float(told[i]) for i, word in enumerate(words) if word.role == "word"}
    return max(shares, key=lambda i: shares[i], default=0)


def finding(inspection: Inspection) -> str:
    """One sentence for someone who has never seen such maps."""
    names, index = list(inspection.runs), telling(inspection)
    masses = {name: inspection.masses(name)[index] for name in names}
    word = inspection.words[index]
    seen = [(name, phrase, share) for name, run in inspection.runs.items() for phrase, share in run.presence.items()]
    first, last = masses[names[0]], masses[names[-1]]
    if inspection.settings["kind"] == figures.RESIDUAL and seen:
        told = ", ".join(f"{percent(share)} {name}" for name, _, share in seen)
        return f"With its own words taken out, the judge sees “{seen[0][1]}” with a probability of: {told}."
    if len(names) == 1:
        return f"The model spends {percent(first.total)} of its attention on “{word.text}”; brighter is more."
    if inspection.settings["kind"] == figures.RESIDUAL:
        return f"The concept’s own words are taken out; of the others “{word.text}” changed most."
    if word.role != "concept":
        both = f"{percent(first.total)} of the attention before and {percent(last.total)} after"
        return f"The prompt names nothing that was erased; of its words “{word.text}” changed most: it gets {both}."
    before, after = (inspection.runs[name].presence.get(word.text) for name in (names[0], names[-1]))
    said = (
        f"The judge sees “{word.text}” in the image with a probability of {percent(before)} before and "
        f"{percent(after)} after; the word "
        if before is not None and after is not None
        else ""
    )
    if first.inside is not None and last.inside is not None:
        where = f"{percent(first.inside)} of the attention where the concept was before and {percent(last.inside)}"
        return f"{said}“{word.text}” gets {where} after the erasure."
    total = f"{percent(first.total)} of the attention before and {percent(last.total)}"
    return f"{said}“{word.text}” gets {total} after the erasure."


def mass_bars(inspection: Inspection) -> str:
    """The share of attention of each word in every run, in the whole image and inside the concept's mask."""
    rows = {name: inspection.masses(name) for name in inspection.runs}
    top = max(m.total for masses in rows.values() for m in masses)
    inside = inspection.mask is not None
    lines = [_mass_row([rows[name][i] for name in rows], list(rows), top, inside) for i in range(len(inspection.words))]
    columns = "".join(f"<th scope='col'>{html.escape(name)}</th>" for name in rows)
    more = "<th scope='col'>inside the mask</th>" if inside else ""
    head = f"<tr><th scope='col'>Word</th>{columns}{more}</tr>"
    closing = {name: sum(m.total for m in masses if m.word.role in CLOSING) for name, masses in rows.items()}
    shares = html.escape(", ".join(f"{percent(share)} {name}" for name, share in closing.items()))
    together = f'<p class="hint">End and padding tokens together: {shares}.</p>'
    return f'<table class="mass"><thead>{head}</thead><tbody>{"".join(lines)}</tbody></table>{together}'


def presence(inspection: Inspection) -> str:
    """The judge's probability of each concept in each run, or nothing."""
    parts = [
        f"{html.escape(name)} <b>{percent(share)}</b> {html.escape(phrase)}"
        for name, run in inspection.runs.items()
        for phrase, share in run.presence.items()
    ]
    return f'<p class="hint">The judge sees: {" · ".join(parts)}</p>' if parts else ""


def percent(share: float) -> str:
    """Such as "7.4 %"."""
    return f"{100 * share:.1f} %"


def _mass_row(masses: Sequence[Mass], names: Sequence[str], top: float, inside: bool) -> str:
    word = masses[0].word
    bars = "".join(
        f'<td><i class="is-{name}" style="width:{100 * m.total / top:.1f}%"></i>{percent(m.total)}</td>'
        for name, m in zip(names, masses, strict=True)
    )
    more = (
        f"<td>{' → '.join(percent(mass.inside) for mass in masses if mass.inside is not None)}</td>" if inside else ""
    )
    return f'<tr class="is-{word.role}"><th scope="row">{html.escape(word.text)}</th>{bars}{more}</tr>'


def _title(inspection: Inspection) -> list[str]:
    """The prompt, and how the images were generated."""
    about = inspection.settings
    parts = [f"seed {about['seeds'][0]}", f"{about['steps']} steps", f"guidance {about['guidance']:g}", about["model"]]
    if "recipe_digest" in about:
        parts.append(f"recipe {about['recipe_digest']}")
    return [str(about["prompts"][0]), " · ".join(map(str, parts))]


def _row(name: str, run: Run) -> dict[str, Any]:
    return {"name": name, "image": png_url(run.image), "presence": list(run.presence.items())}


def _mask(inspection: Inspection, size: tuple[int, int]) -> np.ndarray:
    """The mask at the size of the maps, by nearest neighbour; empty where there is none."""
    if inspection.mask is None:
        return np.zeros(0, np.uint8)
    picture = Image.fromarray(inspection.mask.mask_IJ.numpy().astype(np.uint8))
    return np.asarray(picture.resize(size[::-1], Image.Resampling.NEAREST))


def _bytes(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()
