"""From the keys of diffusers to those of the original Stable Diffusion checkpoints, which ComfyUI and A1111 read.

The layout is that of the CompVis and Stability releases: the UNet's blocks numbered through from input to output, the
decoder's levels from the finest, and OpenCLIP encoders with query, key and value in one matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from mace_studio.errors import FileError

UNET, VAE = "model.diffusion_model.", "first_stage_model."
SD_TEXT, XL_TEXT = "cond_stage_model.", ("conditioner.embedders.0.", "conditioner.embedders.1.")
V_PREDICTION, ZERO_SNR = "v_pred", "ztsnr"
CLIP, OPEN_CLIP = "transformer.text_model.", "model."

_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "class_embedding.linear_1": "label_emb.0.0",
    "class_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_RESNET = {name: name for name in ("norm1", "conv1", "norm2", "conv2")} | {"conv_shortcut": "nin_shortcut"}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def checkpoint(config: Mapping[str, object], parts: Mapping[str, Mapping[str, Tensor]], open_clip: bool) -> dict:
    """The tensors of a single-file checkpoint.

    Args:
        config: of the UNet.
        parts: "unet", "vae", "text_encoder" and, for SDXL, "text_encoder_2" -> its state dict.
        open_clip: the only text encoder is an OpenCLIP, as in Stable Diffusion 2.

    Raises:
        FileError: the model has a part for which the layout has no place.
    """
    tensors = {UNET + new: parts["unet"][old] for old, new in unet_keys(config, parts["unet"]).items()}
    tensors |= {VAE + key: tensor for key, tensor in _vae(parts["vae"]).items()}
    first, second = parts["text_encoder"], parts.get("text_encoder_2")
    if second is not None:
        tensors |= {XL_TEXT[0] + key: tensor for key, tensor in _clip(first).items()}
        tensors |= {XL_TEXT[1] + key: tensor for key, tensor in _open_clip(second).items()}
    else:
        text = (_open_clip if open_clip else _clip)(first)
        tensors |= {SD_TEXT + key: tensor for key, tensor in text.items()}
    return tensors


def markers(schedule: Mapping[str, object]) -> dict[str, Tensor]:
    """Empty tensors by which ComfyUI, A1111 and Forge know an SDXL that predicts v, and one that begins in pure noise.

    Of Stable Diffusion 2 they tell it by weights that an erasure leaves alone, and of 1 by a configuration file only.
    Args:
        schedule: the scheduler's configuration, as diffusers writes it.

    Sources: https://github.com/AUTOMATIC1111/stable-diffusion-webui/pull/16567, comfy/supported_models.py of ComfyUI.
    """
    found = {V_PREDICTION: schedule.get("prediction_type") == "v_prediction"}
    found[ZERO_SNR] = bool(schedule.get("rescale_betas_zero_snr"))
    return {name: torch.zeros(0) for name, is_so in found.items() if is_so}


def unet_keys(config: Mapping[str, Any], keys: Mapping[str, object]) -> dict[str, str]:
    """Diffusers key -> original key, without the checkpoint's prefix, for every key of a UNet.

    Args:
        config: of the UNet, as diffusers writes it.
        keys: names of weights as diffusers has them; their values are not read.

    Raises:
        FileError: a key for which the layout has no place.
    """
    return _renamed(keys, dict(_unet_modules(config, keys)), "UNet")


def _unet_modules(config: Mapping[str, Any], keys: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    yield from _UNET_ENDS.items()
    each, number = config["layers_per_block"], 1
    if not isinstance(each, int):
        raise FileError("The single-file layout needs the same number of layers in every block; use another format.")
    for i in range(len(config["down_block_types"])):
        for j in range(each):
            yield from _unet_block(f"down_blocks.{i}", j, f"input_blocks.{number + j}")
        yield f"down_blocks.{i}.downsamplers.0.conv", f"input_blocks.{number + each}.0.op"
        number += each + 1
    yield from _resnet("mid_block.resnets.0", "middle_block.0")
    yield "mid_block.attentions.0", "middle_block.1"
    yield from _resnet("mid_block.resnets.1", "middle_block.2")
    for i in range(len(config["up_block_types"])):
        number, has_attention = i * (each + 1), any(key.startswith(f"up_blocks.{i}.attentions.") for key in keys)
        for j in range(each + 1):
            yield from _unet_block(f"up_blocks.{i}", j, f"output_blocks.{number + j}")
        yield f"up_blocks.{i}.upsamplers.0.conv", f"output_blocks.{number + each}.{1 + has_attention}.conv"


def _unet_block(block: str, layer: int, new: str) -> Iterator[tuple[str, str]]:
    yield from _resnet(f"{block}.resnets.{layer}", f"{new}.0")
    yield f"{block}.attentions.{layer}", f"{new}.1"


def _resnet(old: str, new: str, names: Mapping[str, str] = _UNET_RESNET) -> Iterator[tuple[str, str]]:
    for ours, theirs in names.items():
        yield f"{old}.{ours}", f"{new}.{theirs}"


def _vae(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = _renamed(state, dict(_vae_modules(state)), "VAE")
    # Attention in the VAE is a convolution of one pixel there, and a matrix here.
    return {
        new: state[old][:, :, None, None] if ".attn_1." in new and state[old].ndim == 2 else state[old]
        for old, new in names.items()
    }


def _vae_modules(state: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    yield from ((name, name) for name in ("quant_conv", "post_quant_conv"))
    levels = len({key.split(".")[2] for key in state if key.startswith("decoder.up_blocks.")})
    layers = 1 + max(int(key.split(".")[4]) for key in state if ".resnets." in key and "_blocks." in key)
    for side in ("encoder", "decoder"):
        yield from ((f"{side}.{name}", f"{side}.{name}") for name in ("conv_in", "conv_out"))
        yield f"{side}.conv_norm_out", f"{side}.norm_out"
        for j in range(2):
            yield from _resnet(f"{side}.mid_block.resnets.{j}", f"{side}.mid.block_{j + 1}", _VAE_RESNET)
        yield from _resnet(f"{side}.mid_block.attentions.0", f"{side}.mid.attn_1", _VAE_ATTENTION)
    for i in range(levels):
        level = levels - 1 - i
        for j in range(layers):
            yield from _resnet(f"encoder.down_blocks.{i}.resnets.{j}", f"encoder.down.{i}.block.{j}", _VAE_RESNET)
            yield from _resnet(f"decoder.up_blocks.{i}.resnets.{j}", f"decoder.up.{level}.block.{j}", _VAE_RESNET)
        yield f"encoder.down_blocks.{i}.downsamplers.0.conv", f"encoder.down.{i}.downsample.conv"
        yield f"decoder.up_blocks.{i}.upsamplers.0.conv", f"decoder.up.{level}.upsample.conv"


def _clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {CLIP + key.removeprefix("text_model."): tensor for key, tensor in state.items()}


def _open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state = {key.removeprefix("text_model."): tensor for key, tensor in state.items()}
    tensors = {
        "positional_embedding": state.pop("embeddings.position_embedding.weight"),
        "token_embedding.weight": state.pop("embeddings.token_embedding.weight"),
    }
    if "text_projection.weight" in state:
        tensors["text_projection"] = state.pop("text_projection.weight").T.contiguous()
    modules, joined = {"final_layer_norm": "ln_final"}, {}
    for i in range(1 + max(int(key.split(".")[2]) for key in state if key.startswith("encoder.layers."))):
        old, new = f"encoder.layers.{i}", f"transformer.resblocks.{i}"
        modules |= dict(_resnet(old, new, _OPEN_CLIP_LAYER))
        for end in ("weight", "bias"):
            three = [state.pop(f"{old}.self_attn.{letter}_proj.{end}") for letter in "qkv"]
            joined[f"{new}.attn.in_proj_{end}"] = torch.cat(three)
    tensors |= joined
    tensors |= {new: state[old] for old, new in _renamed(state, modules, "text encoder").items()}
    return {OPEN_CLIP + key: tensor for key, tensor in tensors.items()}


def _renamed(keys: Mapping[str, object], modules: Mapping[str, str], part: str) -> dict[str, str]:
    names = {}
    for key in keys:
        ancestors = (key.rsplit(".", n)[0] for n in range(1, key.count(".") + 1))
        old = next((name for name in ancestors if name in modules), None)
        if old is None:
            raise FileError(f"The single-file layout has no place for {key} of the {part}; use another format.")
        names[key] = modules[old] + key.removeprefix(old)
    return names
