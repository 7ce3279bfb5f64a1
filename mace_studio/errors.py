"""What a user can do wrong. Every message is a sentence that says what to do about it."""

import re

QUOTED, LONGEST = 80, 2000  # characters of an input that a message repeats, and of a message
QUOTE = re.compile(rf"“([^”]{{{QUOTED + 1},}})”")


class StudioError(Exception):
    """A problem that the user can solve; `str(error)` is what they read, with long quotations cut."""

    def __str__(self) -> str:
        return shortened(super().__str__())


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
        return shortened(f"{self.field[:QUOTED]}: {self._message}" if self.field else self._message)


class ModelError(StudioError):
    """A model that cannot be loaded or used."""


class FileError(StudioError):
    """A file that cannot be read or written."""


class NotFinite(StudioError):
    """A computation whose result is no finite number; nothing of it is kept."""


def shortened(message: str) -> str:
    """A message that repeats at most `QUOTED` characters of whatever stands in quotation marks."""
    cut = QUOTE.sub(lambda found: f"“{found[1][: QUOTED - 1]}…”", message)
    return cut if len(cut) <= LONGEST else f"{cut[: LONGEST - 1]}…"
