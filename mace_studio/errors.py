"""What a user can do wrong. Every message is a sentence that says what to do about it."""

import re
from pathlib import Path
from typing import ClassVar

QUOTED, LONGEST = 80, 2000  # characters of an input that a message repeats, and of a message
QUOTE = re.compile(rf"“([^”]{{{QUOTED + 1},}})”")


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

    Args:
        message: a sentence.
        shared: an output folder, which may be relative or hold blanks; None leaves the message as it is.
    """
    if shared is None:
        return message
    part = r"[^\s/\\“”\"'<>]+"
    absolute = rf"(?:file://)?(?:~|[A-Za-z]:)?[/\\](?={part}[/\\])"
    known = "|".join(rf"{re.escape(str(one))}[/\\]" for one in (shared.absolute(), shared) if one.name)
    begun = rf"{known}|{absolute}" if known else absolute
    return re.sub(rf"(?<![\w:/\\.~-])(?:{begun})(?:{part}[/\\])*(?={part})", "", message)


def shortened(message: str) -> str:
    """A message that repeats at most `QUOTED` characters of whatever stands in quotation marks."""
    cut = QUOTE.sub(lambda found: f"“{found[1][: QUOTED - 1]}…”", message)
    return cut if len(cut) <= LONGEST else f"{cut[: LONGEST - 1]}…"
