"""AdaVD: while sampling, take the concept's part out of the values of cross-attention (arXiv 2412.06143)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mace_studio.core.subspace import gram_schmidt
from mace_studio.methods.settings import AdaVdSettings


def project(values_BTP: Tensor, targets_KP: Tensor, settings: AdaVdSettings | None = None) -> Tensor:
    """v <- v - sum_k d(cos(v, v*_k)) <v, q_k> q_k, where q is v* made orthonormal in its order (Gram-Schmidt).

    For one target that is v - d(cos(v, v*)) (<v, v*> / <v*, v*>) v*. The cosine is the one with the target itself, not
    with what Gram-Schmidt leaves of it, so that a token is weighed by how much it means that target.

    Args:
        values_BTP: output of `to_v`, all heads side by side. Position 0, the start token, stays. With `jointly` the
            first half of the batch is unconditional, the second conditional.
        targets_KP: v*_k = W_v e*_k, the value of each target's last subject token; K may be 0.
        settings: None takes the published ones.

    Returns:
        The values in their shape and dtype; computed in float32 at least.

    Source: arXiv 2412.06143.
    """
    settings = settings or AdaVdSettings()
    if not len(targets_KP):
        return values_BTP
    own_BTP = values_BTP.to(torch.promote_types(values_BTP.dtype, torch.float32))
    targets_KP = targets_KP.to(own_BTP)
    if settings.jointly:
        own_BTP, targets_KP = torch.cat(own_BTP.chunk(2), dim=-1), torch.cat([targets_KP, targets_KP], dim=-1)
    weight_BTK = torch.ones(*own_BTP.shape[:2], len(targets_KP)).to(own_BTP)
    if settings.token_sim:
        cosine_BTK = functional.normalize(own_BTP, dim=-1) @ functional.normalize(targets_KP, dim=-1).T
        weight_BTK = settings.scale * torch.sigmoid(settings.steepness * (cosine_BTK - settings.threshold))
    weight_BTK[:, 0] = 0
    unit_KP = gram_schmidt(targets_KP).to(own_BTP)
    own_BTP = own_BTP - (weight_BTK * (own_BTP @ unit_KP.T)) @ unit_KP
    if settings.jointly:
        own_BTP = torch.cat(own_BTP.chunk(2, dim=-1))
    return own_BTP.to(values_BTP)
