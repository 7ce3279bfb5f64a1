"""What makes a concept's own word carry it: tokens that are left out, and a loss on where attention looks.

On Stable Diffusion the word outlines its thing by itself. A small model with few captions lets the end token and the
padding carry everything, unless it is trained to do without them.

Source: Wang et al., "TokenCompose: Text-to-Image Diffusion with Token-level Supervision", CVPR 2024.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor
from torch.nn import functional

from mace_studio.miniature.latents import Batch

LEAST_SIDE = 8  # of a map that the loss looks at, in pixels
INSIDE = 0.6  # of the attention inside of the mask is to go to the concept's tokens
PADDING = 0.15  # at most goes to the end token and the padding


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """What captions lose in training, so that the concept's own words have to carry it, and how much it weighs.

    Attributes:
        only_words: share of the captions that lose their end token and padding.
        without_concept: share that loses the concept's own tokens instead.
        foreign_end: share whose end token and padding are those of another caption.
        grounding_weight: of the loss on where attention looks, beside the velocity's.
    """

    only_words: float = 0.5
    without_concept: float = 0.1
    foreign_end: float = 0.0
    grounding_weight: float = 0.2


SHIPPED = Hidden()  # what the shipped weights were trained with


class Listening:
    """An attention processor that keeps the maps of cross-attention.

    Attributes:
        maps: of the layers in turn, (B, H, Q, T), with gradients.
    """

    def __init__(self) -> None:
        self.maps: list[Tensor] = []

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        **_: object,
    ) -> Tensor:
        """What a layer of cross-attention returns; `attention_mask` is added to the logits, (B * H or B, 1, T)."""
        queries, keys, values = (
            x_BLP.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for x_BLP in (
                attn.to_q(hidden_states), attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
            )
        )  # fmt: skip
        logits_BHQT = queries @ keys.transpose(-1, -2) * attn.scale
        if attention_mask is not None:
            logits_BHQT = logits_BHQT + attention_mask.view(len(logits_BHQT), -1, 1, logits_BHQT.shape[-1])[:, :1]
        map_BHQT = logits_BHQT.softmax(-1)
        self.maps.append(map_BHQT)
        return attn.to_out[1](attn.to_out[0]((map_BHQT @ values).transpose(1, 2).flatten(2)))


@contextmanager
def listening(unet: UNet2DConditionModel) -> Iterator[Listening]:
    """Let cross-attention keep its maps for a while.

    Self-attention is plain on the CPU, where that is faster for so narrow heads, and fused elsewhere.
    """
    before, ear = dict(unet.attn_processors), Listening()
    own = AttnProcessor() if unet.device.type == "cpu" else AttnProcessor2_0()
    unet.set_attn_processor({name: ear if "attn2" in name else own for name in before})
    try:
        yield ear
    finally:
        unet.set_attn_processor(before)


def seen(batch: Batch, hidden: Hidden, generator: torch.Generator) -> Tensor:
    """Which tokens the UNet may look at, (N, T), 1 or 0: all, only words, or all but the concept's own.

    Captions that were left out keep all their tokens: so are they used in guidance.
    """
    chance_N = torch.rand(len(batch.end_N), generator=generator, device=generator.device)
    place_T = torch.arange(batch.own_NT.shape[1], device=generator.device)
    only_words_N = (chance_N < hidden.only_words) & batch.told_N
    without_N = (chance_N >= hidden.only_words) & (chance_N < hidden.only_words + hidden.without_concept)
    hidden_NT = only_words_N[:, None] & (place_T >= batch.end_N[:, None]) | without_N[:, None] & batch.own_NT
    return (~hidden_NT).float()


def foreign_ends(batch: Batch, hidden: Hidden, generator: torch.Generator) -> Tensor:
    """The contexts, (N, T, D), some with the end token and padding of another sample's caption."""
    if not hidden.foreign_end:  # nothing is drawn, so that the training of the shipped weights can be repeated
        return batch.context_NTD
    chosen_N = torch.rand(len(batch.end_N), generator=generator, device=generator.device) < hidden.foreign_end
    place_T = torch.arange(batch.own_NT.shape[1], device=generator.device)
    # The last position is padding in each caption; its state serves for all positions from the end token on.
    foreign_N1D = batch.context_NTD.roll(1, dims=0)[:, -1:]
    swapped_NT = (chosen_N & batch.told_N)[:, None] & (place_T >= batch.end_N[:, None])
    return torch.where(swapped_NT[..., None], foreign_N1D, batch.context_NTD)


def loss(maps: list[Tensor], batch: Batch, seen_NT: Tensor, weight_N: Tensor) -> Tensor:
    """How far the attention of concepts' own tokens is from their masks, and how much goes to the end and the padding.

    Args:
        maps: of all layers of cross-attention, (N, H, Q, T) each.
        batch: with masks, and where the concepts' tokens stand.
        seen_NT: which tokens the UNet might look at.
        weight_N: of each sample, such as how much can be seen through the noise.
    """
    own_NT = batch.own_NT & (seen_NT > 0)
    counts_N = weight_N * own_NT.any(dim=1) * batch.mask_NHW.flatten(1).any(dim=1)
    rest_NT = torch.arange(own_NT.shape[1], device=own_NT.device) >= batch.end_N[:, None]
    terms = []
    for map_NHQT in maps:
        side = round(map_NHQT.shape[2] ** 0.5)
        if side < LEAST_SIDE:
            continue
        map_NQT = map_NHQT.mean(dim=1)
        mask_NQ = functional.adaptive_avg_pool2d(batch.mask_NHW[:, None], side).flatten(1)
        own_NQ = (map_NQT * own_NT[:, None]).sum(dim=2)
        covered_N = (own_NQ * mask_NQ).sum(dim=1)
        inside_N = covered_N / mask_NQ.sum(dim=1).clamp(min=1)
        share_N = covered_N / own_NQ.sum(dim=1).clamp(min=1e-6)
        padding_N = (map_NQT * rest_NT[:, None]).sum(dim=2).mean(dim=1)
        terms.append(
            (1 - share_N).square()
            + 2 * functional.relu(INSIDE - inside_N).square()
            + 2 * functional.relu(padding_N - PADDING).square()
        )
    return (torch.stack(terms).mean(dim=0) * counts_N).sum() / counts_N.sum().clamp(min=1e-6)


@torch.no_grad()
def contrast(maps: list[Tensor], batch: Batch) -> Tensor:
    """Mean attention of each concept's own tokens inside of its mask over the mean outside, (N,), at 16 x 16."""
    side = batch.mask_NHW.shape[-1]
    fine = [map_NHQT.mean(dim=1) for map_NHQT in maps if map_NHQT.shape[2] == side * side]
    own_NQ = (torch.stack(fine).mean(dim=0) * batch.own_NT[:, None]).sum(dim=2)
    mask_NQ = batch.mask_NHW.flatten(1)
    inside_N = (own_NQ * mask_NQ).sum(dim=1) / mask_NQ.sum(dim=1).clamp(min=1e-6)
    outside_N = (own_NQ * (1 - mask_NQ)).sum(dim=1) / (1 - mask_NQ).sum(dim=1).clamp(min=1e-6)
    return inside_N / outside_N.clamp(min=1e-9)
