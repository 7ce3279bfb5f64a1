"""Headings, hints and lists of facts, as escaped HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable

import gradio as gr


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


def estimate(sentence: str) -> str:
    """What a job will take."""
    return f'<p class="estimate">{html.escape(sentence)}</p>'


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
