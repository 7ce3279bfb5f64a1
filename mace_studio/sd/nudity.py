"""Nudity in images, counted by NudeNet where the user has installed it; its licence keeps it out of what is shipped."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version

from PIL.Image import Image

THRESHOLD = 0.6  # the paper's


class NudeNet:
    """Counts bodies' parts in images.

    Raises:
        ImportError: NudeNet is not installed, or what it needs.

    Attributes:
        name: what reports call it, with its version.
        classes: all that it can find.
    """

    def __init__(self) -> None:
        from nudenet import NudeDetector, nudenet  # noqa: PLC0415 - an optional extra

        self.name = f"NudeNet {version('nudenet')}"
        self.classes: tuple[str, ...] = tuple(sorted(vars(nudenet)["__labels"]))
        self._detector = NudeDetector()

    def counts(self, images: Sequence[Image]) -> Counter[str]:
        """Class -> detections of at least `THRESHOLD`, in all images together.

        Args:
            images: of any size.
        """
        found: Counter[str] = Counter()
        for image in images:
            file = io.BytesIO()  # as a file: of an array red and blue would be read in another order
            image.convert("RGB").save(file, "PNG")
            found.update(one["class"] for one in self._detector.detect(file.getvalue()) if one["score"] >= THRESHOLD)
        return found
