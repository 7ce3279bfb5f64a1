"""A pipeline as one file in the layout of the original Stable Diffusion checkpoints, with its settings beside it."""

import re
import shutil

import torch
from safetensors.torch import save_file

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
AROUND = {
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip
OPEN_CLIP = {
    "encoder.layers": "transformer.resblocks", "layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn": "attn",
    "fc1": "c_fc", "fc2": "c_proj", "final_layer_norm": "ln_final", "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
}  # fmt: skip
VAE = {
    "down_blocks": "down", "up_blocks": "up", "resnets": "block", "downsamplers.0": "downsample",
    "upsamplers.0": "upsample", "mid_block.attentions.0": "mid.attn_1", "conv_shortcut": "nin_shortcut",
    "conv_norm_out": "norm_out", "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out",
}  # fmt: skip


def save(pipeline, folder, path):
    """Write the pipeline that was saved at `folder` to `path`, and its settings without weights beside it."""
    tensors = unet(pipeline.unet) | vae(pipeline.vae)
    if hasattr(pipeline, "text_encoder_2"):
        tensors |= clip(pipeline.text_encoder, "conditioner.embedders.0.transformer.text_model.")
        tensors |= open_clip(pipeline.text_encoder_2, "conditioner.embedders.1.model.")
    elif pipeline.tokenizer.pad_token == "!":
        tensors |= open_clip(pipeline.text_encoder, "cond_stage_model.model.")
    else:
        tensors |= clip(pipeline.text_encoder, "cond_stage_model.transformer.text_model.")
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    shutil.copytree(folder, path.with_suffix(""), ignore=shutil.ignore_patterns("*.safetensors"))


def renamed(key, names):
    for old, new in names.items():
        key = re.sub(rf"(?<![^.]){re.escape(old)}(?![^.])", new, key)
    return key


def unet(module):
    state = module.state_dict()
    per_block = module.config.layers_per_block + 1

    def place(key):
        if found := re.fullmatch(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.+)", key):
            side, block, part, layer, rest = found.groups()
            first = 1 + int(block) * per_block if side == "down" else int(block) * per_block
            where = f"{'input' if side == 'down' else 'output'}_blocks."
            if part == "downsamplers":
                return f"{where}{first + per_block - 1}.0.{rest.replace('conv', 'op')}"
            if part == "upsamplers":
                attends = any(k.startswith(f"up_blocks.{block}.attentions") for k in state)
                return f"{where}{first + per_block - 1}.{1 + attends}.{rest}"
            inner = f"0.{renamed(rest, RESNET)}" if part == "resnets" else f"1.{rest}"
            return f"{where}{first + int(layer)}.{inner}"
        if found := re.fullmatch(r"mid_block\.(\w+)\.(\d)\.(.+)", key):
            part, layer, rest = found.groups()
            return f"middle_block.{2 * int(layer)}.{renamed(rest, RESNET)}" if part == "resnets" else (
                f"middle_block.1.{rest}"
            )  # fmt: skip
        return renamed(key, AROUND)

    return {f"model.diffusion_model.{place(key)}": tensor for key, tensor in state.items()}


def vae(module):
    blocks = len(module.config.up_block_types)
    found = {}
    for key, tensor in module.state_dict().items():
        key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
        key = re.sub(r"up_blocks\.(\d)", lambda m: f"up_blocks.{blocks - 1 - int(m[1])}", key)
        attends = "attentions" in key and key.endswith("weight") and tensor.ndim == 2
        found[f"first_stage_model.{renamed(key, VAE)}"] = tensor[:, :, None, None] if attends else tensor
    return found


def text_state(module):
    return {key.removeprefix("text_model."): tensor for key, tensor in module.state_dict().items()}


def clip(module, prefix):
    return {prefix + key: tensor for key, tensor in text_state(module).items()}


def open_clip(module, prefix):
    state, found = text_state(module), {}
    for key, tensor in state.items():
        if key == "text_projection.weight":
            found[prefix + "text_projection"] = tensor.T
        elif match := re.fullmatch(r"(.+self_attn)\.q_proj\.(weight|bias)", key):
            joined = torch.cat([state[key.replace("q_proj", f"{name}_proj")] for name in "qkv"])
            found[f"{prefix}{renamed(match[1], OPEN_CLIP)}.in_proj_{match[2]}"] = joined
        elif not re.search(r"\.[kv]_proj\.", key):
            found[prefix + renamed(key, OPEN_CLIP)] = tensor
    return found
