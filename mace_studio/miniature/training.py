"""The loop that all trainings share: a budget, a learning rate, averaged weights, checkpoints and a curve."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mace_studio.miniature import checkpoints, pictures

NOTE_SECONDS = 60
LOOK_SECONDS = 600
CLIP_NORM = 1.0
LOWEST_RATE = 0.02

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how fast to train.

    Attributes:
        minutes: of training in all, with what was spent before a resume.
        batch: samples a step.
        rate: the highest learning rate of AdamW.
        warm_up: steps in which the rate rises.
        decay: share of the budget, at its end, in which the rate falls linearly.
        weight_decay: of AdamW.
        average: how much of the averaged weights a step keeps, at most; less in the first steps.
        steps: a budget in steps instead of minutes, for runs that must come out the same.
    """

    minutes: float
    batch: int
    rate: float
    warm_up: int
    decay: float
    weight_decay: float
    average: float
    steps: int | None = None


class Training:
    """Modules on their way: their optimiser, averaged weights and losses. Only what asks for a gradient is trained.

    Attributes:
        step: steps done.
        seconds: spent on them.
        losses: of every step.
    """

    def __init__(self, parts: Mapping[str, nn.Module], plan: Plan, folder: Path) -> None:
        """Start a training of named modules; checkpoints, curve and sheets go to a folder."""
        self.plan, self.folder = plan, folder
        self.step, self.seconds = 0, 0.0
        self.losses: list[float] = []
        self._fresh: list[Tensor] = []  # losses that have not been read yet: reading waits for the device
        self._parameters = {
            f"{part}.{name}": parameter
            for part, module in parts.items()
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        self._average = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._optimizer = torch.optim.AdamW(
            self._parameters.values(), lr=plan.rate, betas=(0.9, 0.99), weight_decay=plan.weight_decay, fused=True
        )

    @property
    def progress(self) -> float:
        """Share of the budget that is spent."""
        if self.plan.steps is not None:
            return self.step / self.plan.steps
        return self.seconds / (60 * self.plan.minutes)

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        rise = min(1.0, (self.step + 1) / self.plan.warm_up)
        fall = min(1.0, max(LOWEST_RATE, (1 - self.progress) / self.plan.decay))
        return self.plan.rate * rise * fall

    def resume(self) -> None:
        """Go on from the latest checkpoint in the folder, if there is one."""
        found = checkpoints.latest(self.folder)
        if found is None:
            log.info("%s: no checkpoint to resume; starting anew", self.folder.name)
            return
        weights, state = found
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(weights[f"now.{name}"])
                self._average[name].copy_(weights[f"average.{name}"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.losses = state["step"], state["seconds"], state["losses"].tolist()
        log.info("%s: resumed at step %d after %.0f s", self.folder.name, self.step, self.seconds)

    def run(self, loss: Callable[[int], Tensor], look: Callable[[], None] | None = None) -> None:
        """Train until the budget is spent.

        Args:
            loss: the number of a step -> its loss; what it draws depends on that number alone.
            look: called now and then, with the averaged weights in place, to make pictures of what was learnt.
        """
        noted = looked = before = time.monotonic()
        noted_step = self.step
        while self.progress < 1:
            self._take(loss(self.step))
            now = time.monotonic()
            self.seconds += now - before
            if now - noted > NOTE_SECONDS:
                self._note(self.step - noted_step, now - noted)
                noted, noted_step = now, self.step
            if look is not None and now - looked > LOOK_SECONDS:
                self._look(look)
                looked = now
            before = now
        if self.step > noted_step:
            self._note(self.step - noted_step, time.monotonic() - noted)
        if look is not None:
            self._look(look)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The modules with their averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def save(self) -> None:
        """Write a checkpoint."""
        self._read()
        weights = {f"now.{name}": p.detach().contiguous() for name, p in self._parameters.items()}
        weights |= {f"average.{name}": p.contiguous() for name, p in self._average.items()}
        state = {
            "optimizer": self._optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "losses": torch.tensor(self.losses),
        }
        checkpoints.save(self.folder, self.step, weights, state)

    def _take(self, loss: Tensor) -> None:
        """One step of the optimiser and of the average."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.rate
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters.values(), CLIP_NORM)
        self._optimizer.step()
        self.step += 1
        self._fresh.append(loss.detach())
        kept = min(self.plan.average, (1 + self.step) / (20 + self.step))
        now = [parameter.detach() for parameter in self._parameters.values()]
        torch._foreach_lerp_(list(self._average.values()), now, 1 - kept)

    def _note(self, steps: int, seconds: float) -> None:
        """Tell how it goes, write a checkpoint and the curve."""
        self._read()
        recent = self.losses[-max(1, steps) :]
        log.info(
            "%s: step %d, %.0f s, %.1f samples/s, loss %.4f",
            self.folder.name, self.step, self.seconds, steps * self.plan.batch / max(seconds, 1e-9),
            sum(recent) / len(recent),
        )  # fmt: skip
        self.save()
        pictures.save_curve(self.losses, self.folder.name, self.folder / "loss.png")

    def _read(self) -> None:
        if self._fresh:
            self.losses += torch.stack(self._fresh).tolist()
            self._fresh = []

    def _look(self, look: Callable[[], None]) -> None:
        with self.averaged():
            look()

    def _swap(self) -> None:
        for name, parameter in self._parameters.items():
            parameter.data, self._average[name] = self._average[name], parameter.data
