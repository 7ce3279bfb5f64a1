"""Thirty erasures that end in every way: the model stays bit for bit what it was, and memory stays flat.

`pytest -m slow -s tests/slow/test_endurance.py` prints the resident memory after every run.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mace_studio.core import attention
from mace_studio.methods.mace import MaceSettings, erase
from mace_studio.progress import Cancelled
from mace_studio.recipe import Concept, Recipe
from mace_studio.runtime.studio import BUILT_IN
from mace_studio.sd import model as sd_model
from mace_studio.settings import ImageSettings, KeepWeights, LoraSettings

RECIPE = Recipe(
    concepts=(Concept("cat", "forest"), Concept("Ada Finch", "a person", "celebrity")),
    preserve=("dog",),
    settings=MaceSettings(
        refine=KeepWeights(preserve=1.0, identity=1.0),
        fuse=KeepWeights(preserve=1.0, identity=1.0),
        lora=LoraSettings(steps=5),
        images=ImageSettings(per_concept=2, steps=3),
    ),
)
STAGES = ("images", "masks", "refine", "lora", "fuse")


def resident():
    """Resident memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def run_to_the_end(model, recipe):
    erase.erase(model, recipe)


def cancel_in(model, recipe, stage):
    def cancel(event):
        if event.stage == stage:
            raise Cancelled

    with pytest.raises(Cancelled):
        erase.erase(model, recipe, cancel)


def fail(model, recipe, monkeypatch):
    def broken(*_):
        raise FloatingPointError("broken")

    with monkeypatch.context() as patch, pytest.raises(FloatingPointError):
        patch.setattr(attention, "masked_loss", broken)
        run_to_the_end(model, recipe)


@pytest.mark.slow
def test_thirty_runs_leave_the_model_and_the_memory_as_they_were(monkeypatch):
    model = sd_model.load(str(BUILT_IN), "cpu", "float32")
    before = {part: {k: t.clone() for k, t in m.state_dict().items()} for part, m in model.modules().items()}
    resident_after = []
    for i in range(30):
        recipe = replace(RECIPE, seed=i)
        if i % 3 == 0:
            run_to_the_end(model, recipe)
        elif i % 3 == 1:
            cancel_in(model, recipe, STAGES[i // 3 % len(STAGES)])
        else:
            fail(model, recipe, monkeypatch)
        for part, module in model.modules().items():
            assert all(torch.equal(t, before[part][key]) for key, t in module.state_dict().items())
        resident_after.append(resident())
        print(f"run {i + 1:2}: {('success', 'cancel', 'failure')[i % 3]:8} {resident_after[-1]:.0f} MB")
    assert resident_after[-1] < resident_after[5] * 1.05
