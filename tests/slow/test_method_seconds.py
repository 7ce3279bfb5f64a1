"""What each method takes beside MACE: `pytest -m slow -s tests/slow/test_method_seconds.py` prints the table.

In seconds of the processor on one thread, so that other work on the machine counts little. Nothing is cached but the
sum over the general captions, which is there once for a model; it stands above the table.
"""

import time

import pytest
import torch

from mace_studio.evaluation import methods_study
from mace_studio.methods import METHODS, erase
from mace_studio.presets import presets
from mace_studio.recipe import ImageRequest
from mace_studio.runtime.loaded_model import BUILT_IN
from mace_studio.sd import grams, sampling
from mace_studio.sd import model as sd_model


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def seconds(work) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


@pytest.mark.slow
def test_what_each_method_takes(one_thread):
    model = sd_model.load(str(BUILT_IN), "cpu", "float32")
    recipes = {preset.name: preset.recipe for preset in presets()}
    made = [recipe for name, recipe in recipes.items() if name.startswith("miniature/methods/cat-")]
    cats = {methods_study.title(recipe): recipe for recipe in made}
    assert {recipe.method for recipe in made} == set(METHODS)
    request = ImageRequest(("a photo of a dog",), tuple(range(8)), steps=12, guidance=4.0)
    sampling.generate(model, request)  # nothing is loaded or compiled later
    plain = seconds(lambda: sampling.generate(model, request))
    captions = seconds(lambda: grams.general(model, None))
    spent, images = {}, {}
    for name, recipe in cats.items():
        made = []
        spent[name] = seconds(lambda recipe=recipe, made=made: made.append(erase(model, recipe)))
        with made[0].applied(model):
            images[name] = seconds(lambda: sampling.generate(model, request))
    print(f"\nSum over the general captions: {captions:.1f} s; an image of 12 steps: {plain / 8:.2f} s\n")
    print("| method | seconds per concept | times MACE | an image, times the original's |\n| --- | --- | --- | --- |")
    for name, took in spent.items():
        print(f"| {name} | {took:.1f} | {took / spent['MACE']:.2g} | {images[name] / plain:.2f} |")
    forms = [METHODS[name].title for name in ("mace-free", "uce", "rece", "speed", "oce", "dp")]
    assert all(spent[name] < spent["MACE"] for name in forms)
    assert images["SLD"] > 1.2 * plain
