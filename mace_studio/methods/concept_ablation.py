"""AC, concept ablation: the concept's prompt learns to predict what the anchor's predicts (arXiv 2303.13516)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import torch
from torch import Tensor, nn

from mace_studio import prompts
from mace_studio.core.diffusion import same_shape, squared_error
from mace_studio.erasure import Erasure
from mace_studio.methods import inputs, training
from mace_studio.methods.settings import ConceptAblationSettings
from mace_studio.methods.training import Masters, Prompts
from mace_studio.progress import Progress, Report, always, silent, timed
from mace_studio.recipe import Recipe
from mace_studio.sd import projections
from mace_studio.sd.model import Model
from mace_studio.sd.sampling import TrainingImage
from mace_studio.settings import ImageSettings

FORMS = ("compvis", "diffusers")


def loss(
    concept_BCHW: Tensor,
    anchor_BCHW: Tensor,
    mask_B1HW: Tensor | None = None,
    *,
    noise_BCHW: Tensor | None = None,
    prior_weight: float = 0.0,
    form: str = "compvis",
) -> Tensor:
    """mean_b [ sum_{channel, pixel} m d^2 / sum_pixel m ] + lambda_r R, with d = U(x_t, c*) - sg[ U(x_t, a) ].

    The mask has one channel, so without it the first term is C times the mean over all elements.

    Args:
        concept_BCHW: U(x_t, c*), the trained model's prediction with the concept in the anchor's place.
        anchor_BCHW: U(x_t, a), the same model's prediction for the anchor's sentence; no gradient goes through it but
            in R. For the noise-based variant give the noise.
        mask_B1HW: m, one channel, 1 where an image counts; None for everywhere. The diffusers code leaves out a border
            of one.
        noise_BCHW: eps that made x_t, for R; needed where `prior_weight` is not 0.
        prior_weight: lambda_r.
        form: R = the same sum over channels and mean over pixels of U(x_t, a) - eps ("compvis"), or the mean over all
            elements ("diffusers"). The authors draw other images and noise for R: that is `loss` of this prediction
            and its noise, times lambda_r ("diffusers": over C), added to the loss without R.

    Raises:
        ValueError: another form, a prior weight without noise, or shapes that do not go together.

    Source: arXiv 2303.13516, and the normalisation of the authors' two codes.
    """
    if form not in FORMS:
        raise ValueError(f"form is {form!r}; it must be one of {', '.join(FORMS)}")
    same_shape(concept_BCHW=concept_BCHW, anchor_BCHW=anchor_BCHW)
    wide = torch.promote_types(concept_BCHW.dtype, torch.float32)
    concept_BCHW, anchor_BCHW = concept_BCHW.to(wide), anchor_BCHW.to(wide)
    total = squared_error(concept_BCHW - anchor_BCHW.detach(), mask_B1HW)
    if not prior_weight:
        return total
    if noise_BCHW is None:
        raise ValueError("the regulariser compares the anchor's prediction with the noise; give noise_BCHW")
    same_shape(anchor_BCHW=anchor_BCHW, noise_BCHW=noise_BCHW)
    rest_BCHW = anchor_BCHW - noise_BCHW.to(wide)
    return total + prior_weight * (squared_error(rest_BCHW) if form == "compvis" else rest_BCHW.square().mean())


def cut_start(projected_BTP: Tensor) -> Tensor:
    """Keys or values through which no gradient of the start token goes; AC trains with that.

    Args:
        projected_BTP: of a batch of prompts; position 0 is the start token.

    Returns:
        The same numbers, (B, T, P).
    """
    return torch.cat([projected_BTP[:, :1].detach(), projected_BTP[:, 1:]], dim=1)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What is trained on for one concept.

    Attributes:
        phrase: the concept.
        latents_NCHW: clean latents of the anchor's images; image i shows sentence i of the M, counted round.
        anchor, concept: the M sentences about the anchor, and the same with the concept in its place.
    """

    phrase: str
    latents_NCHW: Tensor
    anchor: Prompts
    concept: Prompts


def erase(model: Model, recipe: Recipe, progress: Report = silent, cache: Path | None = None) -> Erasure:
    """Run a recipe with AC; the model stays as it is. Without steps the weights stay too.

    Args:
        model: from `sd.model.load`.
        recipe: its concepts, one in each step, and their mappings, which are the anchors, are read in the templates.
        progress: told of the stages "images" and, at every step with concept and loss, "train".
        cache: folder of the anchors' images, or None.

    Raises:
        StudioError: with a sentence for the user.
    """
    recipe.check()
    settings, warnings = recipe.settings, list[str]()
    shown = len(recipe.concepts) * settings.images * settings.image_steps * 2.0
    progress = timed(progress, {"images": shown, "train": 6.0 * settings.steps * settings.batch})
    layers = projections.names(model.unet)
    copies = training.masters(model, [name + projections.WEIGHT for name in layers])
    generator = torch.Generator().manual_seed(recipe.seed)
    pairs = _pairs(model, recipe, cache, warnings, progress) if settings.steps else []

    def losses() -> tuple[str, Iterable[Tensor]]:
        pair = pairs[training.one_of(len(pairs), generator)]
        return pair.phrase, _parts(model, settings, pair, copies, generator)

    optimizer = torch.optim.AdamW(copies.values(), lr=settings.learning_rate)
    # The start token has the same embedding in every prompt: without this its keys and values would change for all.
    with training.hooked([model.unet.get_submodule(n) for n in layers], lambda module, args, output: cut_start(output)):
        seen = training.train(model, optimizer, settings.steps, losses, progress, settings.clip)
    progress(Progress("train", step=1, total=1))
    return inputs.result(model, recipe, copies, warnings, losses=seen)


def _pairs(model: Model, recipe: Recipe, cache: Path | None, warnings: list[str], progress: Report) -> list[Pair]:
    count = recipe.settings.images
    sentences = {concept: list(islice(cycle(prompts.mapped(concept)), count)) for concept in recipe.concepts}
    wanted = [
        TrainingImage(sentence, concept.mapping.strip(), recipe.seed + i)
        for concept, own in sentences.items()
        for i, sentence in enumerate(own)
    ]
    settings = ImageSettings(count, recipe.settings.image_steps, recipe.settings.image_guidance)
    latents_NCHW = training.images(model, wanted, settings, cache, warnings, progress)
    on_batch = always(progress, Progress("images", step=len(wanted), total=len(wanted)))
    return [
        Pair(
            phrase=concept.phrase,
            latents_NCHW=latents_NCHW[i * count : (i + 1) * count],
            anchor=Prompts.of(model, prompts.mapped(concept), on_batch),
            concept=Prompts.of(model, prompts.about(concept), on_batch),
        )
        for i, concept in enumerate(recipe.concepts)
    ]


def _parts(
    model: Model, settings: ConceptAblationSettings, pair: Pair, copies: Masters, generator: torch.Generator
) -> Iterator[Tensor]:
    """The loss of one step, in as many parts as the model works in batches."""
    images = [training.one_of(len(pair.latents_NCHW), generator) for _ in range(settings.batch)]
    prior = settings.prior_weight if settings.target == "model" else 0.0
    for start in range(0, len(images), model.batches.size):
        batch = images[start : start + model.batches.size]
        noised = training.noised(model, pair.latents_NCHW[batch], generator)
        noise_BCHW = noised.target_BCHW.to(model.device)
        # Image i was made from sentence i of the M, counted round, and is trained under the same one.
        rows = [image % len(pair.anchor.context_NTD) for image in batch]
        predict = partial(
            training.predict,
            model,
            noised.noisy_BCHW,
            noised.timestep_B,
            guidance=settings.image_guidance,
            copies=copies,
        )
        anchor_BCHW = noise_BCHW
        if settings.target == "model":
            # Only the prior trains the anchor's own prediction; without it half of the graph need not be kept.
            with torch.set_grad_enabled(prior > 0):
                anchor_BCHW = predict(pair.anchor.rows(rows))
        yield (
            len(batch)
            / len(images)
            * loss(
                predict(pair.concept.rows(rows)),
                anchor_BCHW,
                border(noise_BCHW) if settings.form == "diffusers" else None,
                noise_BCHW=noise_BCHW,
                prior_weight=prior,
                form=settings.form,
            )
        )


def border(noise_BCHW: Tensor) -> Tensor:
    """mask_B1HW that leaves out a border of one latent cell, as the diffusers code does.

    Args:
        noise_BCHW: only its shape, dtype and device are read; H and W in latent cells.
    """
    return nn.functional.pad(torch.ones_like(noise_BCHW[:, :1, 1:-1, 1:-1]), (1, 1, 1, 1))
