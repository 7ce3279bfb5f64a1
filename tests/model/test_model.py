import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from mace_studio import caption_files
from mace_studio.errors import FileError, ModelError
from mace_studio.runtime.studio import BUILT_IN
from mace_studio.sd import devices, open_pipeline
from mace_studio.sd import grams as knowledge
from mace_studio.sd import model as sd_model
from tests import families


def test_a_folder_loads_frozen_on_the_device_and_dtype(other_folder):
    model = sd_model.load(str(other_folder), "cpu", "float16")
    assert (model.dtype, model.device.type, model.length, model.width) == (torch.float16, "cpu", 24, 32)
    assert model.where() == "cpu · float16"
    assert not any(p.requires_grad for p in model.unet.parameters()) and not model.unet.training


@pytest.mark.parametrize(
    ("device", "brain", "expected"),
    [("cuda", True, torch.bfloat16), ("cuda:1", False, torch.float16), ("cpu", True, torch.float32)],
)
def test_auto_takes_bfloat16_where_the_device_computes_in_it(monkeypatch, device, brain, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: brain)
    monkeypatch.setattr(devices, "checked", lambda asked: asked)
    asked = []

    def read(source, dtype, vae, text_encoder):
        asked.append(dtype)
        raise ModelError("there is no such device here")

    monkeypatch.setattr(open_pipeline, "read", read)
    with pytest.raises(ModelError, match="no such device here"):
        sd_model.load("a model", device, "auto")
    assert asked == [expected]


def test_the_fingerprint_is_the_models_and_not_the_dtypes(model, other_folder, tmp_path):
    same = sd_model.load(str(BUILT_IN), "cpu", "float16")
    assert same.fingerprint == model.fingerprint
    folder = tmp_path / "changed"
    shutil.copytree(BUILT_IN, folder)
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["conv_in.bias"][0] += 1
    save_file(weights, path, {"format": "pt"})
    assert sd_model.load(str(folder), "cpu").fingerprint != model.fingerprint


def test_memory_is_counted_from_the_weights(model):
    numbers = sum(t.numel() for m in model.modules().values() for t in m.state_dict().values())
    assert 4 * numbers < model.memory() < 8 * numbers


def test_captions_are_the_models_own_where_it_has_any(model, other, other_folder):
    assert other.captions == caption_files.GENERAL_CAPTIONS
    assert model.captions == BUILT_IN / "captions.txt"
    assert other.captions.is_file() and model.captions.is_file()


def test_what_does_not_exist_is_said(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="no folder “nobody/nothing”"):
        sd_model.load("nobody/nothing")
    with pytest.raises(ModelError, match="no folder “/not/here”"):
        sd_model.load("/not/here")


def test_a_folder_that_is_no_model_is_said(tmp_path):
    with pytest.raises(ModelError, match="not a model in the diffusers layout"):
        sd_model.load(str(tmp_path))


def test_a_single_file_that_is_no_checkpoint_is_said(tmp_path):
    path = tmp_path / "notes.safetensors"
    path.write_text("hello")
    with pytest.raises(ModelError, match="could not be read as a checkpoint"):
        sd_model.load(str(path))


def test_pickled_weights_are_refused(other_folder, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(other_folder, folder)
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()
    with pytest.raises(ModelError, match="no safetensors weights"):
        sd_model.load(str(folder))
    with pytest.raises(ModelError, match=r"no \.safetensors file"):
        sd_model.load(str(folder / "unet" / "diffusion_pytorch_model.bin"))


def test_a_pipeline_without_text_is_refused(tmp_path):
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel  # noqa: PLC0415 - only here

    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "ddpm")
    with pytest.raises(ModelError, match="DDPMPipeline, not a text-to-image model"):
        sd_model.load(str(tmp_path / "ddpm"))


def test_too_little_memory_is_said(other_folder, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(UNet2DConditionModel, "from_pretrained", full)
    with pytest.raises(ModelError, match="not enough memory"):
        sd_model.load(str(other_folder))


@pytest.mark.parametrize("device, dtype, says", [("cpu", "int8", "int8"), ("abacus", "float32", "abacus")])
def test_device_and_dtype_that_do_not_exist_are_said(other_folder, device, dtype, says):
    with pytest.raises(ModelError, match=says):
        sd_model.load(str(other_folder), device, dtype)


# General captions


@pytest.mark.parametrize("name", ["captions_val2014.json", "CAPTIONS.JSON"])
def test_captions_are_read_from_text_and_from_coco(tmp_path, name):
    text, coco = tmp_path / "mine.txt", tmp_path / name
    text.write_text("A cat sits. \n\n  Two dogs run.\n", encoding="utf-8")
    annotations = [{"id": 1, "caption": "A cat sits.\n"}, {"id": 5, "caption": "Two dogs run."}]
    coco.write_text(json.dumps({"images": [], "annotations": annotations}), encoding="utf-8")
    assert caption_files.read_captions(text) == caption_files.read_captions(coco) == ["A cat sits.", "Two dogs run."]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", '{"annotations": [{}]}'),
        ("a.json", "[]"),
        ("a.json", "{"),
        ("a.txt", " \n"),
        ("a.txt", b"\xff\xfe\x00"),
        ("a.json", "[" * 100_000),
        ("a.json", '{"annotations": [{"caption": "half of a \\ud800"}]}'),
    ],
)
def test_what_holds_no_captions_is_a_sentence(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FileError, match="captions"):
        caption_files.read_captions(path)
    with pytest.raises(FileError, match="no file of captions"):
        caption_files.read_captions(tmp_path / "missing.txt")


def test_captions_of_the_users_own_decide_the_gram_and_are_cached_by_what_they_say(other_folder, tmp_path):
    grams = {}
    for name, said in (("one", "a cat\na dog"), ("two", "a cat\na dog"), ("other", "a cat\na ship")):
        (tmp_path / f"{name}.txt").write_text(said, encoding="utf-8")
        model = sd_model.load(str(other_folder), "cpu", "float32", captions=tmp_path / f"{name}.txt")
        grams[name] = knowledge.general(model, tmp_path / "cache")
    assert torch.equal(grams["one"].gram_DD, grams["two"].gram_DD)
    assert not torch.equal(grams["one"].gram_DD, grams["other"].gram_DD)
    expected = knowledge.gram(model, ["a cat", "a ship"]).gram_DD * knowledge.PAPER_CAPTIONS / 2
    torch.testing.assert_close(grams["other"].gram_DD, expected)
    kept = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert len(kept) == 2 and all(f"{model.fingerprint[:32]}-2-" in name for name in kept)


def test_a_model_computes_where_its_pipeline_was_moved_to():
    pipeline = families.sd1()
    moved = sd_model.Model(pipeline, "")
    assert moved.device == torch.device("cpu") and moved.where() == "cpu · float32"
    pipeline.unet.to("meta")
    assert moved.device == torch.device("meta")
    pipeline.unet._hf_hook = SimpleNamespace(execution_device="cpu")  # in low memory its weights are elsewhere
    assert moved.device == torch.device("cpu")
