"""The methods that train, on small random pipelines: they change what they say, lower their loss, can be cancelled."""

import itertools
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from mace_studio import caption_files, prompts
from mace_studio import erasure as erasures
from mace_studio.errors import FileError, ModelError, NotFinite
from mace_studio.methods import METHODS, esd, forget_me_not, training
from mace_studio.methods.settings import EsdSettings
from mace_studio.methods.training import Prompts
from mace_studio.progress import Cancelled
from mace_studio.recipe import Concept, Recipe
from mace_studio.sd import attention_hooks, projections, text
from mace_studio.sd import model as sd_model
from tests.steps import cancelled, untouched

TRAINED = ("esd", "ac", "fmn", "sa")
FEW = {
    "esd": {"steps": 2, "learning_rate": 1e-3},
    "ac": {"steps": 2, "learning_rate": 1e-3, "images": 2, "batch": 2, "image_steps": 2},
    "fmn": {"steps": 1, "learning_rate": 1e-3, "images": 2, "image_steps": 2},
    "sa": {"steps": 2, "learning_rate": 1e-3, "surrogates": 1, "replay": 2, "stride": 500, "image_steps": 2},
}
CONCEPTS = (Concept("cat", "forest"), Concept("ship", "ground"))


def recipe_of(name, concepts=CONCEPTS, seed=0, **settings):
    return Recipe(concepts=concepts, method=name, seed=seed).with_settings(**FEW[name] | settings)


@pytest.fixture(scope="module")
def small(models):
    return models["sd1"]


@pytest.fixture(scope="module")
def erased(small):
    return {name: METHODS[name].erase(small, recipe_of(name)) for name in TRAINED}


@pytest.mark.parametrize("name", TRAINED)
def test_training_changes_weights_and_leaves_the_model(small, erased, name):
    seen = []
    with untouched(small):
        again = METHODS[name].erase(small, recipe_of(name), seen.append)
    fractions = [event.fraction for event in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    assert {event.concept for event in seen if event.loss is not None} <= {"cat", "ship"}
    own = projections.read(small.unet, METHODS[name].changes)
    assert any(not torch.equal(weight, own[key]) for key, weight in again.weights.items())
    assert all(torch.isfinite(weight).all() for weight in again.weights.values())
    assert again.weights.keys() == erased[name].weights.keys()
    assert all(torch.equal(weight, erased[name].weights[key]) for key, weight in again.weights.items())


@pytest.mark.parametrize("name", TRAINED)
def test_it_changes_no_weights_but_those_of_its_selection(erased, small, name):
    keys = set(erased[name].weights)
    every = {key for key, _ in small.unet.named_parameters()}
    expected = {
        "esd": {key for key in every if "attn2" in key},
        "ac": set(projections.read(small.unet)),
        "fmn": every,
        "sa": every,
    }
    assert keys == expected[name]


@pytest.mark.parametrize(
    ("name", "nothing"), [("esd", {"eta": 0.0}), *((name, {"steps": 0}) for name in ("esd", "ac", "fmn", "sa"))]
)
def test_without_strength_or_steps_the_weights_come_back_bit_for_bit(small, name, nothing):
    own = projections.read(small.unet, "unet")
    weights = METHODS[name].erase(small, recipe_of(name, **nothing)).weights
    assert weights and all(torch.equal(weight, own[key]) for key, weight in weights.items())


@pytest.mark.parametrize("name", TRAINED)
def test_cancelling_at_the_first_step_restores_the_model(small, name):
    with untouched(small), cancelled(lambda event: event.loss is not None) as progress:
        METHODS[name].erase(small, recipe_of(name), progress)
    assert progress.seen[-1].stage == "train" and progress.seen[-1].step == 1


@pytest.mark.parametrize("name", TRAINED)
def test_it_is_cancelled_after_one_batch_of_sentences(small, name, monkeypatch):
    read, encode_prompt = [], small.pipeline.encode_prompt

    def encode(*args, **options):
        read.extend([options["prompt"]] if "prompt" in options else [])  # the pipeline's own are without a keyword
        return encode_prompt(*args, **options)

    def cancel(event):
        if read:
            raise Cancelled

    monkeypatch.setattr(small.pipeline, "encode_prompt", encode)
    # ESD reads the names of all concepts at once.
    concepts = [Concept(f"cat {i}", "forest") for i in range(text.BATCH)] if name == "esd" else CONCEPTS
    with untouched(small), pytest.raises(Cancelled):
        METHODS[name].erase(small, recipe_of(name, concepts), cancel)
    assert len(read) == 1 and len(read[0]) <= text.BATCH


def test_the_loss_of_an_esd_step_is_the_equation(small):
    seen = []
    METHODS["esd"].erase(small, recipe_of("esd", CONCEPTS[:1], seed=3, steps=1), seen.append)
    generator = torch.Generator().manual_seed(3)
    torch.randint(1, (), generator=generator)
    j = int(torch.randint(50, (), generator=generator))
    x = torch.randn((1, 4, 8, 8), generator=generator)
    t = 20 * j + int(torch.randint(20, (), generator=generator))
    context = small.pipeline.encode_prompt(["", "cat"], small.device, 1, False)[0]
    abar = small.pipeline.scheduler.alphas_cumprod.double()

    @torch.no_grad()
    def noise(x, t, row):
        return small.unet(x, t, context[row : row + 1]).sample.double()

    # The grid 20 k + 1 from k = 48 on, as many steps as min(49, 50 - j), the last one to level 0 where k would be -1.
    grid = [20 * k + 1 for k in range(48, -1, -1)] + [0]
    for now, after in itertools.islice(itertools.pairwise(grid), min(49, 50 - j)):
        eps = noise(x, now, 0) + 3 * (noise(x, now, 1) - noise(x, now, 0))
        clean = (x - (1 - abar[now]).sqrt() * eps) / abar[now].sqrt()
        x = (abar[after].sqrt() * clean + (1 - abar[after]).sqrt() * eps).float()
    null, concept = noise(x, t, 0), noise(x, t, 1)
    expected = (concept - (null - (concept - null))).square().mean()  # the student is still the frozen model
    (loss,) = {event.loss for event in seen} - {None}
    assert loss == pytest.approx(expected.item(), rel=1e-3)


def test_the_loss_of_an_fmn_step_is_the_equation(small):
    seen = []
    recipe = recipe_of("fmn", CONCEPTS[:1], seed=3, steps=1, real_images=False)
    METHODS["fmn"].erase(small, recipe, seen.append)
    generator = torch.Generator().manual_seed(3)
    torch.randint(1, (), generator=generator)
    torch.randint(1, (), generator=generator)
    t = int(torch.randint(1000, (1,), generator=generator))
    abar = small.pipeline.scheduler.alphas_cumprod[t]
    noisy = (1 - abar).sqrt() * torch.randn((1, 4, 8, 8), generator=generator)  # without images z is 0
    context = small.pipeline.encode_prompt("a photo of cat", small.device, 1, False)[0]
    ids = small.pipeline.tokenizer("a photo of cat").input_ids
    pressed = range(4, 32)  # "cat", the end token, and the padding, which is made of end tokens
    assert len(ids) == 6
    with torch.no_grad():
        layers = attention_hooks.of_forward(small.unet, lambda: small.unet(noisy, t, context))
    expected = sum(layer[..., list(pressed)].double().square().sum() for layer in layers).sqrt()
    (loss,) = {event.loss for event in seen} - {None}
    assert loss == pytest.approx(expected.item(), rel=1e-4)


def test_the_loss_of_an_ac_step_is_the_equation(small, tmp_path):
    seen = []
    recipe = recipe_of("ac", CONCEPTS[:1], seed=3, steps=1, images=1, batch=1)
    METHODS["ac"].erase(small, recipe, seen.append, tmp_path)
    latent = load_file(next(tmp_path.glob("*.safetensors")))["latent_CHW"][None]
    generator = torch.Generator().manual_seed(3)
    for _ in range(2):
        torch.randint(1, (), generator=generator)
    t = int(torch.randint(1000, (1,), generator=generator))
    abar = small.pipeline.scheduler.alphas_cumprod[t]
    noisy = abar.sqrt() * latent + (1 - abar).sqrt() * torch.randn(latent.shape, generator=generator)
    sentences = [prompts.about(CONCEPTS[0])[0], prompts.mapped(CONCEPTS[0])[0]]
    context = small.pipeline.encode_prompt(sentences, small.device, 1, False)[0]
    with torch.no_grad():
        own, anchor = (small.unet(noisy, t, context[row : row + 1]).sample for row in (0, 1))
    assert seen[-2].loss == pytest.approx(4 * (own - anchor).double().square().mean().item(), rel=1e-3)


@pytest.mark.parametrize("fisher_weight", [0.0, 1e9])
def test_the_loss_of_an_sa_step_is_the_equation(small, tmp_path, fisher_weight):
    seen = []
    recipe = recipe_of(
        "sa", CONCEPTS[:1], seed=3, surrogates=1, replay=1, replay_weight=0.5, fisher_weight=fisher_weight
    )
    METHODS["sa"].erase(small, recipe, seen.append, tmp_path)
    losses = [event.loss for event in seen if event.loss is not None]
    found = {load_file(path)["latent_CHW"] for path in tmp_path.glob("*.safetensors") if "fisher" not in path.name}
    captions = caption_files.read_captions(small.captions)
    chosen = captions[int(torch.randperm(len(captions), generator=torch.Generator().manual_seed(0))[0])]
    sentences = [prompts.image_prompt("cat", "object"), chosen]
    context = small.pipeline.encode_prompt(sentences, small.device, 1, False)[0]
    abar, generator = small.pipeline.scheduler.alphas_cumprod, torch.Generator().manual_seed(3)
    parts = []
    for row in (0, 1):  # the surrogate under the concept's prompt, then the replayed image under its own caption
        torch.randint(1, (), generator=generator)
        t = int(torch.randint(1000, (1,), generator=generator))
        noise = torch.randn((1, 4, 8, 8), generator=generator)
        errors = []
        for latent in found:  # which of the two images it is follows from the sum below
            noisy = abar[t].sqrt() * latent + (1 - abar[t]).sqrt() * noise
            with torch.no_grad():
                errors.append((small.unet(noisy, t, context[row : row + 1]).sample - noise).double().square().mean())
        parts.append([error.item() for error in errors])
    expected = [parts[0][i] + 0.5 * parts[1][1 - i] for i in (0, 1)]
    # At the first step nothing has moved, so that the Fisher information has no part in it.
    assert min(abs(losses[0] - one) / one for one in expected) < 1e-3
    assert (losses[1] > 10 * losses[0]) == (fisher_weight > 0)  # at the second it holds what the first has moved


@pytest.mark.parametrize("name", TRAINED)
def test_the_losses_are_in_the_file(small, erased, name, tmp_path):
    losses = erased[name].losses
    assert sum(map(len, losses.values())) == (2 if name != "fmn" else 2 * 1) and set(losses) <= {"cat", "ship"}
    erased[name].save(tmp_path / "made.safetensors")
    again = erasures.load(tmp_path / "made.safetensors")
    assert again.losses == losses and again.loras == {} and again.unet == small.unet_fingerprint


def probe(model, sentences):
    """The same noise at three timesteps, and what the model reads of sentences."""
    noisy = torch.randn((3, 1, 4, 8, 8), generator=torch.Generator().manual_seed(9))
    return list(zip(noisy, (200, 500, 800), strict=True)), Prompts.of(model, sentences)


@torch.no_grad()
def test_esd_comes_nearer_to_its_target(small):
    recipe = recipe_of("esd", CONCEPTS[:1], steps=6, learning_rate=3e-4, guidance=1.0)
    points, read = probe(small, ["", "cat"])
    targets = [
        esd.target(*(training.predict(small, x, t, read.rows([row])) for row in (0, 1)), EsdSettings().eta)
        for x, t in points
    ]

    def distance():
        own = [training.predict(small, x, t, read.rows([1])) for x, t in points]
        return sum((a - b).square().mean().item() for a, b in zip(own, targets, strict=True))

    before = distance()
    with torch.enable_grad():
        erasure = METHODS["esd"].erase(small, recipe)
    with erasure.applied(small):
        assert distance() < 0.7 * before


@torch.no_grad()
def test_fmn_presses_attention_down(small):
    points, read = probe(small, ["a photo of cat"])

    def attention():
        maps = [
            attention_hooks.of_forward(small.unet, lambda x=x, t=t: training.predict(small, x, t, read))
            for x, t in points
        ]
        return sum(forget_me_not.loss(layers, [4]).item() for layers in maps)

    before = attention()
    with torch.enable_grad():
        recipe = recipe_of("fmn", CONCEPTS[:1], steps=8, learning_rate=3e-3, closing=False, attention_only=True)
        erasure = METHODS["fmn"].erase(small, recipe)
    with erasure.applied(small):
        assert attention() < 0.8 * before


def test_fmn_learns_tokens_first_where_it_is_asked_to(small):
    seen = []
    with untouched(small):
        METHODS["fmn"].erase(small, recipe_of("fmn", CONCEPTS[:1], inversion_steps=3, inversion_tokens=2), seen.append)
    assert [event.step for event in seen if event.stage == "tokens"] == [1, 2, 3]


def test_no_tokens_are_learned_for_two_text_encoders(models):
    with pytest.raises(ModelError, match=r"two text encoders, .* set inversion_steps to 0"):
        METHODS["fmn"].erase(models["sdxl"], recipe_of("fmn", inversion_steps=3))


@pytest.mark.parametrize("family", ["sd2", "lcm", "sdxl"])
@pytest.mark.parametrize("name", ["esd", "fmn"])
def test_other_families_train(models, family, name):
    with untouched(models[family]):
        weights = METHODS[name].erase(models[family], recipe_of(name, CONCEPTS[:1], steps=1)).weights
    assert all(torch.isfinite(weight).all() for weight in weights.values())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_trains_on_copies_in_float32(folders, dtype):
    model = sd_model.load(str(folders["sd1"]), "cpu", dtype)
    seen = []
    weights = METHODS["fmn"].erase(model, recipe_of("fmn", CONCEPTS[:1], learning_rate=1e-3), seen.append).weights
    own = projections.read(model.unet, "unet")
    assert {weight.dtype for weight in weights.values()} == {model.dtype}
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    assert any(not torch.equal(weight, own[key]) for key, weight in weights.items())


def test_the_fisher_information_is_kept(small, tmp_path):
    seen = []
    first = METHODS["sa"].erase(small, recipe_of("sa"), seen.append, tmp_path)
    assert max(event.step for event in seen if event.stage == "fisher") == 2 * 2
    assert len(list(tmp_path.glob("fisher-*.safetensors"))) == 1
    seen.clear()
    again = METHODS["sa"].erase(small, recipe_of("sa"), seen.append, tmp_path)
    assert not any(event.stage == "fisher" for event in seen)
    assert all(torch.equal(weight, first.weights[key]) for key, weight in again.weights.items())


def test_training_ends_at_a_loss_that_is_no_number(small):
    weight, seen = torch.ones(2, requires_grad=True), []
    losses = iter([weight.sum(), weight.sum() * torch.inf])
    with pytest.raises(
        NotFinite, match=r"loss of “cat” at step 2, with a learning rate of 0.1, left .* float32.*smaller"
    ):
        training.train(small, torch.optim.SGD([weight], 0.1), 3, lambda: ("cat", [next(losses)]), seen.append)
    assert len(seen) == 1 and torch.equal(weight.detach(), torch.full((2,), 0.9))


@pytest.mark.parametrize("name", TRAINED)
def test_it_comes_back_from_its_file_and_is_put_in_place(small, folders, erased, name, tmp_path):
    erased[name].save(tmp_path / "x.safetensors")
    back = erasures.load(tmp_path / "x.safetensors")
    with untouched(small):
        with back.applied(small):
            now = projections.read(small.unet, "unet")
            assert all(torch.equal(now[key], weight) for key, weight in back.weights.items())
        pipeline = sd_model.load(str(folders["sd1"]), "cpu", "float32").pipeline
        back.apply(pipeline)
        now = projections.read(pipeline.unet, "unet")
        assert all(torch.equal(now[key], weight) for key, weight in back.weights.items())


def test_a_method_of_projections_puts_nothing_else_in_place(small, erased):
    lying = replace(erased["esd"], recipe=Recipe(concepts=CONCEPTS, method="uce"))
    with untouched(small):
        with pytest.raises(FileError, match="does not fit"), lying.applied(small):
            pass
        with pytest.raises(FileError, match="does not fit this pipeline"):
            lying.apply(small.pipeline)
