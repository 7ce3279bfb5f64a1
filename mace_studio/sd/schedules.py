"""A model's noise scheduler: made from its folder, tried before any work, and what of its configuration is at fault."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DPMSolverMultistepScheduler, SchedulerMixin

from mace_studio import sources
from mace_studio.errors import ModelError, RecipeError
from mace_studio.sd.parts import USE_INSTEAD, read_json
from mace_studio.settings import TIMESTEPS

log = logging.getLogger(__name__)

FLOW = ("prediction_type", "use_flow_sigmas")  # fields that tell of flow matching
LATENTS = 4  # channels; a scheduler that takes some of them for a variance must fail
TRIED = 4  # denoising steps: PNDM of four points takes no fewer


def of_folder(kind: str, folder: Path, source: str) -> SchedulerMixin:
    """Load a noise scheduler.

    Args:
        kind: name of its class in diffusers.
        folder: of the model, in which "scheduler" lies.
        source: name of the model for messages.

    Raises:
        ModelError: it is not known, needs a package that is missing, or nothing can be made of its configuration.
    """
    config = read_json(folder / "scheduler" / "scheduler_config.json")
    steps = config.get("num_train_timesteps", TIMESTEPS)
    if not isinstance(steps, int) or steps != TIMESTEPS:
        raise ModelError(
            f"The scheduler of {source} has a num_train_timesteps of {sources.shown(str(steps))}; Stable Diffusion has "
            f"{TIMESTEPS}, of which recipes name some. Download the model again."
        )
    loader: Any = getattr(diffusers, kind, None)
    known = isinstance(loader, type) and issubclass(loader, SchedulerMixin)
    try:
        if known:
            return loader.from_pretrained(folder, subfolder="scheduler", local_files_only=True)
        if hasattr(loader, "_backends"):  # what diffusers puts in the place of a class whose packages are missing
            loader()
    except ImportError as error:
        package = next((name for name in ("scipy", "torchsde") if name in str(error)), str(error).splitlines()[0])
        raise ModelError(
            f"The scheduler of {source} ({kind}) needs the package {package}. Install it with: pip install {package}"
        ) from error
    except Exception as error:  # diffusers raises anything over a bad configuration
        log.info("the scheduler cannot be made", exc_info=True)
        raise ModelError(
            f"No {kind} can be made of the scheduler_config.json of {source}{_at_fault(loader, config)}."
        ) from error
    raise ModelError(f"The scheduler of {source}, {sources.shown(kind)}, is not known. {USE_INSTEAD}")


def fault(scheduler: SchedulerMixin) -> str | None:
    """Why no image can be made with a scheduler, as the end of a sentence; None where one can."""
    # The configuration alone does not tell: it keeps what the class of another scheduler had in the same file.
    if "beta_schedule" not in scheduler.config or not hasattr(scheduler, "betas"):
        return "has a noise schedule without betas (EDM, flow matching), which an erasure cannot be trained on"
    own = _own(scheduler)
    if flow := next((key for key in FLOW if own.get(key) in (True, "flow_prediction")), None):
        return f"is a model of flow matching ({flow}), which an erasure cannot be trained on"
    if _works(scheduler):
        return None
    config = {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
    return f"has a noise schedule by which no image can be made{_at_fault(type(scheduler), config)}"


def for_training(usual: SchedulerMixin) -> DPMSolverMultistepScheduler:
    """DPM-Solver++ with a model's noise schedule; how the model's own scheduler solves (DEIS, SA, SDE) stays out.

    So do settings that the scheduler does not read itself: they are of another class that was in the file before.

    Args:
        usual: the scheduler that came with the model.
    """
    return DPMSolverMultistepScheduler.from_config(
        _own(usual),
        algorithm_type="dpmsolver++",
        solver_type="midpoint",
        final_sigmas_type="zero",
        variance_type=None,
    )


def _own(scheduler: SchedulerMixin) -> dict[str, Any]:
    """The settings that a scheduler reads; its configuration also keeps what it does not.

    Those of diffusers stay too: they tell which ones are its defaults, in whose place another class has its own.
    """
    read = inspect.signature(type(scheduler).__init__).parameters
    return {key: value for key, value in scheduler.config.items() if key in read or key.startswith("_")}


def check_steps(scheduler: SchedulerMixin, steps: int, name: str) -> None:
    """Raise a RecipeError where a scheduler cannot take so many denoising steps, as PNDM of four points with three.

    Args:
        scheduler: is not changed.
        steps: of an image.
        name: of the model, for the message.
    """
    try:
        copy.deepcopy(scheduler).set_timesteps(steps)
    except Exception as error:
        log.info("the scheduler takes no %d steps", steps, exc_info=True)
        raise RecipeError(
            "steps", f"The scheduler of {name}, {type(scheduler).__name__}, takes no {steps} steps; ask for 20."
        ) from error


def _works(scheduler: SchedulerMixin) -> bool:
    """Whether images, and training images, can be made; what a configuration says may fit nothing that there is."""
    try:
        total = scheduler.config.num_train_timesteps
        trials: list[Any] = [copy.deepcopy(scheduler), for_training(scheduler)]
        return len(trials[0].betas) == total and all(_is_finite(trial, min(TRIED, total)) for trial in trials)
    except Exception:  # diffusers raises anything over a bad configuration
        log.info("the noise schedule fails", exc_info=True)
        return False


def _is_finite(trial: Any, steps: int) -> bool:
    """Whether a trial ends in numbers, and on the way to less noise: an inverse scheduler's timesteps rise."""
    with torch.random.fork_rng(devices=[]):
        trial.set_timesteps(steps)
        sample = torch.ones(1, LATENTS, 2, 2)
        for timestep in trial.timesteps:
            sample = trial.step(sample, timestep, sample).prev_sample
    return bool(sample.isfinite().all()) and bool(trial.timesteps[0] > trial.timesteps[-1])


def _at_fault(kind: Any, config: Mapping[str, Any]) -> str:
    """The one field without which a scheduler of this kind would work, and what to do, as the end of a sentence."""

    def works_without(key: str) -> bool:
        try:
            return _works(kind.from_config({name: value for name, value in config.items() if name != key}))
        except Exception:
            return False

    found = next((key for key in config if not key.startswith("_") and works_without(key)), None)
    if found is None:
        return "; download the model again"
    said = sources.shown(str(config[found]))
    return f": its {found} is {said}. Take that line out of the file, or download the model again"
