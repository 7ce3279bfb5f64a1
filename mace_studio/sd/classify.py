"""Who judges what an image shows: images and labels -> probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from PIL.Image import Image
from torch import Tensor

from mace_studio.miniature import judge
from mace_studio.sd.loading import Model


class Judge(Protocol):
    """Says how probable each label is."""

    def probabilities(self, images: Sequence[Image], labels: Sequence[str]) -> Tensor:
        """(N, labels), rows summing to 1; ValueError for a label that it cannot know."""


def of(model: Model) -> Judge | None:
    """The judge that comes with a model, in the folder `judge` beside it; None where there is none."""
    folder = Path(model.source).parent / "judge"
    return judge.Judge.load(folder) if (folder / "judge.json").is_file() else None


def presence(judged: Judge | None, image: Image, phrase: str) -> float | None:
    """The probability that an image shows a concept, against everything else that the judge knows.

    Returns:
        0 to 1, or None where there is no judge, or it does not know the phrase.
    """
    if judged is None:
        return None
    try:
        return judged.probabilities([image], [phrase, judge.NONE])[0, 0].item()
    except ValueError:
        return None
