"""What a linear map can hold of a recipe, said before the run: one D x D matrix has to move and to keep all of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mace_studio import prompts
from mace_studio.core import ridge, subspace
from mace_studio.core.moments import Moments
from mace_studio.progress import Report, silent, within
from mace_studio.recipe import Recipe
from mace_studio.sd import grams, text
from mace_studio.sd.model import Model
from mace_studio.settings import KeepWeights

SAMPLE = 1024  # phrases of each side that are looked at, spread evenly over the list
FULL, SHARED, ILL = 0.8, 0.5, 1e10  # of the width, of what is kept, and the condition number from which advice is given


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """How much of the width of a map a recipe takes.

    Attributes:
        width: D.
        erased, kept: effective rank of the phrases' embeddings on each side, about their common mean.
        shared: share of what is kept, about the mean, that lies in the directions of what is erased.
        condition: expected condition number of the refinement's solve; infinite where too little is kept, None for a
            method without one.
        looked_at: how many phrases of each side were encoded.
    """

    width: int
    erased: float
    kept: float
    shared: float
    condition: float | None
    looked_at: tuple[int, int]

    def advice(self) -> list[str]:
        """What to change, in sentences; none where nothing has to be."""
        found = []
        if self.erased + self.kept > FULL * self.width:
            found.append(
                f"Together they take {self.erased + self.kept:.0f} of the map’s {self.width} directions: expect words "
                "that are kept to suffer. Erase in several models, keep fewer phrases, or raise the identity weight, "
                "which moves less."
            )
        if self.shared > SHARED:
            found.append(
                f"{self.shared:.0%} of what tells the kept phrases apart lies in directions that are erased: raise λ3, "
                "or give each kind of concept a mapping of its own, near to it."
            )
        if self.condition is not None and self.condition > ILL:
            found.append("The solve is badly conditioned; an identity weight above 0 makes it safe.")
        return found

    def summary(self) -> str:
        """All of it in a few sentences."""
        condition = "" if self.condition is None else f", expected condition number {self.condition:.1e}"
        figures = (
            f"A map of width {self.width}: what is erased spans about {self.erased:.0f} directions "
            f"({self.looked_at[0]} phrases looked at), what is kept {self.kept:.0f} ({self.looked_at[1]}), "
            f"{self.shared:.0%} of the latter within the former{condition}."
        )
        return " ".join([figures, *self.advice()])


def measure(model: Model, recipe: Recipe, cache: Path | None, progress: Report = silent) -> Capacity:
    """Look at one prompt of each phrase of a recipe; the run encodes some thirty of each.

    Args:
        model: its text encoder is read.
        recipe: concepts, preserve list and, of a method that has them, the keep weights of the refinement.
        cache: folder that keeps the Gram of the general captions, which the run needs too, or None.
        progress: called with stage "encode": sentences done of all.
    """
    erased = [(c.phrase, c.kind) for c in spread(recipe.concepts)]
    kept = [(phrase, prompts.kept_kind(phrase, recipe)) for phrase in spread(recipe.kept)]
    total = len(erased) + len(kept)
    own_ND, erased_DD = _looked_at(model, erased, within(progress, "encode", "", 0, total))
    other_ND, kept_DD = _looked_at(model, kept, within(progress, "encode", "", len(erased), total))
    mean_D = torch.cat([own_ND, other_ND]).mean(dim=0)
    own_ND, other_ND = own_ND - mean_D, other_ND - mean_D
    rank = subspace.effective_rank(own_ND)
    condition = None
    weights: KeepWeights | None = getattr(recipe.settings, "refine", None)
    if weights is not None:
        # As if every template were the one that was looked at, and every phrase of the list as those of the sample.
        times = [len(prompts.templates(recipe.concepts[0].kind)) * len(all_) / max(len(some), 1)
                 for all_, some in ((recipe.concepts, erased), (recipe.kept, kept))]  # fmt: skip
        general = grams.general(model, cache, progress) if weights.general else None
        preserve = Moments(times[1] * kept_DD, times[1] * kept_DD, len(kept))
        condition = condition_number(
            times[0] * erased_DD + ridge.keep_gram(weights, general, preserve, model.width).total_DD
        )
    return Capacity(
        width=model.width,
        erased=rank,
        kept=subspace.effective_rank(other_ND),
        shared=subspace.share_within(other_ND, subspace.basis(own_ND)[: math.ceil(rank)]),
        condition=condition,
        looked_at=(len(erased), len(kept)),
    )


def spread(items: Sequence) -> list:
    """`SAMPLE` items at the most, evenly over all of them.

    Args:
        items: in their order, which stays.
    """
    count = min(len(items), SAMPLE)
    return [items[i * len(items) // count] for i in range(count)]


def _looked_at(model: Model, phrases: Sequence[tuple[str, str]], progress: Report) -> tuple[Tensor, Tensor]:
    """Of each phrase the mean embedding of its own tokens, (N, D), and the Gram of all positions of all prompts."""
    rows, gram_DD = [torch.zeros(0, model.width).double()], torch.zeros(model.width, model.width).double()
    for start in range(0, len(phrases), grams.AT_ONCE):
        batch = phrases[start : start + grams.AT_ONCE]
        sentences = [prompts.image_prompt(phrase, kind) for phrase, kind in batch]
        report = within(progress, "encode", "", start, len(phrases))
        context_NTD = text.embed(model, sentences, report).cpu().double()
        places = [text.positions(model, s, phrase) for s, (phrase, _) in zip(sentences, batch, strict=True)]
        rows.append(torch.stack([context_TD[p].mean(dim=0) for context_TD, p in zip(context_NTD, places, strict=True)]))
        gram_DD += Moments.of(context_NTD.flatten(0, 1)).gram_DD
    return torch.cat(rows), gram_DD


def condition_number(matrix_DD: Tensor) -> float:
    """Largest eigenvalue over the smallest; infinite where that is lost in rounding.

    Args:
        matrix_DD: symmetric and positive but for rounding, float64.
    """
    values_D = torch.linalg.eigvalsh((matrix_DD + matrix_DD.T) / 2)
    smallest, largest = values_D[0].item(), values_D[-1].item()
    return largest / smallest if smallest > len(values_D) * torch.finfo(torch.float64).eps * largest else math.inf
