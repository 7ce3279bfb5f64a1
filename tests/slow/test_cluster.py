"""Twelve people on one process and on a Ray cluster of two workers: seconds, their ratio, and the same bytes.

`python -m tests.slow.test_cluster` prints them. Workers have one thread each, as the process has.
"""

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mace_studio import Cluster, erase_on_cluster, load
from mace_studio.methods.mace.erase import erase
from mace_studio.presets import presets

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def measure(folder: Path) -> tuple[float, float, bool]:
    """Seconds of one process and of two workers, their start included, and whether the files are the same."""
    ray = pytest.importorskip("ray")

    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    recipe = next(preset.recipe for preset in presets() if preset.name == "miniature/people-100")
    recipe = replace(recipe, concepts=recipe.concepts[:12]).with_settings(concepts_at_once=2)
    model = load(device="cpu", dtype="float32")
    begun = time.monotonic()
    erase(model, recipe, cache=folder / "one").save(folder / "one.safetensors")
    alone, begun = time.monotonic() - begun, time.monotonic()
    ray.init(num_cpus=2, object_store_memory=200 * 2**20, include_dashboard=False, log_to_driver=False)
    try:
        erase_on_cluster(model, recipe, cache=folder / "two", cluster=Cluster()).save(folder / "two.safetensors")
    finally:
        ray.shutdown()
    together = time.monotonic() - begun
    same = (folder / "one.safetensors").read_bytes() == (folder / "two.safetensors").read_bytes()
    print(
        f"one process {alone:.1f} s, two workers {together:.1f} s, {alone / together:.2f} times as quick; same: {same}"
    )
    return alone, together, same


@pytest.mark.slow
def test_two_workers_give_the_same_bytes(tmp_path):
    assert measure(tmp_path)[2]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        measure(Path(work))
