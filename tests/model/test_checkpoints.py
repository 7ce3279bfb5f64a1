"""Single files as people have them: parts that are missing, other kinds of models, what the file says of itself."""

import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mace_studio.errors import ModelError
from mace_studio.sd import model as sd_model
from tests import families, single_file

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."


@pytest.fixture(scope="module")
def saved(folders, models, tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    for name in ("sd1", "sdxl"):
        single_file.save(models[name].pipeline, folders[name], root / f"{name}.safetensors")
    return root


@pytest.fixture
def place(saved, tmp_path):
    for name in ("sd1", "sdxl"):
        shutil.copy(saved / f"{name}.safetensors", tmp_path)
        shutil.copytree(saved / name, tmp_path / name)
    return tmp_path


def change(path, keep=lambda key: True, metadata=None, **more):
    tensors = {key: tensor for key, tensor in load_file(path).items() if keep(key)} | more
    save_file(tensors, path, metadata)


def load(path, **more):
    return sd_model.load(str(path), "cpu", "float32", **more)


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_a_file_is_its_folder(place, models, name):
    assert load(place / f"{name}.safetensors").fingerprint == models[name].fingerprint


@pytest.mark.parametrize(
    ("name", "prefix", "folder", "called"),
    [
        ("sd1", VAE, "vae", "VAE"),
        ("sd1", TEXT, "text_encoder", "text encoder"),
        ("sdxl", VAE, "vae", "VAE"),
        ("sdxl", "conditioner.embedders.0.", "text_encoder", "text encoder"),
        ("sdxl", "conditioner.embedders.1.", "text_encoder_2", "second text encoder"),
    ],
)
def test_a_missing_part_is_named_and_taken_from_the_folder_beside(place, folders, models, name, prefix, folder, called):
    path = place / f"{name}.safetensors"
    change(path, lambda key: not key.startswith(prefix))
    with pytest.raises(ModelError, match=f"{name}.safetensors holds no {called}. Put the folder"):
        load(path)
    for part in [folder, *(["text_encoder"] if folder == "text_encoder_2" else [])]:
        shutil.copytree(folders[name] / part, place / name / part, dirs_exist_ok=True)
    assert load(path).fingerprint == models[name].fingerprint


def test_a_missing_part_may_be_named(place, folders, models):
    path = place / "sd1.safetensors"
    change(path, lambda key: key.startswith(UNET))
    for vae in (folders["sd1"], folders["sd1"] / "vae", f'"{folders["sd1"]}/vae/"'):
        given = {"vae": str(vae), "text_encoder": str(folders["sd1"])}
        assert load(path, **given).fingerprint == models["sd1"].fingerprint
    with pytest.raises(ModelError, match="holds no text encoder"):
        load(path, vae=str(folders["sd1"]))
    (place / "empty").mkdir()
    with pytest.raises(ModelError, match=r"holds no VAE: neither a config.json nor a folder “vae”"):
        load(path, vae=str(place / "empty"))


def test_another_vae_takes_the_place_of_the_models_own(place, folders, models, tmp_path):
    torch.manual_seed(7)
    other = families.vae()
    other.save_pretrained(tmp_path / "vae")
    for source in (folders["sd1"], place / "sd1.safetensors"):
        loaded = load(source, vae=str(tmp_path / "vae")).pipeline.vae.state_dict()
        assert all(torch.equal(loaded[key], tensor) for key, tensor in other.state_dict().items())


@pytest.mark.parametrize("channels", [5, 7, 8, 9])
def test_files_that_generate_from_more_than_a_prompt_are_refused_as_folders_are(place, channels):
    path = place / "sd1.safetensors"
    change(path, **{f"{UNET}input_blocks.0.0.weight": torch.zeros(16, channels, 3, 3)})
    with pytest.raises(ModelError, match="generates from more than a prompt"):
        load(path)


def test_a_refiner_is_refused(place):
    path = place / "sdxl.safetensors"
    tensors = load_file(path)
    moved = {key.replace("embedders.1.", "embedders.0."): t for key, t in tensors.items() if "embedders.0." not in key}
    save_file(moved, path)
    with pytest.raises(ModelError, match="a refiner"):
        load(path)


def test_a_file_of_a_vae_alone_says_so(place):
    path = place / "sd1.safetensors"
    change(path, lambda key: key.startswith(VAE))
    with pytest.raises(ModelError, match="It holds a VAE alone"):
        load(path)


@pytest.mark.parametrize("lacking", ["decoder.conv_in.weight", "encoder.conv_out.bias", "post_quant_conv.weight"])
def test_a_file_of_a_vae_that_lacks_a_weight_is_refused_by_its_own_name(place, folders, lacking):
    path = place / "own-vae.safetensors"
    (place / "sd1").rename(place / "own-vae")
    shutil.copy(place / "sd1.safetensors", path)
    change(path, lambda key: key.startswith(VAE))
    assert load(folders["sd1"], vae=str(path)).vae == str(path)
    change(path, lambda key: key != VAE + lacking)
    with pytest.raises(ModelError, match=f"The VAE of own-vae.safetensors lacks 1 weight: {lacking}"):
        load(folders["sd1"], vae=str(path))


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
@pytest.mark.parametrize("said", ["v", "V", "v_prediction", "v-prediction", "v-pred", "v_pred", " vPred "])
def test_what_the_file_says_of_its_prediction_counts(place, name, said):
    path = place / f"{name}.safetensors"
    change(path, metadata={"modelspec.prediction_type": said})
    assert load(path).pipeline.scheduler.config.prediction_type == "v_prediction"
    change(path, metadata={"modelspec.prediction_type": "epsilon"})
    assert load(path).pipeline.scheduler.config.prediction_type == "epsilon"
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["modelspec.prediction_type"] == "epsilon"


@pytest.mark.parametrize("said", ["flow", "sample", "x0"])
def test_a_prediction_that_nobody_knows_is_said(place, said, caplog):
    change(place / "sd1.safetensors", metadata={"modelspec.prediction_type": said})
    load(place / "sd1.safetensors")
    assert f"what the file says it predicts, “{said}”, is not known" in caplog.text


@pytest.mark.parametrize("prefix", [UNET, VAE, TEXT])
def test_a_weight_that_is_missing_refuses_the_file(place, prefix):
    path = place / "sd1.safetensors"
    key = sorted(key for key in load_file(path) if key.startswith(prefix) and key.endswith(".weight"))[0]
    change(path, lambda other: other != key)
    with pytest.raises(ModelError, match=r"of sd1\.safetensors lacks 1 weight|Failed to load CLIPTextModel"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\xff" * 8 + b"x" * 100, b"hello"])
def test_a_file_that_is_cut_is_a_sentence(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="could not be read as a checkpoint"):
        load(path)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.complex64, torch.bool])
@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "first_stage_model.", "cond_stage_model."])
def test_weights_of_a_dtype_that_has_room_for_none_are_refused(place, dtype, prefix):
    path = place / "sd1.safetensors"
    tensors = load_file(path)
    save_file({key: one.to(dtype) if key.startswith(prefix) else one for key, one in tensors.items()}, path)
    with pytest.raises(ModelError, match=r"is saved as .*, in which no weights can be .*download the model in float32"):
        load(path)


def test_every_second_weight_of_a_part_is_a_sentence(place):
    path = place / "sd1.safetensors"
    tensors = dict(list(load_file(path).items()))
    save_file({k: v for i, (k, v) in enumerate(tensors.items()) if i % 2 or not k.startswith("first_stage")}, path)
    with pytest.raises(ModelError, match=r"lacks (\d+ )?weights: .*Download the model again"):
        load(path)


@pytest.mark.parametrize("shaped", [lambda one: one.T.contiguous(), lambda one: one.flatten()[0].clone()])
def test_weights_of_other_shapes_than_the_settings_say_are_named(place, shaped):
    path, name = place / "sd1.safetensors", "attn2.to_k.weight"
    save_file({key: shaped(one) if key.endswith(name) else one for key, one in load_file(path).items()}, path)
    with pytest.raises(ModelError, match=rf"have other shapes than its settings say \(.*{name}\); download"):
        load(path)
