"""How the judge is trained and calibrated, on composed images only, half of them as the autoencoder shows them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from mace_studio.miniature import ahead, autoencoder, pictures, world
from mace_studio.miniature.judge import HEADS, NONE, Judge
from mace_studio.miniature.training import Plan, Training
from mace_studio.miniature.world import HELD_OUT, Sample

CALIBRATION_NUMBER = 1024
TEMPERATURES = torch.logspace(-1, 1, 101).double()
PLAN = Plan(minutes=60, batch=32, rate=2e-3, warm_up=50, decay=0.7, weight_decay=0.01, average=0.995)

log = logging.getLogger(__name__)


def build(seed: int = 0) -> Judge:
    """A fresh judge."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Judge()


def train(
    judge: Judge, plan: Plan, folder: Path, work: Path, resume: bool, vae: AutoencoderKL | None = None, workers: int = 0
) -> None:  # fmt: skip
    """Train, calibrate and write the judge.

    Args:
        judge: fresh, or to go on with.
        plan: how long and how fast.
        folder: where it is written.
        work: folder of checkpoints and curve.
        resume: go on from the checkpoint in `work`.
        vae: every other image is shown as it comes out of this autoencoder; None: all are shown as composed.
        workers: processes that compose images; 0 composes here.
    """
    judge.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # documented, but not declared
    judge.train()
    training = Training({"judge": judge}, plan, work)
    if resume:
        training.resume()
    composed_for = ahead.Steps(plan.batch, workers)
    training.run(lambda step: loss(judge, composed_for(step), step, vae))
    with training.averaged():
        judge.cpu()
        calibrate(judge, world.samples(CALIBRATION_NUMBER, HELD_OUT), vae)
        judge.save(folder)


def targets(samples: Sequence[Sample]) -> dict[str, Tensor]:
    """What the judge should say: head -> (N, answers), rows summing to 1; two things get a half each."""
    shown: dict[str, list[Sequence[str | None]]] = {
        "thing": [sample.concepts for sample in samples],
        "artist": [(sample.artist,) for sample in samples],
        "scene": [(sample.scene,) for sample in samples],
    }
    return {head: torch.stack([_shares(HEADS[head], names) for names in shown[head]]) for head in HEADS}


@torch.no_grad()
def calibrate(judge: Judge, samples: Sequence[Sample], vae: AutoencoderKL | None = None) -> None:
    """Give each head the temperature with the lowest cross-entropy on samples that the judge was not trained on.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    parts = [judge(part) for part in _shown(samples, vae).split(64)]
    for head, target_NA in targets(samples).items():
        logits_NA = torch.cat([part[head] for part in parts]).double()
        judge.temperatures[head] = best_temperature(logits_NA, target_NA)
        log.info("judge: temperature of %s is %.3f", head, judge.temperatures[head])


def best_temperature(logits_NA: Tensor, target_NA: Tensor) -> float:
    """The temperature from 0.1 to 10 that makes the cross-entropy least."""
    losses = [functional.cross_entropy(logits_NA / t, target_NA.to(logits_NA)).item() for t in TEMPERATURES]
    return TEMPERATURES[losses.index(min(losses))].item()


def worn(pixels_NCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Images as a model may generate them: some blurred, some brighter or darker, all with a little noise."""
    number, _, height, width = pixels_NCHW.shape
    half_NCHW = functional.avg_pool2d(pixels_NCHW, 2)
    blurred_NCHW = functional.interpolate(half_NCHW, (height, width), mode="bilinear", align_corners=False)
    blur_N, gain_N, shift_N, noise_N = torch.rand(4, number, 1, 1, 1, generator=generator)
    mixed_NCHW = torch.lerp(pixels_NCHW, blurred_NCHW, blur_N)
    noise_NCHW = torch.randn(pixels_NCHW.shape, generator=generator) * 0.1 * noise_N
    return mixed_NCHW * (0.85 + 0.3 * gain_N) + 0.2 * (shift_N - 0.5) + noise_NCHW


def loss(judge: Judge, samples: Sequence[Sample], step: int, vae: AutoencoderKL | None) -> Tensor:
    """Cross-entropy of all heads in one step of the training, a scalar with gradients.

    Args:
        judge: what is trained.
        samples: of the step.
        step: its number, which decides how they are worn.
        vae: as in `train`.
    """
    pixels_NCHW = worn(_shown(samples, vae), torch.Generator().manual_seed(step))
    device = next(judge.parameters()).device
    logits = judge(pixels_NCHW.contiguous(memory_format=torch.channels_last).to(device))
    losses = (functional.cross_entropy(logits[head], t_NA.to(device)) for head, t_NA in targets(samples).items())
    return sum(losses, torch.zeros((), device=device))


@torch.no_grad()
def _shown(samples: Sequence[Sample], vae: AutoencoderKL | None) -> Tensor:
    """Images in -1..1, NCHW, on the CPU; every other one as an autoencoder shows it."""
    pixels_NCHW = pictures.to_tensor([sample.image_HWC for sample in samples])
    if vae is not None:
        pixels_NCHW[::2] = torch.cat(
            [autoencoder.reconstructed(vae, part).cpu() for part in pixels_NCHW[::2].split(64)]
        )
    return pixels_NCHW


def _shares(answers: tuple[str, ...], names: Sequence[str | None]) -> Tensor:
    """One answer's share is that of its names; names that are no answer count as "none of these", as does no name."""
    known = [name if name in answers else NONE for name in names] or [NONE]
    return torch.tensor([known.count(answer) / len(known) for answer in answers])
