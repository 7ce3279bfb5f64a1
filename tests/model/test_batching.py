"""Memory that runs out, as the UNet itself would say it: fewer at once, then a sentence."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from mace_studio.errors import ModelError
from mace_studio.methods.mace import MaceSettings, erase
from mace_studio.recipe import Concept, ImageRequest, Recipe
from mace_studio.runtime.studio import BUILT_IN
from mace_studio.sd import image_cache, sampling
from mace_studio.sd import model as sd_model
from mace_studio.sd.batching import Batches, ran_out
from mace_studio.settings import ImageSettings, KeepWeights, LoraSettings
from tests.steps import untouched

KEEP = KeepWeights(identity=10.0)
RECIPE = Recipe(
    concepts=tuple(Concept(name, "forest") for name in ("cat", "dog", "ship", "horse", "frog")),
    settings=MaceSettings(
        refine=KEEP, fuse=KEEP, lora=LoraSettings(steps=3), images=ImageSettings(per_concept=1, steps=2, guidance=1.0)
    ),
)
REQUEST = ImageRequest(("a cat", "a ship"), (0, 1, 2), steps=2, guidance=1.0)


@pytest.fixture
def fresh():
    """A model of its own, since it remembers how many pictures fit."""
    model = sd_model.load(str(BUILT_IN), "cpu", "float32")
    with untouched(model):
        yield model


@contextmanager
def room_for(model, most, after=0):
    """The UNet runs out of memory with more than `most` samples, from some forward on, as a graphics card's would."""
    sizes = []

    def refuse(_, args, kwargs):
        sizes.append(len(args[0]))
        if len(args[0]) > most and len(sizes) > after:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    handle = model.unet.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        yield sizes
    finally:
        handle.remove()


def test_training_goes_on_with_fewer_concepts_at_once_and_gives_the_very_same(fresh):
    fresh.batches.size = 2  # so that it is the training alone that does not fit
    expected = erase.erase(fresh, RECIPE.with_settings(concepts_at_once=2))
    with room_for(fresh, 2) as sizes:
        seen = []
        result = erase.erase(fresh, RECIPE.with_settings(concepts_at_once=4), progress=seen.append)
    assert all(torch.equal(weight, expected.weights[key]) for key, weight in result.weights.items())
    trained = sizes[sizes.index(4) :]
    assert trained == [4, *[2] * 3, *[2] * 3, *[1] * 3]
    assert [(p.step, p.total) for p in seen if p.stage == "lora"][-1] == (15, 15)
    (said,) = [warning for warning in result.warnings if "memory" in warning]
    assert "4 concepts at once" in said and "with 2 at once" in said


def test_memory_that_runs_out_on_the_way_loses_no_step(fresh):
    fresh.batches.size = 1
    expected = erase.erase(fresh, RECIPE.with_settings(concepts_at_once=1))
    with room_for(fresh, 1, after=5 * 2 + 2) as sizes:  # ten forwards draw, and two steps of both concepts still fit
        result = erase.erase(fresh, RECIPE.with_settings(concepts_at_once=2))
    assert sizes[10:13] == [2, 2, 2] and set(sizes[13:]) == {1}
    assert all(torch.equal(weight, expected.weights[key]) for key, weight in result.weights.items())


def test_drawing_goes_on_with_fewer_pictures_at_once(fresh):
    expected = sampling.generate(fresh, REQUEST)
    with room_for(fresh, 2) as sizes:
        seen = []
        images = sampling.generate(fresh, REQUEST, progress=seen.append)
    assert sizes == [6, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1] and fresh.batches.size == 1
    steps = [p.step for p in seen]
    assert steps[-1] == 6 and steps == sorted(steps)
    for image, other in zip(images, expected, strict=True):
        assert np.abs(np.asarray(image, float) - np.asarray(other, float)).max() <= 1


def test_training_images_and_a_gallery_shrink_in_the_same_way(fresh, tmp_path):
    wanted = [sampling.TrainingImage(f"a {name}", name, 0) for name in ("cat", "dog", "ship", "horse", "frog")]
    with room_for(fresh, 4) as sizes:
        drawn = sampling.training_images(fresh, wanted, RECIPE.settings.images, tmp_path)
    assert sizes == [5, 2, 2, 2, 2, 1, 1] and len(drawn) == 5 and len(list(tmp_path.iterdir())) == 5
    fresh.batches.size = 8
    items = [(f"a {name}", 0) for name in ("cat", "dog", "ship", "horse", "frog")]
    with room_for(fresh, 3) as sizes:
        seen = []
        images = image_cache.generate(fresh, items, REQUEST, tmp_path, seen.append)
    assert sizes == [5, 2, 2, 2, 2, 1, 1] and len(images) == seen[-1].step == 5
    assert fresh.batches.size == 2


@pytest.mark.parametrize("work", ["train", "draw"])
def test_not_even_one_is_a_sentence_that_names_what_to_do(fresh, work):
    # Drawing in batches of five takes two forwards; then the training begins.
    with room_for(fresh, 0, after=2 if work == "train" else 0), pytest.raises(ModelError) as error:
        erase.erase(fresh, RECIPE) if work == "train" else sampling.generate(fresh, REQUEST)
    assert "--low-memory" in str(error.value) and "float16" in str(error.value)


def test_other_errors_are_not_taken_for_a_lack_of_memory(fresh):
    def broken(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    handle = fresh.unet.register_forward_pre_hook(broken)
    try:
        with pytest.raises(RuntimeError, match="mat1"):
            sampling.generate(fresh, REQUEST)
    finally:
        handle.remove()
    assert fresh.batches == Batches(8)


def test_the_cpus_own_error_is_understood():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60, dtype=torch.uint8)
    assert ran_out(error.value)
    assert ran_out(MemoryError()) and ran_out(RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"))
    assert not ran_out(RuntimeError("shape mismatch"))
