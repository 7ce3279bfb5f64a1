"""What the page says of its model, and what a run takes, counted before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mace_studio import prompts
from mace_studio.methods import find
from mace_studio.recipe import Recipe

if TYPE_CHECKING:
    from mace_studio.sd.costs import Costs


@dataclass(frozen=True, kw_only=True)
class Status:
    """What the header of the page says of the model.

    Attributes:
        name: what to call the model.
        state: "waiting", "loading", "ready" or "failed".
        detail: device and dtype when ready, the reason in a sentence when failed.
        memory: bytes of weights and of the largest step, or None until the model is loaded.
        fingerprint: of the model that is loaded, or "".
        width: D of its text context, or None until the model is loaded.
        unet: of its UNet alone.
    """

    name: str
    state: str
    detail: str = ""
    memory: int | None = None
    fingerprint: str = ""
    width: int | None = None
    unet: str = ""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run will take, counted before it starts.

    Attributes:
        concepts: how many are erased.
        prompts: how many sentences are encoded.
        unet_forwards: forwards of one sample through the UNet, guidance counted twice.
        memory: bytes of weights and of the largest step, or None until the model is loaded.
        flops: operations, or None until the model is loaded.
        seconds: at the pace of a few steps that were timed, with every training image generated anew; None before.
        crowded: where there are more phrases than directions: a sentence that says so, else "".
    """

    concepts: int
    prompts: int
    unet_forwards: int
    memory: float | None
    flops: float | None = None
    seconds: float | None = None
    crowded: str = ""

    def summary(self) -> str:
        """All of it in one line."""
        parts = [counted_as(self.prompts, "prompt")]
        if self.unet_forwards:  # a closed form has none
            parts.append(counted_as(self.unet_forwards, "UNet forward"))
            parts += [] if self.flops is None else [f"{self.flops / 1e12:,.1f} TFLOP"]
        if self.memory is not None:
            parts.append(f"about {size(self.memory)} of memory")
        return self._line(parts)

    def brief(self) -> str:
        """The same for who knows nothing of how it works: how much is erased, and in what time."""
        return self._line([])

    def _line(self, parts: list[str]) -> str:
        time = "" if self.seconds is None else f"about {duration(self.seconds)}"
        return " · ".join(filter(None, [counted_as(self.concepts, "concept"), *parts, time, self.crowded]))


def estimate(
    recipe: Recipe, memory: float | None, costs: Costs | None, cache: Path, width: int | None = None
) -> Estimate:
    """Count what a run of a recipe takes; nothing is computed.

    Args:
        recipe: as it will be run.
        memory: bytes of the model, or None until it is loaded.
        costs: of the parts of a run, or None until they are measured.
        cache: folder of training images and of the Grams of general captions and preserve lists.
        width: D of the model's text context, or None until it is loaded.
    """
    work, concepts = find(recipe.method).work(recipe), len(recipe.concepts)
    sentences = prompts.count(recipe) if work.sentences is None else work.sentences
    steps, phrases, crowded = work.training_steps, concepts + len(recipe.kept), ""
    if width is not None and phrases > width:
        crowded = (
            f"{phrases:,} phrases in a map of width {width}: not all can be told apart; "
            "mace-studio erase --estimate says how many directions they take"
        )
    if costs is None or memory is None:
        forwards = work.images * work.image_steps * (2 if work.guidance > 1 else 1)
        forwards += steps
        return Estimate(concepts=concepts, prompts=sentences, unet_forwards=forwards, memory=memory, crowded=crowded)
    read = costs.sentences(recipe, cache, work.captions, work.sentences)
    halves, image_steps = costs.halves if work.guidance > 1 else 1, min(work.image_steps, costs.most_steps)
    samples, trained = work.images * image_steps * halves, min(work.side_by_side, work.at_once) if steps else 0
    return Estimate(
        concepts=concepts,
        prompts=sentences,
        unet_forwards=samples + steps,
        memory=memory + max(min(work.images, costs.at_once) * halves * costs.sample_bytes, trained * costs.step_bytes),
        flops=samples * costs.forward_flops + steps * costs.step_flops + read * costs.sentence_flops,
        seconds=costs.image_seconds.of(work.images, costs.at_once) * image_steps
        + costs.step_seconds.of(work.side_by_side, work.at_once) * (steps // work.side_by_side)
        + read * costs.sentence_seconds,
        crowded=crowded,
    )


def counted_as(number: int, name: str) -> str:
    """A number and its noun, such as "1,920 prompts"."""
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Such as "0.8 s", "12 s" or "3 min 40 s"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def size(count: float) -> str:
    """Bytes, such as "1.2 MB"."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
