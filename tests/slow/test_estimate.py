"""The estimate of a run against what it takes: `pytest -m slow -s tests/slow/test_estimate.py` prints both."""

import time
from types import SimpleNamespace

import pytest
import torch

from mace_studio.methods.mace.erase import erase
from mace_studio.presets import presets
from mace_studio.runtime.estimate import estimate
from mace_studio.runtime.loaded_model import BUILT_IN
from mace_studio.sd import costs
from mace_studio.sd import model as sd_model


@pytest.fixture
def clock(monkeypatch):
    """Seconds of the processor on one thread, in place of the clock: other work on the machine does not count."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(costs, "time", SimpleNamespace(monotonic=time.process_time))
    yield time.process_time
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["miniature/cat", "miniature/people-5"])
def test_a_run_takes_what_was_estimated(name, tmp_path, clock):
    model = sd_model.load(str(BUILT_IN), "cpu", "float32")
    recipe = {preset.name: preset.recipe for preset in presets()}[name]
    begun = clock()
    measured = costs.measure(model)
    measuring, begun = clock() - begun, clock()
    expected = estimate(recipe, model.memory(), measured, tmp_path).seconds
    erase(model, recipe, cache=tmp_path)
    seconds = clock() - begun
    print(f"\n{name}: measured in {measuring:.1f} s, estimate {expected:.1f} s, took {seconds:.1f} s", end="; ")
    print(f"estimate / run {expected / seconds:.2f}")
    assert 0.7 <= expected / seconds <= 1.4
