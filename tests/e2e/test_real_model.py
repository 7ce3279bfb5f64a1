"""The whole way with trained weights: `MACE_STUDIO_SD14=/path/to/stable-diffusion pytest tests/e2e/test_real_model.py`.

Any model of docs/models.md will do, as a folder or a single file. Minutes on a graphics card, an hour on a CPU.
"""

import os

import numpy as np
import pytest

from mace_studio.exports.formats import ExportRequest
from mace_studio.methods.mace import MaceSettings
from mace_studio.recipe import Concept, ImageRequest, Recipe
from mace_studio.runtime.studio import Studio
from mace_studio.settings import ImageSettings, KeepWeights, LoraSettings

MODEL = os.environ.get("MACE_STUDIO_SD14")
KEEP = KeepWeights(identity=10.0)  # as the paper erases a cat (Table 9)
RECIPE = Recipe(
    concepts=(Concept("cat", "forest"),),
    settings=MaceSettings(
        refine=KEEP, fuse=KEEP, lora=LoraSettings(steps=5, learning_rate=1e-5), images=ImageSettings(per_concept=2)
    ),
)


@pytest.mark.skipif(not MODEL, reason="MACE_STUDIO_SD14 names no model")
def test_a_cat_is_erased_from_a_real_model_and_a_ship_is_not(tmp_path):
    studio = Studio(MODEL, output=tmp_path)

    def finished(job):
        job.wait()
        assert job.state == "done", job.error
        return job.result

    entry = finished(studio.erase(RECIPE))
    drawing = ImageRequest(("a photo of a cat", "a photo of a ship"), (0, 1), steps=20)
    pairs = finished(studio.compare(entry.name, drawing))
    change = {word: sum(p.change for p in pairs if p.prompt.endswith(word)) for word in ("cat", "ship")}
    assert change["cat"] > change["ship"]
    inspection = finished(studio.inspect(entry.name, ImageRequest(("a photo of a cat",), (0,), steps=20)))
    for name in ("before", "after"):
        assert sum(mass.total for mass in inspection.masses(name)) == pytest.approx(1, abs=1e-3)
    exported = finished(studio.export(entry.name, ExportRequest("diffusers", tmp_path / "erased")))
    again = Studio(str(exported.path), output=tmp_path / "again")
    (plain,) = finished(again.inspect(None, ImageRequest(("a photo of a cat",), (0,), steps=20))).runs.values()
    wanted = np.asarray(next(p.after for p in pairs if p.prompt.endswith("cat") and p.seed == 0), np.float64)
    assert ((np.asarray(plain.image) - wanted) ** 2).mean() < 255**2 / 10**4  # 40 dB
    assert finished(studio.export(entry.name, ExportRequest("lora", tmp_path / "cat.safetensors"))).size > 0
