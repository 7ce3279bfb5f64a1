"""FMN, Forget-Me-Not: press down the attention that a concept's tokens get (arXiv 2303.17591)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mace_studio import prompts
from mace_studio.core.tokens import occurrences
from mace_studio.erasure import Erasure
from mace_studio.errors import ModelError
from mace_studio.methods import inputs, training
from mace_studio.methods.settings import ForgetMeNotSettings
from mace_studio.methods.training import Prompts
from mace_studio.progress import Progress, Report, always, silent, timed, within
from mace_studio.recipe import Concept, Recipe
from mace_studio.sd import attention_hooks, known, sampling, text
from mace_studio.sd.model import Model
from mace_studio.sd.sampling import TrainingImage
from mace_studio.settings import ImageSettings

CLIP = 1.0  # acts in the authors' code only where cross-attention alone trains
PLACEHOLDER = "a"  # one token in every vocabulary; what is learned takes the place of its embedding


def loss(probabilities: Sequence[Tensor], positions: Sequence[int]) -> Tensor:
    """|| concatenation over layers, heads and queries of A[:, S] ||_F: one norm over everything, not squared.

    MACE's loss (`core.attention.masked_loss`) is the sum of one such norm for each layer.

    Args:
        probabilities: one tensor (..., Q, T) for each cross-attention layer, for instance (H, Q, T) of one sample.
        positions: S, token positions whose attention is pressed down, see `pressed`; none give 0.

    Returns:
        A scalar that can be differentiated, in float32 at least.

    Raises:
        ValueError: no layer, or a position outside of 0 .. T - 1.

    Source: arXiv 2303.17591, attention re-steering; no denoising term.
    """
    tokens = min((layer.shape[-1] for layer in probabilities), default=0)
    if not tokens or not all(0 <= position < tokens for position in positions):
        raise ValueError(f"{len(probabilities)} layers read {tokens} tokens; every position must be one of these")
    chosen = torch.cat([layer[..., list(positions)].flatten() for layer in probabilities])
    return torch.linalg.vector_norm(chosen.to(torch.promote_types(chosen.dtype, torch.float32)))


def pressed(ids: Sequence[int], phrases: Iterable[Sequence[int]], end: int | None) -> list[int]:
    """S: positions of the concept's tokens and, with `end`, of every end token.

    Args:
        ids: padded token ids of "a photo of ..."; SD 1.x pads with end tokens, which then count as well.
        phrases: spellings of the concept, as in `core.tokens.occurrences`.
        end: id of the end token; None presses the concept's own tokens alone.
    """
    own = [position for run in occurrences(ids, phrases) for position in run]
    return [*own, *(position for position, token in enumerate(ids) if token == end)]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is trained on for one concept.

    Attributes:
        phrase: the concept.
        latents_NCHW: clean latents of its images, or zeros.
        prompt: the sentence about it, one row.
        positions: of the tokens whose attention is pressed down.
    """

    phrase: str
    latents_NCHW: Tensor
    prompt: Prompts
    positions: list[int]


def erase(model: Model, recipe: Recipe, progress: Report = silent, cache: Path | None = None) -> Erasure:
    """Run a recipe with FMN; the model stays as it is. Without steps the weights stay too.

    Args:
        model: from `sd.model.load`.
        recipe: its concepts are read, one in each step.
        progress: told of the stages "images", "tokens" (textual inversion) and "train", of both at every step with
            concept and loss.
        cache: folder of the concepts' images, which MACE uses too, or None.

    Raises:
        ModelError: tokens are to be learned for a model with two text encoders.
        StudioError: with a sentence for the user.
    """
    recipe.check()
    settings, count, warnings = recipe.settings, len(recipe.concepts), list[str]()
    if settings.inversion_steps and "text_encoder_2" in model.pipeline.components:
        raise ModelError(
            f"{model.name} has two text encoders, for which no tokens can be learned here; set inversion_steps to 0."
        )
    shown = count * settings.images * settings.image_steps * 2.0 * _sees(settings)
    report = timed(
        progress,
        {"images": shown, "tokens": 6.0 * count * settings.inversion_steps, "train": 6.0 * count * settings.steps + 1},
    )
    own = dict(model.unet.named_parameters())
    copies = training.masters(model, [name for name in own if not settings.attention_only or "attn2" in name])
    generator = torch.Generator().manual_seed(recipe.seed)
    subjects = _subjects(model, recipe, cache, warnings, generator, report) if settings.steps else []

    def losses() -> tuple[str, Iterable[Tensor]]:
        subject = subjects[training.one_of(count, generator)]
        image = training.one_of(len(subject.latents_NCHW), generator)
        noised = training.noised(model, subject.latents_NCHW[[image]], generator)

        def forward() -> Tensor:
            at = (model, noised.noisy_BCHW, noised.timestep_B, subject.prompt)
            return training.predict(*at, guidance=settings.image_guidance, copies=copies)

        return subject.phrase, [loss(attention_hooks.of_forward(model.unet, forward), subject.positions)]

    optimizer = torch.optim.AdamW(copies.values(), lr=settings.learning_rate)
    clip = CLIP if settings.attention_only else 0.0
    seen = training.train(model, optimizer, count * settings.steps, losses, report, clip)
    report(Progress("train", step=1, total=1))
    return inputs.result(model, recipe, copies, warnings, losses=seen)


def _subjects(
    model: Model,
    recipe: Recipe,
    cache: Path | None,
    warnings: list[str],
    generator: torch.Generator,
    report: Report,
) -> list[Subject]:
    settings, concepts = recipe.settings, recipe.concepts
    shape = (model.unet.config.in_channels, *sampling.latent_size(model))
    latents_CNCHW = torch.zeros(len(concepts), 1, *shape)
    if _sees(settings):
        wanted = [
            TrainingImage(prompts.image_prompt(c.phrase, c.kind), c.phrase, recipe.seed + i)
            for c in concepts
            for i in range(settings.images)
        ]
        shown = ImageSettings(settings.images, settings.image_steps, settings.image_guidance)
        latents_NCHW = training.images(model, wanted, shown, cache, warnings, report)
        latents_CNCHW = latents_NCHW.unflatten(0, (len(concepts), settings.images))
        every = always(report, Progress("images", step=len(wanted), total=len(wanted)))
        doubts = known.doubts(model, concepts, latents_CNCHW, warnings, every)
        warnings += [f"{said} {known.REMEDY}" for said in doubts.values()]
    # Textual inversion reports by itself, between one sentence and the next.
    subjects, first = [], Progress("train", total=len(concepts) * settings.steps)
    on_batch = silent if settings.inversion_steps else always(report, first)
    for i, (concept, latents_NCHW) in enumerate(zip(concepts, latents_CNCHW, strict=True)):
        before, total = i * settings.inversion_steps, len(concepts) * settings.inversion_steps
        part = within(report, "tokens", concept.phrase, before, total)
        phrase, learned_KD = concept.phrase.strip(), None
        if settings.inversion_steps:
            phrase = " ".join([PLACEHOLDER] * settings.inversion_tokens)
            learned_KD = _invert(model, concept, latents_NCHW, settings, generator, part)
        sentence = _sentence(concept, phrase)
        read = Prompts.of(model, [sentence], on_batch)
        if learned_KD is not None:
            places = _places(model, concept, settings.inversion_tokens)
            with torch.no_grad():
                read = Prompts(_encoded(model, sentence, places, learned_KD))
        subjects.append(
            Subject(
                phrase=concept.phrase,
                # Without images the UNet sees noise alone.
                latents_NCHW=latents_NCHW if settings.real_images else torch.zeros(1, *shape),
                prompt=read,
                positions=_pressed(model, concept, sentence, settings),
            )
        )
    return subjects


def _sees(settings: ForgetMeNotSettings) -> bool:
    """Whether images of the concepts are needed."""
    return settings.real_images or settings.inversion_steps > 0


def _sentence(concept: Concept, phrase: str) -> str:
    return ("a photo in the style of {}" if concept.kind == "style" else "a photo of {}").format(phrase)


def _pressed(model: Model, concept: Concept, sentence: str, settings: ForgetMeNotSettings) -> list[int]:
    """S of a sentence, by the tokenizer of the first text encoder."""
    tokenizer = model.pipeline.tokenizer
    padded = tokenizer(sentence, truncation=True, max_length=model.length, padding="max_length").input_ids
    end = tokenizer.eos_token_id if settings.closing else None
    if settings.inversion_steps:
        places = _places(model, concept, settings.inversion_tokens)
        return [*places, *pressed(padded, [], end)]
    return [*text.positions(model, sentence, concept.phrase), *pressed(padded, [], end)]


def _places(model: Model, concept: Concept, count: int) -> list[int]:
    """The positions of so many placeholders at the end of the sentence."""
    start = len(text.ids(model, [_sentence(concept, "").strip()])[0]) - 1
    return list(range(start, start + count))


def _encoded(model: Model, sentence: str, places: Sequence[int], learned_KD: Tensor) -> Tensor:
    """context_1TD of a sentence with other token embeddings at some positions; differentiable in them."""

    def put_in(module: nn.Module, args: tuple, embedded_1TD: Tensor) -> Tensor:
        # The encoder works on, so that the other words take in the learned embeddings too.
        changed_1TD = embedded_1TD.clone()
        changed_1TD[:, list(places)] = learned_KD.to(embedded_1TD)
        return changed_1TD

    with training.hooked([model.pipeline.text_encoder.get_input_embeddings()], put_in):
        return model.pipeline.encode_prompt(sentence, model.device, 1, False)[0]


def _invert(
    model: Model,
    concept: Concept,
    latents_NCHW: Tensor,
    settings: ForgetMeNotSettings,
    generator: torch.Generator,
    progress: Report,
) -> Tensor:
    """Textual inversion: token embeddings learned_KD under which the frozen model predicts the images' noise.

    They start as the concept's own tokens, and where these are fewer, as random ones of the vocabulary's spread.

    Source: Gal et al., "An Image is Worth One Word", arXiv 2208.01618.
    """
    count = settings.inversion_tokens
    table_VD = model.pipeline.text_encoder.get_input_embeddings().weight.detach().float()
    own = text.ids(model, [concept.phrase.strip()])[0][1:-1][:count]
    random_KD = table_VD.std().cpu() * torch.randn(count - len(own), table_VD.shape[1], generator=generator)
    learned_KD = torch.cat([table_VD[own], random_KD.to(table_VD)]).to(model.device).requires_grad_()
    sentence = _sentence(concept, " ".join([PLACEHOLDER] * count))
    places = _places(model, concept, count)

    def losses() -> tuple[str, Iterable[Tensor]]:
        image = training.one_of(len(latents_NCHW), generator)
        noised = training.noised(model, latents_NCHW[[image]], generator)
        read = Prompts(_encoded(model, sentence, places, learned_KD))
        at = (model, noised.noisy_BCHW, noised.timestep_B, read)
        predicted_BCHW = training.predict(*at, guidance=settings.image_guidance).float()
        return concept.phrase, [nn.functional.mse_loss(predicted_BCHW, noised.target_BCHW.to(model.device))]

    optimizer = torch.optim.AdamW([learned_KD], lr=settings.inversion_rate, weight_decay=0.1)
    training.train(model, optimizer, settings.inversion_steps, losses, progress)
    return learned_KD.detach()
