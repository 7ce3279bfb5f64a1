import numpy as np
import pytest

from mace_studio.recipe import ImageRequest
from mace_studio.sd import image_cache, projections, sampling
from mace_studio.sd import model as sd_model
from tests.steps import cancelled

ITEMS = [("a cat", 0), ("a dog", 0), ("a cat", 1)]
REQUEST = ImageRequest(("",), steps=2, guidance=4.0)


def same(first, second):
    return len(first) == len(second) and all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def counted(monkeypatch):
    """How many images are drawn, as a list with one number for each batch."""
    seen, real = [], sampling.generate_pairs

    def spy(model, pairs, *rest):
        seen.append(len(pairs))
        return real(model, pairs, *rest)

    monkeypatch.setattr(sampling, "generate_pairs", spy)
    return seen


def test_what_was_drawn_is_read_and_equal(model, unchanged, tmp_path, monkeypatch):
    drawn = counted(monkeypatch)
    seen = []
    plain = image_cache.generate(model, ITEMS, REQUEST, None, progress=seen.append)
    first = image_cache.generate(model, ITEMS, REQUEST, tmp_path)
    counts = []
    again = image_cache.generate(model, ITEMS, REQUEST, tmp_path, progress=counts.append)
    assert drawn == [3, 3] and [p.step for p in counts] == [3]
    assert same(plain, first) and same(first, again)
    steps = [p.step for p in seen]
    assert steps == sorted(steps) and steps[-1] == 3
    more = image_cache.generate(model, [*ITEMS, ("a ship", 5)], REQUEST, tmp_path)
    assert drawn == [3, 3, 1] and same(more[:3], first)


def test_other_weights_steps_and_guidance_are_other_images(model, unchanged, tmp_path, monkeypatch):
    drawn = counted(monkeypatch)
    weights = {key: 0 * weight_PD for key, weight_PD in projections.read(model.unet).items()}
    first = image_cache.generate(model, ITEMS, REQUEST, tmp_path)
    for request in (
        ImageRequest(("",), steps=3, guidance=4.0),
        ImageRequest(("",), steps=2, guidance=3.0),
        ImageRequest(("",), steps=2, guidance=4.0, negative="a tree"),
    ):
        assert not same(image_cache.generate(model, ITEMS, request, tmp_path), first)
    with projections.swapped(model.unet, weights):
        changed = image_cache.generate(model, ITEMS, REQUEST, tmp_path, changes="nothing left")
        again = image_cache.generate(model, ITEMS, REQUEST, tmp_path, changes="nothing left")
    assert not same(changed, first) and same(changed, again)
    assert drawn == [3] * 5


def test_cancelling_keeps_whole_images_only(model, unchanged, tmp_path):
    items = [("a cat", seed) for seed in range(10)]
    with cancelled(lambda p: p.step >= 9) as progress:
        image_cache.generate(model, items, REQUEST, tmp_path, progress)
    kept = list(tmp_path.rglob("*.png"))
    assert len(kept) == sd_model.BATCH and not list(tmp_path.rglob("*.part"))
    seen = []
    images = image_cache.generate(model, items, REQUEST, tmp_path, seen.append)
    assert len(images) == 10 and seen[0].step == sd_model.BATCH and seen[-1].step == seen[-1].total == 10


@pytest.mark.parametrize("items", [[("a cat", 0), ("a cat", 0)], []])
def test_repeated_and_no_images(model, items):
    images = image_cache.generate(model, items, REQUEST, None)
    assert len(images) == len(items) and all(same(images[:1], [image]) for image in images)
