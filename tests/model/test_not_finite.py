"""What is not finite stops at once, and is never saved, loaded, applied or fused."""

import copy
from dataclasses import replace

import pytest
import torch

from mace_studio import erasure as erasures
from mace_studio import methods
from mace_studio.erasure import Erasure
from mace_studio.errors import NotFinite
from mace_studio.methods import METHODS, inputs, training
from mace_studio.methods.mace import MaceSettings, erase
from mace_studio.progress import silent
from mace_studio.recipe import Concept, ImageRequest, Recipe
from mace_studio.sd import files, finite, projections, sampling, text
from mace_studio.sd import model as sd_model
from mace_studio.settings import ImageSettings, LoraSettings
from tests.steps import untouched

QUICK = Recipe(
    concepts=(Concept("cat", "dog"),),
    settings=MaceSettings(
        images=ImageSettings(per_concept=1, steps=2), lora=LoraSettings(rank=1, steps=4), masks="none"
    ),
)


@pytest.fixture(scope="module")
def other(other_folder, tmp_path_factory):
    """A model of this module's own, since weights of it are changed."""
    captions = tmp_path_factory.mktemp("captions") / "few.txt"
    captions.write_text("a cat sits\na dog runs", encoding="utf-8")
    return sd_model.load(str(other_folder), "cpu", "float32", captions=captions)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"alpha": 1e38}, "an alpha of 1e\\+38"),
        ({"alpha": 1e30}, "gradient of “cat” at step [12] is no finite number any more, .* an alpha of 1e\\+30 in"),
        ({"learning_rate": 1e30}, "learning rate of 1e\\+30"),
    ],
)
def test_training_that_diverges_names_the_rate(other, tmp_path, changes, says):
    recipe = QUICK.with_settings(lora=replace(QUICK.settings.lora, **changes))
    before = other.checksum()
    with pytest.raises(NotFinite, match=says):
        erase.erase(other, recipe, cache=tmp_path)
    assert other.checksum() == before


@pytest.fixture
def broken(other):
    """The same model with an infinite weight of the UNet, as float16 makes it."""
    weight = other.unet.conv_in.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight[0, 0, 0, 0] = float("inf")
    yield other
    with torch.no_grad():
        weight.copy_(before)


FEW = {
    "mace": {"masks": "none", "images": ImageSettings(per_concept=1, steps=1), "lora": LoraSettings(steps=1)},
    "esd": {"steps": 1},
    "ac": {"steps": 1, "images": 1, "image_steps": 1},
    "fmn": {"steps": 1, "images": 1, "image_steps": 1},
    "sa": {"steps": 1, "surrogates": 1, "replay": 1, "stride": 999, "image_steps": 1},
}


@pytest.mark.parametrize("name", [name for name in METHODS if not METHODS[name].guide])
def test_no_method_returns_what_is_not_finite(other, name):
    weights = projections.read(other.unet).values()
    before = [weight[0, 0].item() for weight in weights]
    recipe = Recipe(concepts=QUICK.concepts, preserve=("ship",), method=name).with_settings(**FEW.get(name, {}))
    try:
        for weight in weights:
            weight.data[0, 0] = float("nan")
        with pytest.raises(NotFinite, match="float32"):
            methods.erase(other, recipe)
    finally:
        for weight, value in zip(weights, before, strict=True):
            weight.data[0, 0] = value


def test_a_closed_form_that_overflows_the_models_dtype_is_said(other):
    weights = {"a.weight": torch.full((2, 2), 1e300, dtype=torch.float64)}
    with pytest.raises(NotFinite, match=r"The weights of “cat”, a\.weight, left the range of float32"):
        inputs.result(other, QUICK, weights)


def test_generating_stops_at_the_first_step(broken):
    seen = []
    with pytest.raises(NotFinite, match="The latents of step 1 left the range of float32"):
        sampling.generate(broken, ImageRequest(("a cat",), steps=5), seen.append)
    assert not seen


def test_training_images_of_it_are_not_kept(broken, tmp_path):
    with pytest.raises(NotFinite, match="latents"):
        erase.erase(broken, QUICK, cache=tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_vae_that_overflows_is_said(other):
    bias = other.pipeline.vae.decoder.conv_out.bias
    before = bias.detach().clone()
    with untouched(other):
        with torch.no_grad():
            bias.fill_(float("nan"))
        try:
            with pytest.raises(NotFinite, match="The image that the VAE decoded left the range of float32"):
                sampling.generate(other, ImageRequest(("a cat",), steps=1))
        finally:
            with torch.no_grad():
                bias.copy_(before)


def test_text_that_overflows_is_said(other):
    weight = other.pipeline.text_encoder.get_input_embeddings().weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
    try:
        with pytest.raises(NotFinite, match="text encoder"):
            text.embed(other, ["a cat"])
    finally:
        with torch.no_grad():
            weight.copy_(before)


@pytest.fixture
def infinite(other):
    weights = {key: weight.clone() for key, weight in projections.read(other.unet).items()}
    next(iter(weights.values())).view(-1)[0] = float("nan")
    return Erasure(recipe=QUICK, weights=weights, fingerprint=other.fingerprint)


def test_such_an_erasure_is_not_saved_applied_or_loaded(infinite, other, tmp_path):
    path = tmp_path / "cat.safetensors"
    with pytest.raises(NotFinite, match="The weights of “cat”, down_blocks"):
        infinite.save(path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(NotFinite), infinite.applied(other):
        pass
    with pytest.raises(NotFinite):
        infinite.apply(other.pipeline)
    whole = Erasure(recipe=QUICK, weights=projections.read(other.unet), fingerprint=other.fingerprint)
    whole.save(path)
    header = erasures.erasure_header.read(path)
    files.write(path, infinite.weights, header.metadata())
    with pytest.raises(NotFinite):
        erasures.load(path)


@pytest.mark.parametrize(("number", "dtype"), [(1e300, torch.float32), (1e6, torch.float16)])
def test_an_erasure_that_the_models_dtype_has_no_room_for_is_not_applied(other, number, dtype):
    """In float64, or in float32 for a model in float16, its numbers are finite; in the model they would not be."""
    weights = {key: weight.double() for key, weight in projections.read(other.unet).items()}
    last = list(weights)[-1]
    weights[last] = torch.full_like(weights[last], number)
    made, pipeline = Erasure(recipe=QUICK, weights=weights, fingerprint=""), copy.deepcopy(other.pipeline).to(dtype)
    before = {key: tensor.clone() for key, tensor in pipeline.unet.state_dict().items()}
    says = f"{last} left the range of {str(dtype).removeprefix('torch.')}"
    with pytest.raises(NotFinite, match=says):
        made.apply(pipeline)
    with pytest.raises(NotFinite, match=says), projections.swapped(pipeline.unet, weights):
        pass
    assert all(torch.equal(before[key], tensor) for key, tensor in pipeline.unet.state_dict().items())


def test_training_whose_gradients_overflow_stops(other):
    """Dropped at every step, they would leave the model as it is, with a loss that looks like one."""
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([weight], lr=1e-3)
    with pytest.raises(NotFinite, match="The gradient of “cat” at step 1 left the range of float32"):
        training.train(other, optimizer, 3, lambda: ("cat", [(weight * 0).sqrt().sum()]), silent)


def test_weights_that_are_finite_and_far_too_large_are_warned_of(other):
    """A learning rate of 1e3 ends with finite weights after few steps; the images are noise.

    Presets of the built-in model that erase well let a weight grow to 312 times of what it was.
    """
    own = projections.read(other.unet)
    first, second, *_ = own
    assert finite.grown(own, {first: own[first] * 320, second: own[second]}) == []
    (said,) = finite.grown(own, {first: own[first] * 2e8, second: own[second]})
    assert said.startswith("Weights have become up to 2e+08 times as large")
    try:
        made = methods.erase(other, QUICK.with_settings(lora=replace(QUICK.settings.lora, learning_rate=1e3)))
    except NotFinite:
        return
    assert any("times as large" in warning for warning in made.warnings)
