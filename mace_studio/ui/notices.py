"""Exceptions -> what the user reads."""

from __future__ import annotations

import functools
import inspect
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from mace_studio.errors import RecipeError, StudioError
from mace_studio.ui.concept_text import COLUMNS
from mace_studio.ui.files import page_file
from mace_studio.ui.form import FIELDS

log = logging.getLogger(__name__)

UNEXPECTED = "Something unforeseen went wrong. The server's log says what; try again, or restart the studio."
CLEAR: dict[str, str] = {}
CELL = re.compile(r"concepts\[(\d+)\](?:\.(\w+).*)?")
# The controls of the Compare and the Attention tab; those of the form are in `form.FIELDS`.
COMPARE_FIELDS = {
    "prompt": ("Prompts", "#prompts textarea"),
    "seed": ("Seeds", "#seeds input"),
    "steps": ("Steps", "#draw-steps input"),
    "guidance": ("Guidance", "#draw-guidance input"),
}
ATTENTION_FIELDS = {
    "prompt": ("Prompt", "#look-prompt textarea"),
    "seed": ("Seed", "#look-seed input"),
    "steps": ("Steps", "#look-steps input"),
    "guidance": ("Guidance", "#look-guidance input"),
}


def notice(elem_id: str) -> gr.HTML:
    """Where `problem` is shown."""
    return gr.HTML(
        CLEAR,
        label="Problem",
        html_template='<p class="notice" role="alert"></p>',
        js_on_load=page_file("notice.js"),
        apply_default_css=False,
        elem_id=elem_id,
    )


def problem(error: RecipeError, fields: dict[str, tuple[str, str]] | None = None) -> dict[str, str]:
    """A notice of what is wrong and where; what the user typed stays as it is.

    Args:
        error: what `Recipe.check` or `Drawing.check` said.
        fields: path -> (label, CSS selector) of the controls; those of the form when None.
    """
    said = str(error).removeprefix(f"{error.field}: ")
    label, target = (fields or {}).get(error.field) or _place(error.field)
    return {"text": f"{label}: {said}" if label else said, "target": target}


def spoken(handler: Callable[..., Any]) -> Callable[..., Any]:
    """A handler whose failure the user can read: the sentence of a StudioError, and for all else a general one."""
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def steps(*args: Any, **kwargs: Any) -> Any:
            with _spoken():
                yield from handler(*args, **kwargs)

        return steps

    @functools.wraps(handler)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _spoken():
            return handler(*args, **kwargs)

    return call


@contextmanager
def _spoken() -> Iterator[None]:
    try:
        yield
    except gr.Error:
        raise
    except Exception as error:
        if not isinstance(error, StudioError):
            log.exception("a handler of the page failed")
        raise failure(error) from error


def failure(error: BaseException | None) -> gr.Error:
    """The toast for an error."""
    return gr.Error(sentence(error), print_exception=False)


def sentence(error: BaseException | None) -> str:
    """What to say of an error: its sentence if it is the studio's own or Gradio's, and no detail of any other."""
    if isinstance(error, gr.Error):  # of the host that lends the GPU: how much of it is left
        return str(error.message)
    if isinstance(error, RecipeError):
        return problem(error)["text"]
    return str(error) if isinstance(error, StudioError) else UNEXPECTED


def _place(path: str) -> tuple[str, str]:
    """What the user calls a field of the recipe, and where its control is."""
    if found := CELL.fullmatch(path):
        row, column = int(found[1]), found[2]
        cell = f"{row}-{COLUMNS.index(column) if column in COLUMNS else 0}"
        # What is said of a phrase names the row or the phrase already.
        return "" if column == "phrase" else f"Row {row + 1}", f'#concepts [data-cell="{cell}"]'
    whole = path.partition("[")[0]
    for field in FIELDS:
        if field.path == whole:
            return field.label, "#add-concept" if whole == "concepts" else f"#{field.elem_id} input"
    return path, ""
