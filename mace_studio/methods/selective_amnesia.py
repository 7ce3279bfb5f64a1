"""SA, selective amnesia: learn a surrogate, and hold what other concepts need by elastic weights (arXiv 2305.10120)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from mace_studio import prompts
from mace_studio.caption_files import read_captions
from mace_studio.core.diffusion import same_shape
from mace_studio.erasure import Erasure
from mace_studio.methods import esd, inputs, training
from mace_studio.methods.settings import SelectiveAmnesiaSettings
from mace_studio.methods.training import Masters, Prompts
from mace_studio.progress import Progress, Report, always, silent, timed
from mace_studio.recipe import Recipe
from mace_studio.sd import files, grams
from mace_studio.sd.model import Model
from mace_studio.sd.sampling import TrainingImage
from mace_studio.settings import ImageSettings

REPLAY_SEED = 0  # of what is replayed, so that its Fisher information is computed once for a model


def loss(
    forget_BCHW: Tensor,
    forget_noise_BCHW: Tensor,
    replay_BCHW: Tensor,
    replay_noise_BCHW: Tensor,
    parameters: Mapping[str, Tensor],
    start: Mapping[str, Tensor],
    fisher: Mapping[str, Tensor],
    *,
    replay_weight: float = 1.0,
    fisher_weight: float = 50.0,
) -> Tensor:
    """mean (eps - U(x_t, c_f))^2 + gamma mean (eps - U(x_t, c_r))^2 + lambda sum_i F_i (theta_i - theta*_i)^2.

    Args:
        forget_BCHW, forget_noise_BCHW: prediction for a noised surrogate under the concept's prompt, and its noise.
        replay_BCHW, replay_noise_BCHW: the same for a replayed image under its own sentence.
        parameters: name -> theta, with gradients.
        start: name -> theta*, before training.
        fisher: name -> F; its names are those that are summed.
        replay_weight, fisher_weight: gamma and lambda.

    Raises:
        ValueError: shapes or names that do not go together.

    Source: arXiv 2305.10120, with the code's lambda (the paper has lambda / 2).
    """
    same_shape(forget_BCHW=forget_BCHW, forget_noise_BCHW=forget_noise_BCHW)
    same_shape(replay_BCHW=replay_BCHW, replay_noise_BCHW=replay_noise_BCHW)
    for name, information in fisher.items():
        if name not in parameters or name not in start:
            raise ValueError(f"the Fisher information has {name}; it must be among the parameters and their start too")
        same_shape(parameters=parameters[name], start=start[name], fisher=information)
    penalty = sum((f * (parameters[name] - start[name]).square()).sum() for name, f in fisher.items())
    return (
        functional.mse_loss(forget_BCHW, forget_noise_BCHW)
        + replay_weight * functional.mse_loss(replay_BCHW, replay_noise_BCHW)
        + fisher_weight * penalty
    )


def fisher(samples: Iterable[Iterable[Tensor]], parameters: Mapping[str, Tensor], stride: int = 1) -> dict[str, Tensor]:
    """F_i = (1/N) sum_n ( sum_t d/dtheta_i mean (eps - U(x_t, c_n))^2 )^2: gradients are summed, then squared.

    Args:
        samples: for each replayed image its losses, scalars; each may hold one timestep or the sum over several. They
            are read one at a time, so a generator needs no more memory than one loss.
        parameters: name -> theta, with gradients.
        stride: how many timesteps one that is given stands for; F is scaled by its square.

    Returns:
        name -> F in the shape of theta, float32 at least.

    Raises:
        ValueError: no sample.

    Source: arXiv 2305.10120 and the authors' code, which squares the sum over all timesteps of an image.
    """
    tensors = list(parameters.values())
    totals = [torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)).detach() for p in tensors]
    count = 0
    for losses in samples:
        sums = [torch.zeros_like(total) for total in totals]
        for value in losses:
            for summed, gradient in zip(sums, torch.autograd.grad(value, tensors, allow_unused=True), strict=True):
                if gradient is not None:
                    summed += gradient
        for total, summed in zip(totals, sums, strict=True):
            total += (stride * summed).square()
        count += 1
    if not count:
        raise ValueError("the Fisher information needs at least one sample")
    return {name: total / count for name, total in zip(parameters, totals, strict=True)}


@dataclass(frozen=True, kw_only=True)
class Images:
    """Images with the sentence that each is trained under.

    Attributes:
        phrases: the concept of each, or "".
        latents_NCHW: clean latents.
        prompts: N sentences.
    """

    phrases: list[str]
    latents_NCHW: Tensor
    prompts: Prompts


def erase(model: Model, recipe: Recipe, progress: Report = silent, cache: Path | None = None) -> Erasure:
    """Run a recipe with SA in its reduced form; the model stays as it is. Without steps the weights stay too.

    Args:
        model: from `sd.model.load`; its general captions are the sentences of the replayed images.
        recipe: its concepts, one in each step, and their mappings, which are the surrogates, are read.
        progress: told of the stages "images", "fisher" (gradients of all) and, at every step with concept and loss,
            "train".
        cache: folder of the images and of the Fisher information, one file for each model, captions and settings.

    Raises:
        StudioError: with a sentence for the user.
    """
    recipe.check()
    settings, warnings = recipe.settings, [said(recipe.settings)]
    report = timed(progress, _costs(recipe))
    names = model.unet.state_dict() if settings.select == "all" else esd.parameters(model.unet, "u")
    trained = [name for name, _ in model.unet.named_parameters() if name in names]
    copies, generator = training.masters(model, trained), torch.Generator().manual_seed(recipe.seed)
    if not settings.steps:
        report(Progress("train", step=1, total=1))
        return inputs.result(model, recipe, copies, warnings)
    surrogates, replay = _images(model, recipe, cache, warnings, report)
    held = cached_fisher(model, settings, replay, copies, cache, report)
    start = {name: master.detach().clone() for name, master in copies.items()}

    def predicted(images: Images) -> tuple[str, Tensor, Tensor]:
        """The concept of an image, the prediction for it and what it should be."""
        number = training.one_of(len(images.phrases), generator)
        noised = training.noised(model, images.latents_NCHW[[number]], generator)
        at = (model, noised.noisy_BCHW, noised.timestep_B, images.prompts.rows([number]))
        own_BCHW = training.predict(*at, guidance=settings.image_guidance, copies=copies).float()
        return images.phrases[number], own_BCHW, noised.target_BCHW.to(model.device)

    def losses() -> tuple[str, Iterable[Tensor]]:
        phrase, forget_BCHW, forget_noise_BCHW = predicted(surrogates)
        _, replay_BCHW, replay_noise_BCHW = predicted(replay)
        value = loss(
            forget_BCHW,
            forget_noise_BCHW,
            replay_BCHW,
            replay_noise_BCHW,
            copies,
            start,
            held,
            replay_weight=settings.replay_weight,
            fisher_weight=settings.fisher_weight,
        )
        return phrase, [value]

    optimizer = torch.optim.Adam(copies.values(), settings.learning_rate)
    seen = training.train(model, optimizer, settings.steps, losses, report)
    report(Progress("train", step=1, total=1))
    return inputs.result(model, recipe, copies, warnings, losses=seen)


def said(settings: SelectiveAmnesiaSettings) -> str:
    """The reduced form in a sentence, which stands beside every number of it.

    Args:
        settings: as run.
    """
    return (
        f"SA in a reduced form: {settings.surrogates} surrogate images for each concept, {settings.replay} replayed "
        f"images, every {settings.stride}th timestep in the Fisher information, {settings.steps} steps of one image."
    )


def _costs(recipe: Recipe) -> dict[str, float]:
    """Stage -> what it takes, in UNet forwards of one image."""
    settings = recipe.settings
    images = len(recipe.concepts) * settings.surrogates + settings.replay
    return {
        "images": images * settings.image_steps * 2.0,
        "fisher": 3.0 * settings.replay * len(range(0, 1000, settings.stride)),
        "train": 6.0 * settings.steps + 1,
    }


def _images(
    model: Model, recipe: Recipe, cache: Path | None, warnings: list[str], report: Report
) -> tuple[Images, Images]:
    """Surrogate images under the concepts' prompts, and replayed images under their own."""
    settings, captions = recipe.settings, read_captions(model.captions)
    # A seed of its own: the Fisher information in the cache then serves every recipe.
    chosen = torch.randperm(len(captions), generator=torch.Generator().manual_seed(REPLAY_SEED))
    replayed = [captions[chosen[i % len(captions)]] for i in range(settings.replay)]
    concepts = [c for c in recipe.concepts for _ in range(settings.surrogates)]
    wanted = [
        TrainingImage(prompts.image_prompt(c.mapping, c.kind), c.mapping.strip(), recipe.seed + i % settings.surrogates)
        for i, c in enumerate(concepts)
    ]
    wanted += [TrainingImage(caption, caption.split()[0], REPLAY_SEED + i) for i, caption in enumerate(replayed)]
    shown = ImageSettings(len(wanted), settings.image_steps, settings.image_guidance)
    latents_NCHW = training.images(model, wanted, shown, cache, warnings, report)
    count = len(concepts)
    on_batch = always(report, Progress("images", step=len(wanted), total=len(wanted)))
    own = Prompts.of(model, [prompts.image_prompt(c.phrase, c.kind) for c in concepts], on_batch)
    other = Prompts.of(model, replayed, on_batch)
    return (
        Images(phrases=[c.phrase for c in concepts], latents_NCHW=latents_NCHW[:count], prompts=own),
        Images(phrases=[""] * len(replayed), latents_NCHW=latents_NCHW[count:], prompts=other),
    )


def cached_fisher(
    model: Model,
    settings: SelectiveAmnesiaSettings,
    replay: Images,
    copies: Masters,
    cache: Path | None,
    report: Report,
) -> dict[str, Tensor]:
    """`fisher` of the replayed images at every `stride`th timestep, from the cache where it is there.

    Args:
        model: whose predictions are differentiated, with the copies in place.
        settings: of the run; without a weight of the Fisher information nothing is computed.
        replay: N images with their sentences.
        copies: name -> theta, with gradients.
        cache: folder that keeps F, one file for each model, captions and settings, or None.
        report: told of stage "fisher": gradients of all.

    Returns:
        name -> F in the shape of theta, float32 on the model's device; empty without a weight.
    """
    if not settings.fisher_weight:
        return {}
    asked = (settings.select, settings.replay, settings.stride, settings.image_steps, settings.image_guidance)
    digest = hashlib.sha256(repr((asked, str(model.dtype))).encode()).hexdigest()[:8]
    name = grams.file_name(f"fisher-{digest}", model.fingerprint, read_captions(model.captions))
    shapes = {key: tuple(master.shape) for key, master in copies.items()}
    if cache and (known := files.cached(cache / name, shapes)):
        return {key: value.to(model.device) for key, value in known.items()}
    generator = torch.Generator().manual_seed(REPLAY_SEED)
    timesteps = range(0, model.pipeline.scheduler.config.num_train_timesteps, settings.stride)
    total, scale = len(replay.phrases) * len(timesteps), training.loss_scale(model)

    def losses(number: int) -> Iterator[Tensor]:
        for i, timestep in enumerate(timesteps):
            noised = training.noised(model, replay.latents_NCHW[[number]], generator, [timestep])
            at = (model, noised.noisy_BCHW, timestep, replay.prompts.rows([number]))
            own_BCHW = training.predict(*at, guidance=settings.image_guidance, copies=copies).float()
            yield scale * functional.mse_loss(own_BCHW, noised.target_BCHW.to(model.device))
            report(Progress("fisher", "", number * len(timesteps) + i + 1, total))

    scaled = fisher((losses(number) for number in range(len(replay.phrases))), copies, settings.stride)
    # A mean of squared gradients, so the scale of the loss enters it squared.
    found = {key: value / scale**2 for key, value in scaled.items()}
    if cache:
        files.keep(cache / name, found)
    return found
