"""The image at work can be looked at while it is generated, and nothing comes of it but what is seen."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from mace_studio.analysis import compare
from mace_studio.methods.mace import MaceSettings, erase
from mace_studio.progress import Cancelled, Progress
from mace_studio.recipe import Concept, ImageRequest, Recipe
from mace_studio.runtime import previews
from mace_studio.runtime.perform import Done, Place, perform
from mace_studio.sd import model as sd_model
from mace_studio.sd import pixels, sampling
from mace_studio.settings import ImageSettings, KeepWeights, LoraSettings
from tests.families import FAMILIES
from tests.steps import untouched

RECIPE = Recipe(
    concepts=(Concept("cat", "forest"),),
    settings=MaceSettings(
        refine=KeepWeights(identity=10.0),
        fuse=KeepWeights(identity=10.0),
        lora=LoraSettings(steps=1),
        images=ImageSettings(per_concept=2, steps=3, guidance=4.0),
    ),
)
REQUEST = ImageRequest(("a cat",), (0, 1), steps=3, guidance=4.0)


class Looking:
    """A callback that looks at every step."""

    def __init__(self, cells=previews.CELLS):
        self.cells, self.images = cells, []

    def __call__(self, event):
        if event.look is not None:
            self.images.append(event.look(self.cells))


@pytest.mark.parametrize("family", FAMILIES)
def test_looking_changes_no_bit_of_an_erasure_or_of_images(models, family):
    model, looking = models[family], Looking()
    plain = erase.erase(model, RECIPE)
    with untouched(model):
        seen = erase.erase(model, RECIPE, looking)
    assert len(looking.images) == sampling.with_defaults(model, RECIPE.settings.images).steps
    assert all(torch.equal(weight, seen.weights[key]) for key, weight in plain.weights.items())
    request = sampling.with_defaults(model, REQUEST)
    for before, after in zip(
        compare.compare(model, plain, request), compare.compare(model, plain, request, looking), strict=True
    ):
        assert (np.asarray(before.after) == np.asarray(after.after)).all()
        assert (np.asarray(before.before) == np.asarray(after.before)).all()


def test_the_last_look_is_the_image_and_fewer_cells_are_a_smaller_one(model, unchanged):
    looking = Looking(1000)
    images = sampling.generate(model, REQUEST, looking)
    assert len(looking.images) == REQUEST.steps and looking.images[-1].mode == "RGB"
    wide = Looking(8)
    sampling.generate(model, REQUEST, wide)
    assert looking.images[-1].size == images[0].size and wide.images[-1].size == (32, 32)
    # Of one batch the first one; the clean latent has about the spread that the decoder knows.
    close = np.abs(np.asarray(looking.images[-1], float) - np.asarray(images[0], float)).mean()
    far = np.abs(np.asarray(looking.images[0], float) - np.asarray(images[0], float)).mean()
    assert close < 4 and close < far / 2


def test_what_is_seen_halfway_is_what_the_image_will_be(model):
    looking = Looking(1000)
    (image, *_) = sampling.generate(model, replace(REQUEST, steps=20), looking)
    distance = [np.abs(np.asarray(seen, float) - np.asarray(image, float)).mean() for seen in looking.images]
    assert distance[9] < 0.4 * distance[0] and distance[-1] < 0.07 * distance[0], distance


def test_a_straight_way_is_foreseen_exactly():
    """x0 and noise by hand: both kinds of schedulers give x0 back from two points of the line between them."""
    clean_CHW, noise_CHW = torch.full((1, 2, 2), 3.0), torch.full((1, 2, 2), -1.0)
    for scheduler, scaled in ((DDIMScheduler(), True), (EulerDiscreteScheduler(), False)):
        scheduler.set_timesteps(10)
        points = []
        for at in (800, 600):
            share = float(scheduler.alphas_cumprod[at])
            plain = clean_CHW + ((1 - share) / share) ** 0.5 * noise_CHW
            points.append(plain * share**0.5 if scaled else plain)
        torch.testing.assert_close(pixels.foreseen(scheduler, *points, 800, 600), clean_CHW, atol=1e-4, rtol=1e-4)
        assert pixels.foreseen(scheduler, None, points[0], 999, 800) is points[0]
        assert pixels.foreseen(scheduler, *points, 600, 600) is points[1]  # PNDM comes by some timesteps twice
        assert pixels.foreseen(scheduler, *points, 1, None) is points[1]


def test_what_euler_begins_with_is_no_white_noise_out_of_range(models):
    looking = Looking()
    sampling.generate(models["sdxl"], replace(REQUEST, steps=8), looking)
    first = np.asarray(looking.images[0])
    assert ((first == 0) | (first == 255)).mean() < 0.5


def test_cancelling_while_looking_leaves_the_model_as_it_was(model):
    def progress(event):
        if event.look is not None:
            event.look(8)
            raise Cancelled

    with untouched(model), pytest.raises(Cancelled):
        erase.erase(model, RECIPE, progress)


def test_in_low_memory_nothing_is_looked_at(folders):
    model, looking = sd_model.load(str(folders["sd1"]), "cpu", "float32", low_memory=True), Looking()
    erase.erase(model, RECIPE, looking)
    assert looking.images == []


@pytest.mark.parametrize("shape", [(64, 64), (16, 40), (3, 100)])
def test_a_preview_keeps_the_proportions(model, shape):
    latent_CHW = torch.randn(model.unet.config.in_channels, *shape, generator=torch.Generator().manual_seed(0))
    width, height = pixels.preview(model, latent_CHW, previews.CELLS).size
    assert max(width, height) <= pixels.THUMBNAIL and width / height == pytest.approx(shape[1] / shape[0], rel=0.15)


def test_a_task_streams_previews_that_can_be_sent_to_another_process(tmp_path, monkeypatch):
    monkeypatch.setattr(previews, "EVERY", 0.0)
    monkeypatch.setattr(previews, "SHARE", float("inf"))
    place = Place(output=tmp_path, cache=tmp_path / "cache")
    *events, last = perform("erase", place, RECIPE)
    assert isinstance(last, Done) and pickle.loads(pickle.dumps(events))[0].stage == "images"
    shown = [event for event in events if isinstance(event, Progress) and event.preview is not None]
    assert len(shown) == 3 and {event.stage for event in shown} == {"images"}
    assert all(event.look is None for event in events)
