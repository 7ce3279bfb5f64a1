"""Cross-attention probabilities of a running UNet, read by hooks that change nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, cast
from weakref import WeakSet

from torch import Tensor, nn

from mace_studio.core.attention import probabilities

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention
    from torch.utils.hooks import RemovableHandle

CONTEXT = "encoder_hidden_states"

Receive = Callable[[str, Tensor], None]

# Weak, so that a model that another has taken the place of is not held in memory.
_watched: WeakSet[nn.Module] = WeakSet()
_aside: WeakSet[nn.Module] = WeakSet()


class _Enough(Exception):
    """Ends a forward whose remaining layers nobody needs."""


@contextmanager
def attention(unet: nn.Module, receive: Receive) -> Iterator[None]:
    """Inside the `with` block, hand the attention probabilities of every cross-attention layer to `receive`.

    They are computed anew from the outputs of `to_q` and `to_k` with the layer's own scale and heads, so the model
    may use any attention kernel, and its output stays bit for bit the same.

    Args:
        unet: the model; wrap its projections with LoRAs before, not inside, the block.
        receive: called with the layer's name and (B, heads, pixels, T) in float32, in the order of execution.

    Raises:
        RuntimeError: this UNet is watched already.
    """
    if unet in _watched:
        raise RuntimeError("the attention of this UNet is captured already; leave that block first")
    handles = []
    _watched.add(unet)

    def on_key(name: str, layer: Attention, query: Tensor, inputs: tuple, key: Tensor) -> None:
        if unet not in _aside:
            receive(name, probabilities(query, key, layer.heads, layer.scale))

    try:
        for name, layer in _layers(unet).items():
            handles += _pair_hooks(layer, partial(on_key, name, layer))
        yield
    finally:
        for handle in handles:
            handle.remove()
        _watched.discard(unet)


@contextmanager
def aside(unet: nn.Module) -> Iterator[None]:
    """Inside the `with` block nothing is handed to `receive`: for a forward that is no step of the image's own.

    Args:
        unet: one that `attention` watches.
    """
    _aside.add(unet)
    try:
        yield
    finally:
        _aside.discard(unet)


@contextmanager
def context(unet: nn.Module, edit: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside the `with` block the UNet reads another text context.

    Args:
        unet: the model.
        edit: context_BTD -> what is read in its place; with guidance the unconditional half comes first.
    """

    def before(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        if CONTEXT in kwargs:
            return args, kwargs | {CONTEXT: edit(kwargs[CONTEXT])}
        return (*args[:2], edit(args[2]), *args[3:]), kwargs

    handle = unet.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def of_forward(unet: nn.Module, forward: Callable[[], object]) -> list[Tensor]:
    """The probabilities of every layer in one forward, which ends as soon as the last of them is known.

    Args:
        unet: a diffusers UNet2DConditionModel.
        forward: runs it once; what it returns is not used, as it does not come to its end.

    Returns:
        One (B, heads, pixels, T) tensor per layer, differentiable where gradients are enabled.
    """
    maps: list[Tensor] = []
    total = len(_layers(unet))

    def receive(_: str, probabilities_BHQT: Tensor) -> None:
        maps.append(probabilities_BHQT)
        if len(maps) == total:
            raise _Enough

    with attention(unet, receive), suppress(_Enough):
        forward()
    return maps


def read_by(unet: nn.Module, forward: Callable[[], object]) -> dict[str, tuple[Tensor, Tensor]]:
    """What every cross-attention layer reads in one forward, for `anew`; it ends as soon as the last of them is known.

    Args:
        unet: a diffusers UNet2DConditionModel.
        forward: runs it once.

    Returns:
        layer -> its queries_BQC, and the context_BTD that its key projection reads.
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}
    layers, handles = _layers(unet), []

    def keep(name: str, query: Tensor, inputs: tuple, key: Tensor) -> None:
        found[name] = query, inputs[0]
        if len(found) == len(layers):
            raise _Enough

    for name, layer in layers.items():
        handles += _pair_hooks(layer, partial(keep, name))
    try:
        with suppress(_Enough):
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return found


def anew(unet: nn.Module, read: Mapping[str, tuple[Tensor, Tensor]]) -> list[Tensor]:
    """The probabilities of every layer with its key projection as it is now, without a forward.

    Args:
        unet: the one of `read_by`.
        read: what came of it.

    Returns:
        One (B, heads, pixels, T) tensor per layer, differentiable in the key projections where gradients are enabled.
    """
    layers = _layers(unet)
    return [
        probabilities(queries_BQC, layers[name].to_k(context_BTD), layers[name].heads, layers[name].scale)
        for name, (queries_BQC, context_BTD) in read.items()
    ]


def _layers(unet: nn.Module) -> dict[str, Attention]:
    # diffusers calls the cross-attention of a block attn2, and its self-attention attn1.
    return {name: cast("Attention", module) for name, module in unet.named_modules() if name.endswith("attn2")}


def _pair_hooks(layer: Attention, on_key: Callable[[Tensor, tuple, Tensor], None]) -> list[RemovableHandle]:
    """Hooks that call `on_key` with the layer's queries, the inputs of its key projection, and the keys."""
    query: list[Tensor] = []  # one at the most: the processors of diffusers ask for the queries right before the keys

    def queried(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        query[:] = [output]

    def keyed(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        on_key(query.pop(), inputs, output)

    return [layer.to_q.register_forward_hook(queried), layer.to_k.register_forward_hook(keyed)]
