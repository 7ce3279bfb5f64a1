"""Headings, hints and lists of facts, as escaped HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

import gradio as gr

# First word of a name -> what it means, in one plain line; the glossary says more.
MEANINGS = {
    "Condition": "How many times rounding errors can grow in a solve: at 1e9 it costs 9 of its 16 digits, and weights "
    "need 7.",
    "λ1": "λ1, λ2: how much everyday scenes must stay, in Refine and in Fuse; λ3: how much your keep list must stay.",
    "H": "H: one figure for the whole; 100 % is best: what was erased is gone, and what is kept is still there. H_o "
    "counts the synonyms too, H_c does not.",
    "H_o": "H_o: one figure for the whole; 100 % is best: concept and synonyms are gone, and what is kept is still "
    "there.",
    "H_c": "H_c: one figure for the whole; 100 % is best: what was erased is gone, and what is kept is still there.",
    "H_a": "H_a: by how much images fit prompts about kept styles better than those about erased ones; higher is "
    "better.",
    "KID": "KID: how far images that have nothing to do with the erasure moved, all together; 0 is not at all.",
}


def heading(elem_id: str, number: str, title: str, below: str = "") -> None:
    """A card's title with its number and one line below it; all of it is the page's own text."""
    mark = f'<i aria-hidden="true">{number}</i>' if number else ""
    line = f"<p>{below}</p>" if below else ""
    gr.HTML(f"<h2>{mark}{title}</h2>{line}", label=title, elem_classes="heading", elem_id=elem_id)


def hint(elem_id: str, text: str) -> None:
    """One line of help; the page's own text."""
    gr.HTML(f"<p>{text}</p>", label="Hint", elem_classes="hint", elem_id=elem_id)


def pairs(rows: Iterable[tuple[str, str]]) -> str:
    """Names and values, one a line."""
    lines = "".join(f"<div><dt>{html.escape(a)}</dt><dd>{html.escape(b)}</dd></div>" for a, b in rows)
    return f'<dl class="pairs">{lines}</dl>'


def explained(names: Iterable[str]) -> str:
    """What names such as "H_o, top-1" mean, a line each; nothing of those that speak for themselves."""
    lines = dict.fromkeys(MEANINGS.get(re.split("[, ]", name)[0], "") for name in names)
    return "".join(f'<p class="hint">{html.escape(line)}</p>' for line in lines if line)


def estimate(sentence: str, brief: str = "") -> str:
    """What a job will take; where there is a brief sentence too, that is what the Simple view shows."""
    shown = f'<p class="estimate{" expert" if brief else ""}">{html.escape(sentence)}</p>'
    return shown + (f'<p class="estimate simple">{html.escape(brief)}</p>' if brief else "")


def estimate_missing(sentence: str) -> str:
    """Why there is no estimate: what is asked for cannot be run as it is."""
    return f'<p class="estimate is-missing">{html.escape(sentence)}</p>'


def warnings(sentences: Iterable[str]) -> str:
    """A list of warnings, or nothing."""
    listed = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
    return f'<ul class="warnings" aria-label="Warnings">{listed}</ul>' if listed else ""


def number_text(value: float) -> str:
    """The shortest text that reads back as this very number, such as 1e-7, 0.8 or 1000."""
    text = repr(value).removesuffix(".0").replace("e-0", "e-").replace("e+", "e")
    return "1e-4" if text == "0.0001" else text
