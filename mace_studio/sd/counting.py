"""Operations of a call and the memory that it holds, counted while it runs on any device."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from mace_studio.sd.model import Model

# The fused attention of a CPU, which the counter of torch does not know.
CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
COUNTED = {CPU_ATTENTION: lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)}


def counted(model: Model, call: Callable[[], object]) -> tuple[dict[str, int], float]:
    """Count what a call does.

    Args:
        model: its weights do not count as memory of the call.
        call: runs once, several times slower than without counting where its operations are small.

    Returns:
        Operations (a multiply and an add are two) by class of module, "Global" for all of them; and the most bytes that
        its tensors held at one time.
    """
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter, _Held(model) as held:
        call()
    return {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}, held.most


class _Held(TorchDispatchMode):
    """Adds up the storages that are alive, but for the model's own; a CPU's allocator does not say what it holds."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        weights = [tensor for module in model.modules().values() for tensor in module.state_dict().values()]
        self.sizes, self.most = {tensor.untyped_storage()._cdata: 0 for tensor in weights}, 0

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **kwargs or {})
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor) and (key := tensor.untyped_storage()._cdata) not in self.sizes:
                self.sizes[key] = tensor.untyped_storage().nbytes()
                weakref.finalize(tensor.untyped_storage(), self.sizes.pop, key, None)
                self.most = max(self.most, sum(self.sizes.values()))
        return result
