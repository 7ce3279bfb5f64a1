"""What the settings of the fusion are worth at a hundred people: `python -m tests.slow.test_fusions FOLDER`.

The LoRAs are those of the preset's learning rate in every row; they are trained once and kept in the folder.
"""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mace_studio import load
from mace_studio.evaluation import faithful
from mace_studio.miniature.faithful import share
from mace_studio.miniature.judge import Judge
from mace_studio.miniature.vocabulary import PEOPLE_TO_ERASE, PEOPLE_TO_KEEP
from mace_studio.runtime.loaded_model import BUILT_IN
from mace_studio.settings import KeepWeights

TRIED = (  # fusion, λ3, λ2
    ("closed-form", 1.0, 3e-5),
    ("closed-form", 3.0, 3e-5),
    ("from-concept", 0.75, 3e-5),
    ("from-concept", 1.0, 3e-5),
    ("from-concept", 1.5, 3e-5),
    ("from-concept", 1.0, 1e-6),
    ("from-concept", 1.0, 3e-4),
)


def measure(number: int, cache: Path, images: int = 2) -> dict[tuple[str, float, float], faithful.Measured]:
    """Erase so many people with each of `TRIED`, and print how many images of either group the judge names right."""
    judge, model = Judge.load(BUILT_IN.parent / "judge"), load(device="cpu", dtype="float32")
    people = faithful.People(
        erased=PEOPLE_TO_ERASE, kept=PEOPLE_TO_KEEP, names=lambda shown: judge.names(shown, "thing"), tested=100,
        images=images,
    )  # fmt: skip
    print("| fusion | λ3 | λ2 | Acc_e | Acc_s | H_c |\n| --- | --- | --- | --- | --- | --- |", flush=True)
    rows = {}
    for fusion, preserve, general in TRIED:
        weights = KeepWeights(general=general, preserve=preserve)
        settings = replace(faithful.settings_for(number), fusion=fusion, fuse=weights)
        row = faithful.full(model, people, number, cache, settings)
        rows[fusion, preserve, general] = row
        print(
            f"| {fusion} | {preserve:g} | {general:g} | {share(*row.erased)} | {share(*row.kept)} | {row.h_c:.1%} |",
            flush=True,
        )
    return rows


@pytest.mark.slow
def test_the_fusion_from_the_concept_on_keeps_more(tmp_path):
    rows = measure(100, tmp_path)
    ours, published = rows["from-concept", 1.0, 3e-5], rows["closed-form", 1.0, 3e-5]
    assert ours.kept[0] > published.kept[0] and ours.h_c > published.h_c


if __name__ == "__main__":
    measure(100, Path(sys.argv[1]))
