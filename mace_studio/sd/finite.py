"""Stop at the first number that is not finite: nothing that is computed from it can be right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mace_studio.errors import NotFinite

# Times the norm of a weight. A closed form with a small identity weight lets a layer grow a hundredfold in directions
# that no prompt has, and erases well; what diverged grows a millionfold.
GROWN = 10_000


def check(tensor: Tensor, what: str) -> None:
    """Raise a NotFinite unless all numbers of a tensor of any shape are finite.

    Args:
        tensor: floating point.
        what: begins the sentence, such as "The latents of step 3".
    """
    if not bool(tensor.isfinite().all()):
        raise NotFinite(f"{what} {is_not_finite(tensor.dtype)}")


def check_weights(weights: Mapping[str, Tensor], what: str) -> None:
    """Raise a NotFinite unless all numbers of all weights are finite; the sentence names the first that has others.

    Args:
        weights: name -> tensor of any shape.
        what: what they are, as the sentence begins.
    """
    for key, tensor in weights.items():
        check(tensor, f"{what}, {key},")


def converted(tensor: Tensor, like: Tensor | torch.dtype, what: str) -> Tensor:
    """A tensor in another dtype, or in the dtype and on the device of another one.

    Args:
        tensor: of any shape, with finite numbers.
        like: the dtype, or the other tensor.
        what: begins the sentence, such as "The weight".

    Raises:
        NotFinite: the dtype has no room for its numbers.
    """
    found = tensor.to(like)
    if tensor.dtype != found.dtype:
        check(found, what)
    return found


def grown(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    """A sentence where weights are finite, but so much larger than those before that no image can come of them.

    Args:
        before: name -> weight of the model.
        after: name -> weight that takes its place, of the same shape; not of all.
    """
    norms = [(float(before[key].float().norm()), float(tensor.float().norm())) for key, tensor in after.items()]
    worst = max((new / old for old, new in norms if old), default=0.0)
    if worst <= GROWN:
        return []
    return [
        f"Weights have become up to {worst:.2g} times as large as those of the model, so its images will show little. "
        "Use smaller rates, scales and weights."
    ]


def is_not_finite(dtype: torch.dtype) -> str:
    """The end of a sentence, with what helps against it.

    Args:
        dtype: of the numbers.
    """
    name = str(dtype).removeprefix("torch.")
    if dtype in (torch.float16, torch.bfloat16):
        other = "float32 or bfloat16" if dtype == torch.float16 else "float32"
        return f"left the range of {name}. Load the model in {other}, or ask for smaller changes."
    return f"left the range of {name}: they are infinite or no numbers. Use smaller rates, scales and weights."


@contextmanager
def decoder(vae: nn.Module) -> Iterator[None]:
    """Inside the `with` block, images that a VAE decodes must be finite; they would come out black.

    Args:
        vae: a diffusers VAE; one without a decoder is left alone.

    Raises:
        NotFinite: they are not.
    """

    def after(module: nn.Module, inputs: tuple, output: object) -> None:
        if isinstance(output, Tensor):
            check(output, "The image that the VAE decoded")

    # A hook and not a look at the images: the pipeline turns what is no number into black pixels before.
    decodes = getattr(vae, "decoder", None)
    handle = decodes.register_forward_hook(after) if isinstance(decodes, nn.Module) else None
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()
