"""What a run took: seconds and peak memory, measured for every method and kept beside the erasure, not in it."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from mace_studio import methods
from mace_studio.erasure import load
from mace_studio.evaluation import plan
from mace_studio.recipe import Concept, Recipe
from mace_studio.runtime import library, tasks
from mace_studio.runtime.perform import Place
from mace_studio.sd import metering

UCE = Recipe(concepts=(Concept("cat", "forest"), Concept("car", "forest")), preserve=("dog",), method="uce")
MEGABYTE = 2**20


def test_the_peak_is_that_of_this_run_and_not_of_one_before(model):
    if metering.measured(model, lambda: None)[1].memory is None:
        pytest.skip("this system does not forget the peak of a process")
    large = metering.measured(model, lambda: torch.ones(300 * MEGABYTE // 4).sum().item())
    small = metering.measured(model, lambda: torch.ones(MEGABYTE // 4).sum().item())
    assert (large[0], small[0]) == (300 * MEGABYTE // 4, MEGABYTE // 4)
    assert 250 * MEGABYTE < large[1].memory - small[1].memory < 350 * MEGABYTE
    assert small[1].memory > model.memory() and small[1].where == "cpu · float32"


def test_on_a_graphics_card_it_is_what_torch_has_held_since_the_run_began(monkeypatch):
    card, held = SimpleNamespace(device=torch.device("cuda:1"), where=lambda: "cuda:1 · float16"), {"peak": 9}
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: held.update(peak=2, device=device))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: held["peak"] * (device == held["device"]))
    assert metering.measured(card, lambda: held.update(peak=held["peak"] + 3))[1].memory == 5


def test_where_the_peak_cannot_be_forgotten_there_is_none(model, monkeypatch, tmp_path):
    monkeypatch.setattr(metering, "CLEAR", tmp_path / "nowhere" / "clear_refs")
    spent = metering.measured(model, lambda: None)[1]
    assert spent.memory is None and spent.seconds >= 0


def test_an_erasure_says_what_it_took_and_its_bytes_do_not(model, tmp_path):
    made = methods.erase(model, UCE)
    assert made.spent.seconds > 0 and made.spent.where == model.where()
    made.save(tmp_path / "one.safetensors")
    replace(made, spent=None).save(tmp_path / "two.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    assert load(tmp_path / "one.safetensors").spent is None


def test_it_goes_from_the_task_to_the_report(tmp_path, monkeypatch):
    monkeypatch.setitem(plan.IMAGES, "quick", 1)
    place = Place(output=tmp_path, cache=tmp_path / "cache", device="cpu", dtype="float32")
    entry = tasks.erase(place, UCE)
    assert entry.spent.seconds > 0 and entry.spent.where == "cpu · float32"
    (report,) = tasks.evaluate(place, [(entry.path, plan.make_plan(UCE, "quick", steps=1))], None)
    assert report.spent == entry.spent
    after = library.read(entry.path)
    assert after.spent == entry.spent and after.scores == report.harmonic


def test_an_erasure_is_there_also_where_its_note_cannot_be_written(tmp_path, caplog):
    (tmp_path / "reports").write_text("not a folder", encoding="utf-8")
    entry = tasks.erase(Place(output=tmp_path, cache=tmp_path / "cache", device="cpu", dtype="float32"), UCE)
    assert entry.path.is_file() and entry.spent is None
    assert "could not be written" in caplog.text
