"""Workarounds for Gradio, all of them, each with what goes wrong without it. Seen with Gradio 6.31.

Some components of our own stand in place of Gradio's: `components/concept_table.py` (gr.Dataframe loses the first
letter typed into a cell, and rows of Gradio components take 2.1 s each at a hundred rows), `components/phrase_list.py`
(gr.Dropdown names its buttons "Remove 0", at 16 pixels), `components/preset_select.py` (gr.Dropdown opens when the Tab
key reaches it), `components/divider.py` (gr.ImageSlider works by mouse only) and `components/mask_grid.py` (gr.Gallery
writes the files of all its images again whenever one changes, while the page reads them). `cards/masks.py` shows the
editor before it gives it an image, since gr.ImageEditor loads one that it begins with twice. `theme.py` uses only the
weights 400 and 700 of the bundled fonts, since other files lack ASCII. No public issue of these was found.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import _StaticFiles
from gradio.utils import get_upload_folder
from PIL import Image
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mace_studio import text_files

# No overlay over what a handler changes. "private" keeps a handler out of the API's description, and no more than that:
# see `NamedEndpointsOnly`. At every event the browser looks up, one by one, all components on which any event so far
# may show an overlay, hidden or not, which are all of its outputs unless others are named: half a second once the form
# is among them. No public issue was found.
QUIET: dict[str, Any] = {"show_progress": "hidden", "show_progress_on": [], "api_visibility": "private"}
# The same for handlers that may wait for minutes: by default only one call of a handler runs at a time.
WAITING: dict[str, Any] = {**QUIET, "concurrency_limit": None}

# For events that say what was pressed: each is answered, in the order of the presses. By default one is dropped while
# an earlier one is answered, and "always_last" answers the first once more in place of the last; with several of them
# at work at once, the answer to an earlier press may come last and stay. No public issue was found.
PICKED: dict[str, Any] = {**QUIET, "trigger_mode": "multiple", "concurrency_limit": 1}
# Puts what an `offer` holds into its fields, in the browser, where they are as they were.
FILL = """(offer, ...shown) => {
  const lines = (value) => (value && typeof value === "object" ? JSON.stringify(value) : String(value ?? "")
    .split("\\n").map((line) => line.trim()).filter(Boolean).join("\\n"));
  return shown.map((now, i) => (offer[i] && lines(now) === lines(offer[i][0]) ? offer[i][1] : undefined));
}"""
# Hands an answer to the script of a table or list, whose rows would else be those of when it was asked.
HAND_OVER = """(fresh) => {{
  document.querySelector("{}").dispatchEvent(new CustomEvent("added", {{ detail: fresh }}));
}}"""

SERVED = 1000  # files that are served in place; the oldest of more are not any longer
UNFINISHED = 128  # events of one machine; an open page has a few
CALL = re.compile(r"/gradio_api/(call|run|api)/+([^/]+)")
BY_NUMBER = ("predict",)
ASSETS = Path(gr.__file__).parent / "templates" / "frontend" / "assets"
OVERLAYS = re.compile(r"/assets/(statustracker-[\w-]+\.js)$")
Offer = list[list[Any]]  # what `offer` holds
OUTPUTS_AND_INPUTS = re.compile(r"return (\w)\.concat\(\w\)\.map\(")


def enabled(elem_id: str) -> dict[str, Any]:
    """Options of an input. Gradio disables every component with a value that no handler reads.

    gradio-app/gradio#4471 and #5293: by design.
    """
    return {"interactive": True, "elem_id": elem_id}


def remembered(name: str) -> gr.BrowserState:
    """A text that the browser keeps over a reload.

    It has to be made outside of the tabs: one in a tab that is not open is not read back. Key and secret are given,
    since those that Gradio makes up differ after every start. No public issue was found.
    """
    return gr.BrowserState("", storage_key=f"mace-{name}", secret="mace-studio")


def offer(what: str, *texts: str) -> gr.JSON:
    """What a handler would put into fields, one (value before, new value) for each, where the user chose no other.

    A handler that put it there itself would undo what is typed until its answer comes. `FILL` compares in the browser,
    where a gr.State is not. No public issue was found.

    Args:
        what: begins its elem_id.
        texts: what was put into each field at first.
    """
    return gr.JSON(
        [[text, text] for text in texts], label=f"Offered for {what}", elem_id=f"{what}-offered", visible=False
    )


def serve_in_place(path: Path) -> None:
    """Let a file be downloaded where it lies. Gradio copies and hashes it first: 1.2 s for 300 MB.

    gradio-app/gradio#7618 brought the function. It only ever adds to its list, and every request reads all of it.
    """
    served = _StaticFiles.all_paths
    if (whole := path.resolve()) not in served:
        del served[: max(0, len(served) - SERVED + 1)]
        gr.set_static_paths([whole])


def bound_queue(demo: gr.Blocks, names: tuple[str, ...], each: int, most: int, machine: Callable[[Any], str]) -> None:
    """Let calls of endpoints fill no more than their part of the queue. Gradio has one bound for all events.

    Without this, one program's calls fill it, and the page's own events are answered with 503. A call with fewer values
    than its endpoint takes gets the defaults of the rest, and one with a file in place of a value is refused; Gradio
    answers both with `null`. No public issue was found.

    Args:
        demo: its queue is there.
        names: of the endpoints.
        each: calls of one machine that may wait or run at a time; of the page's events `UNFINISHED` may.
        most: calls of all of them.
        machine: (request) -> the address that it came from.
    """
    queue = demo._queue
    push = queue.push

    def unfinished() -> list[tuple[bool, str]]:
        """Of every event whether it is a call, and from where it came."""
        waiting = [event for part in list(queue.event_queue_per_concurrency_id.values()) for event in part.queue]
        running = [event for batch in queue.active_jobs for event in batch or ()]
        return [(event.fn.api_name in names, machine(event.request)) for event in (*waiting, *running)]

    async def bounded(body: Any, request: Any, username: str | None) -> Any:
        fn = demo.fns.get(body.fn_index)
        is_call, own = fn is not None and fn.api_name in names, machine(request)
        events = unfinished()
        alike = [where for call, where in events if call == is_call]
        if alike.count(own) >= (each if is_call else UNFINISHED) or (is_call and len(alike) >= most):
            return False, "Too many calls wait here already; wait for an answer before you ask for more.", "queue_full"
        if is_call and fn is not None and fn.fn is not None:
            taken = list(inspect.signature(fn.fn).parameters.values())
            if files := [one.name for one, value in zip(taken, body.data, strict=False) if _is_file(value)]:
                return False, f"{files[0]}: No file is taken here; give what the description of the API says.", "error"
            rest = taken[len(body.data) :]
            if missing := [one.name for one in rest if one.default is one.empty]:
                return False, f"{missing[0]}: This value is missing.", "error"
            body.data = [*body.data, *(one.default for one in rest)]
        return await push(body=body, request=request, username=username)

    queue.push = bounded  # type: ignore[method-assign]


def _is_file(value: Any) -> bool:
    """Whether what Gradio takes for a file is anywhere in a value."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            if isinstance(one.get("path"), str) and "meta" in one:
                return True
            left += one.values()
        elif isinstance(one, list):
            left += one
    return False


def without_statistics(demo: gr.Blocks) -> None:
    """Keep Gradio from summing up all past events after each one, for its monitoring page, which is off here.

    Without this, each event takes 20 ms more once every handler was called, and a page that opens has thirty. No public
    issue was found.

    Args:
        demo: its queue is there.
    """
    demo._queue.compute_analytics_summary = lambda records: {}  # type: ignore[method-assign]


def download(path: Path, **changes: Any) -> gr.DownloadButton:
    """A download button's new file, served in place."""
    serve_in_place(path)
    return gr.DownloadButton(value=str(path), **changes)


def image_file(image: Image.Image) -> str:
    """The path of a PNG file of an image, for a component that shows files; it is written whole, and once.

    Given the image itself, Gradio writes the file of the same pixels again at every update, in place, while the browser
    may be reading it: the answer then has another length than it said (ERR_CONTENT_LENGTH_MISMATCH). No public issue
    was found.
    """
    file = io.BytesIO()
    image.save(file, "PNG")
    path = Path(get_upload_folder()) / hashlib.sha256(file.getvalue()).hexdigest() / "image.png"
    if not path.exists():
        with text_files.whole(path) as part:
            part.write_bytes(file.getvalue())
    return str(path)


class NamedEndpointsOnly:
    """Middleware that refuses calls of the page's own handlers by name; the page itself calls them by number.

    gradio-app/gradio#13051: a handler with api_visibility="private" can still be called by its name.

    Args:
        app: what it wraps.
        names: of the endpoints that may be called.
    """

    def __init__(self, app: ASGIApp, names: tuple[str, ...]) -> None:
        self.app, self.names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        called = CALL.search(scope["path"]) if scope["type"] == "http" else None
        if called and called[2] not in (self.names if called[1] == "call" else BY_NUMBER):
            await PlainTextResponse("There is no such endpoint.", status_code=404)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


class QuickOverlays:
    """Middleware that serves Gradio's script of overlays with one change: an event may show some on its outputs alone.

    Without this, also every input of every event so far has a state of such an overlay, which is there for streams of
    a camera. At every step of every event the browser looks up the components of all these states one by one, in a tree
    of 550: once the form's 150 inputs are among them, 3 of the 5 seconds in which a recipe fills the form. A script
    that looks otherwise, of another Gradio, is served as it is. No public issue was found.

    Args:
        app: what it wraps.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = OVERLAYS.search(scope["path"]) if scope["type"] == "http" else None
        path = ASSETS / asked[1] if asked else None
        if path is None or not path.is_file():
            await self.app(scope, receive, send)
        else:
            script = OUTPUTS_AND_INPUTS.sub(r"return \1.map(", path.read_text(encoding="utf-8"))
            await Response(script, media_type="text/javascript")(scope, receive, send)
