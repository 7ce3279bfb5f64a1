"""ESD, erasing stable diffusion: train the model away from its own guidance (arXiv 2303.07345)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from mace_studio.core import diffusion
from mace_studio.core.diffusion import same_shape
from mace_studio.erasure import Erasure
from mace_studio.methods import inputs, training
from mace_studio.methods.settings import EsdSettings
from mace_studio.methods.training import Masters, Prompts
from mace_studio.progress import Progress, Report, always, silent, timed
from mace_studio.recipe import Recipe
from mace_studio.sd import sampling
from mace_studio.sd.model import Model

GRID, TIMESTEPS = 50, 1000
FORMS = ("old", "new")
SKIPPED = ("time_embedding.", "conv_norm_out.", "conv_out.")
SELECTIONS = ("x", "x-strict", "u", "u-new")


def target(
    null_BCHW: Tensor,
    concept_BCHW: Tensor,
    eta: float = 1.0,
    form: str = "old",
    base_BCHW: Tensor | None = None,
) -> Tensor:
    """What U(x_t, c) is trained to predict, from the frozen model's predictions at the same x_t.

    old: y = e(n) - eta [e(c) - e(n)]    (the paper and the first code, eta = 1)
    new: y = e(c) - eta [e(c) - e(n)]    (the code since 2025, eta = 2)
    new with eta + 1 is old with eta: both published settings are 2 e(n) - e(c).

    Args:
        null_BCHW: e(n), for the empty prompt.
        concept_BCHW: e(c), for the concept.
        eta: strength of the negative guidance.
        form: "old" or "new", which prediction the guidance starts from.
        base_BCHW: starts from this prediction instead, to erase c from another prompt p: y = e(p) - eta [...].

    Returns:
        y, without a gradient.

    Raises:
        ValueError: another form, or predictions of different shapes.

    Source: arXiv 2303.07345. Noise or velocity, whichever the model predicts.
    """
    if form not in FORMS:
        raise ValueError(f"form is {form!r}; it must be one of {', '.join(FORMS)}")
    same_shape(null_BCHW=null_BCHW, concept_BCHW=concept_BCHW)
    if base_BCHW is None:
        base_BCHW = null_BCHW if form == "old" else concept_BCHW
    same_shape(base_BCHW=base_BCHW, concept_BCHW=concept_BCHW)
    return (base_BCHW - eta * (concept_BCHW - null_BCHW)).detach()


def loss(student_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """mean || U(x_t, c) - y ||^2 over all elements, in float32 at least.

    Args:
        student_BCHW: prediction of the model in training, U(x_t, c).
        target_BCHW: y, of the same shape; no gradient goes through it.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: the shapes differ.
    """
    same_shape(student_BCHW=student_BCHW, target_BCHW=target_BCHW)
    wide = torch.promote_types(student_BCHW.dtype, torch.float32)
    return nn.functional.mse_loss(student_BCHW.to(wide), target_BCHW.to(wide))


def parameters(unet: nn.Module, select: str = "x") -> dict[str, nn.Parameter]:
    """Name -> parameter of what ESD trains, in the UNet's order, by the names of diffusers.

    x: all of cross-attention (`attn2`: query, key, value, output). x-strict: its keys and values.
    u: all but `attn2`, the time embedding and the output norm and convolution (first code: "noxattn").
    u-new: weights and biases of every Linear and Conv2d outside of `attn2`; time embedding, first and last
    convolution with them, no norm (the code since 2025).

    Args:
        unet: a diffusers UNet2DConditionModel.
        select: one of `SELECTIONS`.

    Raises:
        ValueError: another selection.
    """
    if select not in SELECTIONS:
        raise ValueError(f"select is {select!r}; it must be one of {', '.join(SELECTIONS)}")
    dense = {
        f"{name}.{part}"
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        for part, _ in module.named_parameters(recurse=False)
    }
    rules = {
        "x": lambda name: "attn2" in name,
        "x-strict": lambda name: "attn2.to_k" in name or "attn2.to_v" in name,
        "u": lambda name: "attn2" not in name and not name.startswith(SKIPPED),
        "u-new": lambda name: "attn2" not in name and name in dense,
    }
    return {name: parameter for name, parameter in unet.named_parameters() if rules[select](name)}


def visited(j: int) -> list[int]:
    """The levels that x passes through in the first code before it is trained on, noisiest first.

    Noise enters at timestep 961 of the DDIM grid 20 k + 1, one step late, and min(49, 50 - j) steps are taken: to
    level 20 (j - 2) + 1, or 0 for j = 0 and 1. `core.diffusion.ddim` runs them.

    Args:
        j: 0 to 49, counted from the clean end.

    Raises:
        ValueError: another j.
    """
    if not 0 <= j < GRID:
        raise ValueError(f"j is {j}; it must be 0 to {GRID - 1}")
    last = max(j, 1) - 1
    stride = TIMESTEPS // GRID
    taken = [stride * k + 1 for k in range(GRID - 2, last - 1, -1)]
    return [*taken, stride * (last - 1) + 1 if last else 0]


def timesteps(j: int) -> range:
    """The timesteps of which one is drawn for x after `visited(j)`: 20 j to 20 j + 19, above x's own level.

    Args:
        j: index on the grid of denoising steps, 0 (clean) to `GRID` - 1 (noise).
    """
    stride = TIMESTEPS // GRID
    return range(stride * j, stride * (j + 1))


def erase(model: Model, recipe: Recipe, progress: Report = silent, cache: Path | None = None) -> Erasure:
    """Run a recipe with ESD; the model stays as it is. Without steps, or with eta = 0, the weights stay too.

    Args:
        model: from `sd.model.load`.
        recipe: its concepts are read, one in each step, as bare names.
        progress: told of stage "train", while the names are encoded and at every step, with the concept and its loss.
        cache: not needed: the images that are trained on come from the model in training.

    Raises:
        StudioError: with a sentence for the user.
    """
    recipe.check()
    settings, phrases = recipe.settings, inputs.phrases(recipe)
    progress = timed(progress, {"train": 1.0})
    steps = settings.steps if settings.eta else 0
    copies = training.masters(model, parameters(model.unet, settings.select))
    prompts = Prompts.of(model, ["", *phrases], always(progress, Progress("train", total=steps)))
    generator = torch.Generator().manual_seed(recipe.seed)

    def losses() -> tuple[str, Iterable[Tensor]]:
        number, j = training.one_of(len(phrases), generator), training.one_of(GRID, generator)
        both = prompts.rows([0, number + 1])
        # Drawn anew in every step, by the weights as they are now: the student must unlearn what it still makes.
        noisy_1CHW = partly_denoised(model, copies, both, j, settings, generator)
        timestep = timesteps(j)[training.one_of(len(timesteps(j)), generator)]
        with torch.no_grad():
            # Both prompts in one forward of the frozen model, whose weights are the UNet's own.
            frozen_BCHW = training.predict(
                model, noisy_1CHW.repeat(2, 1, 1, 1), timestep, both, guidance=settings.guidance
            )
        null_1CHW, concept_1CHW = frozen_BCHW.float().split(1)
        wanted_1CHW = target(null_1CHW, concept_1CHW, settings.eta, settings.form)
        student_1CHW = training.predict(
            model, noisy_1CHW, timestep, both.rows([1]), guidance=settings.guidance, copies=copies
        )
        return phrases[number], [loss(student_1CHW, wanted_1CHW)]

    optimizer = torch.optim.Adam(copies.values(), lr=settings.learning_rate)
    seen = training.train(model, optimizer, steps, losses, progress)
    progress(Progress("train", step=1, total=1))
    return inputs.result(model, recipe, copies, losses=seen)


@torch.no_grad()
def partly_denoised(
    model: Model, copies: Masters, both: Prompts, j: int, settings: EsdSettings, generator: torch.Generator
) -> Tensor:
    """x after `visited(j)` from fresh noise, made by the model in training with guidance, noisy_1CHW in float32.

    Args:
        model: whose UNet runs with the copies in place.
        copies: weights in training.
        both: the empty prompt and the concept.
        j: 0 to 49.
        settings: guidance of the run.
        generator: of the noise.
    """

    def predict(noisy_1CHW: Tensor, timestep: int) -> Tensor:
        scale = settings.guidance
        # An LCM has no unconditional half: its UNet reads the scale.
        if scale == 1 or model.embeds_guidance:
            own = both.rows([1])
            return training.predict(model, noisy_1CHW, timestep, own, guidance=scale, copies=copies).float()
        halves_BCHW = training.predict(model, noisy_1CHW.repeat(2, 1, 1, 1), timestep, both, copies=copies)
        null_1CHW, concept_1CHW = halves_BCHW.float().split(1)
        return null_1CHW + scale * (concept_1CHW - null_1CHW)

    shape = (1, model.unet.config.in_channels, *sampling.latent_size(model))
    start_1CHW = torch.randn(shape, generator=generator).to(model.device)
    abar_S = model.pipeline.scheduler.alphas_cumprod.cpu()
    return diffusion.ddim(predict, start_1CHW, visited(j), abar_S, training.prediction(model))
