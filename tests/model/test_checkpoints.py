"""Single files as people have them: parts that are missing, other kinds of models, what the file says of itself."""

import shutil

import pytest
import torch
from diffusers import AsymmetricAutoencoderKL, AutoencoderTiny
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mace_studio.errors import ModelError
from mace_studio.sd import checkpoints
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


def test_a_refiner_without_its_texts_is_refused_before_they_are_asked_for(place):
    path = place / "sdxl.safetensors"
    beside = torch.zeros(64, checkpoints.REFINER)
    change(path, lambda key: key.startswith(UNET), **{f"{UNET}label_emb.0.0.weight": beside})
    with pytest.raises(ModelError, match="a refiner"):
        load(path)


def test_a_file_of_a_vae_alone_says_so(place):
    path = place / "sd1.safetensors"
    change(path, lambda key: not key.startswith(UNET))
    with pytest.raises(ModelError, match="holds no UNet") as error:
        load(path)
    assert "VAE alone" not in str(error.value)
    change(path, lambda key: key.startswith(VAE))
    with pytest.raises(ModelError, match="It holds a VAE alone"):
        load(path)


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("model_index.json", "[]", "holds no settings"),
        ("model_index.json", '{"_class_name": "StableDiffusionPipeline", "vae": []}', "does not say what its vae is"),
        ("model_index.json", '{"transformer": ["diffusers", "FluxTransformer2DModel"]}', "whose transformer"),
        ("unet/config.json", "", "cannot be read as JSON"),
        ("vae/config.json", None, "vae/config.json is missing"),
        ("text_encoder/config.json", "[" * 100_000, "cannot be read as JSON"),
        ("scheduler/scheduler_config.json", "[]", "holds no settings"),
        ("tokenizer/tokenizer_config.json", "[]", "tokenizer of sd1 cannot be read"),
        ("tokenizer/tokenizer.json", None, "tokenizer of sd1 has no vocabulary"),
    ],
)
def test_a_damaged_settings_folder_is_said_as_a_folders_own(place, file, text, says):
    path = place / "sd1" / file
    path.write_text(text) if text is not None else path.unlink()
    with pytest.raises(ModelError, match=rf"settings of sd1.safetensors, in the folder “.*” beside it.*: .*{says}"):
        load(place / "sd1.safetensors")


@pytest.mark.parametrize(("name", "other", "article"), [("sd1", "sdxl", "a"), ("sdxl", "sd1", "no")])
def test_settings_of_another_family_are_said(place, name, other, article):
    shutil.rmtree(place / name)
    shutil.copytree(place / other, place / name)
    said = f"it is {article} Stable Diffusion XL, other than {name}.safetensors. Put the"
    with pytest.raises(ModelError, match=said):
        load(place / f"{name}.safetensors")


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_settings_without_their_fields_name_one(place, part):
    (place / "sd1" / part / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"settings of sd1.safetensors do not say its [a-z_]+; take the folder"):
        load(place / "sd1.safetensors")


@pytest.mark.parametrize("kind", [AutoencoderTiny, AsymmetricAutoencoderKL])
def test_a_named_vae_is_of_the_kind_that_it_says(place, folders, kind):
    few = (8, 8, 8)
    made = (
        kind(encoder_block_out_channels=few, decoder_block_out_channels=few, num_encoder_blocks=(1,) * 3,
             num_decoder_blocks=(1,) * 3)
        if kind is AutoencoderTiny
        else kind(down_block_out_channels=few, up_block_out_channels=few, down_block_types=("DownEncoderBlock2D",) * 3,
                  up_block_types=("UpDecoderBlock2D",) * 3, norm_num_groups=4)
    )  # fmt: skip
    made.save_pretrained(place / "named")
    for source in (folders["sd1"], place / "sd1.safetensors"):
        loaded = load(source, vae=str(place / "named"))
        assert type(loaded.pipeline.vae) is kind
        assert loaded.generate("a cat", steps=1)


def test_paths_may_be_paths(folders, models):
    parts = {name: folders["sd1"] / name for name in ("vae", "text_encoder")}
    loaded = sd_model.load(folders["sd1"], "cpu", "float32", **parts)
    assert loaded.fingerprint == models["sd1"].fingerprint
    assert (loaded.source, loaded.vae) == (str(folders["sd1"]), str(parts["vae"]))


def test_a_text_encoder_is_taken_from_its_own_folder(place, folders, models):
    path = place / "sd1.safetensors"
    change(path, lambda key: not key.startswith(TEXT))
    assert load(path, text_encoder=str(folders["sd1"] / "text_encoder")).fingerprint == models["sd1"].fingerprint


@pytest.mark.parametrize(
    ("option", "part", "says"),
    [
        ("vae", "unet", "VAE that was named cannot be loaded: unet holds a UNet2DConditionModel"),
        ("vae", "text_encoder", "VAE that was named cannot be loaded: .*text_encoder"),
        ("text_encoder", "vae", "text encoder that was named cannot be loaded: vae holds a AutoencoderKL"),
        ("text_encoder", "unet", "text encoder that was named cannot be loaded: unet holds a UNet2D"),
        ("vae", "no such folder", "VAE that was named cannot be loaded: There is no folder"),
    ],
)
def test_a_named_part_that_is_none_is_told_apart_from_the_model(folders, option, part, says):
    with pytest.raises(ModelError, match=says):
        load(folders["sd1"], **{option: str(folders["sd1"] / part)})


def test_a_vae_with_more_channels_than_the_unet_is_no_inpainting_model(folders, tmp_path):
    families.vae(latent_channels=16).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="reads latents of 4 channels, and its VAE makes 16; they do not belong"):
        load(folders["sd1"], vae=str(tmp_path))


def test_a_vae_whose_settings_cannot_be_fetched_says_where_to_put_them(place, folders):
    path = place / "own-vae.safetensors"
    shutil.copy(folders["sd1"] / "vae" / "diffusion_pytorch_model.safetensors", path)
    with pytest.raises(ModelError, match=r"settings of own-vae.safetensors are fetched .* into the folder “.*own-vae”"):
        load(folders["sd1"], vae=str(path))


def test_a_file_whose_ending_has_capitals_is_no_pickle(place):
    path = place / "sd1.SafeTensors"
    path.write_bytes((place / "sd1.safetensors").read_bytes())
    with pytest.raises(ModelError, match=r"Rename sd1.SafeTensors so that it ends in .safetensors"):
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
