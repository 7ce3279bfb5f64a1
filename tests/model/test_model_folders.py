"""Folders as people have them: variants, shards, indices of other pipelines, parts that are cut or missing."""

import json
import re
import shutil
import time

import pytest
import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepInverseScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    SASolverScheduler,
    UniPCMultistepScheduler,
)
from safetensors.torch import load_file, save_file

from mace_studio.errors import ModelError, RecipeError
from mace_studio.recipe import ImageRequest
from mace_studio.sd import model as sd_model
from mace_studio.sd import sampling, schedules, text, weight_files
from mace_studio.settings import ImageSettings
from tests import families

UNET = "diffusion_pytorch_model"
LEADING = families.BETAS | {"timestep_spacing": "leading"}  # the default of the family's own scheduler


def load(folder):
    return sd_model.load(str(folder), "cpu", "float32")


def refuse(folder, says):
    before = time.perf_counter()
    with pytest.raises(ModelError, match=says) as error:
        load(folder)
    assert time.perf_counter() - before < 20 and len(str(error.value)) < 600
    return str(error.value)


def edit(path, **changes):
    told = json.loads(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        if value is None:
            told.pop(key, None)
        else:
            told[key] = value
    path.write_text(json.dumps(told), encoding="utf-8")


@pytest.fixture(scope="module")
def reference(folders):
    return load(folders["sd1"])


@pytest.fixture
def sd1(folders, tmp_path):
    return shutil.copytree(folders["sd1"], tmp_path / "sd1")


@pytest.fixture
def sdxl(folders, tmp_path):
    return shutil.copytree(folders["sdxl"], tmp_path / "sdxl")


def same(model, reference):
    assert model.fingerprint == reference.fingerprint
    assert not any(t.is_meta for part in model.modules().values() for t in part.state_dict().values())


# Variants


def rename(folder, variant, parts=("unet", "vae", "text_encoder")):
    for part in parts:
        for path in (folder / part).glob("*.safetensors"):
            path.rename(path.with_name(f"{path.stem}.{variant}.safetensors"))


@pytest.mark.parametrize("variant", ["fp16", "bf16", "ema", "non_ema", "pruned"])
def test_a_folder_that_has_one_variant_alone_is_loaded(sd1, reference, variant):
    rename(sd1, variant)
    same(load(sd1), reference)


def test_parts_may_have_different_variants(sd1, reference):
    rename(sd1, "fp16", ("unet",))
    rename(sd1, "bf16", ("text_encoder",))
    same(load(sd1), reference)


def test_weights_without_a_variant_come_first(sd1, reference):
    other = {key: torch.zeros_like(t) for key, t in load_file(sd1 / "unet" / f"{UNET}.safetensors").items()}
    save_file(other, sd1 / "unet" / f"{UNET}.fp16.safetensors")
    save_file(other, sd1 / "unet" / f"{UNET}.non_ema.safetensors")
    torch.save(other, sd1 / "unet" / f"{UNET}.bin")
    same(load(sd1), reference)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_are_loaded(reference, tmp_path, variant):
    options = {"variant": variant} if variant else {}
    reference.pipeline.save_pretrained(tmp_path / "cut", max_shard_size="20KB", safe_serialization=True, **options)
    shards = list((tmp_path / "cut" / "unet").glob("*.safetensors"))
    assert len(shards) > 2 and all(bool(variant) == ("fp16" in path.name) for path in shards)
    same(load(tmp_path / "cut"), reference)
    shards[1].unlink()
    refuse(tmp_path / "cut", "The weights of the UNet of .* cannot be read: a file is missing, cut or damaged")


@pytest.mark.parametrize("length", [0, 4, 5000], ids=["empty", "no header", "half a header"])
@pytest.mark.parametrize(
    ("part", "file", "called"),
    [("unet", UNET, "UNet"), ("vae", UNET, "VAE"), ("text_encoder", "model", "text encoder")],
)
def test_cut_weights_are_said_to_be_cut(sd1, part, file, called, length):
    path = sd1 / part / f"{file}.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    refuse(sd1, f"The weights of the {called} of .* cannot be read: a file is missing, cut or damaged")


@pytest.mark.parametrize("part, file", [("unet", UNET), ("vae", UNET), ("text_encoder", "model")])
def test_weights_of_another_shape_are_said_to_be_such(sd1, part, file):
    path = sd1 / part / f"{file}.safetensors"
    weights = load_file(path)
    key = next(name for name, tensor in weights.items() if tensor.ndim == 2)
    save_file(weights | {key: torch.zeros(3, 5)}, path)
    refuse(sd1, "have other shapes than its config.json says")


def test_shards_in_the_older_order_are_loaded(reference, tmp_path):
    folder = tmp_path / "cut"
    reference.pipeline.save_pretrained(folder, max_shard_size="20KB", safe_serialization=True)
    for part in ("unet", "vae"):
        for path in (folder / part).glob("*.safetensors"):
            path.rename(path.with_name(f"{path.stem}.fp16.safetensors"))
        index = folder / part / f"{UNET}.safetensors.index.json"
        index.write_text(
            index.read_text(encoding="utf-8").replace(".safetensors", ".fp16.safetensors"), encoding="utf-8"
        )
        index.rename(index.with_name(f"{UNET}.safetensors.index.fp16.json"))
    same(load(folder), reference)


def test_names_of_weights_are_sorted_by_variant():
    names = [
        f"{UNET}.fp16-00001-of-00002.safetensors", f"{UNET}.fp16-00002-of-00002.safetensors", f"{UNET}.safetensors",
        f"{UNET}-00001-of-00002.bf16.safetensors", f"{UNET}.bin", "config.json", f"{UNET}.non_ema.safetensors",
        f"{UNET}.safetensors.index.fp16.json", "model.onnx",
    ]  # fmt: skip
    odd = ["diffusion_pytorch_model.fp16.non_ema.safetensors", "model.ema-only-00001-of-00002.safetensors"]
    assert list(weight_files.variants(odd)) == ["ema-only", "fp16.non_ema"]
    assert list(weight_files.variants(["model.safetensors", *odd])) == [None, "ema-only", "fp16.non_ema"]
    lacking = ["model-00001-of-00002.safetensors", "model.bf16-00001-of-00001.safetensors"]
    assert list(weight_files.variants(lacking)) == ["bf16", None]
    assert list(weight_files.variants(["model-00002-of-00002.safetensors", *lacking])) == [None, "bf16"]
    found = weight_files.variants(names)
    assert list(found) == [None, "fp16", "bf16", "non_ema"] and len(found["fp16"]) == 2
    assert set(weight_files.needed(names)) == {
        f"{UNET}.safetensors",
        "config.json",
        f"{UNET}.safetensors.index.fp16.json",
    }


def test_what_is_missing_is_not_called_a_pickle(sd1):
    path = sd1 / "unet" / f"{UNET}.safetensors"
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()
    refuse(sd1, "no safetensors weights for its UNet. Pickled weights")
    path.with_suffix(".bin").unlink()
    assert "Pickled" not in refuse(sd1, "no safetensors weights for its UNet in the folder “unet”")


# Weights that are not there


@pytest.mark.parametrize(
    ("part", "file", "called"),
    [("text_encoder", "model", "text encoder"), ("unet", UNET, "UNet"), ("vae", UNET, "VAE")],
)
def test_a_missing_weight_refuses_the_model_and_is_named(sd1, part, file, called):
    path = sd1 / part / f"{file}.safetensors"
    weights = load_file(path)
    key = sorted(weights)[3]
    weights.pop(key)
    save_file(weights, path, {"format": "pt"})
    message = refuse(sd1, f"The {called} of .* lacks 1 weight: ")
    assert key in message


@pytest.mark.parametrize(("part", "file"), [("text_encoder", "model"), ("unet", UNET), ("vae", UNET)])
def test_renamed_keys_refuse_the_model(sd1, part, file):
    path = sd1 / part / f"{file}.safetensors"
    save_file({f"module.{key}": tensor for key, tensor in load_file(path).items()}, path, {"format": "pt"})
    refuse(sd1, r"lacks \d\d+ weights: .* and others")


def test_the_second_text_encoder_counts_too(sdxl):
    path = sdxl / "text_encoder_2" / "model.safetensors"
    weights = load_file(path)
    del weights["text_projection.weight"]
    save_file(weights, path, {"format": "pt"})
    refuse(sdxl, "The second text encoder of .* lacks 1 weight: text_projection.weight")


def test_a_unet_with_a_lora_attached_is_said(sd1):
    path = sd1 / "unet" / f"{UNET}.safetensors"
    weights = {key.replace("to_k.weight", "to_k.base_layer.weight"): t for key, t in load_file(path).items()}
    weights |= {
        key.replace("base_layer", "lora_A.default"): t.clone() for key, t in weights.items() if "base_lay" in key
    }
    save_file(weights, path, {"format": "pt"})
    refuse(sd1, "The UNet of .* lacks 8 weights: .*saved with a LoRA attached")


def test_leftovers_are_let_pass(sd1, reference):
    for part, file in (("text_encoder", "model"), ("unet", UNET)):
        path = sd1 / part / f"{file}.safetensors"
        save_file(load_file(path) | {"something.else": torch.zeros(2)}, path, {"format": "pt"})
    same(load(sd1), reference)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("part", "file", "called"),
    [("text_encoder", "model", "text encoder"), ("unet", UNET, "UNet"), ("vae", UNET, "VAE")],
)
def test_a_weight_that_is_no_number_refuses_the_model(sd1, part, file, called, value):
    path = sd1 / part / f"{file}.safetensors"
    weights = load_file(path)
    key = sorted(weights)[-1]
    weights[key].view(-1)[0] = value
    save_file(weights, path, {"format": "pt"})
    refuse(sd1, f"The {called} of .* not finite in float32: .* Download")


def test_what_overflows_in_float16_says_which_dtype_to_use(sd1):
    path = sd1 / "unet" / f"{UNET}.safetensors"
    weights = load_file(path)
    weights["conv_in.weight"][0] = 1e5  # the largest number of float16 is 65504
    save_file(weights, path, {"format": "pt"})
    load(sd1)
    with pytest.raises(ModelError, match=r"not finite in float16: conv_in.weight. Load it in float32"):
        sd_model.load(str(sd1), "cpu", "float16")


# The index of another pipeline


@pytest.mark.parametrize(
    "name",
    [
        "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline", "StableDiffusionPipelineSafe",
        "StableDiffusionSAGPipeline", "StableDiffusionAttendAndExcitePipeline", "AutoPipelineForText2Image",
        "AutoPipelineForImage2Image", "StableDiffusionPanoramaPipeline", "StableDiffusionControlNetPipeline",
    ],
)  # fmt: skip
def test_the_parts_of_another_pipeline_make_a_text_to_image_pipeline(sd1, reference, name):
    edit(sd1 / "model_index.json", _class_name=name)
    model = load(sd1)
    same(model, reference)
    assert type(model.pipeline).__name__ == "StableDiffusionPipeline" and model.pipeline.safety_checker is None


@pytest.mark.parametrize("name", ["StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"])
def test_the_same_of_sdxl(sdxl, folders, name):
    edit(sdxl / "model_index.json", _class_name=name, requires_aesthetics_score=False)
    model = load(sdxl)
    same(model, load(folders["sdxl"]))
    assert type(model.pipeline).__name__ == "StableDiffusionXLPipeline"


def test_parts_that_are_not_needed_may_be_missing(sd1, reference):
    edit(
        sd1 / "model_index.json", feature_extractor=["transformers", "CLIPImageProcessor"],
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"], image_encoder=["transformers", "X"],
    )  # fmt: skip
    same(load(sd1), reference)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"in_channels": 9}, "generates from more than a prompt"),
        ({"num_class_embeds": 4}, "generates from more than a prompt"),
        ({"encoder_hid_dim_type": "image_proj"}, "generates from more than a prompt"),
        ({"addition_embed_type": "text_image"}, "generates from more than a prompt"),
        ({"dual_cross_attention": True}, "two cross-attentions side by side"),
    ],
)
def test_a_unet_that_reads_more_is_refused_before_its_weights_are_read(sd1, changes, says):
    edit(sd1 / "unet" / "config.json", **changes)
    for path in sd1.rglob("*.safetensors"):
        path.write_bytes(b"nobody reads this")
    refuse(sd1, says)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"_class_name": "MyOwnPipeline"}, "is a MyOwnPipeline, which diffusers does not know"),
        ({"_class_name": ["a", "b"]}, "is a model of no kind, which diffusers does not know"),
        ({"_class_name": 7}, "which diffusers does not know"),
        ({"vae": []}, "does not say what its vae is"),
        ({"vae": ["diffusers"]}, "does not say what its vae is"),
        ({"vae": [1, 2]}, "does not say what its vae is"),
        ({"vae": [None, None]}, "names no vae"),
        ({"scheduler": [None, None]}, "names no scheduler"),
        ({"unet": [None, None]}, "not a text-to-image model with a UNet"),
        ({"tokenizer": "CLIPTokenizer"}, "not a text-to-image model with a UNet"),
        ({"unet": ["diffusers", "UNetMotionModel"]}, "its unet is a UNetMotionModel"),
        ({"unet": ["my_module", "UNet2DConditionModel"]}, "its unet is a UNet2DConditionModel"),
        ({"text_encoder": ["transformers", "T5EncoderModel"]}, "its text_encoder is a T5EncoderModel"),
        ({"vae": ["diffusers", "VQModel"]}, "its vae is a VQModel"),
        ({"scheduler": ["diffusers", "NoSuchScheduler"]}, "NoSuchScheduler, is not known"),
        ({"scheduler": ["diffusers", "UNet2DConditionModel"]}, "UNet2DConditionModel, is not known"),
        ({"text_encoder_2": ["transformers", "CLIPTextModel"]}, "without the other"),
        ({"_class_name": "StableDiffusionXLImg2ImgPipeline", "text_encoder": [None, None], "tokenizer": [None, None],
          "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}, "a refiner"),
    ],
)  # fmt: skip
def test_a_bad_index_is_a_sentence(sd1, changes, says):
    edit(sd1 / "model_index.json", **changes)
    refuse(sd1, says)


@pytest.mark.parametrize("text", ["[]", "7", "null", '"x"', "{", "", "[" * 100_000, "\ud7ff", '{"a": ' * 50_000])
def test_an_index_that_is_no_object_is_a_sentence(sd1, text):
    (sd1 / "model_index.json").write_text(text, encoding="utf-8")
    refuse(sd1, r"model_index.json (holds no settings|cannot be read)")
    edit_config = sd1 / "unet" / "config.json"
    (sd1 / "model_index.json").unlink()
    refuse(sd1, "holds no model_index.json")
    assert edit_config.is_file()


@pytest.mark.parametrize("steps", [10**8, 0, 1, -5, "many", 1.5, True, 10**400, 100, 1001, 1000.0])
def test_an_absurd_number_of_timesteps_is_refused_quickly(sd1, steps):
    edit(sd1 / "scheduler" / "scheduler_config.json", num_train_timesteps=steps)
    refuse(sd1, "num_train_timesteps")


@pytest.mark.parametrize(
    ("part", "key", "value", "says"),
    [("unet", "layers_per_block", 10**6, "layers_per_block of 1000000"), ("unet", "layers_per_block", -1, "of -1"),
     ("vae", "layers_per_block", [2, 10**5], "layers_per_block"), ("text_encoder", "num_hidden_layers", 0, "of 0"),
     ("text_encoder", "num_hidden_layers", 10**5, "no such model has"),
     ("unet", "sample_size", "8", "sample_size"), ("unet", "sample_size", 0, "sample_size"),
     ("unet", "sample_size", [8], "sample_size"), ("unet", "sample_size", None, "sample_size"),
     ("vae", "scaling_factor", "0.18", "scaling_factor"), ("vae", "scaling_factor", 0, "scaling_factor"),
     ("vae", "scaling_factor", float("nan"), "scaling_factor"), ("scheduler", "prediction_type", "flow", "no image"),
     ("scheduler", "timestep_spacing", "x", "no image"), ("scheduler", "trained_betas", [0.1], "no image"),
     ("scheduler", "beta_start", 2.0, "no image"), ("unet", "out_channels", 8, "predicts 8 channels for latents of 4"),
     ("unet", "sample_size", 9, "36 × 36 pixels, and diffusers makes only multiples of 8"),
     ("unet", "sample_size", 10**6, "4000000 × 4000000 pixels, and a side of 4,096 is the most"),
     ("unet", "transformer_layers_per_block", [1], "No UNet can be made of the config.json of .*; download the model"),
     ("unet", "norm_num_groups", 0, "No UNet can be made of the config.json of .*; download the model"),
     ("unet", "block_out_channels", [], "No UNet can be made of the config.json of .*; download the model"),
     ("vae", "act_fn", "none", "No VAE can be made of the config.json of .*; download the model"),
     ("text_encoder", "hidden_act", "none", "No text encoder can be made of the config.json of .*; download the")],
)  # fmt: skip
def test_a_configuration_by_which_no_image_can_be_made_is_refused_quickly(sd1, part, key, value, says):
    edit(sd1 / part / ("scheduler_config.json" if part == "scheduler" else "config.json"), **{key: value})
    refuse(sd1, says)


@pytest.mark.parametrize(("part", "file"), [("unet", UNET), ("text_encoder", "model")])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.int8, torch.bool])
def test_weights_that_are_no_real_numbers_are_refused(sd1, part, file, dtype):
    path = sd1 / part / f"{file}.safetensors"
    kept = {key: tensor.to(dtype) if "weight" in key else tensor for key, tensor in load_file(path).items()}
    save_file(kept, path, {"format": "pt"})
    refuse(sd1, "is saved as (C64|I8|BOOL), in which no weights can be")


def test_a_missing_configuration_is_said(sd1):
    (sd1 / "unet" / "config.json").unlink()
    refuse(sd1, "unet/config.json is missing")


def test_one_part_of_a_model_says_that_the_folder_above_is_meant(sd1):
    refuse(sd1 / "unet", "one part of a model; give the folder above, sd1")


@pytest.mark.parametrize("value", [None, "x", -1, [], {}, 10**9])
@pytest.mark.parametrize(
    ("part", "key"),
    [("unet", "block_out_channels"), ("unet", "cross_attention_dim"), ("unet", "down_block_types"),
     ("unet", "attention_head_dim"), ("unet", "sample_size"), ("vae", "block_out_channels"),
     ("vae", "latent_channels"), ("text_encoder", "hidden_size"), ("text_encoder", "num_attention_heads"),
     ("text_encoder", "vocab_size"), ("text_encoder", "max_position_embeddings"), ("scheduler", "beta_schedule"),
     ("scheduler", "beta_start"), ("scheduler", "prediction_type")],
)  # fmt: skip
def test_a_damaged_configuration_loads_or_is_a_sentence(sd1, part, key, value):
    path = sd1 / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    edit(path, **{key: value})
    try:
        load(sd1)
    except ModelError as error:
        assert len(str(error)) < 1000


# Tokenizers


def test_a_tokenizer_without_its_vocabulary_is_refused(sd1):
    for path in (sd1 / "tokenizer").iterdir():
        if path.name != "tokenizer_config.json":
            path.unlink()
    refuse(sd1, "The tokenizer of .* has no vocabulary")
    shutil.rmtree(sd1 / "tokenizer")
    refuse(sd1, "The tokenizer of .* has no vocabulary")


def test_a_tokenizer_of_another_model_is_refused(sd1):
    path = sd1 / "tokenizer" / "tokenizer.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    told["model"]["vocab"] = {word: i for word, i in told["model"]["vocab"].items() if i < 300}
    told["model"]["merges"], told["added_tokens"] = [], []
    path.write_text(json.dumps(told), encoding="utf-8")
    refuse(sd1, "do not belong together|could not be loaded|layout")


@pytest.mark.parametrize(
    ("file", "text"),
    [("tokenizer_config.json", "[]"), ("tokenizer_config.json", '{"eos_token": null}'),
     ("tokenizer_config.json", '{"bos_token": 7}'), ("tokenizer.json", "{}"), ("tokenizer.json", "")],
)  # fmt: skip
def test_a_damaged_tokenizer_is_a_sentence(sd1, file, text):
    (sd1 / "tokenizer" / file).write_text(text, encoding="utf-8")
    refuse(sd1, "The tokenizer of .* cannot be read: a file in its folder “tokenizer”, .* is damaged")


@pytest.mark.parametrize("length", [None, 10**30, 77, 2, 0, -1, "77", [], 1e30])
def test_the_encoder_says_how_long_a_prompt_may_be_where_the_tokenizer_does_not(sd1, length):
    edit(sd1 / "tokenizer" / "tokenizer_config.json", model_max_length=length, max_length=None)
    model = load(sd1)
    assert model.length == families.LENGTH == model.pipeline.tokenizer.model_max_length
    assert text.embed(model, ["cat " * 90]).shape == (1, families.LENGTH, 32)


def test_a_tokenizer_that_cannot_pad_is_refused(sd1):
    path = sd1 / "tokenizer" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token": None}), encoding="utf-8")
    refuse(sd1, "pad_token")


# Schedulers


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda: DEISMultistepScheduler(**LEADING),
        lambda: SASolverScheduler(**LEADING),
        lambda: DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", **LEADING),
        lambda: DPMSolverMultistepScheduler(
            algorithm_type="dpmsolver", solver_type="heun", final_sigmas_type="sigma_min", **LEADING
        ),
        lambda: DPMSolverMultistepScheduler(final_sigmas_type="sigma_min", **LEADING),
    ],
    ids=["deis", "sa", "sde", "heun", "sigma_min"],
)  # fmt: skip
def test_training_images_are_made_with_dpm_solver_whatever_the_scheduler_of_the_folder(sd1, scheduler, reference):
    scheduler().save_pretrained(sd1 / "scheduler")
    edit(sd1 / "model_index.json", scheduler=["diffusers", type(scheduler()).__name__])
    model = load(sd1)
    made = schedules.for_training(model.pipeline.scheduler)
    assert (made.config.algorithm_type, made.config.solver_type) == ("dpmsolver++", "midpoint")
    wanted = [sampling.TrainingImage("a photo of a cat", "cat", 3)]
    settings = ImageSettings(steps=3, guidance=2.0)
    own, usual = (sampling.training_images(m, wanted, settings, None)[0].latent_CHW for m in (model, reference))
    assert torch.allclose(own, usual, atol=1e-4) and bool(own.isfinite().all())


LEFT = {"thresholding": True, "use_flow_sigmas": True, "rescale_betas_zero_snr": True, "lambda_min_clipped": "-inf"}


def test_settings_that_a_scheduler_does_not_read_do_not_change_training_images():
    left = schedules.for_training(PNDMScheduler.from_config({**LEADING, **LEFT}))
    plain = schedules.for_training(PNDMScheduler.from_config(LEADING))
    assert {key: left.config[key] for key in LEFT} == {key: plain.config[key] for key in LEFT}
    assert schedules.for_training(DDIMScheduler(thresholding=True, clip_sample=False)).config.thresholding


def test_a_learned_variance_is_not_looked_for_in_training_images():
    usual = EulerDiscreteScheduler.from_config({**LEADING, "variance_type": "learned_range"})
    assert schedules.fault(usual) is None and schedules.for_training(usual).config.variance_type is None
    fault = schedules.fault(DPMSolverMultistepScheduler(variance_type="learned_range", **LEADING))
    assert "its variance_type is learned_range" in fault


@pytest.mark.parametrize("kind", [DPMSolverMultistepScheduler, DEISMultistepScheduler, UniPCMultistepScheduler])
@pytest.mark.parametrize("flow", [{"prediction_type": "flow_prediction"}, {"use_flow_sigmas": True}])
def test_flow_matching_is_refused_whatever_the_class_of_the_scheduler(kind, flow):
    assert f"flow matching ({next(iter(flow))})" in schedules.fault(kind(**flow, **LEADING))


@pytest.mark.parametrize("kind", [DDIMInverseScheduler, DPMSolverMultistepInverseScheduler])
def test_a_scheduler_that_makes_noise_of_images_is_refused(kind):
    assert "no image can be made" in schedules.fault(kind(**LEADING))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("LMSDiscreteScheduler", {}), ("DPMSolverMultistepScheduler", {"use_beta_sigmas": True}),
     ("EulerDiscreteScheduler", {"use_beta_sigmas": True})],
)  # fmt: skip
def test_a_scheduler_that_needs_scipy_names_it(sd1, kind, changes):
    try:
        import scipy  # noqa: F401, PLC0415

        pytest.skip("scipy is installed")
    except ImportError:
        pass
    edit(sd1 / "model_index.json", scheduler=["diffusers", kind])
    edit(sd1 / "scheduler" / "scheduler_config.json", _class_name=kind, skip_prk_steps=None, **changes)
    refuse(sd1, "needs the package scipy. Install it with: pip install scipy")


@pytest.mark.parametrize(
    "kind", ["FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler", "CMStochasticIterativeScheduler"]
)
def test_a_scheduler_without_betas_is_refused_though_its_configuration_has_those_of_another(sd1, kind):
    edit(sd1 / "model_index.json", scheduler=["diffusers", kind])
    refuse(sd1, "a noise schedule without betas")


# Other shapes of UNets


@pytest.mark.parametrize(
    "changes",
    [
        {"mid_block_type": None},
        {"mid_block_type": "UNetMidBlock2D"},
        {"transformer_layers_per_block": ((2,), 1), "reverse_transformer_layers_per_block": (1, (2, 1))},
    ],
    ids=["tiny-sd", "no attention in the middle", "SSD-1B"],
)
def test_unets_that_were_cut_down_load_and_generate(sd1, changes):
    torch.manual_seed(0)
    shutil.rmtree(sd1 / "unet")
    families.unet(32, **changes).save_pretrained(sd1 / "unet")
    model = load(sd1)
    wanted = [sampling.TrainingImage("a photo of a cat", "cat", 3)]
    made = sampling.training_images(model, wanted, ImageSettings(steps=2, guidance=2.0), None)[0]
    assert made.heat_HW.shape == (8, 8)


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"cross_attention_dim": (32, 16)}, "layers read texts of several widths"),
     ({"time_cond_proj_dim": 16}, "the UNet of an LCM, which needs LCMScheduler, not PNDMScheduler")],
)  # fmt: skip
def test_unets_that_the_other_parts_do_not_fit_are_refused(sd1, changes, says):
    shutil.rmtree(sd1 / "unet")
    families.unet(32, **changes).save_pretrained(sd1 / "unet")
    refuse(sd1, says)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [(kind, field, value)
     for kind in ("PNDMScheduler", "EulerDiscreteScheduler")
     for field, value in [("beta_schedule", "cosine"), ("beta_schedule", None), ("beta_start", "a"),
                          ("trained_betas", "x"), ("trained_betas", [0.1] * 5), ("prediction_type", "x"),
                          ("timestep_spacing", None)]]
    + [("DPMSolverMultistepScheduler", "solver_order", 0), ("DPMSolverMultistepScheduler", "solver_type", "x")],
)  # fmt: skip
def test_the_field_of_a_scheduler_that_does_not_work_is_named(sd1, kind, field, value):
    edit(sd1 / "model_index.json", scheduler=["diffusers", kind])
    path = sd1 / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": kind, field: value}), encoding="utf-8")
    refuse(
        sd1, rf"its {field} is {re.escape(str(value))}\. Take that line out of the file, or download the model again\."
    )


@pytest.mark.parametrize("kind", ["VQDiffusionScheduler", "AmusedScheduler"])
def test_a_scheduler_of_another_kind_of_model_is_refused_in_a_sentence(sd1, kind):
    edit(sd1 / "model_index.json", scheduler=["diffusers", kind])
    refuse(sd1, f"No {kind} can be made of the scheduler_config.json of .*; download the model again\\.")


def test_pndm_with_four_points_is_loaded_and_fewer_steps_are_refused(sd1):
    edit(sd1 / "scheduler" / "scheduler_config.json", skip_prk_steps=False)
    edit(sd1 / "model_index.json", scheduler=["diffusers", "PNDMScheduler"])
    model = sd_model.load(str(sd1), "cpu", "float32")
    assert len(sampling.generate(model, ImageRequest(("a cat",), steps=4))) == 1
    with pytest.raises(RecipeError, match=r"steps: The scheduler of .*, PNDMScheduler, takes no 3 steps; ask for 20"):
        sampling.generate(model, ImageRequest(("a cat",), steps=3))
