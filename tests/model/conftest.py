"""Real pipelines for the tests of the model: the built-in one, and a random one of another shape."""

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
)

from mace_studio.caption_files import captions_of
from mace_studio.runtime.studio import BUILT_IN
from mace_studio.sd import model as sd_model
from tests import families, segmenters
from tests.steps import untouched


@pytest.fixture(scope="session")
def model():
    """The built-in miniature in float32 on the CPU."""
    return sd_model.load(str(BUILT_IN), "cpu", "float32")


@pytest.fixture(scope="session")
def few_captions(tmp_path_factory):
    """The first 60 of the built-in model's 1,500 general captions, which take seconds to encode."""
    path = tmp_path_factory.mktemp("captions") / "few.txt"
    lines = captions_of(str(BUILT_IN)).read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:60]), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def other_folder(tmp_path_factory):
    """A random pipeline that pads with "!" as Stable Diffusion 2 does, reads 24 tokens and draws 32 x 48 pixels."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(str(families.TOKENIZER), model_max_length=24, pad_token="!")
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=24, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    norm = text.final_layer_norm if hasattr(text, "final_layer_norm") else text.text_model.final_layer_norm
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    unet = UNet2DConditionModel(
        sample_size=(8, 12), in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32, attention_head_dim=2, norm_num_groups=4,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 3, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 3, latent_channels=4,
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae, text, tokenizer, unet, DDIMScheduler(), None, None, requires_safety_checker=False
    )
    folder = tmp_path_factory.mktemp("models") / "other"
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def other(other_folder):
    return sd_model.load(str(other_folder), "cpu", "float32")


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """A CLIP model of random weights, as it lies on a disk."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip") / "small-clip"
    tokenizer = CLIPTokenizer.from_pretrained(str(families.TOKENIZER))
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), max_position_embeddings=77, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, **small,
    )  # fmt: skip
    vision = CLIPVisionConfig(image_size=32, patch_size=8, **small)
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture
def unchanged(model):
    """Fails if a test leaves any tensor, hook or attribute of the built-in model other than it was."""
    with untouched(model):
        yield


@pytest.fixture(scope="session")
def mask_models(tmp_path_factory):
    """A folder of small random models that make masks."""
    return segmenters.save(tmp_path_factory.mktemp("mask-models"))


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A small random pipeline of every family, saved."""
    root = tmp_path_factory.mktemp("families")
    return {name: families.save(name, root / name) for name in families.FAMILIES}


@pytest.fixture(scope="session")
def models(folders):
    return {name: sd_model.load(str(folder), "cpu", "float32") for name, folder in folders.items()}
