"""Whose erasures are whose: the folder of each user beside the one that all see."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

from mace_studio.runtime import housekeeping, library
from mace_studio.runtime.library import Entry
from mace_studio.runtime.perform import Place


class OwnErasures:
    """The erasures on disk that whoever is asking may use."""

    @property
    @abstractmethod
    def place(self) -> Place:
        """Where whoever is asking works."""

    @property
    @abstractmethod
    def shared(self) -> Path:
        """The folder of the erasures that all see; where a studio is one person's, it is their own."""

    @property
    def output(self) -> Path:
        """The folder of erasures of whoever is asking."""
        return self.place.output

    def entries(self) -> list[Entry]:
        """Every erasure that whoever is asking may use, newest first: their own, and then those that all see."""
        own = library.entries(self.output)
        if self.output == self.shared:
            return own
        names = {entry.name for entry in own}
        return own + [entry for entry in library.entries(self.shared) if entry.name not in names]

    def entry(self, erasure: str | Path) -> Entry:
        """The erasure of a name, one's own or one that all see, or the one at a path.

        Raises:
            FileError: there is none.
        """
        if isinstance(erasure, Path):
            return library.read(erasure)
        own = library.exists(self.output, erasure)
        return library.find(self.output if own else self.shared, erasure)

    def check_room(self) -> None:
        """Raise a FileError where whoever is asking has left too much on a disk that many share."""
        if self.output != self.shared:
            housekeeping.check_room(self.output)
