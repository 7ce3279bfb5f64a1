"""What a text encoder knows: Grams of sentences, and of the general captions, computed once and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from pathlib import Path

from safetensors.torch import load_file

from mace_studio.core.moments import Moments
from mace_studio.sd import files, text
from mace_studio.sd.model import Model, read_captions

PAPER_CAPTIONS = 616_767
AT_ONCE = 128


def gram(model: Model, sentences: Sequence[str]) -> Moments:
    """Sums over all T positions of each sentence, encoded in portions, so that memory stays O(D^2)."""
    sums = Moments.zero(model.width)
    for start in range(0, len(sentences), AT_ONCE):
        sums = sums + Moments.of(text.embed(model, sentences[start : start + AT_ONCE]).flatten(0, 1))
    return sums


def file_name(model: Model, captions: Sequence[str]) -> str:
    """Of the Gram of these captions, in the cache."""
    digest = hashlib.sha256("\n".join(captions).encode()).hexdigest()
    return f"general-{model.fingerprint[:32]}-{len(captions)}-{digest[:8]}.safetensors"


def general(model: Model, cache: Path | None) -> Generator[int, None, Moments]:
    """Sums over the model's general captions, scaled to the 616,767 captions of the paper.

    That makes a keep weight mean the same whatever number of captions is at hand.

    Args:
        model: its `captions` are read.
        cache: folder that keeps the Gram, one per model and file of captions, or None.

    Yields:
        The number of captions done.
    """
    captions = read_captions(model.captions)
    path = cache / file_name(model, captions) if cache else None
    if path and path.exists():
        gram_DD = load_file(path)["gram_DD"]
        sums = Moments(gram_DD, gram_DD, len(captions) * model.length)
    else:
        sums = Moments.zero(model.width)
        for start in range(0, len(captions), AT_ONCE):
            sums = sums + gram(model, captions[start : start + AT_ONCE])
            yield min(start + AT_ONCE, len(captions))
        if path:
            files.write(path, {"gram_DD": sums.gram_DD}, {"captions": str(len(captions)), "model": model.fingerprint})
    return PAPER_CAPTIONS / len(captions) * sums
