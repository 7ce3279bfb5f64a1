"""Changed projections under the keys that other programs read. Pure: tensors in, tensors out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mace_studio.sd.projections import WEIGHT

# Half as large as float32, and finer for a difference than float16 is for the weight that it is added to.
STORED = torch.float16


@dataclass(frozen=True)
class LowRank:
    """The best approximation of a difference by a product of two thin matrices.

    Attributes:
        up_PR, down_RD: in float16; their product stands for the difference.
        residual: Frobenius norm of what the product leaves out, as a share of the difference's own.
    """

    up_PR: Tensor
    down_RD: Tensor
    residual: float

    @property
    def rank(self) -> int:
        return self.up_PR.shape[1]


def kohya_name(key: str) -> str:
    """`down_blocks.0.attn2.to_k.weight` -> `lora_unet_down_blocks_0_attn2_to_k`: what LoRA files call a layer."""
    return "lora_unet_" + key.removesuffix(WEIGHT).replace(".", "_")


def differences(weights: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State-dict key -> new weight_PD minus that of the base model, in float32 on the CPU."""
    return {key: weight_PD.float().cpu() - base[key].float().cpu() for key, weight_PD in weights.items()}


def full(deltas: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a LyCORIS file of the kind "full": each layer's whole difference, under `.diff`."""
    return {f"{kohya_name(key)}.diff": delta_PD.to(STORED) for key, delta_PD in deltas.items()}


def rank_for(delta_PD: Tensor, energy: float) -> int:
    """The smallest rank that keeps a share of the squared Frobenius norm of a difference.

    Args:
        delta_PD: in float32 or float64.
        energy: the share, above 0 and at most 1.
    """
    squares_N = torch.linalg.svdvals(delta_PD).double() ** 2
    # What the values from each one on still hold: summed from the smallest, so that little is not lost in much.
    rest_N = squares_N.flip(0).cumsum(0).flip(0)
    return max(1, int((rest_N > (1 - energy) * rest_N[0]).sum()))


def low_rank(delta_PD: Tensor, rank: int) -> LowRank:
    """Truncate the singular value decomposition of a difference; a rank that it does not have is filled with zeros.

    Raises:
        ValueError: the rank is below 1.
    """
    if rank < 1:
        raise ValueError(f"the rank is at least 1, not {rank}")
    u_PN, s_N, v_ND = torch.linalg.svd(delta_PD, full_matrices=False)
    root_N = s_N[:rank].sqrt()
    up_PR, down_RD = u_PN[:, :rank] * root_N, root_N[:, None] * v_ND[:rank]
    lacking = rank - len(root_N[:rank])
    up_PR = torch.nn.functional.pad(up_PR, (0, lacking)).to(STORED)
    down_RD = torch.nn.functional.pad(down_RD, (0, 0, 0, lacking)).to(STORED)
    left = torch.linalg.matrix_norm(delta_PD - up_PR.to(delta_PD) @ down_RD.to(delta_PD))
    whole = torch.linalg.vector_norm(s_N)
    return LowRank(up_PR, down_RD, float(left / whole) if whole > 0 else 0.0)


def lora(layers: Mapping[str, LowRank]) -> dict[str, Tensor]:
    """The tensors of a LoRA file in kohya's keys; alpha is the rank, so that a strength of 1 adds the very product.

    Raises:
        ValueError: the ranks differ. diffusers would then scale layers by the alpha of others: it does not find an
            alpha of its own for a layer in these keys.
    """
    if len(ranks := {layer.rank for layer in layers.values()}) > 1:
        raise ValueError(f"all layers need the same rank, not {sorted(ranks)}")
    tensors: dict[str, Tensor] = {}
    for key, layer in layers.items():
        name = kohya_name(key)
        tensors[f"{name}.lora_up.weight"] = layer.up_PR
        tensors[f"{name}.lora_down.weight"] = layer.down_RD
        tensors[f"{name}.alpha"] = torch.tensor(float(layer.rank), dtype=STORED)
    return tensors
