"""Errors -> what the user reads."""

from __future__ import annotations

import functools
import html
import inspect
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from mace_studio.errors import RecipeError, StudioError
from mace_studio.ui.concept_text import COLUMNS
from mace_studio.ui.form_fields import FIELDS

log = logging.getLogger(__name__)

UNEXPECTED = "Something unforeseen went wrong. The server's log says what; try again, or restart the studio."
CELL = re.compile(r"concepts\[(\d+)\](?:\.(\w+).*)?")

Places = dict[str, tuple[str, str]]  # field of an error -> label and CSS selector of its control


def problem(error: StudioError, places: Places | None = None) -> dict[str, str]:
    """The value of a notice: what is wrong and at which control; what the user typed stays as it is.

    Args:
        error: what `Recipe.check` or `ImageRequest.check` said, or any other, which is at no control.
        places: of a tab's controls; those of the recipe's form are always known.
    """
    if not isinstance(error, RecipeError):
        return plain(error)
    message = str(error).removeprefix(f"{error.field}: ")
    label, target = (places or {}).get(error.field) or _place(error.field)
    return {"text": f"{label}: {message}" if label else message, "target": target}


def plain(error: BaseException | None) -> dict[str, str]:
    """The value of a notice of what is wrong at no control of the page, such as in a file."""
    return {"text": sentence(error), "target": ""}


def sentence(error: BaseException | None) -> str:
    """What to say of an error: its sentence if it is the studio's own or Gradio's, and no detail of any other."""
    if isinstance(error, gr.Error):  # of the host that lends the GPU: how much of it is left
        return str(error.message)
    if isinstance(error, RecipeError):
        return problem(error)["text"]
    return str(error) if isinstance(error, StudioError) else UNEXPECTED


def readable(handler: Callable[..., Any]) -> Callable[..., Any]:
    """A handler whose errors reach the user as a toast that they can read; every other error is logged."""
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def stream(*args: Any, **kwargs: Any) -> Any:
            with _readable_errors():
                yield from handler(*args, **kwargs)

        return stream

    @functools.wraps(handler)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _readable_errors():
            return handler(*args, **kwargs)

    return call


@contextmanager
def _readable_errors() -> Iterator[None]:
    try:
        yield
    except gr.Error:
        raise
    except Exception as error:
        if not isinstance(error, StudioError):
            log.exception("a handler of the page failed")
        # Gradio shows the message as HTML, and it may quote what the user typed.
        raise gr.Error(html.escape(sentence(error), quote=False), print_exception=False) from error


def _place(path: str) -> tuple[str, str]:
    """What the user calls a field of the recipe, and where its control is."""
    if cell_of := CELL.fullmatch(path):
        row, column = int(cell_of[1]), cell_of[2]
        cell = f"{row}-{COLUMNS.index(column) if column in COLUMNS else 0}"
        # What is said of a phrase names the row or the phrase already.
        return "" if column == "phrase" else f"Row {row + 1}", f'#concepts [data-cell="{cell}"]'
    whole = path.partition("[")[0]
    found = [field for field in FIELDS if field.path == whole]
    if not found:
        return path, ""
    # Several methods may have a setting of this name; the page holds the controls of the chosen one only.
    places = ", ".join(f"#{field.elem_id} input" for field in found)
    return found[0].label, "#add-concept" if whole == "concepts" else places
