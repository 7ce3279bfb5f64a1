"""Text contexts of the prompts of a run, each encoded once as long as they fit into a bounded memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from mace_studio.progress import Report, silent
from mace_studio.sd import text
from mace_studio.sd.model import Model

LIMIT = 2**30  # bytes: the prompts of 150 concepts of Stable Diffusion 1.x in float32, and 300 in float16

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Encoded:
    """Some prompts as the UNet reads them, on the CPU.

    Attributes:
        context_NTD: text context.
        pooled_NP: what SDXL reads beside it, or None.
    """

    context_NTD: Tensor
    pooled_NP: Tensor | None

    def nbytes(self) -> int:
        return self.context_NTD.nbytes + (0 if self.pooled_NP is None else self.pooled_NP.nbytes)


class Embeddings:
    """Encodes the prompts of a run; what was encoded is kept until the memory is full, the rest encoded again.

    What is kept first stays, because the stages ask in the same order: the one used longest ago is the next one needed.

    Args:
        model: its text encoder is read.
        limit: bytes that are kept; 0 for nothing.
    """

    def __init__(self, model: Model, limit: int = LIMIT) -> None:
        self._model, self._left = model, limit
        self._kept: dict[tuple[str, ...], Encoded] = {}
        self._encoded, self._reused, self._seconds = 0, 0, 0.0

    def of(self, sentences: Sequence[str], progress: Report = silent) -> Encoded:
        """The prompts about one phrase, encoded or remembered; the same object for the same prompts if it was kept.

        Args:
            sentences: at least one.
            progress: as in `text.encode`; silent for what is remembered.
        """
        key = tuple(sentences)
        if key in self._kept:
            self._reused += len(key)
            return self._kept[key]
        begun = time.monotonic()
        context_NTD, pooled_NP = text.encode(self._model, sentences, progress)
        found = Encoded(context_NTD.cpu(), None if pooled_NP is None else pooled_NP.cpu())
        self._seconds += time.monotonic() - begun
        self._encoded += len(key)
        if found.nbytes() <= self._left:
            self._left -= found.nbytes()
            self._kept[key] = found
        return found

    def log(self) -> None:
        """Say in the log how many prompts were encoded so far, how long that took, and how many were remembered."""
        log.info(
            "prompts of concepts and mappings: %d encoded in %.1f s, %d used again from memory",
            self._encoded, self._seconds, self._reused,
        )  # fmt: skip
