"""Grams of sentences; those of general captions and of preserve lists are computed once and kept in the cache."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from mace_studio.caption_files import read_captions
from mace_studio.core.moments import Moments
from mace_studio.progress import Report, silent, within
from mace_studio.sd import files, text
from mace_studio.sd.model import Model

log = logging.getLogger(__name__)

PAPER_CAPTIONS = 616_767
AT_ONCE = 128  # sentences whose embeddings are held together; sums in another order differ in their last digits
REMEMBERED = 2  # Grams of general captions that this process keeps; that of SDXL has 34 MB

_remembered: dict[tuple[str, str], Moments] = {}


def gram(model: Model, sentences: Sequence[str], progress: Report = silent) -> Moments:
    """Sums over all T positions of each sentence, in portions, so that memory stays O(D^2).

    Args:
        model: its text encoder is read.
        sentences: any number.
        progress: called with stage "encode" after every batch of `text.BATCH` sentences: sentences done of all.
    """
    sums = Moments.zero(model.width)
    for start in range(0, len(sentences), AT_ONCE):
        report = within(progress, "encode", "", start, len(sentences))
        context_NTD = text.embed(model, sentences[start : start + AT_ONCE], report)
        sums = sums + Moments.of(context_NTD.flatten(0, 1))
    return sums


def file_name(name: str, fingerprint: str, sentences: Sequence[str]) -> str:
    """Name in the cache of the file that holds the Gram of these sentences.

    Args:
        name: what they are, "general" or "preserve".
        fingerprint: of the model.
        sentences: the captions, or the templates filled with every phrase.
    """
    digest = hashlib.sha256("\n".join(sentences).encode()).hexdigest()
    return f"{name}-{fingerprint[:32]}-{len(sentences)}-{digest[:8]}.safetensors"


def cached(model: Model, name: str, sentences: Sequence[str], cache: Path | None, progress: Report = silent) -> Moments:
    """The same as `gram`, read from the cache if it was computed before.

    Args:
        model: its text encoder is read.
        name: what the sentences are, "general" or "preserve".
        sentences: any number.
        cache: folder that keeps the Gram, one file per model and sentences, or None.
        progress: as in `gram`; silent where the cache has the Gram.
    """
    path = cache / file_name(name, model.fingerprint, sentences) if cache else None
    known = files.cached(path, {"gram_DD": (model.width, model.width)}, (torch.float64,)) if path else None
    if known is not None:
        gram_DD = known["gram_DD"]
        log.info("%s: Gram of %d sentences read from the cache", name, len(sentences))
        return Moments(gram_DD, gram_DD, len(sentences) * model.length)
    begun = time.monotonic()
    sums = gram(model, sentences, progress)
    log.info("%s: %d sentences encoded in %.1f s", name, len(sentences), time.monotonic() - begun)
    if path:
        _write(path, model, sentences, sums)
    return sums


def _write(path: Path, model: Model, sentences: Sequence[str], sums: Moments) -> None:
    files.keep(path, {"gram_DD": sums.gram_DD}, {"captions": str(len(sentences)), "model": model.fingerprint})


def general(model: Model, cache: Path | None, progress: Report = silent) -> Moments:
    """Sums over the model's general captions, scaled to the 616,767 captions of the paper.

    The scaling makes a keep weight mean the same whatever number of captions is at hand. The last few are remembered,
    also without a cache: a run of thousands of captions takes longer than all else that a closed form does.

    Args:
        model: its `captions` are read.
        cache: as in `cached`; it has the Gram afterwards.
        progress: as in `cached`; silent where the Gram is remembered.
    """
    captions = read_captions(model.captions)
    # In half precision and on another device the embeddings are others.
    name, where = file_name("general", model.fingerprint, captions), model.where()
    known = _remembered.pop((name, where), None)
    if known is None:
        known = cached(model, "general", captions, cache, progress)
    elif cache and not (cache / name).is_file():
        _write(cache / name, model, captions, known)
    while len(_remembered) >= REMEMBERED:
        del _remembered[next(iter(_remembered))]
    _remembered[name, where] = known
    return PAPER_CAPTIONS / len(captions) * known


def forget() -> None:
    """Forget the Grams of general captions that `general` remembers."""
    _remembered.clear()
