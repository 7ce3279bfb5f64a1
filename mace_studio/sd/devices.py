"""Which devices this machine and this build of PyTorch have."""

from __future__ import annotations

import torch

from mace_studio import sources
from mace_studio.errors import ModelError

AUTO = "auto"


def best() -> str:
    """What "auto" stands for."""
    return next(device for device in available() if device != AUTO)


def available() -> list[str]:
    """What a user can choose from here: "auto", and the devices that exist, the best first."""
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    several = [f"cuda:{i}" for i in range(cuda)] if cuda > 1 else []
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [AUTO, *(["cuda"] if cuda else []), *several, *mps, "cpu"]


def checked(device: str) -> str:
    """The device, or what "auto" stands for.

    Args:
        device: such as "cpu", "cuda:1" or "auto", as a user typed it.

    Raises:
        ModelError: it is not here; the message names those that are.
    """
    if device == AUTO:
        return best()
    remedy = f"Use {', '.join(available())}."
    try:
        asked = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ModelError(f"The device “{sources.shown(device)}” is not known. {remedy}") from error
    if asked.type == "cuda" and not torch.backends.cuda.is_built():
        raise ModelError(
            f"This PyTorch ({torch.__version__}) is built without CUDA, so there is no {device}. {remedy} For a "
            "graphics card, install PyTorch with CUDA."
        )
    numbers = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
    if (asked.index or 0) >= numbers.get(asked.type, 0):
        raise ModelError(f"There is no device “{sources.shown(device)}” on this machine. {remedy}")
    return device
