"""What a user can do wrong. Every message is a sentence that says what to do about it."""


class StudioError(Exception):
    """A problem that the user can solve; `str(error)` is what they read."""


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
        return f"{self.field}: {self._message}" if self.field else self._message


class ModelError(StudioError):
    """A model that cannot be loaded or used."""


class FileError(StudioError):
    """A file that cannot be read or written."""


class NotFinite(StudioError):
    """A computation whose result is no finite number; nothing of it is kept."""
