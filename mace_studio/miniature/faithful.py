"""Whether the built-in model behaves as Stable Diffusion does before anything is erased from it.

The geometry of its captions, and two of four behaviours, those that need no erasure: a concept's own word outlines it,
and the other words carry a part of it. What erasing does to the model is measured by `mace_studio.evaluation.faithful`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor
from torch.nn import functional

from mace_studio.miniature import clip, grounding, latents, pictures, world
from mace_studio.miniature.evaluate import wilson
from mace_studio.miniature.judge import Judge
from mace_studio.miniature.latents import SIDE, Batch
from mace_studio.miniature.scenes import SIZE
from mace_studio.miniature.spans import Spans
from mace_studio.miniature.vocabulary import ARTISTS, OBJECTS, PEOPLE, THINGS
from mace_studio.miniature.world import HELD_OUT, Sample

CONTRAST = 3.0  # of a word that outlines its thing
OUTLINED = 0.9  # of the images
RESIDUAL = (0.3, 0.95)  # of the images still show the concept without its own tokens
TIMESTEPS = (200, 300, 400)  # the LoRAs are trained between the first and the last
ANIMALS = ("bird", "cat", "deer", "dog", "frog", "horse", "lion", "tiger")
DIRECTIONS = 0.25  # of as many as there could be is what names fill at least
STEPS, GUIDANCE = 20, 4.0
AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One measured figure beside what is wanted of it.

    Attributes:
        behaviour: its number and name.
        measured: what was counted.
        value: the figure with its interval.
        count: how many images or concepts stand behind it.
        wanted: what Stable Diffusion shows, or the paper.
        held: whether the figure is as wanted; None where it is only told.
    """

    behaviour: str
    measured: str
    value: str
    count: int
    wanted: str
    held: bool | None = None


def concepts(number: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """So many things, and so many people spread evenly over all of them."""
    return tuple(OBJECTS)[:number], PEOPLE[:: len(PEOPLE) // number][:number]


@torch.no_grad()
def geometry(whole: StableDiffusionPipeline) -> Iterator[Finding]:
    """What the text encoder makes of a concept: at later positions less than at its own, and of names many directions.

    Args:
        whole: the model; only its tokenizer and text encoder are asked.
    """
    spans = Spans(whole.tokenizer)

    def states(names: Sequence[str], form: str) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states, the place of each concept's last token, and that of the end token."""
        ids_NT = latents.tokens(whole.tokenizer, [form.format(name) for name in names])
        own_NT = spans.own(ids_NT, names)
        last_N = (own_NT * torch.arange(own_NT.shape[1])).amax(dim=1)
        end_N = (ids_NT == whole.tokenizer.eos_token_id).int().argmax(dim=1)
        return whole.text_encoder(ids_NT.to(whole.device))[0].cpu(), last_N, end_N

    forms = (
        ("the end token", "a photo of the {}", "0.45 (0.33 to 0.56), 0.82 in CLIP ViT-L/14"),
        ("the word after it", "a photo of the {} in the forest", "0.40 (0.31 to 0.47), 0.42 in CLIP ViT-L/14"),
    )
    for where, form, wanted in forms:
        state_NTD, last_N, end_N = states(ANIMALS, form)
        later_N = end_N if where == "the end token" else last_N + 1
        rows_N = torch.arange(len(ANIMALS))
        pairs = list(combinations(range(len(ANIMALS)), 2))
        own_PD, later_PD = (
            torch.stack([state_ND[i] - state_ND[j] for i, j in pairs])
            for state_ND in (state_NTD[rows_N, last_N], state_NTD[rows_N, later_N])
        )
        cosine_P = functional.cosine_similarity(own_PD, later_PD, dim=1)
        ratio_P = later_PD.norm(dim=1) / own_PD.norm(dim=1)
        yield Finding(
            behaviour="0. geometry", measured=f"one animal for another, {where}: cosine with its own (range), size",
            value=f"{cosine_P.mean():.2f} ({cosine_P.min():.2f} to {cosine_P.max():.2f}), {ratio_P.mean():.2f}",
            count=len(pairs), wanted=wanted,
        )  # fmt: skip
    kinds = (("people", PEOPLE, "a portrait of {}"), ("things", THINGS, "a photo of the {}"),
             ("artists", tuple(ARTISTS), "Image in the style of {}"))  # fmt: skip
    for kind, names, form in kinds:
        state_NTD, last_N, _ = states(names, form)
        filled = clip.directions(state_NTD[torch.arange(len(names)), last_N])
        yield Finding(
            behaviour="0. geometry", measured=f"directions that the names of {kind} fill", value=f"{filled:.0f}",
            count=len(names), wanted=f">= {DIRECTIONS:.0%} of them", held=filled >= DIRECTIONS * len(names),
        )  # fmt: skip


def own_word(whole: StableDiffusionPipeline, names: Sequence[str], seeds: int, kind: str) -> Iterator[Finding]:
    """How much more a concept's tokens are looked at inside of the concept's true mask than outside of it.

    The image is composed, so that its mask is known, and noise is mixed in as in training.

    Args:
        whole: the model.
        names: things or people.
        seeds: images of each, with and without words after the concept.
        kind: what the names are, in the table.
    """
    spans, unet = Spans(whole.tokenizer), whole.unet.eval()
    for told in (True, False):
        contrasts, shares = [], []
        samples = [world.shown(name, Random(HELD_OUT + seed), told) for name in names for seed in range(seeds)]
        for first in range(0, len(samples), AT_ONCE):
            batch = _batch(whole, spans, samples[first : first + AT_ONCE])
            maps = _maps(whole, unet, batch, first)
            contrasts.append(grounding.contrast(maps, batch).cpu())
            shares.append(_shares(maps, batch).cpu())
        contrast_N, share_N4 = torch.cat(contrasts), torch.cat(shares)
        outlined = int((contrast_N >= CONTRAST).sum())
        behaviour = f"1. own word, {kind}, {'words after it' if told else 'no word after it'}"
        yield Finding(
            behaviour=behaviour, measured=f"contrast of at least {CONTRAST:g}", count=len(samples),
            value=share(outlined, len(samples)), wanted=f">= {OUTLINED:.0%}", held=outlined >= OUTLINED * len(samples),
        )  # fmt: skip
        low, middle, high = (contrast_N.quantile(q).item() for q in (0.1, 0.5, 0.9))
        yield Finding(
            behaviour=behaviour, measured="contrast, median (10th to 90th percentile)", count=len(samples),
            value=f"{middle:.1f} ({low:.1f} to {high:.1f})", wanted="outlines it",
        )  # fmt: skip
        start, own, end, padding = share_N4.mean(dim=0).tolist()
        yield Finding(
            behaviour=behaviour, measured="share of start, own, end and padding tokens", count=len(samples),
            value=f"{start:.0%}, {own:.0%}, {end:.0%}, {padding:.0%}", wanted="the start token takes what is left",
            held=start > end + padding,
        )  # fmt: skip


def residual(whole: StableDiffusionPipeline, judge: Judge, names: Sequence[str], seeds: int) -> Iterator[Finding]:
    """How often a concept is still recognised when its own tokens are replaced by the last end token (Fig. 2, 9).

    Args:
        whole: the model.
        judge: names what an image shows.
        names: things and people.
        seeds: images of each, half of them with words after the concept.
    """
    spans = Spans(whole.tokenizer)
    forms = ("a photo of the {}", "a photo of the {} in the forest")
    prompts = [(forms[seed % 2].format(name), name) for name in names for seed in range(seeds)]
    seen = {False: 0, True: 0}
    for first in range(0, len(prompts), AT_ONCE):
        part = prompts[first : first + AT_ONCE]
        ids_NT = latents.tokens(whole.tokenizer, [prompt for prompt, _ in part])
        own_NT = spans.own(ids_NT, [name for _, name in part])
        with torch.no_grad():
            context_NTD = whole.text_encoder(ids_NT.to(whole.device))[0]
        without_NTD = torch.where(own_NT[..., None].to(whole.device), context_NTD[:, -1:], context_NTD)
        for replaced, given_NTD in ((False, context_NTD), (True, without_NTD)):
            generators = [torch.Generator().manual_seed(first + i) for i in range(len(part))]
            images = whole(
                prompt_embeds=given_NTD, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=generators
            ).images
            said = judge.names(images, "thing")
            seen[replaced] += sum(a == name for a, (_, name) in zip(said, part, strict=True))
    low, high = RESIDUAL
    for replaced, measured in ((False, "recognised with the prompt as it is"), (True, "without the concept's tokens")):
        count = seen[replaced]
        yield Finding(
            behaviour="2. residual information", measured=measured, count=len(prompts),
            value=share(count, len(prompts)), wanted=f"{low:.0%} to {high:.0%}" if replaced else "about 100 %",
            held=low <= count / len(prompts) <= high if replaced else None,
        )  # fmt: skip


def share(count: int, number: int) -> str:
    """A share with Wilson's 95 % interval."""
    low, high = wilson(count, number)
    return f"{count / number:.1%} ({low:.1%} to {high:.1%})"


def table(findings: Sequence[Finding]) -> str:
    """The findings in Markdown, for the terminal and the model card."""
    lines = ["| behaviour | measured | value | of | wanted | |", "| --- | --- | --- | --- | --- | --- |"]
    marks = {True: "yes", False: "no", None: ""}
    for f in findings:
        lines.append(f"| {f.behaviour} | {f.measured} | {f.value} | {f.count} | {f.wanted} | {marks[f.held]} |")
    return "\n".join(lines)


@torch.no_grad()
def _batch(whole: StableDiffusionPipeline, spans: Spans, samples: Sequence[Sample]) -> Batch:
    ids_NT = latents.tokens(whole.tokenizer, [sample.caption for sample in samples])
    mask_N1HW = torch.from_numpy(np.stack([sample.mask_HW for sample in samples]))[:, None].float()
    pixels_NCHW = pictures.to_tensor([sample.image_HWC for sample in samples]).to(whole.device)
    latent_NCHW = whole.vae.encode(pixels_NCHW).latent_dist.mode()
    batch = Batch(
        latent_NCHW=latent_NCHW * whole.vae.config.scaling_factor,
        context_NTD=whole.text_encoder(ids_NT.to(whole.device))[0],
        own_NT=spans.own(ids_NT, [sample.words[0] for sample in samples]),
        end_N=(ids_NT == whole.tokenizer.eos_token_id).int().argmax(dim=1),
        mask_NHW=functional.avg_pool2d(mask_N1HW, SIZE // SIDE)[:, 0],
        told_N=torch.ones(len(samples), dtype=torch.bool),
    )
    return batch.to(whole.device)


@torch.no_grad()
def _maps(whole: StableDiffusionPipeline, unet: torch.nn.Module, batch: Batch, seed: int) -> list[Tensor]:
    """The maps of each layer, averaged over the timesteps."""
    noise_NCHW = torch.randn(batch.latent_NCHW.shape, generator=torch.Generator().manual_seed(seed)).to(whole.device)
    totals: list[Tensor] = []
    for timestep in TIMESTEPS:
        alpha = whole.scheduler.alphas_cumprod[timestep]
        noisy_NCHW = alpha.sqrt() * batch.latent_NCHW + (1 - alpha).sqrt() * noise_NCHW
        with grounding.listening(unet) as ear:
            unet(noisy_NCHW, timestep, batch.context_NTD)
        maps = [map_NHQT / len(TIMESTEPS) for map_NHQT in ear.maps]
        totals = [a + b for a, b in zip(totals, maps, strict=True)] if totals else maps
    return totals


def _shares(maps: Sequence[Tensor], batch: Batch) -> Tensor:
    """The attention that goes to the start, the concept's own, the end and the padding tokens, (N, 4)."""
    token_NT = torch.stack([map_NHQT.mean(dim=(1, 2)) for map_NHQT in maps]).mean(dim=0)
    place_T = torch.arange(token_NT.shape[1], device=token_NT.device)
    end_N1 = batch.end_N[:, None]
    groups = ((place_T == 0).expand_as(token_NT), batch.own_NT, place_T == end_N1, place_T > end_N1)
    return torch.stack([(token_NT * group_NT).sum(dim=1) for group_NT in groups], dim=1)
