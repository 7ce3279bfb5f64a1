"""What an erasure takes with fewer forwards, in seconds of the processor on one thread.

`pytest -m slow -s -n0 tests/slow/test_fewer_forwards.py` prints them for the rows of `study fast` that train on the
way, each from a cache that has the sums over captions and kept prompts and nothing else.
"""

import shutil
import time

import pytest
import torch

from mace_studio import presets
from mace_studio.evaluation import scaling
from mace_studio.methods.mace.erase import erase
from mace_studio.sd import model as sd_model


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cat", "people-10"])
def test_two_images_on_the_way_take_less_than_three_quarters(name, tmp_path):
    torch.set_num_threads(1)
    model = sd_model.load(dtype="float32")
    recipe = next(preset.recipe for preset in presets.presets() if preset.name == f"miniature/{name}")
    rows = list(scaling.quicker({name: recipe}))[:4]
    erase(model, rows[-1][1], cache=tmp_path / "warm")
    print()
    taken = {}
    for number, (label, variant) in enumerate(rows):
        cache = tmp_path / str(number)
        cache.mkdir()
        for path in (tmp_path / "warm").glob("*-*.safetensors"):  # images have no prefix
            shutil.copy(path, cache)
        began = time.process_time()
        erase(model, variant, cache=cache)
        taken[label] = time.process_time() - began
        print(f"{label:<40} {taken[label]:6.1f} s, {taken[label] / taken[name]:.2f} times as long")
    assert taken[f"{name}, on the way, 2 images"] < 0.75 * taken[name]
