"""RECE: find the embedding that brings an erased concept back, erase that too, repeat (arXiv 2407.12383)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from mace_studio.erasure import Erasure
from mace_studio.methods import inputs, uce
from mace_studio.methods.settings import ReceSettings
from mace_studio.progress import Progress, Report, silent, timed
from mace_studio.recipe import Recipe
from mace_studio.sd import projections
from mace_studio.sd.model import Model


def edit(
    original: Mapping[str, Tensor],
    edited: Mapping[str, Tensor],
    concepts_NTD: Tensor,
    anchors_NTD: Tensor,
    *,
    rounds: int = 3,
    rho: float = 0.1,
    erase_scale: float = 1.0,
    preserve_scale: float = 0.1,
    ridge: float = 0.1,
) -> Mapping[str, Tensor]:
    """The weights after the last round of `each_round`; `edited` itself for 0 rounds or no concepts.

    Args:
        original: name -> W, weight_PD.
        edited: name -> the weight_PD to begin with, after UCE.
        concepts_NTD: contexts of the concepts, as `each_round` takes them.
        anchors_NTD: contexts of what takes their place, (T, D) or (N, T, D).
        rounds, rho, erase_scale, preserve_scale, ridge: the fields of `ReceSettings`.

    Raises:
        ValueError: as by `each_round`.
    """
    settings = ReceSettings(
        rounds=rounds, rho=rho, erase_scale=erase_scale, preserve_scale=preserve_scale, ridge=ridge
    )  # fmt: skip
    return deque([edited, *each_round(original, edited, concepts_NTD, anchors_NTD, settings)], maxlen=1).pop()


def each_round(
    original: Mapping[str, Tensor],
    edited: Mapping[str, Tensor],
    concepts_NTD: Tensor,
    anchors_NTD: Tensor,
    settings: ReceSettings,
) -> Iterator[dict[str, Tensor]]:
    """Round by round: derive C_adv, then a UCE edit of the current weights that sends C_adv to the anchor.

    The anchor's context is preserved in every edit, once for each concept. The authors keep the round that a
    detector likes best; that choice is the caller's.

    Args:
        original: name -> W, the base model's keys and values, all layers.
        edited: name -> W', where the rounds start: after UCE.
        concepts_NTD: C, all T positions of each concept's context.
        anchors_NTD: context of the anchor " ": (T, D) for all concepts, or (N, T, D).
        settings: rounds, rho and the weights of each edit.

    Yields:
        name -> weight_PD after each round, in the dtypes of `edited`; nothing without concepts or with s_e = 0.

    Raises:
        ValueError: rho is not above 0, or shapes that do not go together.

    Source: arXiv 2407.12383.
    """
    if not len(concepts_NTD) or not settings.erase_scale:
        return
    shape, anchored = tuple(concepts_NTD.shape), tuple(anchors_NTD.shape)
    if len(shape) != 3 or anchored not in (shape, shape[1:], (1, *shape[1:])):
        raise ValueError(f"concepts have shape {shape}, anchors {anchored}; they must be (N, T, D) and that or (T, D)")
    anchors_NTD = anchors_NTD.expand(len(concepts_NTD), *anchors_NTD.shape[-2:])
    # In float64 from round to round: C_adv is solved from these weights, and rounding would add up in it.
    current: Mapping[str, Tensor] = {name: weight_PD.double() for name, weight_PD in edited.items()}
    for _ in range(settings.rounds):
        current = uce.edit(
            current,
            # Each round looks for what still brings the concept back under the weights of the round before.
            revive(original, current, concepts_NTD, settings.rho),
            anchors_NTD,
            anchors_NTD.flatten(0, 1),
            erase_scale=settings.erase_scale,
            preserve_scale=settings.preserve_scale,
            ridge=settings.ridge,
        )
        yield {name: weight_PD.to(edited[name]) for name, weight_PD in current.items()}


def revive(
    original: Mapping[str, Tensor], edited: Mapping[str, Tensor], context_NTD: Tensor, rho: float = 0.1
) -> Tensor:
    """C_adv, which minimises sum_l || W'_l c' - W_l c ||^2 + rho || c' ||^2 at every position.

    Args:
        original, edited: name -> W and W', all layers, keys and values; one linear map serves them all.
        context_NTD: C, any shape that ends in D.
        rho: above 0.

    Returns:
        C G^T with G = (rho I + sum W'^T W')^-1 sum W'^T W, float64, in the shape of `context_NTD`.

    Raises:
        ValueError: rho is not above 0, or shapes that do not go together.

    Source: arXiv 2407.12383.
    """
    if not rho > 0:
        raise ValueError(f"rho is {rho}; it must be above 0")
    width = context_NTD.shape[-1]
    gram_DD, cross_DD = rho * torch.eye(width).double(), torch.zeros(width, width).double()
    for name, weight_PD in edited.items():
        if name not in original or original[name].shape != weight_PD.shape or weight_PD.shape[1:] != (width,):
            raise ValueError(f"{name} must be in both weights with one shape (P, {width}), as wide as the contexts")
        edited_PD = weight_PD.detach().cpu().double()
        gram_DD += edited_PD.T @ edited_PD
        cross_DD += edited_PD.T @ original[name].detach().cpu().double()
    # The gradient of the sum is 0 where (rho I + sum W'^T W') c' = (sum W'^T W) c.
    map_DD = torch.cholesky_solve(cross_DD, torch.linalg.cholesky(gram_DD))
    return context_NTD.detach().cpu().double() @ map_DD.T


def erase(model: Model, recipe: Recipe, progress: Report = silent, cache: Path | None = None) -> Erasure:
    """Run a recipe with RECE; the model stays as it is.

    Args:
        model: from `sd.model.load`.
        recipe: its concepts are read. No preserve list: the authors keep the empty prompt alone.
        progress: told of stage "refine": phrases encoded of all.
        cache: not needed: this takes seconds.

    Raises:
        StudioError: with a sentence for the user.
    """
    recipe.check()
    settings, progress = recipe.settings, timed(progress, {"refine": 1.0})
    encode = inputs.Encoder(model, progress, len(recipe.concepts) + 2)
    concepts, blank, empty = encode(inputs.phrases(recipe)), encode([" "]), encode([""])
    blank_TD = blank.context_NTD[0]
    both = [
        uce.tails(concept_TD, blank_TD, last, blank.last_N[0])
        for concept_TD, last in zip(concepts.context_NTD, concepts.last_N, strict=True)
    ]
    original = projections.read(model.unet)
    start = uce.edit(
        original,
        [concept_nD for concept_nD, _ in both],
        [anchor_nD for _, anchor_nD in both],
        empty.context_NTD[0],
        ridge=settings.start_ridge,
    )
    weights = edit(
        original,
        start,
        concepts.context_NTD,
        blank_TD,
        rounds=settings.rounds,
        rho=settings.rho,
        erase_scale=settings.erase_scale,
        preserve_scale=settings.preserve_scale,
        ridge=settings.ridge,
    )
    progress(Progress("refine", step=1, total=1))
    return inputs.result(model, recipe, dict(weights))
