"""The base model: which one it is, and the model itself once it is loaded. The worker's thread alone loads it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mace_studio import engine
from mace_studio.errors import RecipeError, StudioError
from mace_studio.status import Status

if TYPE_CHECKING:
    from mace_studio.sd.loading import Model

ROOT = Path(__file__).parents[1]
BUILT_IN = ROOT / "assets" / "miniature" / "model"
BUILT_IN_NAME = "built-in miniature"


class Base:
    """At most one model is in memory.

    Args:
        source: folder, hub id or single .safetensors file; the built-in miniature when empty or called by its name.
        how: device, dtype and low memory, see `sd.loading.load`.

    Attributes:
        source: folder, hub id or file.
        loaded: the model, or None until it is loaded.
        status: what is known of it at this moment.
    """

    def __init__(self, source: str, how: tuple[str, str, bool]) -> None:
        self._use(source, how)

    def model(self) -> Model:
        """The model, loaded now if it is not.

        Raises:
            ModelError: it cannot be loaded; `status` says so, too.
        """
        if self.loaded is None:
            name, loading = self.status.name, engine.engine().loading
            self.status = Status(name, "loading")
            loading.free()  # of the model before
            try:
                model = loading.load(self.source, *self._how)
            except Exception as error:
                said = str(error) if isinstance(error, StudioError) else "the server's log says why"
                self.status = Status(name, "failed", said)
                raise
            self.loaded = model
            self.status = Status(name, "ready", model.where(), model.memory(), model.fingerprint)
        return self.loaded

    def exchange(self, source: str, how: tuple[str, str, bool]) -> None:
        """Unload the model and load another one; should that fail, the one before is loaded again.

        Raises:
            RecipeError: the other one cannot be loaded; the field is "source".
        """
        before = self.source, self._how
        self._use(source, how)
        try:
            self.model()
        except Exception as error:
            self._use(*before)
            self.model()
            if isinstance(error, StudioError):
                raise RecipeError("source", str(error)) from error
            raise

    def _use(self, source: str, how: tuple[str, str, bool]) -> None:
        own = source in ("", BUILT_IN_NAME, str(BUILT_IN))
        self.source, self._how = str(BUILT_IN) if own else source, how
        self.loaded: Model | None = None
        self.status = Status(BUILT_IN_NAME if own else Path(source).name, "waiting")
