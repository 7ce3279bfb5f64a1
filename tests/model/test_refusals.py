"""Models that cannot be used are refused by a sentence, where possible before their weights are read."""

import json
import os
import shutil

import pytest
import torch
from diffusers import (
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
)
from safetensors.torch import save_file

from mace_studio.errors import ModelError
from mace_studio.sd import model as sd_model
from tests import families, single_file


def refuse(source, says):
    with pytest.raises(ModelError, match=says) as error:
        sd_model.load(str(source), "cpu", "float32")
    assert "Use " in str(error.value)


@pytest.fixture(scope="module")
def sd1(tmp_path_factory):
    return families.save("sd1", tmp_path_factory.mktemp("refusals") / "sd1")


def flux():
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    return FluxPipeline(FlowMatchEulerDiscreteScheduler(), families.vae(), None, None, None, None, transformer)


def sd3():
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=1, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=32, out_channels=4,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler()
    return StableDiffusion3Pipeline(transformer, scheduler, families.vae(), *(None,) * 6)


@pytest.mark.parametrize("build", [flux, sd3])
def test_a_transformer_is_refused_unread(build, tmp_path):
    build().save_pretrained(tmp_path / "model", safe_serialization=True)
    for weights in (tmp_path / "model").rglob("*.safetensors"):
        weights.unlink()
    refuse(tmp_path / "model", r"whose transformer reads text and image in one attention")


def test_a_transformer_in_a_single_file_is_refused(tmp_path):
    path = tmp_path / "flux.safetensors"
    save_file({"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": torch.zeros(2, 2)}, path)
    refuse(path, "holds no UNet with cross-attention")


def test_an_lcm_in_a_single_file_is_refused(tmp_path):
    folder = families.save("lcm", tmp_path / "lcm")
    single_file.save(sd_model.load(str(folder), "cpu").pipeline, folder, tmp_path / "one.safetensors")
    refuse(tmp_path / "one.safetensors", "is an LCM whose UNet reads the guidance scale")


def saved(folder, **parts):
    """A copy of a model with other parts."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, **parts)
    pipeline.save_pretrained(folder.with_name("changed"), safe_serialization=True)
    return folder.with_name("changed")


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"unet": lambda: families.unet(32, in_channels=9)}, "generates from more than a prompt"),
        ({"unet": lambda: families.unet(32, num_class_embeds=4)}, "generates from more than a prompt"),
        ({"scheduler": EDMEulerScheduler}, "a noise schedule without betas"),
    ],
)
def test_what_an_erasure_cannot_be_trained_on_is_refused(sd1, parts, says):
    refuse(saved(sd1, **{name: build() for name, build in parts.items()}), says)


@pytest.mark.parametrize("name", ["tokenizer/merges.txt", "text_encoder/config.json", "unet/other.json"])
def test_a_pipe_is_refused_and_not_waited_for(other_folder, tmp_path, name):
    folder = shutil.copytree(other_folder, tmp_path / "model")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(ModelError, match=f"holds a pipe in the place of a file, {(folder / name).name}; download"):
        sd_model.load(str(folder), "cpu", "float32")


def test_tokenizers_that_split_differently_are_refused(tmp_path):
    folder = families.save("sdxl", tmp_path / "sdxl")
    path = folder / "tokenizer_2" / "tokenizer.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    words = told["model"]["vocab"]
    words["cat</w>"], words["dog</w>"] = words["dog</w>"], words["cat</w>"]
    path.write_text(json.dumps(told), encoding="utf-8")
    refuse(folder, "two tokenizers that split words differently")


def test_a_checkpoint_without_its_settings_says_where_to_put_them(sd1, tmp_path):
    path = tmp_path / "one.safetensors"
    single_file.save(sd_model.load(str(sd1), "cpu").pipeline, sd1, path)
    shutil.rmtree(tmp_path / "one")
    with pytest.raises(ModelError, match="put a diffusers folder of the same family") as error:
        sd_model.load(str(path), "cpu")
    assert str(tmp_path / "one") in str(error.value)
