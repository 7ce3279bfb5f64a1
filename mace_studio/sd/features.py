"""Which features sets of images are compared by, for KID and FID."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL.Image import Image, Resampling
from torch import Tensor

from mace_studio.sd.judges import BATCH, Judge, ZeroShotClip

log = logging.getLogger(__name__)

SIDE = 299

Features = Callable[[Sequence[Image]], Tensor]


def choose(judge: Judge, device: torch.device | str) -> tuple[str, Features]:
    """What reports call the features, and a function from N images to (N, F).

    InceptionV3 where CLIP judges and torchvision and its weights are at hand, which it downloads once; else the judge's
    own. A judge that comes with a model knows that model's world better than ImageNet does.

    Args:
        judge: of the model, or CLIP.
        device: where InceptionV3 is to run.
    """
    if not isinstance(judge, ZeroShotClip):
        return f"{judge.name} features", judge.features
    try:
        return "InceptionV3 features, torchvision's weights", inception(device)
    except (ImportError, RuntimeError, OSError) as error:  # RuntimeError: built for another torch
        log.info("InceptionV3 is not at hand (%s); CLIP features are compared", error)
        return "CLIP features", judge.features


def inception(device: torch.device | str) -> Features:
    """The 2048 pooled features of torchvision's InceptionV3.

    Args:
        device: where it runs.

    Returns:
        A function from N images of any size to features (N, 2048), float32 on the CPU.

    Raises:
        ImportError: torchvision is not installed.
        RuntimeError: torchvision does not go with this torch.
        OSError: the weights are not on disk and could not be downloaded.

    Source: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016.
    """
    from torchvision.models import Inception_V3_Weights, inception_v3  # noqa: PLC0415 - an optional extra

    model = inception_v3(init_weights=False)
    state = Inception_V3_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True, weights_only=True)
    model.load_state_dict(state)
    model.fc = torch.nn.Identity()
    model.to(device).eval()

    @torch.no_grad()
    def features(images: Sequence[Image]) -> Tensor:
        parts = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
        return torch.cat([model(_pixels(part).to(device)).cpu() for part in parts])

    return features


def _pixels(images: Sequence[Image]) -> Tensor:
    """NCHW in -1..1, scaled to the size of the network's training."""
    scaled = [np.asarray(image.convert("RGB").resize((SIDE, SIDE), Resampling.BILINEAR)) for image in images]
    return torch.from_numpy(np.stack(scaled)).permute(0, 3, 1, 2).float() / 127.5 - 1
