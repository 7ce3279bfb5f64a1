"""Grams of sentences, and of the general captions, which are computed once and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file

from mace_studio.core.moments import Moments
from mace_studio.progress import Report, silent, within
from mace_studio.sd import files, text
from mace_studio.sd.model import Model, read_captions

PAPER_CAPTIONS = 616_767
AT_ONCE = 128  # sentences whose embeddings are held together; sums in another order differ in their last digits


def gram(model: Model, sentences: Sequence[str], progress: Report = silent) -> Moments:
    """Sums over all T positions of each sentence, in portions, so that memory stays O(D^2).

    Args:
        model: its text encoder is read.
        sentences: any number.
        progress: told of stage "encode" after every batch of `text.BATCH` sentences: sentences done of all.
    """
    sums = Moments.zero(model.width)
    for start in range(0, len(sentences), AT_ONCE):
        report = within(progress, "encode", "", start, len(sentences))
        context_NTD = text.embed(model, sentences[start : start + AT_ONCE], report)
        sums = sums + Moments.of(context_NTD.flatten(0, 1))
    return sums


def file_name(model: Model, captions: Sequence[str]) -> str:
    """Name in the cache of the file that holds the Gram of these captions."""
    digest = hashlib.sha256("\n".join(captions).encode()).hexdigest()
    return f"general-{model.fingerprint[:32]}-{len(captions)}-{digest[:8]}.safetensors"


def general(model: Model, cache: Path | None, progress: Report = silent) -> Moments:
    """Sums over the model's general captions, scaled to the 616,767 captions of the paper.

    The scaling makes a keep weight mean the same whatever number of captions is at hand.

    Args:
        model: its `captions` are read.
        cache: folder that keeps the Gram, one file per model and file of captions, or None.
        progress: as in `gram`; silent where the cache has the Gram.
    """
    captions = read_captions(model.captions)
    path = cache / file_name(model, captions) if cache else None
    if path and path.exists():
        gram_DD = load_file(path)["gram_DD"]
        sums = Moments(gram_DD, gram_DD, len(captions) * model.length)
    else:
        sums = gram(model, captions, progress)
        if path:
            files.write(path, {"gram_DD": sums.gram_DD}, {"captions": str(len(captions)), "model": model.fingerprint})
    return PAPER_CAPTIONS / len(captions) * sums
