"""What the studio says of its model and of a run before it starts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Status:
    """What the header of the page says of the model.

    Attributes:
        name: what to call the model.
        state: "waiting", "loading", "ready" or "failed".
        detail: device and dtype when ready, the reason in a sentence when failed.
        memory: bytes of weights and of the largest step, or None until the model is loaded.
        fingerprint: of the model that is loaded, or "".
    """

    name: str
    state: str
    detail: str = ""
    memory: int | None = None
    fingerprint: str = ""


@dataclass(frozen=True)
class Estimate:
    """What a run will take, counted before it starts.

    Attributes:
        concepts: how many are erased.
        prompts: how many sentences are encoded.
        unet_forwards: forwards of one sample through the UNet, guidance counted twice.
        memory: bytes of weights and of the largest step, or None until the model is loaded.
    """

    concepts: int
    prompts: int
    unet_forwards: int
    memory: int | None
