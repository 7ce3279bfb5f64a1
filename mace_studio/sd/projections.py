"""The key and value projections of cross-attention: names and weights, and how other weights are put in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast
from weakref import WeakSet

from torch import Tensor, nn

ENDINGS = {"both": ("attn2.to_k", "attn2.to_v"), "key": ("attn2.to_k",), "value": ("attn2.to_v",)}
WEIGHT = ".weight"

_swapped: WeakSet[nn.Module] = WeakSet()


def names(unet: nn.Module, tune: str = "both") -> list[str]:
    """Module names of the projections, in the UNet's own order; `tune` is "both", "key" or "value"."""
    return [name for name, _ in unet.named_modules() if name.endswith(ENDINGS[tune])]


def width(unet: nn.Module) -> int:
    """D, the width of the text context that the projections read."""
    return _layer(unet, names(unet)[0]).in_features


def read(unet: nn.Module) -> dict[str, Tensor]:
    """State-dict key -> weight_PD of every projection; the UNet's own tensors, not copies."""
    return {name + WEIGHT: _layer(unet, name).weight.detach() for name in names(unet)}


@contextmanager
def swapped(unet: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """The UNet with other projection weights inside the `with` block; its own parameters return afterwards.

    Args:
        unet: the model.
        weights: state-dict key -> weight_PD; converted to the device and dtype of what they replace.

    Raises:
        RuntimeError: weights are already swapped on this UNet.
        ValueError: a key that is no projection, or a weight of another shape.
    """
    if unet in _swapped:
        raise RuntimeError("the projections of this UNet are swapped already; leave that block first")
    own = read(unet)
    for key, weight_PD in weights.items():
        if key not in own or own[key].shape != weight_PD.shape:
            had = tuple(own[key].shape) if key in own else "no such projection"
            raise ValueError(f"{key}: the UNet has {had}, the new weight is {tuple(weight_PD.shape)}")
    modules = {key: _layer(unet, key.removesuffix(WEIGHT)) for key in weights}
    originals = {key: module.weight for key, module in modules.items()}
    _swapped.add(unet)
    try:
        for key, module in modules.items():
            module.weight = nn.Parameter(weights[key].to(originals[key]), requires_grad=False)
        yield
    finally:
        for key, module in modules.items():
            module.weight = originals[key]
        _swapped.discard(unet)


def _layer(unet: nn.Module, name: str) -> nn.Linear:
    return cast(nn.Linear, unet.get_submodule(name))
