"""AdaVD: while sampling, take the concept's part out of the values of cross-attention (arXiv 2412.06143)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from mace_studio.core.subspace import gram_schmidt
from mace_studio.erasure import Erasure
from mace_studio.methods import inputs, training
from mace_studio.methods.settings import AdaVdSettings
from mace_studio.progress import Report, silent
from mace_studio.recipe import Recipe
from mace_studio.sd import projections
from mace_studio.sd.model import Model

log = logging.getLogger(__name__)

UNPAIRED = (
    "AdaVD's setting “jointly” compares both halves of the guidance, and an image without guidance (a scale of 1) has "
    "one: it is as without AdaVD."
)


def project(
    values_BTP: Tensor, targets_KP: Tensor, settings: AdaVdSettings | None = None, empty_TP: Tensor | None = None
) -> Tensor:
    """v <- v - sum_k d(cos(v, v*_k)) <v, q_k> q_k, where q is v* made orthonormal in its order (Gram-Schmidt).

    For one target that is v - d(cos(v, v*)) (<v, v*> / <v*, v*>) v*. The cosine is the one with the target itself, not
    with what Gram-Schmidt leaves of it, so that a token is weighed by how much it means that target.

    Args:
        values_BTP: output of `to_v`, all heads side by side. Position 0, the start token, stays. With `jointly` the
            first half of the batch is unconditional, the second conditional.
        targets_KP: v*_k = W_v e*_k, the value of each target's last subject token; K may be 0.
        settings: None takes the published ones.
        empty_TP: read with `jointly`: the values of the empty prompt, W_v times its context. As in the authors' code
            they are the unconditional half of every target, at each position its own. None: v* is both halves.

    Returns:
        The values in their shape and dtype; computed in float32 at least.

    Raises:
        ValueError: shapes that do not go together, or an odd batch with `jointly`.

    Source: arXiv 2412.06143.
    """
    return projection(targets_KP, settings, empty_TP)(values_BTP)


def projection(
    targets_KP: Tensor, settings: AdaVdSettings | None = None, empty_TP: Tensor | None = None
) -> Callable[[Tensor], Tensor]:
    """`project` for some targets, which are made orthonormal once.

    Args:
        targets_KP: values of the concepts' words at one layer, a row each; K may be 0.
        settings: of the method, or None for the published ones.
        empty_TP: as in `project`.

    Returns:
        project(values_BTP) -> values_BTP without their part along the targets, in the values' dtype.
    """
    settings = settings or AdaVdSettings()
    if not len(targets_KP):
        return lambda values_BTP: values_BTP
    if targets_KP.ndim != 2:
        raise ValueError(f"targets have shape {tuple(targets_KP.shape)}; it must be (K, P)")
    size = targets_KP.shape[1]
    if empty_TP is not None and (empty_TP.ndim != 2 or empty_TP.shape[1] != size):
        raise ValueError(f"the empty prompt's values have shape {tuple(empty_TP.shape)}; it must be (T, {size})")
    if settings.jointly:
        # Both halves of a target side by side; the first may differ from position to position: (T, K, 2 P).
        other_KP = targets_KP if empty_TP is None else empty_TP[:, None].to(targets_KP)
        targets_KP = torch.cat(torch.broadcast_tensors(other_KP, targets_KP), dim=-1)
    unit_KP = gram_schmidt(targets_KP)

    def take_out(values_BTP: Tensor) -> Tensor:
        shape, halves = tuple(values_BTP.shape), 1 + settings.jointly
        if len(shape) != 3 or shape[-1] != size or shape[0] % halves:
            even = ", with an even B" if settings.jointly else ""
            raise ValueError(f"values have shape {shape}; it must be (B, T, {size}){even}")
        if targets_KP.ndim == 3 and shape[1] != len(targets_KP):
            raise ValueError(
                f"values have {shape[1]} positions; the empty prompt has {len(targets_KP)}, it must be one T"
            )
        return _taken_out(values_BTP, targets_KP, unit_KP, settings)

    return take_out


def _taken_out(values_BTP: Tensor, targets_KP: Tensor, unit_KP: Tensor, settings: AdaVdSettings) -> Tensor:
    """With targets (K, P) for all positions, or (T, K, P) for each its own."""
    own_BTP = values_BTP.to(torch.promote_types(values_BTP.dtype, torch.float32))
    if settings.jointly:
        own_BTP = torch.cat(own_BTP.chunk(2), dim=-1)
    targets_KP, unit_KP, own_BT1P = targets_KP.to(own_BTP), unit_KP.to(own_BTP), own_BTP[..., None, :]
    weight_BT1K = torch.ones(*own_BTP.shape[:2], 1, targets_KP.shape[-2]).to(own_BTP)
    if settings.token_sim:
        cosine_BT1K = functional.normalize(own_BT1P, dim=-1) @ functional.normalize(targets_KP, dim=-1).mT
        weight_BT1K = settings.scale * torch.sigmoid(settings.steepness * (cosine_BT1K - settings.threshold))
    # The start token is the same in every prompt: what is taken from it is taken from all images.
    weight_BT1K[:, 0] = 0
    own_BTP = own_BTP - ((weight_BT1K * (own_BT1P @ unit_KP.mT)) @ unit_KP).squeeze(-2)
    if settings.jointly:
        own_BTP = torch.cat(own_BTP.chunk(2, dim=-1))
    return own_BTP.to(values_BTP)


def erase(model: Model, recipe: Recipe, progress: Report = silent, cache: Path | None = None) -> Erasure:
    """An Erasure without weights, whose `applied` takes the recipe's concepts out of values while images are generated.

    Args:
        model: from `sd.model.load`.
        recipe: its concepts are read.
        progress: told of stage "refine" once.
        cache: not needed: nothing is computed.

    Raises:
        StudioError: with a sentence for the user.
    """
    return inputs.without_weights(
        model, recipe, progress, [UNPAIRED] if model.distilled and recipe.settings.jointly else []
    )


@contextmanager
def guide(model: Model, recipe: Recipe) -> Iterator[None]:
    """Inside the `with` block every `to_v` of cross-attention gives values without the concepts' parts.

    Both halves of the guidance go through alike, each for itself; with `jointly` they are taken together, and an image
    without guidance stays as it is.

    Args:
        model: with the weights in place that give the targets' values; bit for bit the same afterwards.
        recipe: concepts and settings.
    """
    settings, warned = recipe.settings, False
    encode = inputs.Encoder(model, silent, len(recipe.concepts) + 1)
    vectors_KD, empty_TD = encode(inputs.phrases(recipe)).vectors_ND, encode([""]).context_NTD[0]

    def paired() -> bool:
        nonlocal warned
        guided = getattr(model.pipeline, "do_classifier_free_guidance", False)
        if settings.jointly and not guided and not warned:
            log.warning(UNPAIRED)
            warned = True
        return guided or not settings.jointly

    with ExitStack() as stack:
        for name in projections.names(model.unet, "value"):
            layer = model.unet.get_submodule(name)
            # Of the weights in place: with an erasure applied beside this, the targets' values are those
            # of its weights.
            weight_DP = layer.weight.detach().cpu().double().T
            take_out = projection(vectors_KD @ weight_DP, settings, empty_TD @ weight_DP)

            def after(module: nn.Module, args: tuple, output: Tensor, take_out: Callable = take_out) -> Tensor:
                return take_out(output) if paired() else output

            stack.enter_context(training.hooked([layer], after))
        yield
