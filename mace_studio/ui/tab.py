"""What a tab is to the page: a name, a function that builds it, and the events that it listens to and emits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from itertools import count
from typing import Any, NamedTuple, Protocol

import gradio as gr

from mace_studio.recipe import Recipe
from mace_studio.runtime.studio import Studio
from mace_studio.ui.gradio_compat import FILL, QUIET, WAITING

# Events. SELECTED is the tab's own; the others are the same for all tabs.
PAGE_OPENED = "page opened"
SELECTED = "tab selected"
ERASURES_CHANGED = "erasures changed"  # there may be a new erasure, or another is to be chosen
MODEL_LOADED = "model loaded"
MODEL_TIMED = "model timed"


_asked = count(1)


class Newest(NamedTuple):
    """An erasure that the tabs choose next.

    Attributes:
        name: of the erasure; "" for none.
        asked: the number of the request. A tab chooses the erasure once a request: what the user chooses there since
            then stays.
    """

    name: str = ""
    asked: int = 0

    @classmethod
    def of(cls, name: str) -> Newest:
        """A request of its own, also for an erasure that was asked for before."""
        return cls(name, next(_asked))


@dataclass(frozen=True)
class Listener:
    """A handler with what it reads and what it updates.

    Attributes:
        fn, inputs, outputs: as a component's event takes them.
        also: more events, such as `button.click`, that call it.
        fills: one of `outputs`, made by `gradio_compat.offer`, and the fields that it is for.
        waits: it may take minutes, so any number of its calls may run at a time.
        options: more of the event's options.
    """

    fn: Callable[..., Any]
    inputs: Any
    outputs: Any
    _: KW_ONLY
    also: Sequence[Any] = ()
    fills: Sequence[Any] = ()
    waits: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def on(self, *events: Any) -> Any:
        """Call the handler at each of some events, such as `button.click`; returns what Gradio returns for it.

        A page calls its handler once at a time. What happens meanwhile calls it once more after that, with what the
        page shows by then: an answer to an earlier question never takes the place of an answer to a later one.
        """
        options = {"trigger_mode": "always_last"} | (WAITING if self.waits else QUIET) | self.options
        event = gr.on([*events, *self.also], self.fn, self.inputs, self.outputs, **options)
        if self.fills:
            event.then(None, self.fills, self.fills[1:], js=FILL, **QUIET)
        return event


def of_an_erasure(choose: Listener, resume: Listener, loaded: Listener) -> dict[str, list[Listener]]:
    """What a tab listens to that works on one erased model.

    Args:
        choose: lists the erased models.
        resume: watches a job that this browser has begun.
        loaded: fills in what suits the model.
    """
    return {PAGE_OPENED: [choose, resume], SELECTED: [choose], ERASURES_CHANGED: [choose], MODEL_LOADED: [loaded]}


@dataclass(kw_only=True)
class Shared:
    """What the tabs share.

    Attributes:
        studio: does the work.
        start: the recipe that the form begins with.
        header: of the page; says which model is loaded.
        newest: a `Newest`: the erasure that was made last, or that the user wants to see in the other tabs.
        made: name of the erasure that the result of the Erase tab is about.
        tabs: all tabs; there when the first is built.
        jobs: name -> id of the job of that name that this browser watches, see `gradio_compat.remembered`.
        filled: what `form.filling` fills: the controls of the recipe's form, its dial, and the notices about it; there
            once the Erase tab is built.
        controls: those controls alone.
    """

    studio: Studio
    start: Recipe
    header: gr.HTML
    newest: gr.State
    made: gr.State
    jobs: dict[str, gr.BrowserState]
    tabs: gr.Tabs = field(init=False)
    controls: Sequence[Any] = ()
    filled: Sequence[Any] = ()


class View(Protocol):
    """A tab that is built.

    Attributes:
        listens: event -> listeners that are called when it happens.
        emits: event -> Gradio events, such as `button.click`'s `then`, that mean it.
    """

    listens: dict[str, list[Listener]]
    emits: dict[str, list[Callable[..., Any]]]


@dataclass(frozen=True)
class Tab:
    """A tab of the page.

    Attributes:
        name: on the tab; in lower case it is its id.
        build: builds the tab into the container that is open.
        jobs: names of the jobs that can be started there.
    """

    name: str
    build: Callable[[Shared], View]
    jobs: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return self.name.lower()
