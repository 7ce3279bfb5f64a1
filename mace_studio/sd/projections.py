"""The key and value projections of cross-attention: names and weights; how other weights are put into a UNet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast
from weakref import WeakSet

import torch
from torch import Tensor, nn

from mace_studio.sd import finite

ENDINGS = {"both": ("attn2.to_k", "attn2.to_v"), "key": ("attn2.to_k",), "value": ("attn2.to_v",)}
WEIGHT = ".weight"

_swapped: WeakSet[nn.Module] = WeakSet()


def names(unet: nn.Module, tune: str = "both") -> list[str]:
    """Module names of the projections, in the UNet's own order; `tune` is "both", "key" or "value".

    Args:
        unet: a diffusers UNet2DConditionModel.
        tune: which of them, as above.
    """
    return [name for name, _ in unet.named_modules() if name.endswith(ENDINGS[tune])]


def width(unet: nn.Module) -> int:
    """D, the width of the text context that the projections read.

    Args:
        unet: a diffusers UNet2DConditionModel.
    """
    return _layer(unet, names(unet)[0]).in_features


def read(unet: nn.Module, changes: str = "projections", tune: str = "both") -> dict[str, Tensor]:
    """State-dict key -> weight of what may change; the UNet's own tensors, not copies.

    Args:
        unet: the model.
        changes: "projections" for weight_PD of every projection, "unet" for every parameter.
        tune: which projections, as of `names`.
    """
    if changes == "unet":
        return {name: parameter.detach() for name, parameter in unet.named_parameters()}
    return {name + WEIGHT: _layer(unet, name).weight.detach() for name in names(unet, tune)}


@contextmanager
def swapped(unet: nn.Module, weights: Mapping[str, Tensor], changes: str = "projections") -> Iterator[None]:
    """The UNet with other weights inside the `with` block; its own parameters return afterwards.

    Args:
        unet: the model.
        weights: state-dict key -> weight; converted to the device, dtype and layout of what they replace.
        changes: as of `read`.

    Raises:
        RuntimeError: weights are already swapped on this UNet.
        ValueError: a key that may not change, or a weight of another shape.
        NotFinite: the UNet's dtype has no room for a weight.
    """
    if unet in _swapped:
        raise RuntimeError("the projections of this UNet are swapped already; leave that block first")
    own = read(unet, changes)
    for key, weight in weights.items():
        if key not in own or own[key].shape != weight.shape:
            had = (
                tuple(own[key].shape) if key in own else f"no such {'parameter' if changes == 'unet' else 'projection'}"
            )
            raise ValueError(f"{key}: the UNet has {had}, the new weight is {tuple(weight.shape)}")
    places = {key: (unet.get_submodule(key.rpartition(".")[0]), key.rpartition(".")[2]) for key in weights}
    originals = {key: getattr(module, name) for key, (module, name) in places.items()}
    _swapped.add(unet)
    try:
        for key, (module, name) in places.items():
            # Convolutions lie in memory with their channels last, see `sd.model.load`.
            layout = torch.channels_last if weights[key].dim() == 4 else torch.preserve_format
            other = finite.converted(weights[key], originals[key], key).to(memory_format=layout)
            # Another Parameter in its place, no copy into it: the own one is never touched, and comes back bit for bit.
            setattr(module, name, nn.Parameter(other, requires_grad=False))
        yield
    finally:
        for key, (module, name) in places.items():
            setattr(module, name, originals[key])
        _swapped.discard(unet)


def _layer(unet: nn.Module, name: str) -> nn.Linear:
    return cast(nn.Linear, unet.get_submodule(name))
