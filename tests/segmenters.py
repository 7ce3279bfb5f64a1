"""Small CLIPSeg, Grounding DINO and Segment Anything models of random weights, as they lie on a disk."""

from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertTokenizer,
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessorPil,
    SamConfig,
    SamImageProcessorPil,
    SamModel,
    SwinConfig,
    ViTImageProcessorPil,
)

from tests.families import TOKENIZER

# Grounding DINO knows the ends of phrases by these ids of BERT's.
WORDS = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?", 1030: "cat"}


def save(folder: Path) -> Path:
    """Write all of them; the folder."""
    torch.manual_seed(0)
    _clipseg(folder / "clipseg")
    _grounding_dino(folder / "grounding-dino")
    _sam(folder / "sam")
    return folder


def _clipseg(folder):
    tokenizer = CLIPTokenizer.from_pretrained(str(TOKENIZER))
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = CLIPSegConfig(
        text_config={"vocab_size": len(tokenizer), "max_position_embeddings": 77, **ends, **small},
        vision_config={"image_size": 32, "patch_size": 8, **small},
        projection_dim=16, reduce_dim=16, extract_layers=[0, 1], decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
    )  # fmt: skip
    model = CLIPSegForImageSegmentation(config)
    model.decoder.transposed_convolution.weight.data *= 50  # probabilities from 0 to 1, not all of one half
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 48, "width": 48}).save_pretrained(folder)


def _grounding_dino(folder):
    text = BertConfig(vocab_size=1100, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    swin = SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, window_size=2,
        out_indices=[2, 3, 4],
    )  # fmt: skip
    config = GroundingDinoConfig(
        backbone_config=swin, text_config=text, num_queries=2, encoder_layers=1, decoder_layers=2, d_model=32,
        encoder_ffn_dim=32, decoder_ffn_dim=32, encoder_attention_heads=2, decoder_attention_heads=2, max_text_len=32,
    )  # fmt: skip
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    words = [WORDS.get(i, f"[unused{i}]") for i in range(text.vocab_size)]
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)
    GroundingDinoImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)


def _sam(folder):
    shape = {"image_size": 64, "patch_size": 8}
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2, "mlp_dim": 32}
    config = SamConfig(
        vision_config={
            "hidden_size": 32, "output_channels": 16, "window_size": 4, "global_attn_indexes": [0], "num_pos_feats": 8,
            **shape, **layers,
        },
        prompt_encoder_config={"hidden_size": 16, "mask_input_channels": 4, **shape},
        mask_decoder_config={"hidden_size": 16, "iou_head_hidden_dim": 16, "iou_head_depth": 2, **layers},
    )  # fmt: skip
    SamModel(config).save_pretrained(folder)
    side = {"height": 64, "width": 64}
    SamImageProcessorPil(
        size={"longest_edge": 64}, pad_size=side, mask_size={"longest_edge": 16}, mask_pad_size=side
    ).save_pretrained(folder)
