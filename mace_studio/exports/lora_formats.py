"""Changed weights under the keys that other programs read. Pure: tensors in, tensors out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mace_studio.sd import finite

WEIGHT, BIAS = ".weight", ".bias"
# Half as large as float32, and finer for a difference than float16 is for the weight that it is added to.
STORED = torch.float16


@dataclass(frozen=True)
class LowRank:
    """The best approximation of a difference by a product of two thin matrices.

    Attributes:
        up_PR, down_RD: in float16; their product stands for the difference.
        residual: Frobenius norm of what the product leaves out, as a share of the difference's own.
        kernel: of a convolution: height and width, which its D = inputs x height x width holds; None of a linear layer.
    """

    up_PR: Tensor
    down_RD: Tensor
    residual: float
    kernel: tuple[int, int] | None = None

    @property
    def rank(self) -> int:
        return self.up_PR.shape[1]


def kohya_name(key: str) -> str:
    """`down_blocks.0.attn2.to_k.weight` -> `lora_unet_down_blocks_0_attn2_to_k`: what LoRA files call a layer."""
    return "lora_unet_" + key.removesuffix(WEIGHT).removesuffix(BIAS).replace(".", "_")


def differences(weights: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State-dict key -> new weight_PD minus that of the base model, in float32 on the CPU."""
    return {
        key: finite.converted(weight_PD, torch.float32, key).cpu() - base[key].float().cpu()
        for key, weight_PD in weights.items()
    }


def full(deltas: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a LyCORIS file: each layer's whole difference under `.diff`, its bias's under `.diff_b`.

    A norm, whose weight has one axis, is a layer of another kind there, with `.w_norm` and `.b_norm`.
    """
    norms = {kohya_name(key) for key, delta in deltas.items() if key.endswith(WEIGHT) and delta.ndim == 1}
    tensors = {}
    for key, delta in deltas.items():
        name = kohya_name(key)
        weight, bias = ("w_norm", "b_norm") if name in norms else ("diff", "diff_b")
        tensors[f"{name}.{bias if key.endswith(BIAS) else weight}"] = finite.converted(delta, STORED, key)
    return tensors


def fits(delta: Tensor) -> bool:
    """Whether a LoRA can hold a difference: it is a linear layer's or a convolution's, not a norm's and no bias."""
    return delta.ndim in (2, 4)


def rank_for(delta: Tensor, energy: float) -> int:
    """The smallest rank that keeps a share of the squared Frobenius norm of a difference.

    Args:
        delta: of a linear layer (P, D) or a convolution (P, inputs, height, width), in float32 or float64.
        energy: the share, above 0 and at most 1.
    """
    squares_N = torch.linalg.svdvals(delta.flatten(1)).double() ** 2
    # What the values from each one on still hold: summed from the smallest, so that little is not lost in much.
    rest_N = squares_N.flip(0).cumsum(0).flip(0)
    return max(1, int((rest_N > (1 - energy) * rest_N[0]).sum()))


def low_rank(delta: Tensor, rank: int) -> LowRank:
    """Truncate the singular value decomposition of a difference; a rank that it does not have is filled with zeros.

    Args:
        delta: as of `rank_for`.
        rank: at least 1.

    Raises:
        ValueError: the rank is below 1.
    """
    if rank < 1:
        raise ValueError(f"the rank is at least 1, not {rank}")
    delta_PD, kernel = delta.flatten(1), (delta.shape[2], delta.shape[3]) if delta.ndim == 4 else None
    u_PN, s_N, v_ND = torch.linalg.svd(delta_PD, full_matrices=False)
    root_N = s_N[:rank].sqrt()
    up_PR, down_RD = u_PN[:, :rank] * root_N, root_N[:, None] * v_ND[:rank]
    lacking = rank - len(root_N[:rank])
    up_PR = torch.nn.functional.pad(up_PR, (0, lacking))
    down_RD = torch.nn.functional.pad(down_RD, (0, 0, 0, lacking))
    up_PR, down_RD = (finite.converted(side, STORED, "The LoRA") for side in (up_PR, down_RD))
    left = torch.linalg.matrix_norm(delta_PD - up_PR.to(delta_PD) @ down_RD.to(delta_PD))
    whole = torch.linalg.vector_norm(s_N)
    return LowRank(up_PR, down_RD, float(left / whole) if whole > 0 else 0.0, kernel)


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
        up, down = layer.up_PR, layer.down_RD
        if layer.kernel is not None:  # a convolution of the layer's own kernel, then one of 1 x 1
            up, down = up[:, :, None, None], down.unflatten(1, (-1, *layer.kernel))
        tensors[f"{name}.lora_up.weight"], tensors[f"{name}.lora_down.weight"] = up, down
        tensors[f"{name}.alpha"] = torch.tensor(float(layer.rank), dtype=STORED)
    return tensors
