"""Stage 2 of a recipe: one LoRA per concept on the refined weights (Eq. 3-5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from mace_studio import prompts
from mace_studio.methods.mace import lora_store
from mace_studio.methods.mace.own_tokens import OwnTokens
from mace_studio.methods.mace.training_images import TrainingImages
from mace_studio.progress import Progress, Report, always, silent, within
from mace_studio.recipe import Concept, Recipe
from mace_studio.sd import lora, projections, sampling, text
from mace_studio.sd.batching import Batches
from mace_studio.sd.embeddings import Embeddings
from mace_studio.sd.model import Model


def train(
    model: Model,
    recipe: Recipe,
    images: Sequence[TrainingImages],
    refined: Mapping[str, Tensor],
    embeddings: Embeddings,
    warnings: list[str],
    progress: Report = silent,
    cache: Path | None = None,
) -> dict[str, lora.LoraDelta]:
    """Train the LoRA of every concept on top of the refined weights.

    Args:
        model: bit for bit the same afterwards.
        recipe: concepts, their prompts, and every setting of a LoRA.
        images: the training images of each concept, in the order of the recipe.
        refined: state-dict key -> W'_PD of every projection.
        embeddings: of the same model; encodes the concepts' prompts, or remembers them.
        warnings: what the user should know is added to it, in sentences.
        progress: called with stage "lora": optimiser steps of all concepts, with the loss of each.
        cache: folder that keeps every LoRA as its batch ends, see `lora_store`; None keeps nothing.

    Returns:
        phrase -> its LoRA.
    """
    settings = recipe.settings
    digits, own_tokens = lora_store.digest(refined), OwnTokens(model, recipe)
    total, batches = len(recipe.concepts) * settings.lora.steps, Batches(settings.concepts_at_once)

    def train_batch(batch: Sequence[tuple[Concept, TrainingImages]], done: int) -> list[lora.LoraDelta]:
        before = done * settings.lora.steps
        subjects = []
        for concept, own in batch:
            on_batch = always(progress, Progress("lora", concept.phrase, before, total))
            subject = _subject(model, recipe, concept, own, embeddings, on_batch)
            subjects.append(replace(subject, acts_at=own_tokens.positions(concept)))
        report = within(progress, "lora", "", before, total)
        return lora_store.train(model, subjects, settings.lora, digits, cache, report)

    # Eq. 4 trains beside the refined weights W', not beside the original ones.
    with projections.swapped(model.unet, refined):
        deltas = batches.map(list(zip(recipe.concepts, images, strict=True)), train_batch)
    if batches.size < settings.concepts_at_once:
        warnings.append(
            f"There was not enough memory for {settings.concepts_at_once} concepts at once, so the LoRAs were trained "
            f"with {batches.size} at once."
        )
    return {concept.phrase: delta for concept, delta in zip(recipe.concepts, deltas, strict=True)}


def forwards(model: Model, recipe: Recipe, loras: Mapping[str, lora.LoraDelta]) -> int:
    """Samples that went through the UNet for the training images and the LoRAs of a recipe, had there been no cache.

    Args:
        model: of the run.
        recipe: of the run.
        loras: what came of it; one that stopped early has fewer losses.
    """
    images, settings = sampling.with_defaults(model, recipe.settings.images), recipe.settings.lora
    steps = images.steps
    if images.path:
        steps = sampling.steps_until(model, images, (settings.t1, settings.t2))
    halves = 1 if images.guidance <= 1 or model.distilled else 2
    own = len(loras) * images.per_concept * steps * halves
    return own + sum(settings.kept_samples or len(delta.losses) for delta in loras.values())


def _subject(
    model: Model,
    recipe: Recipe,
    concept: Concept,
    images: TrainingImages,
    embeddings: Embeddings,
    on_batch: Report,
) -> lora.Subject:
    """The concept as the training needs it; `on_batch` is called for every batch of prompts that is encoded."""
    sentences = prompts.about(concept)
    positions = [text.positions(model, sentence, concept.phrase) for sentence in sentences]
    # End and padding have read the whole prompt, and carry the concept where its words do not.
    if recipe.settings.lora.pad_tokens:
        ids = text.ids(model, sentences)
        positions = [p + text.closing(row, model.length) for p, row in zip(positions, ids, strict=True)]
    encoded, settings = embeddings.of(sentences, on_batch), sampling.with_defaults(model, recipe.settings.images)
    window = recipe.settings.lora.t1, recipe.settings.lora.t2
    return lora.Subject(
        phrase=concept.phrase,
        latents_NCHW=images.latents_NCHW,
        masks=images.masks,
        context_MTD=encoded.context_NTD,
        positions=positions,
        seed=recipe.seed,
        pooled_MP=encoded.pooled_NP,
        guidance=settings.guidance,
        path_NSCHW=images.path_NSCHW,
        passed=sampling.passed(model, settings, window) if images.path_NSCHW is not None else (),
    )
