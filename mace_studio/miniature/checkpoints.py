"""The state of a training on disk, whole at any moment: a training that is killed goes on from the last one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

WEIGHTS, STATE = ".safetensors", ".pt"


def save(folder: Path, step: int, weights: Mapping[str, Tensor], state: Mapping[str, object]) -> None:
    """Write the checkpoint of a step, then remove the ones before.

    Args:
        folder: is made where it is missing.
        step: steps done.
        weights: by name, in one file of safetensors.
        state: plain data and tensors: what else the training needs to go on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = _steps(folder)
    atomic(_path(folder, step, WEIGHTS), lambda path: save_file(dict(weights), path))
    atomic(_path(folder, step, STATE), lambda path: torch.save(dict(state), path))
    for old in before - {step}:
        _path(folder, old, STATE).unlink()
        _path(folder, old, WEIGHTS).unlink()


def latest(folder: Path) -> tuple[dict[str, Tensor], dict] | None:
    """The weights and the state of the latest checkpoint; None where there is none."""
    steps = _steps(folder)
    if not steps:
        return None
    weights, state = (_path(folder, max(steps), kind) for kind in (WEIGHTS, STATE))
    return load_file(weights), torch.load(state, map_location="cpu", weights_only=True)


def atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` write a file beside `path`, and give it the name only when it is whole."""
    part = path.with_name(f"{path.name}.part")
    write(part)
    os.replace(part, path)


def _steps(folder: Path) -> set[int]:
    """The steps of which both files are there."""
    numbers = [
        {int(path.stem.removeprefix("step-")) for path in folder.glob(f"step-*{kind}")} for kind in (WEIGHTS, STATE)
    ]
    return numbers[0] & numbers[1]


def _path(folder: Path, step: int, kind: str) -> Path:
    return folder / f"step-{step}{kind}"
