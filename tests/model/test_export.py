"""Every format is loaded back by the program that reads it, and generates what the erasure in place generates."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from mace_studio import erasure, text_files
from mace_studio.analysis import compare as comparison
from mace_studio.errors import FileError
from mace_studio.exports import export as exporting
from mace_studio.exports import model_card, writers
from mace_studio.exports.formats import FORMATS, ExportRequest
from mace_studio.methods.mace import MaceSettings, erase
from mace_studio.recipe import Concept, ImageRequest, Recipe
from mace_studio.runtime.studio import BUILT_IN
from mace_studio.sd import files, projections, sampling
from mace_studio.sd import model as sd_model
from mace_studio.settings import ImageSettings, KeepWeights, LoraSettings
from tests.steps import cancelled

RECIPE = Recipe(
    concepts=(Concept("cat", "forest"), Concept("Ada [Finch]|", "a person", "celebrity")),
    preserve=("dog",),
    settings=MaceSettings(
        refine=KeepWeights(preserve=1.0, identity=0.1),
        fuse=KeepWeights(preserve=1.0, identity=0.1),
        lora=LoraSettings(steps=5, learning_rate=3e-3),
        images=ImageSettings(per_concept=1, steps=4),
    ),
)
REQUEST = ImageRequest(prompts=("a photo of the cat", "a photo of the ship"), seeds=(0, 1), steps=10, guidance=4.0)


@pytest.fixture(scope="module")
def erased(model):
    return erase.erase(model, RECIPE)


@pytest.fixture(scope="module")
def wanted(model, erased):
    """What the model generates with the erasure in place; it differs from what it generates without."""
    plain = generate(model)
    with erased.applied(model):
        images = generate(model)
    assert psnr(plain, images) < 20
    return images


def generate(model):
    return np.stack([np.asarray(image, np.float64) for image in sampling.generate(model, REQUEST)])


def psnr(images, others):
    """Of the image that fares worst, in decibels."""
    errors = ((images - others) ** 2).reshape(len(images), -1).mean(1)
    return float("inf") if errors.max() == 0 else 10 * np.log10(255**2 / errors.max())


def export(model, erased, path, kind, **settings):
    return exporting.export(model, erased, ExportRequest(kind, path, **settings))


def fresh():
    return sd_model.load(str(BUILT_IN), "cpu", "float32")


def single(path, config=BUILT_IN):
    """A single file as diffusers loads it, without the network."""
    pipeline = StableDiffusionPipeline.from_single_file(
        str(path), config=str(config), local_files_only=True, dtype=torch.float32, safety_checker=None
    )
    folder = path.parent / f"{path.stem} as it was read"
    pipeline.save_pretrained(folder, safe_serialization=True)
    return replace(sd_model.load(str(folder), "cpu", "float32"), source=str(path))


def test_the_folder_is_a_model_that_generates_the_same(model, unchanged, erased, wanted, tmp_path):
    result = export(model, erased, tmp_path / "cat", "diffusers")
    again = sd_model.load(str(tmp_path / "cat"), "cpu", "float32")
    assert psnr(generate(again), wanted) > 40
    # The base model's files are in float16, and so are the changed weights; apart from that rounding nothing differs.
    with projections.swapped(model.unet, {key: w.half() for key, w in erased.weights.items()}):
        assert psnr(generate(again), generate(model)) == float("inf")
    assert again.captions == tmp_path / "cat" / "captions.txt"
    assert result.size == sum(path.stat().st_size for path in (tmp_path / "cat").rglob("*") if path.is_file())


def test_the_folder_differs_in_the_projections_only(model, erased, tmp_path):
    export(model, erased, tmp_path / "cat", "diffusers")
    theirs = {path.relative_to(BUILT_IN) for path in BUILT_IN.rglob("*") if path.is_file()}
    ours = {path.relative_to(tmp_path / "cat") for path in (tmp_path / "cat").rglob("*") if path.is_file()}
    assert ours == theirs
    weights = Path("unet", "diffusion_pytorch_model.safetensors")
    for name in theirs - {weights, Path("README.md")}:
        assert (tmp_path / "cat" / name).read_bytes() == (BUILT_IN / name).read_bytes()
    before, after = load_file(BUILT_IN / weights), load_file(tmp_path / "cat" / weights)
    assert {key for key in before if not torch.equal(before[key], after[key])} == set(erased.weights)
    assert {tensor.dtype for tensor in after.values()} == {torch.float16}


def test_the_partial_unet_is_the_very_erasure(model, erased, wanted, tmp_path):
    export(model, erased, tmp_path / "cat.safetensors", "unet")
    again = fresh()
    loaded = again.unet.load_state_dict(load_file(tmp_path / "cat.safetensors"), strict=False)
    assert not loaded.unexpected_keys and len(loaded.missing_keys) + len(erased.weights) == len(model.unet.state_dict())
    assert psnr(generate(again), wanted) == float("inf")


def added(unet, path):
    """The weights after a file was added to them by the rule that ComfyUI and A1111 share.

    A layer is `lora_unet_` and its path with "_" for "."; `.diff` is added as it is, and of a LoRA
    alpha / rank * up @ down. A key that names no layer of the UNet fails.
    """
    layers = {"lora_unet_" + name.replace(".", "_"): name + ".weight" for name, _ in unet.named_modules()}
    tensors, state = {key: tensor.float() for key, tensor in load_file(path).items()}, unet.state_dict()
    weights = {}
    for name in {key.split(".")[0] for key in tensors}:
        if f"{name}.diff" in tensors:
            update = tensors.pop(f"{name}.diff")
        else:
            up, down = tensors.pop(f"{name}.lora_up.weight"), tensors.pop(f"{name}.lora_down.weight")
            update = tensors.pop(f"{name}.alpha") / len(down) * up @ down
        weights[layers[name]] = state[layers[name]] + update
    assert not tensors
    return weights


def test_the_lycoris_file_adds_up_to_the_erasure(model, unchanged, erased, wanted, tmp_path):
    export(model, erased, tmp_path / "cat.safetensors", "lycoris")
    weights = added(model.unet, tmp_path / "cat.safetensors")
    assert weights.keys() == erased.weights.keys()
    with projections.swapped(model.unet, weights):
        assert psnr(generate(model), wanted) > 50


def test_lycoris_itself_reads_the_lycoris_file(model, erased, wanted, tmp_path):
    lycoris = pytest.importorskip("lycoris", reason="lycoris-lora is not installed")
    export(model, erased, tmp_path / "cat.safetensors", "lycoris")
    again = fresh()
    lycoris.LycorisNetwork.apply_preset({"lora_prefix": "lora_unet"})
    network, _ = lycoris.create_lycoris_from_weights(1.0, str(tmp_path / "cat.safetensors"), again.unet)
    assert len(network.loras) == len(erased.weights)
    network.merge_to(1.0)
    assert psnr(generate(again), wanted) > 50


@pytest.mark.parametrize(
    "settings, bound", [({}, 45), ({"energy": 0.99}, 20), ({"energy": 0.99999}, 50), ({"rank": 200}, 50)]
)
def test_diffusers_generates_with_the_lora_as_closely_as_it_keeps_the_difference(
    model, erased, wanted, tmp_path, settings, bound
):
    result = export(model, erased, tmp_path / "cat.safetensors", "lora", **settings)
    again = fresh()
    again.pipeline.load_lora_weights(str(tmp_path / "cat.safetensors"))
    drawn = generate(again)
    assert psnr(drawn, wanted) > bound
    with projections.swapped(model.unet, added(model.unet, tmp_path / "cat.safetensors")):
        assert psnr(generate(model), drawn) > 60
    allowed = (1 - settings.get("energy", 0.9999)) ** 0.5 if "rank" not in settings else 0.0
    assert result.residuals.keys() == erased.weights.keys()
    assert all(share < allowed + 2e-3 for _, share in result.residuals.values())
    assert len({rank for rank, _ in result.residuals.values()}) == 1


def test_the_single_file_is_the_whole_model(model, unchanged, erased, wanted, tmp_path):
    export(model, erased, tmp_path / "cat.safetensors", "checkpoint")
    again = single(tmp_path / "cat.safetensors")
    assert psnr(generate(again), wanted) > 40
    for part in ("unet", "vae", "text_encoder"):
        ours, theirs = getattr(again.pipeline, part).state_dict(), getattr(model.pipeline, part).state_dict()
        assert ours.keys() == theirs.keys()
        changed = {key for key in theirs if not torch.equal(ours[key], theirs[key])}
        assert changed == (set(erased.weights) if part == "unet" else set())
    stored = load_file(tmp_path / "cat.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    expected = erased.weights["down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"]
    assert torch.equal(stored[key], expected.half())


@pytest.fixture
def from_file(model, tmp_path):
    """The built-in model as it is when it came from a single file, with averaged weights beside the others."""
    same = erasure.Erasure(recipe=RECIPE, weights=dict(projections.read(model.unet)), fingerprint=model.fingerprint)
    path = tmp_path / "base.safetensors"
    export(model, same, path, "checkpoint")
    tensors = load_file(path)
    files.write(path, tensors | {"model_ema.some_weight": torch.ones(2)}, {"modelspec.title": "base"})
    return single(path)


def test_a_model_from_a_single_file_goes_to_a_single_file(from_file, erased, wanted, tmp_path):
    assert from_file.fingerprint == erased.fingerprint
    export(from_file, erased, tmp_path / "cat.safetensors", "checkpoint")
    assert psnr(generate(single(tmp_path / "cat.safetensors")), wanted) > 40
    with safe_open(tmp_path / "cat.safetensors", framework="pt") as file:
        assert file.metadata()["modelspec.title"] == "base"
        assert not any(key.startswith("model_ema") for key in file.keys())  # noqa: SIM118 - not a mapping


def test_a_model_from_a_single_file_goes_to_a_folder(from_file, erased, wanted, tmp_path):
    export(from_file, erased, tmp_path / "cat", "diffusers")
    again = sd_model.load(str(tmp_path / "cat"), "cpu", "float32")
    assert psnr(generate(again), wanted) == float("inf")
    encoder = load_file(tmp_path / "cat" / "text_encoder" / "model.safetensors")
    assert all(key.startswith("text_model.") for key in encoder)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_every_format_has_its_writer():
    assert all(callable(getattr(writers, row.write)) for row in FORMATS.values())


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_says_what_it_is(model, erased, tmp_path, kind):
    path = tmp_path / f"cat{FORMATS[kind].suffix}"
    result = export(model, erased, path, kind)
    weights = path / "unet" / "diffusion_pytorch_model.safetensors" if kind == "diffusers" else path
    with safe_open(weights, framework="pt") as file:
        metadata = file.metadata()
    about = json.loads(metadata["mace_studio_export"])
    assert metadata["format"] == "pt" and about["format"] == kind
    assert Recipe.from_json(json.dumps(about["recipe"])) == RECIPE
    assert about["fingerprint"] == model.fingerprint and about["versions"] == erased.versions
    assert "apache-2.0" in about["licence"]
    assert str(BUILT_IN.parents[2]) not in json.dumps(metadata)
    card = (path / "README.md" if kind == "diffusers" else path.with_suffix(".md")).read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert "| Ada \\[Finch\\]\\| | a person | celebrity |" in card and model.fingerprint in card
    assert Recipe.from_json(card.split("```json\n")[1].split("```")[0]) == RECIPE
    assert str(BUILT_IN.parents[2]) not in card
    assert ("left out" in card) == (kind == "lora")
    assert result.path == path and all(written.exists() for written in result.files)


@pytest.mark.parametrize("licence", ["mit", "a: b\nfoo: bar", "'\"{[&*#", "null", "- x", "CC BY-NC 4.0"])
def test_the_licence_of_a_card_is_one_value_of_its_front(licence):
    facts = model_card.Facts(
        format="unet", file="x", base="o/m: x", on_hub=True, fingerprint="0", licence=licence, versions={}, warnings=(),
        residuals={}, image=None, rows=[], scores=[],
    )  # fmt: skip
    front = yaml.safe_load(model_card.write(RECIPE, facts).split("---")[1])
    assert front["license"] == " ".join(licence.split()) and front["base_model"] == "o/m: x" and "foo" not in front


@pytest.mark.parametrize("kind, network", [("lycoris", "lycoris.kohya"), ("lora", "networks.lora"), ("unet", None)])
def test_a1111_learns_which_models_a_lora_is_for(model, erased, tmp_path, monkeypatch, kind, network):
    """It offers a file for Stable Diffusion 2 only if `ss_v2` is "True", for SDXL if the base's version says so."""
    assert exporting.A1111_FAMILIES[2048]["ss_base_model_version"].startswith("sdxl_")
    monkeypatch.setitem(exporting.A1111_FAMILIES, model.width, exporting.A1111_FAMILIES[1024])
    export(model, erased, tmp_path / "cat.safetensors", kind)
    with safe_open(tmp_path / "cat.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata.get("ss_network_module") == network
    assert metadata.get("ss_v2") == ("True" if network else None)


def test_equal_exports_are_equal_files(model, erased, tmp_path):
    for name in "ab":
        export(model, erased, tmp_path / name / "cat.safetensors", "lora", rank=3)
    assert (tmp_path / "a/cat.safetensors").read_bytes() == (tmp_path / "b/cat.safetensors").read_bytes()


@pytest.mark.parametrize("kind", ["diffusers", "unet"])
def test_the_card_shows_images_of_the_same_erasure(model, erased, tmp_path, kind):
    pairs = comparison.compare(model, erased, replace(REQUEST, steps=2))[:2]
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for pair, path in zip(pairs, paths, strict=True):
        comparison.save_pair(pair, path)
    path = tmp_path / f"cat{FORMATS[kind].suffix}"
    export(model, erased, path, kind, pairs=tuple(paths))
    card, picture = (
        (path / "README.md", path / "before-after.png")
        if kind == "diffusers"
        else (tmp_path / "cat.md", tmp_path / "cat.png")
    )
    text = card.read_text(encoding="utf-8")
    assert f"]({picture.name})" in text and "1. “a photo of the cat”, seed 0\n2. “a photo of the cat”, seed 1" in text
    with Image.open(picture) as sheet:
        assert sheet.size == (2 * 64, 2 * 64)
        assert np.array_equal(np.asarray(sheet.crop((64, 64, 128, 128))), np.asarray(pairs[1].after))
    other = replace(erased, recipe=replace(RECIPE, seed=5))
    with pytest.raises(FileError, match="another erasure"):
        export(model, other, tmp_path / "other.safetensors", "unet", pairs=tuple(paths))
    with pytest.raises(FileError, match="no image that a comparison saved"):
        export(model, erased, tmp_path / "other.safetensors", "unet", pairs=(card,))
    assert not (tmp_path / "other.safetensors").exists()


# What must not happen


def test_an_erasure_of_another_model_is_refused(other, erased, tmp_path):
    with pytest.raises(FileError, match="another model"):
        export(other, erased, tmp_path / "cat.safetensors", "unet")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["diffusers", "lora"])
def test_overwriting_replaces_all_of_it_and_only_when_asked(model, erased, tmp_path, kind):
    path = tmp_path / f"cat{FORMATS[kind].suffix}"
    export(model, erased, path, kind)
    if kind == "diffusers":
        (path / "stale.txt").write_text("")
    with pytest.raises(FileError, match="exists already"):
        export(model, erased, path, kind)
    other = replace(erased, weights={key: 2 * w for key, w in erased.weights.items()})
    export(model, other, path, kind, overwrite=True)
    export(model, other, tmp_path / "new" / path.name, kind)
    for written in (tmp_path / "new").rglob("*"):
        if written.is_file():
            assert (tmp_path / written.relative_to(tmp_path / "new")).read_bytes() == written.read_bytes()
    assert not (path / "stale.txt").exists()
    assert not [p for p in tmp_path.rglob(".*")]


@pytest.mark.parametrize("inside", [".", "..", "unet/diffusion_pytorch_model.safetensors", "new.safetensors"])
def test_the_base_model_is_never_touched(other_folder, tmp_path, inside):
    model = sd_model.load(str(other_folder), "cpu", "float32")
    same = erasure.Erasure(recipe=RECIPE, weights=dict(projections.read(model.unet)), fingerprint=model.fingerprint)
    before = {path: path.read_bytes() for path in other_folder.rglob("*") if path.is_file()}
    path = other_folder / inside
    kind = "unet" if inside.endswith("safetensors") else "diffusers"
    if inside == "..":
        (path / "model_index.json").write_text("{}")
    try:
        with pytest.raises(FileError, match="where the base model lies"):
            export(model, same, path, kind, overwrite=True)
    finally:
        (other_folder.parent / "model_index.json").unlink(missing_ok=True)
    assert {path: path.read_bytes() for path in other_folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("kind", FORMATS)
def test_cancelling_leaves_nothing(model, unchanged, erased, tmp_path, kind):
    path = tmp_path / f"cat{FORMATS[kind].suffix}"

    def halfway(event):
        assert list(tmp_path.iterdir()), "it is written beside the path"
        return event.fraction > 0.5

    with cancelled(halfway) as progress:
        exporting.export(model, erased, ExportRequest(kind, path), progress)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", FORMATS)
def test_a_disk_that_is_full_at_the_end_leaves_the_old_one(model, erased, tmp_path, monkeypatch, kind):
    path = tmp_path / f"cat{FORMATS[kind].suffix}"
    export(model, erased, path, kind)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(FileError, match=r"No space left on device\. Make room on the disk"):
        export(model, erased, path, kind, overwrite=True)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_folder_that_cannot_take_its_place_gives_the_old_one_back(model, erased, tmp_path, monkeypatch):
    export(model, erased, tmp_path / "cat", "diffusers")
    rename, calls = exporting.os.rename, []

    def second_fails(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(exporting.os, "rename", second_fails)
    with pytest.raises(FileError, match="Input/output error"):
        export(model, erased, tmp_path / "cat", "diffusers", overwrite=True)
    assert sd_model.load(str(tmp_path / "cat"), "cpu", "float32").unet is not None
    assert [path.name for path in tmp_path.iterdir()] == ["cat"]


def test_a_folder_whose_export_is_killed_in_between_is_beside(model, erased, tmp_path, monkeypatch):
    """Between the two renames of a folder; what is abandoned is removed at the next start."""
    old, rename = tmp_path / "cat", os.rename
    export(model, erased, old, "diffusers")
    new = sorted(os.listdir(old))
    (old / "the old one").touch()

    def killed(source, target):
        if Path(target) == old:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        export(model, erased, old, "diffusers", overwrite=True)
    monkeypatch.undo()
    text_files.remove_abandoned(tmp_path)
    (aside,) = tmp_path.glob("cat.old-*")
    assert sorted(os.listdir(aside / "cat")) == sorted([*new, "the old one"])
    rename(aside / "cat", old)
    export(model, erased, old, "diffusers", overwrite=True)
    assert sorted(os.listdir(old)) == new and not (aside / "cat").exists()
    assert sorted(tmp_path.iterdir()) == sorted([old, aside])


def test_progress_only_grows_and_ends_at_the_whole(model, erased, tmp_path):
    for kind in FORMATS:
        seen = []
        request = ExportRequest(kind, tmp_path / f"{kind}{FORMATS[kind].suffix}")
        exporting.export(model, erased, request, seen.append)
        fractions = [event.fraction for event in seen]
        assert {event.stage for event in seen} == {"export"}
        assert fractions == sorted(fractions) and fractions[-1] == 1.0
