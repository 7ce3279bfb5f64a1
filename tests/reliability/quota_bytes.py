"""What the byte constants of `runtime/quota.py` stand for, measured on the built-in model beside what they say.

    python -m tests.reliability.quota_bytes [NAME ...]

A size is the slope of the peak memory of this process from a small run to a large one, with the model already there.
The exit status is 1 where a constant says less.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from mace_studio.analysis import attention
from mace_studio.methods.mace import training_images
from mace_studio.methods.mace.erase import erase
from mace_studio.paths import BUILT_IN
from mace_studio.recipe import Concept, ImageRequest, Recipe
from mace_studio.runtime import quota
from mace_studio.runtime.vocabulary import built_in
from mace_studio.sd import batching, metering, sampling
from mace_studio.sd import model as sd_model
from mace_studio.sd.model import Model
from tests.reliability.common import small

CONCEPTS = [phrase for phrase, kind in built_in().kinds.items() if kind == "object"]
WORDS = " ".join(CONCEPTS)  # more of them than a prompt has room for
NATIVE, LARGER = 64, 256  # pixels of a side
FEW = 8  # images or pairs of the small run: a batch

Sizes = dict[str, tuple[int, Callable[[], float]]]


def sizes(model: Model) -> Sizes:
    """Name -> what the constant of that name says, and how it is measured."""

    def each(few: int, many: int, run: Callable[[int], object]) -> float:
        """Bytes that each more of something takes at the peak."""
        run(few)  # what a first run allocates for good counts for neither
        peaks = []
        for count in (few, many):
            batching.free()
            _, spent = metering.measured(model, lambda count=count: run(count))
            peaks.append(spent.memory)
        return (peaks[1] - peaks[0]) / (many - few)

    def erased(concepts: int = 1, **lora: object) -> object:
        return erase(model, recipe(concepts, **lora))

    def masked(count: int) -> object:
        one = recipe()
        return training_images.show(model, one.with_settings(images=replace(one.settings.images, per_concept=count)))

    def pairs(count: int, side: int = NATIVE) -> object:
        request = ImageRequest(("cat",), tuple(range(count)), steps=1, guidance=4.0, size=(side, side))
        before = sampling.generate(model, request)
        return before, sampling.generate(model, request) if side == NATIVE else None

    def looked(steps: int) -> object:
        return attention.inspect(model, ImageRequest((WORDS,), steps=steps, guidance=4.0))

    more = (LARGER**2 - NATIVE**2) / (LARGER - NATIVE)
    samples = 8  # concepts at once, so that their samples are more than what other stages take
    return {
        "IMAGE_BYTES": (quota.IMAGE_BYTES, lambda: each(FEW, 17 * FEW, masked)),
        "CONCEPT_BYTES": (quota.CONCEPT_BYTES, lambda: each(1, 9, erased)),
        "RANK_BYTES": (quota.RANK_BYTES, lambda: each(1, 256, lambda rank: erased(rank=rank))),
        "SAMPLE_BYTES": (
            quota.SAMPLE_BYTES,
            lambda: each(8, 64, lambda kept: erased(samples, kept_samples=kept, tune="key")) / samples,
        ),
        "PIXEL_BYTES": (quota.PIXEL_BYTES, lambda: each(FEW, 33 * FEW, pairs) / NATIVE**2),
        "WORK_BYTES": (quota.WORK_BYTES, lambda: each(NATIVE, LARGER, lambda side: pairs(1, side)) / more),
        "MAP_BYTES": (quota.MAP_BYTES, lambda: each(4, 54, looked)),
    }


def recipe(concepts: int = 1, **lora: object) -> Recipe:
    """So many concepts at once, with an image each."""
    one = small("cat")
    one = replace(one, concepts=tuple(Concept(phrase, "forest") for phrase in CONCEPTS[:concepts]), preserve=("snow",))
    return one.with_settings(lora=replace(one.settings.lora, **lora), concepts_at_once=concepts)


def main(names: Sequence[str]) -> int:
    logging.disable(logging.CRITICAL)
    too_low = False
    for name, (said, measure) in sizes(sd_model.load(str(BUILT_IN), "cpu", "float32")).items():
        if not names or name in names:
            found = measure()
            too_low |= found > said
            sys.stdout.write(f"{name}: {said:,} said, {found:,.0f} measured\n")
            sys.stdout.flush()
    return int(too_low)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
