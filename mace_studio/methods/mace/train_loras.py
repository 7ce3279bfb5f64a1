"""Stage 2 of a recipe: one LoRA per concept on the refined weights (Eq. 3-5)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence

from torch import Tensor

from mace_studio import prompts
from mace_studio.methods.mace.training_images import TrainingImages
from mace_studio.progress import Progress, relay
from mace_studio.recipe import Concept, Recipe
from mace_studio.sd import lora, projections, sampling, text
from mace_studio.sd.batching import Room
from mace_studio.sd.model import Model


def train(
    model: Model, recipe: Recipe, pictures: Sequence[TrainingImages], refined: Mapping[str, Tensor], warnings: list[str]
) -> Generator[Progress, None, dict[str, lora.LoraDelta]]:
    """Train the LoRA of every concept on top of the refined weights, stage "lora".

    Args:
        model: is bit for bit the same afterwards.
        recipe: concepts, their prompts, and every setting of a LoRA.
        pictures: the training images of each concept.
        refined: state-dict key -> W'_PD of every projection.
        warnings: what the user should know is added to it, in sentences.

    Returns:
        phrase -> its LoRA.
    """
    total, room = len(recipe.concepts) * recipe.settings.lora.steps, Room(recipe.settings.concepts_at_once)

    def few(
        group: Sequence[tuple[Concept, TrainingImages]], done: int
    ) -> Generator[Progress, None, list[lora.LoraDelta]]:
        subjects = [_subject(model, recipe, concept, drawn) for concept, drawn in group]
        tell = _losses([concept for concept, _ in group], done * recipe.settings.lora.steps, total)
        return (yield from relay(lora.train(model, subjects, recipe.settings.lora), tell))

    with projections.swapped(model.unet, refined):
        deltas = yield from room.each(list(zip(recipe.concepts, pictures, strict=True)), few)
    if room.at_once < recipe.settings.concepts_at_once:
        warnings.append(
            f"There was not enough memory for {recipe.settings.concepts_at_once} concepts at once, so the LoRAs were "
            f"trained with {room.at_once} at once."
        )
    return {c.phrase: delta for c, delta in zip(recipe.concepts, deltas, strict=True)}


def _losses(group: Sequence[Concept], before: int, total: int) -> Callable[[lora.Step], Progress]:
    def tell(step: lora.Step) -> Progress:
        done = before + (step.number - 1) * len(group) + step.subject + 1
        return Progress("lora", group[step.subject].phrase, done, total, step.loss)

    return tell


def _subject(model: Model, recipe: Recipe, concept: Concept, pictures: TrainingImages) -> lora.Subject:
    sentences = prompts.about(concept)
    ids = text.ids(model, sentences)
    positions = [text.positions(model, row, concept.phrase) for row in ids]
    if recipe.settings.lora.pad_tokens:
        positions = [p + text.closing(row, model.length) for p, row in zip(positions, ids, strict=True)]
    context_MTD, pooled_MC = text.encode(model, sentences)
    guidance = sampling.with_defaults(model, recipe.settings.images).guidance
    return lora.Subject(
        concept.phrase, pictures.latents_NCHW, pictures.masks, context_MTD, positions, recipe.seed, pooled_MC, guidance
    )
