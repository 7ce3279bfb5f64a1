"""Whether erasing from the built-in model behaves as erasing from Stable Diffusion does: stages, and mass.

The other two of four behaviours need no erasure: `mace_studio.miniature.faithful`. Both halves print one table with
`python -m mace_studio.miniature faithful`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import torch
from PIL.Image import Image
from torch import Tensor

from mace_studio.core import ridge
from mace_studio.core.moments import Moments
from mace_studio.erasure import Erasure
from mace_studio.methods.mace import MaceSettings
from mace_studio.methods.mace.erase import erase
from mace_studio.methods.mace.refine import gather
from mace_studio.progress import Report, silent
from mace_studio.prompts import TESTS, about, mapped
from mace_studio.recipe import Concept, ImageRequest, Recipe
from mace_studio.sd import projections, sampling, text
from mace_studio.sd.model import Model
from mace_studio.settings import ImageSettings, KeepWeights, LoraSettings

MAPPING = "a person"
FORMS = TESTS["celebrity"]
FEW, RATE = 10, 6e-3  # of the presets of up to ten people; that of a hundred has half of it
RATES = (1.5e-3, 3e-3, 6e-3, 1.2e-2)
SUMMED, FUSED = "weighted sum", "closed form"
OURS = "all, at own tokens alone"
STEPS, GUIDANCE = 12, 4.0
LEFT_BY_REFINEMENT = 0.4  # Acc_e at least (the paper: 0.678 of 100 celebrities)
FALL = 0.3  # of the LoRA's loss, at least, within its steps

Names = Callable[[Sequence[Image]], list[str]]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One row: what was done to the model, and what is left of the erased and of the kept people.

    Attributes:
        done: in words.
        people: how many were erased.
        erased, kept: recognised images, and all of them.
        fall: by which share the loss of the LoRAs fell between its first and its last ten steps, in the mean over
            concepts; None without LoRAs.
    """

    done: str
    people: int
    erased: tuple[int, int]
    kept: tuple[int, int]
    fall: float | None = None

    @property
    def acc_e(self) -> float:
        return self.erased[0] / self.erased[1]

    @property
    def acc_s(self) -> float:
        return self.kept[0] / self.kept[1]

    @property
    def h_c(self) -> float:
        """The harmonic mean of 1 - Acc_e and Acc_s (Eq. 9); 0 where one of them is."""
        gone, kept = 1 - self.acc_e, self.acc_s
        return 2 * gone * kept / (gone + kept) if gone and kept else 0.0


@dataclass(frozen=True, kw_only=True)
class People:
    """Whom to erase and whom to keep, and how many images of each are looked at.

    Attributes:
        erased, kept: names.
        names: says who is to be seen in images.
        tested: how many of either are generated, spread over all.
        images: of each of them, shared out among the five prompts of the paper's appendix C.1.
    """

    erased: tuple[str, ...]
    kept: tuple[str, ...]
    names: Names
    tested: int = 20
    images: int = 5


def settings_for(number: int) -> MaceSettings:
    """Those of the presets: what all LoRAs ask of the weights adds up, so that many have a smaller learning rate.

    Args:
        number: of people; between ten and a hundred the rate lies on a straight line of logarithms.
    """
    return MaceSettings(
        refine=KeepWeights(general=3e-5, preserve=1.0), fuse=KeepWeights(general=3e-5, preserve=1.0),
        lora=LoraSettings(learning_rate=RATE * 0.5 ** max(0.0, math.log10(number / FEW))),
        images=ImageSettings(guidance=4.0),
    )  # fmt: skip


def stages(
    model: Model, people: People, number: int, cache: Path | None = None, settings: MaceSettings | None = None,
    progress: Report = silent,
) -> Iterator[Measured]:  # fmt: skip
    """Table 4's order: refinement only, LoRAs in a weighted sum, fused in closed form, and with importance sampling.

    A last row, beside that order, has LoRAs at own tokens alone, which are ours.

    Args:
        model: is the same afterwards.
        people: the first `number` of the erased ones are erased.
        number: of people.
        cache: folder of training images and Grams.
        settings: of the row of all three; those before it lack something. None for those of `settings_for`.
        progress: of the erasures.
    """
    settings = settings or settings_for(number)
    recipe = _recipe(people, number, settings)
    uniform = replace(settings, lora=replace(settings.lora, uniform=True))
    for done, variant in (
        ("nothing", None),
        ("refinement only", replace(settings, lora=replace(settings.lora, steps=0))),
        ("LoRAs, weighted sum, uniform t", replace(uniform, fusion="weighted-sum")),
        ("LoRAs, closed form, uniform t", uniform),
        ("all, with importance sampling", settings),
        (OURS, own_tokens(settings)),
    ):
        if variant is None:
            yield _measured(done, model, people, number, nullcontext())
        else:
            erasure = erase(model, replace(recipe, settings=variant), progress, cache)
            yield _measured(done, model, people, number, erasure.applied(model), _fall(erasure))


def fusions(model: Model, people: People, number: int, cache: Path | None = None) -> Iterator[Measured]:
    """The same LoRAs in a weighted sum and in closed form, at several learning rates and uniform timesteps.

    A sum of a hundred LoRAs has a hundredth of each, so that at one rate it changes less than the closed form does:
    what the two keep compares where they erase alike.

    Args:
        model: is the same afterwards.
        people: the first `number` of the erased ones are erased.
        number: of people.
        cache: folder of training images, Grams and LoRAs.
    """
    settings = settings_for(number)
    for rate in RATES:
        trained = replace(settings, lora=replace(settings.lora, uniform=True, learning_rate=rate))
        for done, fusion in ((SUMMED, "weighted-sum"), (FUSED, "closed-form")):
            erasure = erase(model, _recipe(people, number, replace(trained, fusion=fusion)), silent, cache)
            yield _measured(f"{done}, rate {rate:g}", model, people, number, erasure.applied(model), _fall(erasure))


def closed_form_ahead(rows: Sequence[Measured]) -> bool:
    """Whether the best closed form of `fusions` has a higher H_c than the best weighted sum."""
    best = {done: max(row.h_c for row in rows if row.done.startswith(done)) for done in (SUMMED, FUSED)}
    return best[FUSED] > best[SUMMED]


def own_tokens(settings: MaceSettings) -> MaceSettings:
    """The same with LoRAs at the concepts' own tokens alone."""
    return replace(settings, lora=replace(settings.lora, own_tokens=True))


def plain(model: Model, people: People, number: int, cache: Path | None = None) -> Measured:
    """A plain map of people to "a person": one closed form over the concepts' own tokens, without LoRAs.

    Args:
        model: is the same afterwards.
        people: the first `number` of the erased ones are erased.
        number: of people.
        cache: folder of the Gram of the general captions.
    """
    recipe = _recipe(people, number, settings_for(number))
    sums = gather(model, recipe, cache)
    keep = ridge.keep_gram(recipe.settings.refine, sums.general, sums.preserve, model.width)
    solved = ridge.refinement(_own_tokens(model, recipe.concepts), keep.total_DD)
    weights = {key: ridge.refine(weight_PD, solved) for key, weight_PD in projections.read(model.unet).items()}
    return _measured("plain map of the own tokens", model, people, number, projections.swapped(model.unet, weights))


def full(
    model: Model, people: People, number: int, cache: Path | None = None, settings: MaceSettings | None = None,
    progress: Report = silent,
) -> Measured:  # fmt: skip
    """MACE with all of its stages, beside `plain`."""
    settings = settings or settings_for(number)
    erasure = erase(model, _recipe(people, number, settings), progress, cache)
    done = "MACE, own tokens alone" if settings.lora.own_tokens else "MACE"
    return _measured(done, model, people, number, erasure.applied(model), _fall(erasure))


def verdicts(rows: Mapping[str, Measured]) -> dict[str, bool]:
    """What is wanted of the rows of `stages`, by their names, and whether it is so."""
    refined, summed = rows["refinement only"], rows["LoRAs, weighted sum, uniform t"]
    fused, whole = rows["LoRAs, closed form, uniform t"], rows["all, with importance sampling"]
    return {
        f"refinement only leaves Acc_e >= {LEFT_BY_REFINEMENT:.0%}": refined.acc_e >= LEFT_BY_REFINEMENT,
        "the weighted sum costs Acc_s": summed.acc_s < refined.acc_s,
        "the closed form keeps it": fused.acc_s > summed.acc_s,
        "importance sampling is at least as good": whole.h_c >= fused.h_c,
        "all three together have the highest H_c": whole.h_c
        >= max(row.h_c for done, row in rows.items() if done != OURS),
        f"the loss of the LoRAs falls by >= {FALL:.0%}": whole.fall is not None and whole.fall >= FALL,
    }


def _recipe(people: People, number: int, settings: MaceSettings) -> Recipe:
    concepts = tuple(Concept(name, MAPPING, "celebrity") for name in people.erased[:number])
    return Recipe(name=f"{number} people", concepts=concepts, preserve=people.kept, settings=settings)


def _own_tokens(model: Model, concepts: Sequence[Concept]) -> Moments:
    """F and C over the tokens of the concepts themselves; each is to become the last token of its mapping."""
    moments = Moments.zero(model.width)
    for concept in concepts:
        contexts = _phrase_tokens(model, about(concept), concept.phrase)
        targets = _phrase_tokens(model, mapped(concept), concept.mapping)
        for own_ND, target_ND in zip(contexts, targets, strict=True):
            moments = moments + Moments.of(own_ND, target_ND[-1:].expand_as(own_ND))
    return moments


def _phrase_tokens(model: Model, sentences: Sequence[str], phrase: str) -> list[Tensor]:
    """The embeddings of a phrase's tokens in each of some sentences, (N, D)."""
    context_NTD = text.embed(model, sentences)
    return [
        context_TD[text.positions(model, sentence, phrase)]
        for sentence, context_TD in zip(sentences, context_NTD, strict=True)
    ]


def _measured(
    done: str, model: Model, people: People, number: int, inside: AbstractContextManager[None],
    fall: float | None = None,
) -> Measured:  # fmt: skip
    with inside, torch.no_grad():
        erased = _recognised(model, people, people.erased[:number])
        kept = _recognised(model, people, people.kept)
    return Measured(done=done, people=number, erased=erased, kept=kept, fall=fall)


def _recognised(model: Model, people: People, names: Sequence[str]) -> tuple[int, int]:
    """How many images of some of the names are named right, and how many there are."""
    some = names[:: max(1, len(names) // people.tested)][: people.tested]
    asked = [(FORMS[i % len(FORMS)].format(name), i) for name in some for i in range(people.images)]
    said = people.names(
        sampling.generate_pairs(model, asked, ImageRequest(("",), (0,), steps=STEPS, guidance=GUIDANCE))
    )
    right = sum(a == name for a, name in zip(said, (name for name in some for _ in range(people.images)), strict=True))
    return right, len(asked)


def _fall(erasure: Erasure) -> float | None:
    curves = [lora.losses for lora in erasure.loras.values() if lora.losses]
    if not curves:
        return None
    return fmean(1 - fmean(curve[-10:]) / fmean(curve[:10]) for curve in curves)
