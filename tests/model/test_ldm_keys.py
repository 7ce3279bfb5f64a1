"""Small models of each family, written as a single file and read back by diffusers, tensor for tensor."""

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from mace_studio.erasure import Erasure
from mace_studio.errors import FileError
from mace_studio.exports import export as exporting
from mace_studio.exports.formats import ExportRequest
from mace_studio.recipe import Concept, Recipe
from mace_studio.sd import ldm_keys, projections
from mace_studio.sd import model as sd_model
from tests import families

RECIPE = Recipe(concepts=(Concept("cat", "forest"),))


def tokenizer():
    return CLIPTokenizer.from_pretrained(str(families.TOKENIZER))


def text_encoder(kind, width, act, layers=2, **settings):
    words = tokenizer()
    return kind(
        CLIPTextConfig(
            vocab_size=len(words), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
            num_attention_heads=2, max_position_embeddings=77, hidden_act=act, bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id, **settings,
        )
    )  # fmt: skip


def vae():
    """With attention in its middle, as Stable Diffusion's has."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 16), down_block_types=("DownEncoderBlock2D",) * 3, layers_per_block=2,
        up_block_types=("UpDecoderBlock2D",) * 3, latent_channels=4, norm_num_groups=4,
    )  # fmt: skip


def unet(context, **settings):
    """Of the shape of Stable Diffusion's: attention everywhere but at the coarsest level, two layers in each block."""
    shape = {
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (16, 32, 32),
    }
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=2, cross_attention_dim=context,
        attention_head_dim=2, norm_num_groups=4, **shape | settings,
    )  # fmt: skip


def sd1():
    text = text_encoder(CLIPTextModel, 32, "quick_gelu")
    scheduler = DDIMScheduler(prediction_type="epsilon")
    return StableDiffusionPipeline(
        vae(), text, tokenizer(), unet(32), scheduler, None, None, requires_safety_checker=False
    )


def sd2():
    """OpenCLIP's text encoder, projections that are matrices, v-prediction."""
    text = text_encoder(CLIPTextModel, 32, "gelu", layers=3)
    scheduler = DDIMScheduler(prediction_type="v_prediction")
    parts = (vae(), text, tokenizer(), unet(32, use_linear_projection=True), scheduler, None, None)
    return StableDiffusionPipeline(*parts, requires_safety_checker=False)


def sdxl():
    """Two text encoders, no attention at the finest level, several transformers in a block, added conditions."""
    first = text_encoder(CLIPTextModel, 32, "quick_gelu")
    second = text_encoder(CLIPTextModelWithProjection, 48, "gelu", projection_dim=40)
    network = unet(
        80, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), use_linear_projection=True,
        transformer_layers_per_block=(1, 2, 3), addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=8 * 6 + 40,
    )  # fmt: skip
    return StableDiffusionXLPipeline(vae(), first, second, tokenizer(), tokenizer(), network, DDIMScheduler())


FAMILIES = {"sd1": sd1, "sd2": sd2, "sdxl": sdxl}


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    torch.manual_seed(0)
    pipeline = FAMILIES[request.param]()
    for part in pipeline.components.values():
        # Norms and biases begin as ones and zeros: any mix-up of theirs would go unseen.
        for parameter in part.parameters() if isinstance(part, torch.nn.Module) else ():
            torch.nn.init.normal_(parameter)
    path = tmp_path_factory.mktemp("families") / request.param
    pipeline.save_pretrained(path, safe_serialization=True)
    return path


def erasure_of(model):
    weights = {key: 2 * weight_PD for key, weight_PD in projections.read(model.unet).items()}
    return Erasure(recipe=RECIPE, weights=weights, fingerprint=model.fingerprint)


def test_every_family_is_read_back_tensor_for_tensor(folder, tmp_path):
    model = sd_model.load(str(folder), "cpu", "float32")
    erasure = erasure_of(model)
    path = tmp_path / "cat.safetensors"
    exporting.export(model, erasure, ExportRequest("checkpoint", path))
    again = type(model.pipeline).from_single_file(
        str(path), config=str(folder), local_files_only=True, dtype=torch.float32
    )
    parts = {name: part for name, part in model.pipeline.components.items() if isinstance(part, torch.nn.Module)}
    assert len(parts) == (4 if folder.name == "sdxl" else 3)
    for name, part in parts.items():
        expected = part.state_dict() | (erasure.weights if name == "unet" else {})
        read = getattr(again, name).state_dict()
        assert read.keys() == expected.keys()
        wrong = [key for key, tensor in expected.items() if not torch.equal(read[key], tensor)]
        assert wrong == [], name


def test_the_folder_of_every_family_is_read_back(folder, tmp_path):
    model = sd_model.load(str(folder), "cpu", "float32")
    erasure = erasure_of(model)
    exporting.export(model, erasure, ExportRequest("diffusers", tmp_path / "cat"))
    again = sd_model.load(str(tmp_path / "cat"), "cpu", "float32")
    expected = model.unet.state_dict() | erasure.weights
    read = again.unet.state_dict()
    assert [key for key, tensor in expected.items() if not torch.equal(read[key], tensor)] == []


def test_diffusers_reads_the_lora_of_every_family(folder, tmp_path):
    model = sd_model.load(str(folder), "cpu", "float32")
    erasure = erasure_of(model)
    exporting.export(model, erasure, ExportRequest("lora", tmp_path / "cat.safetensors", rank=64))
    model.pipeline.load_lora_weights(str(tmp_path / "cat.safetensors"))
    model.pipeline.fuse_lora()
    model.pipeline.unload_lora_weights()
    read = projections.read(model.unet)
    for key, weight_PD in erasure.weights.items():
        assert torch.linalg.matrix_norm(read[key] - weight_PD) < 2e-3 * torch.linalg.matrix_norm(weight_PD)


def test_the_keys_are_those_of_stable_diffusion_1():
    """Numbers written down from the released checkpoints: 12 input blocks, a middle, 12 output blocks."""
    config = {
        "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    }
    transformer = "transformer_blocks.0.attn2.to_k.weight"
    pairs = {
        "conv_in.weight": "input_blocks.0.0.weight",
        f"down_blocks.0.attentions.0.{transformer}": f"input_blocks.1.1.{transformer}",
        "down_blocks.0.downsamplers.0.conv.bias": "input_blocks.3.0.op.bias",
        f"down_blocks.1.attentions.1.{transformer}": f"input_blocks.5.1.{transformer}",
        f"down_blocks.2.attentions.1.{transformer}": f"input_blocks.8.1.{transformer}",
        "down_blocks.3.resnets.1.conv2.weight": "input_blocks.11.0.out_layers.3.weight",
        f"mid_block.attentions.0.{transformer}": f"middle_block.1.{transformer}",
        "mid_block.resnets.1.norm1.weight": "middle_block.2.in_layers.0.weight",
        "up_blocks.0.upsamplers.0.conv.weight": "output_blocks.2.1.conv.weight",
        f"up_blocks.1.attentions.0.{transformer}": f"output_blocks.3.1.{transformer}",
        "up_blocks.1.upsamplers.0.conv.weight": "output_blocks.5.2.conv.weight",
        f"up_blocks.3.attentions.2.{transformer}": f"output_blocks.11.1.{transformer}",
        "up_blocks.3.resnets.2.conv_shortcut.weight": "output_blocks.11.0.skip_connection.weight",
        "time_embedding.linear_2.bias": "time_embed.2.bias",
        "conv_norm_out.weight": "out.0.weight",
    }
    assert ldm_keys.unet_keys(config, pairs) == pairs


def test_the_text_encoders_have_the_names_that_other_programs_look_for(tmp_path):
    torch.manual_seed(0)
    expected = {
        "sd1": "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight",
        "sd2": "cond_stage_model.model.transformer.resblocks.2.attn.in_proj_weight",
        "sdxl": "conditioner.embedders.1.model.text_projection",
    }
    for name, key in expected.items():
        FAMILIES[name]().save_pretrained(tmp_path / name, safe_serialization=True)
        model = sd_model.load(str(tmp_path / name), "cpu", "float32")
        path = tmp_path / f"{name}.safetensors"
        exporting.export(model, erasure_of(model), ExportRequest("checkpoint", path))
        assert key in load_file(path)


def test_a_part_without_a_place_in_the_layout_is_said():
    config = {"layers_per_block": 1, "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    with pytest.raises(FileError, match=r"no place for time_embedding\.cond_proj\.weight of the UNet"):
        ldm_keys.unet_keys(config, {"time_embedding.cond_proj.weight": None})
    with pytest.raises(FileError, match="same number of layers"):
        ldm_keys.unet_keys(config | {"layers_per_block": (1, 2)}, {})


@pytest.mark.parametrize("attending", [(0, 1, 2), (1, 2)], ids=["sd1", "sdxl"])
def test_a1111_finds_the_layers_of_a_lora_by_their_names_in_diffusers(attending):
    """It counts three numbers for each block: input block 1 + 3 x block + layer, output block 3 x block + layer."""
    levels = 4 if len(attending) == 3 else 3
    config = {"layers_per_block": 2, "down_block_types": ("",) * levels, "up_block_types": ("",) * levels}
    end = "transformer_blocks.0.attn2.to_k.weight"
    down = {f"down_blocks.{b}.attentions.{i}.{end}": 1 + 3 * b + i for b in attending for i in range(2)}
    up = {
        f"up_blocks.{levels - 1 - b}.attentions.{i}.{end}": 3 * (levels - 1 - b) + i
        for b in attending
        for i in range(3)
    }
    names = ldm_keys.unet_keys(config, down | up)
    assert names == {key: f"input_blocks.{n}.1.{end}" for key, n in down.items()} | {
        key: f"output_blocks.{n}.1.{end}" for key, n in up.items()
    }
