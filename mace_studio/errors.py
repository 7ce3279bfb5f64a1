"""What a user can do wrong. Every message is a sentence that says what to do about it."""

import os
import re
from itertools import islice
from pathlib import Path
from typing import ClassVar

QUOTED, LONGEST = 80, 2000  # characters of an input that a message repeats, and of a message
UNBROKEN = re.compile(r"\S{256,}")  # longer than any name of a file
# Where a path begins, but for the address of a page; where a clause ends, or another path begins; what comes after a
# separator that ends a path.
BEGINS = r"(?<![\w/\\.~-])(?:(?<!:)|(?!//))(?:file:)?(?:~\w*|[A-Za-z]:)?[/\\]{1,3}(?=[^\s/\\])"
BREAK = re.compile(r"[.,;:!?)”]\s|\s\(|\n|\s[\"'“‘(]*$")
LAST = re.compile(r"(?:[\"'’).,;:!?]*(?:\s|$)|”)")
SEPARATOR = re.compile(r"[/\\]+")
PARTS = 64  # of a path, after its beginning, that are looked at; paths of a message


class StudioError(Exception):
    """A problem that the user can solve; `str(error)` is what they read, with long quotations cut.

    Attributes:
        shared: the output folder of a process that serves many users, to whom no message tells where a file lies; None
            on one's own machine.
    """

    shared: ClassVar[Path | None] = None

    def __str__(self) -> str:
        return shortened(names_only(super().__str__(), self.shared))


class RecipeError(StudioError):
    """A recipe that cannot be run.

    Attributes:
        field: dotted path of the field at fault, such as `concepts[2].mapping`.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(field, message)  # both of them, so that it can be pickled
        self.field = field
        self._message = message

    def __str__(self) -> str:
        message = names_only(self._message, self.shared)
        return shortened(f"{self.field[:QUOTED]}: {message}" if self.field else message)


class ModelError(StudioError):
    """A model that cannot be loaded or used."""


class FileError(StudioError):
    """A file that cannot be read or written."""


class NotFinite(StudioError):
    """A computation whose result is no finite number; nothing of it is kept."""


def names_only(message: str, shared: Path | None) -> str:
    """A message in which every path is its last part alone.

    Nothing tells where a path in a sentence ends, since names of folders may have blanks, quotes and full stops. So it
    is cut behind the last separator that can be one of its own: of those before the clause or the quotation ends, and
    of those that end the name of a folder that there is.

    Args:
        message: a sentence.
        shared: an output folder, which may be relative or hold blanks; None leaves the message as it is.
    """
    if shared is None:
        return message
    known = "|".join(rf"{re.escape(str(one))}[/\\](?=\S)" for one in (shared.absolute(), shared) if one.name)
    begins = re.compile(rf"(?P<known>(?<![\w/\\.~-])(?:{known}))|{BEGINS}" if known else rf"(?P<known>(?!))|{BEGINS}")
    told: list[str] = []
    at, message = 0, message[: 5 * LONGEST]
    while found := begins.search(message, at):
        if len(told) == PARTS:  # no message of the studio names so many: they are a user's own text
            return "".join(told) + "…"
        end = _last_part(message, found.start(), found.end())
        cut = found["known"] is not None or end > found.end()  # one part alone, such as “/srv”, tells no folder
        told.append(message[at : found.start() if cut else end])
        at = end
    return "".join(told) + message[at:]


def _last_part(message: str, start: int, after: int) -> int:
    """Where the last part begins of the path that begins at `start`, and whose first part begins at `after`."""
    closing = message.find("”", after) if message.startswith("“", max(start - 1, 0)) else -1
    end = begun = after
    within = True
    for separator in islice(SEPARATOR.finditer(message, after), PARTS):
        stop = separator.start()
        if LAST.match(message, separator.end()):
            folder = False
        elif within and (stop < closing or not BREAK.search(message, begun, stop)):
            folder = True
        else:
            within = False
            folder = os.path.isdir(os.path.expanduser(message[start:stop].removeprefix("file://")))
        begun = separator.end()
        if folder:
            within, end = True, begun
    return end


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def shortened(message: str) -> str:
    """A message that repeats at most `QUOTED` characters of whatever stands in quotation marks or has no blank.

    In linear time, whatever a user has typed.
    """
    *quoted, rest = message.split("”")
    parts = [part.partition("“") for part in quoted]
    whole = [before + mark + _cut(said, QUOTED) + "”" for before, mark, said in parts]
    cut = UNBROKEN.sub(lambda found: _cut(found[0], QUOTED), "".join(whole) + rest)
    return _cut(cut, LONGEST)
